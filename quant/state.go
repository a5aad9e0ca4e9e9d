package quant

import (
	"fmt"
	"math"
	"slices"

	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// State is a quantized tensor of any scheme.
//
// Elements are numbered flat in row-major order, n in all. Blocks, one scale each, are cut from that order every Blocksize elements, or
// with ByRow from each row (the last axis) alone, so that none spans two rows; a last block may be short. One block for the whole tensor
// has Blocksize n, one for each row ByRow and the row's length.
//
// The value of an element is, with its code c, the scale a of its block, and values of the scheme v:
//
//	NF4, FP4, Blockwise8, KBit, FP8…   v[c]·a
//	Int8                               int8(c)·a·Int8RowScale
//	Affine                             (c − zero)·a, zero being the block's code of Zeros, or 2^(Bits-1) where there are none
//
// in float32, each operation rounded, then rounded once to the type wanted. The scales are either Absmax or, with double quantization,
// AbsmaxU8, NestedAbsmax, NestedOffset and NestedMap.
type State struct {
	Scheme    Scheme
	Bits      int          // of a code, for Affine and KBit; 0 for the others, whose scheme says it
	Blocksize int          // elements per scale
	ByRow     bool         // no block spans two rows
	Shape     tensor.Shape // of the original tensor
	DType     tensor.DType // of the original tensor: F32, F16 or BF16
	// Storage is the element type under which a checkpoint shows 4-bit code bytes: U8 (or Invalid, the same), F16, BF16 or F32.
	Storage tensor.DType
	// Codes holds the codes of all elements without gaps. NF4 and FP4 put the first of two into the high nibble; the others are packed
	// as by PackCodes; codes of 8 bits are one a byte, those of Int8 in two's complement.
	Codes []byte

	Absmax []float32 // one per block; nil with double quantization
	Zeros  []uint8   // Affine with zero points: one code per block; else nil
	Map    []float32 // values of Blockwise8 (256) or KBit (2^Bits) codes, ascending; nil = DynamicSigned's or NormalLevels(Bits)

	AbsmaxU8        []byte        // one code per block; nil without double quantization
	NestedAbsmax    []float32     // one per NestedBlocksize blocks
	NestedBlocksize int           // 0 = StateBlocksize
	NestedOffset    float32       // mean of the scales
	NestedMap       *[256]float32 // values of AbsmaxU8; nil = those of DynamicSigned
}

// Nested reports whether the scales are quantized too.
func (s *State) Nested() bool { return s.AbsmaxU8 != nil }

// Type is the type of the tensor that the state stands for.
func (s *State) Type() tensor.Type { return tensor.Type{DType: s.DType, Shape: s.Shape} }

// Size is the number of elements.
func (s *State) Size() int { return s.Shape.Size() }

// CodeBits is the width of a code.
func (s *State) CodeBits() int {
	switch s.Scheme {
	case NF4, FP4:
		return 4
	case Affine, KBit:
		return s.Bits
	}
	return 8
}

// rows and the length of each, as blocks see them: one row holds everything where blocks may span rows.
func (s *State) rows() (rows, length int) {
	n := s.Size()
	if !s.ByRow || s.Shape.Rank() == 0 {
		return 1, n
	}
	length = s.Shape.Dim(-1)
	if length == 0 {
		return 1, 0
	}
	return n / length, length
}

// Blocks is the number of scales.
func (s *State) Blocks() int {
	rows, length := s.rows()
	return rows * Blocks(length, s.Blocksize)
}

// Block is the block of element i.
func (s *State) Block(i int) int {
	if !s.ByRow {
		return i / s.Blocksize
	}
	_, length := s.rows()
	return i/length*Blocks(length, s.Blocksize) + i%length/s.Blocksize
}

// Span is the range of elements [lo, hi) of block b.
func (s *State) Span(b int) (lo, hi int) {
	if !s.ByRow {
		lo = b * s.Blocksize
		return lo, lo + min(s.Blocksize, s.Size()-lo)
	}
	_, length := s.rows()
	per := Blocks(length, s.Blocksize)
	if per == 0 {
		return 0, 0
	}
	first, in := b/per*length, b%per*s.Blocksize
	return first + in, first + in + min(s.Blocksize, length-in)
}

// Bytes is the memory of codes, scales and zero points, without tables of values.
func (s *State) Bytes() int64 {
	return int64(len(s.Codes)) + 4*int64(len(s.Absmax)) + int64(len(s.AbsmaxU8)) + 4*int64(len(s.NestedAbsmax)) + int64(len(s.Zeros))
}

// Validate reports the first inconsistency between the fields. A valid state can be dequantized, converted and stored.
func (s *State) Validate() error {
	if s == nil {
		return fmt.Errorf("quant: no quantized state")
	}
	if err := s.checkHeader(); err != nil {
		return err
	}
	n, blocks := s.Size(), s.Blocks()
	if want := s.codesSize(); len(s.Codes) != want {
		return fmt.Errorf("quant: %v needs %d bytes of %d-bit codes, got %d", s.Shape, want, s.CodeBits(), len(s.Codes))
	}
	if s.Zeros != nil && len(s.Zeros) != blocks {
		return fmt.Errorf("quant: %v in blocks of %d needs %d zero points, got %d", s.Shape, s.Blocksize, blocks, len(s.Zeros))
	}
	for b, z := range s.Zeros {
		if int(z) >= 1<<s.Bits {
			return fmt.Errorf("quant: the zero point of block %d is %d: must be below %d for codes of %d bits", b, z, 1<<s.Bits, s.Bits)
		}
	}
	if err := s.checkScales(blocks); err != nil {
		return err
	}
	return s.checkSpare(n)
}

func (s *State) codesSize() int {
	n := s.Size()
	if s.Scheme.FourBit() {
		return PackedSize(n)
	}
	return codeBytes(n, s.CodeBits())
}

func (s *State) checkScales(blocks int) error {
	if !s.Nested() {
		if len(s.Absmax) != blocks || s.NestedAbsmax != nil {
			return fmt.Errorf("quant: %v in blocks of %d needs %d scales and none of second level, got %d and %d",
				s.Shape, s.Blocksize, blocks, len(s.Absmax), len(s.NestedAbsmax))
		}
		for b, a := range s.Absmax {
			if !(a >= 0) && s.Scheme >= Blockwise8 {
				return fmt.Errorf("quant: the scale of block %d is %v: must not be negative", b, a)
			}
		}
		return nil
	}
	if s.Absmax != nil || len(s.AbsmaxU8) != blocks || len(s.NestedAbsmax) != Blocks(blocks, s.nestedBlocksize()) {
		return fmt.Errorf("quant: %v in blocks of %d needs %d scale codes and %d second-level scales, got %d and %d (and %d plain scales)",
			s.Shape, s.Blocksize, blocks, Blocks(blocks, s.nestedBlocksize()), len(s.AbsmaxU8), len(s.NestedAbsmax), len(s.Absmax))
	}
	if !finite(s.NestedOffset) {
		return fmt.Errorf("quant: the mean of the scales is %v: the quantized tensor held an infinity", s.NestedOffset)
	}
	return nil
}

// checkSpare refuses set bits behind the last code of a packed stream: they would not survive repacking. NF4 and FP4 have the code of
// zero in a spare nibble, which nobody reads.
func (s *State) checkSpare(n int) error {
	if spare := n % 8 * s.CodeBits() % 8; !s.Scheme.FourBit() && spare != 0 && s.Codes[len(s.Codes)-1]>>spare != 0 {
		return fmt.Errorf("quant: bits behind the last of %d codes of %d bits are set: the codes were packed differently", n, s.CodeBits())
	}
	return nil
}

// checkHeader checks all but the arrays of codes and scales.
func (s *State) checkHeader() error {
	if !s.Scheme.Valid() {
		return fmt.Errorf("quant: unknown scheme %v: the schemes are nf4, fp4, int8, blockwise8, affine, fp8_e4m3, fp8_e5m2 and kbit", s.Scheme)
	}
	if !s.Shape.Valid() {
		return fmt.Errorf("quant: invalid shape %v", s.Shape)
	}
	if s.DType != tensor.F32 && s.DType != tensor.F16 && s.DType != tensor.BF16 {
		return fmt.Errorf("quant: element type %v cannot be quantized: convert to f32, f16 or bf16 first", s.DType)
	}
	if s.NestedBlocksize < 0 {
		return fmt.Errorf("quant: second-level blocksize %d: must be positive", s.NestedBlocksize)
	}
	if s.NestedMap != nil {
		for i, v := range s.NestedMap {
			if !finite(v) {
				return fmt.Errorf("quant: the value of code %d of second-level scales is %v: all must be finite", i, v)
			}
		}
	}
	return s.checkScheme()
}

// checkScheme checks what a scheme asks of the other fields.
func (s *State) checkScheme() error {
	lowest, highest := 0, 0
	switch s.Scheme {
	case Affine:
		lowest, highest = 2, 8
	case KBit:
		lowest, highest = 2, 6
	}
	switch {
	case s.Bits < lowest || s.Bits > highest:
		return fmt.Errorf("quant: %v of %d bits: use %d to %d", s.Scheme, s.Bits, lowest, highest)
	case s.Zeros != nil && s.Scheme != Affine:
		return fmt.Errorf("quant: %v has no zero points", s.Scheme)
	case s.Nested() && (s.Scheme == Int8 || s.Scheme == Affine || s.Scheme == FP8E4M3 || s.Scheme == FP8E5M2):
		return fmt.Errorf("quant: the scales of %v are not quantized again", s.Scheme)
	case s.Map != nil && s.Scheme != Blockwise8 && s.Scheme != KBit:
		return fmt.Errorf("quant: %v has its own table of values", s.Scheme)
	}
	if s.Map != nil {
		if err := checkLevels(s.Map, 1<<s.CodeBits()); err != nil {
			return err
		}
	}
	switch s.Scheme {
	case NF4, FP4:
		if s.ByRow {
			return fmt.Errorf("quant: blocks of %v are cut from the flat order, not from rows", s.Scheme)
		}
		return checkBlocksize(s.Blocksize)
	case Int8:
		if s.Shape.Rank() == 0 || !s.ByRow || s.Blocksize != max(s.Shape.Dim(-1), 1) {
			return fmt.Errorf("quant: int8 has one scale a row: %v needs ByRow and blocksize %d, got %v and %d", s.Shape,
				max(s.Shape.Dim(-1), 1), s.ByRow, s.Blocksize)
		}
	}
	if s.Blocksize < 1 {
		return fmt.Errorf("quant: blocksize %d: must be at least 1", s.Blocksize)
	}
	return nil
}

// checkLevels checks a table of code values.
func checkLevels(values []float32, want int) error {
	if len(values) != want {
		return fmt.Errorf("quant: a table of %d values for %d codes", len(values), want)
	}
	for i, v := range values {
		if !finite(v) {
			return fmt.Errorf("quant: the value of code %d is %v: all must be finite", i, v)
		}
		if i > 0 && v < values[i-1] {
			return fmt.Errorf("quant: the value of code %d is below that of code %d: sort the table", i, i-1)
		}
	}
	return nil
}

func (s *State) nestedBlocksize() int {
	if s.NestedBlocksize == 0 {
		return StateBlocksize
	}
	return s.NestedBlocksize
}

func (s *State) nestedMap() *[256]float32 {
	if s.NestedMap == nil {
		return &DynamicSigned().values
	}
	return s.NestedMap
}

// Scales writes the float32 scales of blocks lo to hi-1 to dst[:hi-lo], restoring them where they are quantized.
func (s *State) Scales(dst []float32, lo, hi int) error {
	if s.Nested() {
		return RestoreScales(dst, s.AbsmaxU8, s.NestedAbsmax, s.NestedOffset, lo, hi, s.nestedBlocksize(), s.nestedMap())
	}
	if lo < 0 || hi < lo || hi > len(s.Absmax) || hi-lo > len(dst) {
		return fmt.Errorf("quant: scales [%d, %d) do not fit %d blocks and %d outputs", lo, hi, len(s.Absmax), len(dst))
	}
	copy(dst, s.Absmax[lo:hi])
	return nil
}

// nest quantizes the scales in blocks of that many. It refuses those whose distance from their mean the kernels would take for zero, and
// those next to the largest number of the tensor's type that rounding to 8 bits makes infinite.
func (s *State) nest(blocksize int) error {
	s.AbsmaxU8 = make([]byte, len(s.Absmax))
	s.NestedAbsmax = make([]float32, Blocks(len(s.Absmax), blocksize))
	s.NestedBlocksize, s.NestedOffset = blocksize, meanScale(s.Absmax)
	quantizeScalesAround(s.AbsmaxU8, s.NestedAbsmax, s.Absmax, s.NestedOffset, blocksize)
	s.Absmax = nil
	const remedy = "repair the weights or leave the scales in float32"
	for _, a := range s.NestedAbsmax {
		if limit := math.Float32frombits(fastHigh - 1); a > limit {
			return fmt.Errorf("quant: the scales of %v are up to %v off their mean, and their second level holds up to %v: "+remedy, s.Type(), a, limit)
		}
	}
	restored := make([]float32, min(blocksize, len(s.AbsmaxU8)))
	for lo := 0; lo < len(s.AbsmaxU8); lo += blocksize {
		hi := min(lo+blocksize, len(s.AbsmaxU8))
		if err := s.Scales(restored, lo, hi); err != nil {
			return err
		}
		if i := slices.IndexFunc(restored[:hi-lo], func(a float32) bool { return !(math.Abs(float64(a)) < beyond(s.DType)) }); i >= 0 {
			return fmt.Errorf("quant: the scale of block %d of %v rounds to infinity, and its second level holds up to numbers below %v: "+remedy,
				lo+i, s.Type(), beyond(s.DType))
		}
	}
	return nil
}

// zero is the zero point of block b as a number.
func (s *State) zero(b int) float32 {
	switch {
	case s.Zeros != nil:
		return float32(s.Zeros[b])
	case s.Scheme == Affine:
		return float32(int(1) << (s.Bits - 1))
	}
	return 0
}

// levels returns the value of each code; it allocates nothing after the first call.
func (s *State) levels() []float32 {
	switch s.Scheme {
	case NF4, FP4:
		return schemeValues[s.Scheme][:]
	case Int8:
		return int8Levels[:]
	case Affine:
		return affineLevels[:]
	case FP8E4M3:
		return E4M3.table().values[:]
	case FP8E5M2:
		return E5M2.table().values[:]
	}
	switch {
	case s.Map != nil:
		return s.Map
	case s.Scheme == KBit:
		return normalLevels(s.Bits)
	}
	return DynamicSigned().values[:]
}

var int8Levels, affineLevels = func() (signed, plain [256]float32) {
	for i := range plain {
		signed[i], plain[i] = float32(int8(i)), float32(i)
	}
	return signed, plain
}()

// post is a last factor of every value.
func (s *State) post() float32 {
	if s.Scheme == Int8 {
		return Int8RowScale
	}
	return 1
}
