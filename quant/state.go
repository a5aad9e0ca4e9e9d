package quant

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Config says how to quantize a tensor to 4 bits. The zero value is NF4 in blocks of 64 with float32 scales.
type Config struct {
	Scheme    Scheme
	Blocksize int  // elements per scale; 0 = DefaultBlocksize
	Double    bool // store the scales in 8 bits
	// Threshold is for layers of scheme Int8: activations of that magnitude and above stay unquantized. 0 = all are quantized.
	Threshold float32
	// Parallel runs f over parts of [0, n) that together cover it, possibly at the same time; nil runs f(0, n).
	Parallel func(n int, f func(lo, hi int))
}

// State is a tensor quantized to 4 bits. Its scales are either Absmax or, with double quantization, AbsmaxU8, NestedAbsmax,
// NestedOffset and NestedMap.
type State struct {
	Scheme    Scheme
	Blocksize int          // elements per scale
	Shape     tensor.Shape // of the original tensor
	DType     tensor.DType // of the original tensor: F32, F16 or BF16
	// Storage is the element type under which a checkpoint shows the code bytes: U8 (or Invalid, the same), F16, BF16 or F32.
	Storage tensor.DType
	Codes   []byte // PackedSize(Shape.Size()) bytes, first element in the high nibble

	Absmax []float32 // one per block; nil with double quantization

	AbsmaxU8        []byte        // one code per block; nil without double quantization
	NestedAbsmax    []float32     // one per NestedBlocksize blocks
	NestedBlocksize int           // 0 = StateBlocksize
	NestedOffset    float32       // mean of the scales
	NestedMap       *[256]float32 // values of AbsmaxU8; nil = those of DynamicSigned
}

// Quantize quantizes a tensor of F32, F16 or BF16. A tensor that holds NaN or an infinity is refused: one such element would spoil its
// whole block.
func Quantize(t *tensor.Tensor, cfg Config) (*State, error) {
	if t == nil {
		return nil, fmt.Errorf("quant: no tensor to quantize")
	}
	if cfg.Blocksize == 0 {
		cfg.Blocksize = DefaultBlocksize
	}
	n := t.Shape().Size()
	s := &State{Scheme: cfg.Scheme, Blocksize: cfg.Blocksize, Shape: t.Shape(), DType: t.DType(), Storage: tensor.U8}
	if err := s.checkHeader(); err != nil {
		return nil, err
	}
	s.Codes = tensor.AlignedBytes(PackedSize(n))
	s.Absmax = make([]float32, Blocks(n, cfg.Blocksize))
	if err := s.quantizeAll(t, cfg); err != nil {
		return nil, err
	}
	if !cfg.Double {
		return s, nil
	}
	s.AbsmaxU8 = make([]byte, len(s.Absmax))
	s.NestedAbsmax = make([]float32, Blocks(len(s.Absmax), StateBlocksize))
	s.NestedBlocksize = StateBlocksize
	var err error
	if s.NestedOffset, err = QuantizeScales(s.AbsmaxU8, s.NestedAbsmax, s.Absmax); err != nil {
		return nil, err
	}
	s.Absmax = nil
	return s, nil
}

func (s *State) quantizeAll(t *tensor.Tensor, cfg Config) error {
	run := cfg.Parallel
	if run == nil {
		run = func(n int, f func(lo, hi int)) { f(0, n) }
	}
	blocks := len(s.Absmax)
	bad := make([]bool, blocks)
	run(blocks, func(lo, hi int) {
		switch s.DType {
		case tensor.F32:
			quantizeBlocks4(s.Codes, s.Absmax, tensor.Data[float32](t), s.Blocksize, s.Scheme, lo, hi, bad)
		case tensor.F16:
			quantizeBlocks4(s.Codes, s.Absmax, tensor.Data[tensor.Float16](t), s.Blocksize, s.Scheme, lo, hi, bad)
		case tensor.BF16:
			quantizeBlocks4(s.Codes, s.Absmax, tensor.Data[tensor.BFloat16](t), s.Blocksize, s.Scheme, lo, hi, bad)
		}
	})
	for b, is := range bad {
		if is {
			return fmt.Errorf("quant: elements %d to %d of %v hold NaN or infinity: repair the weights or keep this tensor unquantized",
				b*s.Blocksize, min((b+1)*s.Blocksize, t.Shape().Size())-1, t.Type())
		}
	}
	return nil
}

