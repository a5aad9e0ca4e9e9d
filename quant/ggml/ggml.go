// Package ggml decodes and encodes the block formats of GGML, in which llama.cpp keeps weights in GGUF files
// (https://github.com/ggml-org/ggml, ggml-common.h and ggml-quants.c).
//
// A row of a tensor is cut into blocks of 32 or 256 elements, and a block holds its scales beside its codes, so that any run of whole
// blocks can be decoded alone. What a block stands for is defined to the bit in float32: products and sums are rounded one by one, and
// a scale is first widened from float16. Encoding follows the reference quantizers (the *_ref functions, which the Python package gguf
// repeats), not the search with an importance matrix, so bytes are equal to theirs.
package ggml

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Type is the number of a tensor's format in a GGUF file (enum ggml_type).
type Type uint32

// The types that are decoded. Those of integers are stored as they are and are no weights.
const (
	F32    Type = 0
	F16    Type = 1
	Q4_0   Type = 2
	Q4_1   Type = 3
	Q5_0   Type = 6
	Q5_1   Type = 7
	Q8_0   Type = 8
	Q2_K   Type = 10
	Q3_K   Type = 11
	Q4_K   Type = 12
	Q5_K   Type = 13
	Q6_K   Type = 14
	IQ4_NL Type = 20
	IQ4_XS Type = 23
	I8     Type = 24
	I16    Type = 25
	I32    Type = 26
	I64    Type = 27
	F64    Type = 28
	BF16   Type = 30
	TQ1_0  Type = 34
	TQ2_0  Type = 35
	MXFP4  Type = 39
)

// layout is what is known of a type.
type layout struct {
	name   string
	block  int          // elements of a block
	bytes  int          // of a block
	stored tensor.DType // for types of single elements
	decode func(dst []float32, src []byte)
	encode func(dst []byte, src []float32)
}

// layouts has every type that a file may name, so that the size of a tensor can be checked even where it cannot be decoded.
var layouts = map[Type]layout{
	F32:    {name: "F32", block: 1, bytes: 4, stored: tensor.F32, decode: decodeF32, encode: encodeF32},
	F16:    {name: "F16", block: 1, bytes: 2, stored: tensor.F16, decode: decodeF16, encode: encodeF16},
	Q4_0:   {name: "Q4_0", block: 32, bytes: 18, decode: decodeQ4_0, encode: encodeQ4_0},
	Q4_1:   {name: "Q4_1", block: 32, bytes: 20, decode: decodeQ4_1, encode: encodeQ4_1},
	Q5_0:   {name: "Q5_0", block: 32, bytes: 22, decode: decodeQ5_0, encode: encodeQ5_0},
	Q5_1:   {name: "Q5_1", block: 32, bytes: 24, decode: decodeQ5_1, encode: encodeQ5_1},
	Q8_0:   {name: "Q8_0", block: 32, bytes: 34, decode: decodeQ8_0, encode: encodeQ8_0},
	9:      {name: "Q8_1", block: 32, bytes: 36},
	Q2_K:   {name: "Q2_K", block: 256, bytes: 84, decode: decodeQ2_K},
	Q3_K:   {name: "Q3_K", block: 256, bytes: 110, decode: decodeQ3_K},
	Q4_K:   {name: "Q4_K", block: 256, bytes: 144, decode: decodeQ4_K},
	Q5_K:   {name: "Q5_K", block: 256, bytes: 176, decode: decodeQ5_K},
	Q6_K:   {name: "Q6_K", block: 256, bytes: 210, decode: decodeQ6_K},
	15:     {name: "Q8_K", block: 256, bytes: 292},
	16:     {name: "IQ2_XXS", block: 256, bytes: 66},
	17:     {name: "IQ2_XS", block: 256, bytes: 74},
	18:     {name: "IQ3_XXS", block: 256, bytes: 98},
	19:     {name: "IQ1_S", block: 256, bytes: 50},
	IQ4_NL: {name: "IQ4_NL", block: 32, bytes: 18, decode: decodeIQ4_NL},
	21:     {name: "IQ3_S", block: 256, bytes: 110},
	22:     {name: "IQ2_S", block: 256, bytes: 82},
	IQ4_XS: {name: "IQ4_XS", block: 256, bytes: 136, decode: decodeIQ4_XS},
	I8:     {name: "I8", block: 1, bytes: 1, stored: tensor.I8},
	I16:    {name: "I16", block: 1, bytes: 2, stored: tensor.I16},
	I32:    {name: "I32", block: 1, bytes: 4, stored: tensor.I32},
	I64:    {name: "I64", block: 1, bytes: 8, stored: tensor.I64},
	F64:    {name: "F64", block: 1, bytes: 8, stored: tensor.F64},
	29:     {name: "IQ1_M", block: 256, bytes: 56},
	BF16:   {name: "BF16", block: 1, bytes: 2, stored: tensor.BF16, decode: decodeBF16, encode: encodeBF16},
	TQ1_0:  {name: "TQ1_0", block: 256, bytes: 54, decode: decodeTQ1_0},
	TQ2_0:  {name: "TQ2_0", block: 256, bytes: 66, decode: decodeTQ2_0},
	MXFP4:  {name: "MXFP4", block: 32, bytes: 17, decode: decodeMXFP4},
	40:     {name: "NVFP4", block: 64, bytes: 36},
}

// String is the name in ggml.h without its prefix, in upper case: "Q4_K".
func (t Type) String() string {
	if l, ok := layouts[t]; ok {
		return l.name
	}
	return fmt.Sprintf("type %d", uint32(t))
}

