// Package fourbit has the inner loops over 4-bit codes: restoring scales, decoding to memory, packing into the strips that a matrix
// product reads, and products of few vectors with codes as they are stored. Package quant and the CPU backend share them.
//
// A code is half a byte, the first of a pair in the upper half, and picks one of 16 values; the value times the scale of the code's
// block, rounded to float32 and then to the dtype of the computation, is the element. All levels of package isa give equal bits, but
// for products, whose sums have an order that depends on the level.
package fourbit

import (
	"math"

	"github.com/bitsandbyes/bitsandbyes/internal/isa"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// NestedBlock is the number of scales that share a second-level scale.
const NestedBlock = 256

// Table has the 16 elements that the codes of a block stand for: float32 bits, or a 16-bit float in both halves of each word.
type Table = [16]uint32

// Weight is a tensor in 4 bits, in row-major order. Codes and scales must be as many as its elements need.
type Weight struct {
	Codes     []byte
	Blocksize int // elements of a scale: even, at least 32
	Values    [16]float32
	Absmax    []float32 // scales, nil with double quantization

	// Double quantization: scale b is Book[Absmax8[b]]*Nested[b/NestedBlock] + Offset, product and sum rounded.
	Absmax8 []byte
	Nested  []float32
	Offset  float32
	Book    *[256]float32
}

// Scales writes the scales of blocks first, first+1, ... to dst.
func (w *Weight) Scales(dst []float32, first int) { w.scales(isa.Best(), dst, first) }

func (w *Weight) scales(l isa.Level, dst []float32, first int) {
	if w.Absmax != nil {
		copy(dst, w.Absmax[first:first+len(dst)])
		return
	}
	for len(dst) > 0 {
		nested := first / NestedBlock
		n := min((nested+1)*NestedBlock-first, len(dst))
		restore(l, dst[:n], w.Absmax8[first:first+n], w.Book, w.Nested[nested], w.Offset)
		dst, first = dst[n:], first+n
	}
}

// restore decodes scales that share a second-level scale.
func restore(l isa.Level, dst []float32, codes []byte, book *[256]float32, nested, offset float32) {
	for i := restoreFast(l, dst, codes, book, nested, offset); i < len(dst); i++ {
		dst[i] = float32(book[codes[i]]*nested) + offset
	}
}

// Tables writes a table for each scale: Values times it, rounded to round (F32, BF16 or F16), as float32.
func (w *Weight) Tables(dst []Table, scales []float32, round tensor.DType) {
	makeTables(isa.Best(), dst[:len(scales)], scales, &w.Values, round, false)
}

// makeTables fills dst; with pairs an entry is twice the 16 bits of BF16 or F16.
func makeTables(l isa.Level, dst []Table, scales []float32, values *[16]float32, round tensor.DType, pairs bool) {
	if len(dst) == 0 || tablesFast(l, dst, scales, values, round, pairs) {
		return
	}
	for b, scale := range scales[:len(dst)] {
		for i, v := range values {
			x := Round(float32(v*scale), round)
			switch {
			case !pairs:
				dst[b][i] = math.Float32bits(x)
			case round == tensor.BF16:
				dst[b][i] = uint32(tensor.ToBF16(x)) * 0x10001
			default:
				dst[b][i] = uint32(tensor.ToF16(x)) * 0x10001
			}
		}
	}
}

// Round is x as dtype d has it, ties to even.
func Round(x float32, d tensor.DType) float32 {
	switch d {
	case tensor.BF16:
		return tensor.ToBF16(x).Float32()
	case tensor.F16:
		return tensor.ToF16(x).Float32()
	}
	return x
}

// code is the code of element i.
func code(codes []byte, i int) byte { return codes[i/2] >> (4 - 4*(i&1)) & 15 }