// Nested reports whether the scales are quantized too.
func (s *State) Nested() bool { return s.AbsmaxU8 != nil }

// Size is the number of elements.
func (s *State) Size() int { return s.Shape.Size() }

// Blocks is the number of scales.
func (s *State) Blocks() int { return Blocks(s.Size(), s.Blocksize) }

// Bytes is the memory of codes and scales, without the fixed tables.
func (s *State) Bytes() int64 {
	return int64(len(s.Codes)) + 4*int64(len(s.Absmax)) + int64(len(s.AbsmaxU8)) + 4*int64(len(s.NestedAbsmax))
}

// Validate reports the first inconsistency between the fields.
func (s *State) Validate() error {
	if err := s.checkHeader(); err != nil {
		return err
	}
	n, blocks := s.Size(), s.Blocks()
	if len(s.Codes) != PackedSize(n) {
		return fmt.Errorf("quant: %v needs %d bytes of 4-bit codes, got %d", s.Shape, PackedSize(n), len(s.Codes))
	}
	if !s.Nested() {
		if len(s.Absmax) != blocks || s.NestedAbsmax != nil {
			return fmt.Errorf("quant: %v in blocks of %d needs %d scales and none of second level, got %d and %d",
				s.Shape, s.Blocksize, blocks, len(s.Absmax), len(s.NestedAbsmax))
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

func (s *State) checkHeader() error {
	if !s.Scheme.FourBit() {
		return fmt.Errorf("quant: %v is not a 4-bit scheme: use NF4 or FP4", s.Scheme)
	}
	if err := checkBlocksize(s.Blocksize); err != nil {
		return err
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

// Dequantize returns the whole tensor in another element type (F32, F16, BF16; Invalid = the original's).
func (s *State) Dequantize(d tensor.DType) (*tensor.Tensor, error) {
	if err := s.Validate(); err != nil {
		return nil, err
	}
	if d == tensor.Invalid {
		d = s.DType
	}
	out := tensor.New(tensor.Type{DType: d, Shape: s.Shape})
	var err error
	switch d {
	case tensor.F32:
		err = DequantizeRange(s, tensor.Data[float32](out), 0, s.Size())
	case tensor.F16:
		err = DequantizeRange(s, tensor.Data[tensor.Float16](out), 0, s.Size())
	case tensor.BF16:
		err = DequantizeRange(s, tensor.Data[tensor.BFloat16](out), 0, s.Size())
	default:
		err = fmt.Errorf("quant: cannot dequantize to %v: use f32, f16 or bf16", d)
	}
	if err != nil {
		return nil, err
	}
	return out, nil
}

// DequantizeRange writes elements lo to hi-1, flat and row-major, to dst[:hi-lo]. It allocates nothing, so callers may split a tensor
// anywhere and fill the parts in parallel. s must be valid.
func DequantizeRange[E Real](s *State, dst []E, lo, hi int) error {
	if lo < 0 || hi < lo || hi > s.Size() || len(dst) < hi-lo {
		return fmt.Errorf("quant: range [%d, %d) does not fit %v and %d elements of output", lo, hi, s.Shape, len(dst))
	}
	if err := check4(len(s.Codes), s.Blocks(), hi, s.Blocksize, s.Scheme); err != nil {
		return err
	}
	var scales [64]float32
	for lo < hi {
		first := lo / s.Blocksize
		last := min(first+len(scales), Blocks(hi, s.Blocksize))
		if err := s.Scales(scales[:], first, last); err != nil {
			return err
		}
		for b := first; b < last; b++ {
			end := min((b+1)*s.Blocksize, hi)
			dequantizeBlock4(dst[:end-lo], s.Codes, scales[b-first], lo, s.Scheme)
			dst, lo = dst[end-lo:], end
		}
	}
	return nil
}