// ParseType finds a type by its name, in any case of letters.
func ParseType(name string) (Type, bool) {
	for t, l := range layouts {
		if strings.EqualFold(l.name, name) {
			return t, true
		}
	}
	return 0, false
}

// Block gives the elements and bytes of a block; both are 0 for a number that stands for no type.
func (t Type) Block() (elements, bytes int) {
	l := layouts[t]
	return l.block, l.bytes
}

// Stored is the element type of a format without blocks; tensor.Invalid for block formats.
func (t Type) Stored() tensor.DType { return layouts[t].stored }

// CanDecode reports whether Decode knows the type.
func (t Type) CanDecode() bool { return layouts[t].decode != nil }

// CanEncode reports whether Encode knows the type.
func (t Type) CanEncode() bool { return layouts[t].encode != nil }

// Decoded lists the types that Decode knows, by number.
func Decoded() []Type { return list(Type.CanDecode) }

// Encoded lists the types that Encode knows, by number.
func Encoded() []Type { return list(Type.CanEncode) }

func list(keep func(Type) bool) []Type {
	var out []Type
	for t := range layouts {
		if keep(t) {
			out = append(out, t)
		}
	}
	slices.Sort(out)
	return out
}

// Size is the bytes that n elements take; ok is false when they are no whole number of blocks, or too many, or the type is unknown.
func (t Type) Size(n int) (bytes int64, ok bool) {
	l := layouts[t]
	if l.block == 0 || n < 0 || n%l.block != 0 || int64(n/l.block) > math.MaxInt64/int64(l.bytes) {
		return 0, false
	}
	return int64(n/l.block) * int64(l.bytes), true
}

// Names prints types for messages: "F32, F16 and BF16".
func Names(types []Type) string {
	names := make([]string, len(types))
	for i, t := range types {
		names[i] = t.String()
	}
	if len(names) < 2 {
		return strings.Join(names, "")
	}
	return strings.Join(names[:len(names)-1], ", ") + " and " + names[len(names)-1]
}

// Decode computes what blocks stand for: len(dst) elements from src, which must hold exactly their blocks.
func Decode(dst []float32, src []byte, t Type) error {
	l := layouts[t]
	if l.decode == nil {
		return fmt.Errorf("ggml: %v cannot be decoded; %s can", t, Names(Decoded()))
	}
	if n, ok := t.Size(len(dst)); !ok || n != int64(len(src)) {
		return fmt.Errorf("ggml: %d bytes of %v do not hold %d elements in blocks of %d", len(src), t, len(dst), l.block)
	}
	quant.Parallel(parts(len(dst)), func(from, to int) {
		lo, hi := from*part, min(to*part, len(dst))
		if l.block == 1 {
			l.decode(dst[lo:hi], src[lo*l.bytes:hi*l.bytes])
			return
		}
		for at, b := lo, lo/l.block*l.bytes; at < hi; at, b = at+l.block, b+l.bytes {
			l.decode(dst[at:at+l.block:at+l.block], src[b:b+l.bytes:b+l.bytes])
		}
	})
	return nil
}

// Encode writes len(src) elements as blocks to dst, which must have exactly their size. Elements that are not finite, or whose scale is
// beyond float16, are refused: they would spoil their whole block.
func Encode(dst []byte, src []float32, t Type) error {
	l := layouts[t]
	if l.encode == nil {
		return fmt.Errorf("ggml: %v cannot be encoded; %s can", t, Names(Encoded()))
	}
	if n, ok := t.Size(len(src)); !ok || n != int64(len(dst)) {
		return fmt.Errorf("ggml: %d elements in blocks of %d of %v do not take %d bytes", len(src), l.block, t, len(dst))
	}
	if err := encodable(src, t); err != nil {
		return err
	}
	quant.Parallel(parts(len(src)), func(from, to int) {
		lo, hi := from*part, min(to*part, len(src))
		if l.block == 1 {
			l.encode(dst[lo*l.bytes:hi*l.bytes], src[lo:hi])
			return
		}
		for at, b := lo, lo/l.block*l.bytes; at < hi; at, b = at+l.block, b+l.bytes {
			l.encode(dst[b:b+l.bytes:b+l.bytes], src[at:at+l.block:at+l.block])
		}
	})
	return nil
}

// part is the elements that one goroutine takes at least: whole blocks of every type.
const part = 1 << 14

func parts(n int) int { return (n + part - 1) / part }

// encodable refuses what the scales of a type cannot hold.
func encodable(src []float32, t Type) error {
	limit := float32(math.MaxFloat32)
	switch t {
	case F16:
		limit = maxF16
	case BF16:
		limit = maxBF16
	case Q4_1, Q5_1:
		limit = maxF16 // of the smallest element; the scale is at most 2/15 of it
	case Q4_0:
		limit = 8 * maxF16
	case Q5_0:
		limit = 16 * maxF16
	case Q8_0:
		limit = 127 * maxF16
	}
	for i, v := range src {
		if !(v <= limit && v >= -limit) {
			return fmt.Errorf("ggml: element %d is %v, which %v cannot hold", i, v, t)
		}
	}
	return nil
}

// The largest finite values.
const (
	maxF16  = 65504
	maxBF16 = 0x1.FEp127
)

// f16 reads a float16.
func f16(b []byte) float32 { return tensor.Float16(binary.LittleEndian.Uint16(b)).Float32() }

func putF16(b []byte, v float32) { binary.LittleEndian.PutUint16(b, uint16(tensor.ToF16(v))) }
