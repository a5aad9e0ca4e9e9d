package quant

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Config is the format of bitsandbytes' weights: NF4 or FP4 in blocks, or Int8 in rows. The zero value is NF4 in blocks of 64 with
// float32 scales.
type Config struct {
	Scheme    Scheme
	Blocksize int  // elements per scale in 4 bits; 0 = DefaultBlocksize
	Double    bool // store the scales in 8 bits (4-bit schemes)
	// Threshold is for layers of scheme Int8: activations of that magnitude and above stay unquantized. 0 = all are quantized.
	Threshold float32
	// Parallel runs f over parts of [0, n) that together cover it, possibly at the same time; nil runs f(0, n).
	Parallel func(n int, f func(lo, hi int))
}

var (
	_ Format = Config{}
	_ Format = AffineFormat{}
	_ Format = BlockwiseFormat{}
	_ Format = FP8Format{}
	_ Format = KBitFormat{}
)

func (c Config) blocksize() int {
	if c.Blocksize == 0 {
		return DefaultBlocksize
	}
	return c.Blocksize
}

// nestedIn is the block size of the second level of scales in QLoRA, where there is one.
func nestedIn(double bool) int {
	if double {
		return StateBlocksize
	}
	return 0
}

// Name implements Format: "nf4", "fp4:block=128,double", "int8", "int8:threshold=6".
func (c Config) Name() string {
	return formatName(c.Scheme.String(), option(c.Blocksize != 0 && c.Blocksize != DefaultBlocksize, fmt.Sprintf("block=%d", c.Blocksize)),
		option(c.Double, "double"), option(c.Threshold != 0, fmt.Sprintf("threshold=%v", c.Threshold)))
}

func (c Config) header(s *State) error {
	s.Scheme, s.Blocksize = c.Scheme, c.blocksize()
	if c.Scheme.FourBit() {
		s.Storage = tensor.U8
	}
	switch {
	case c.Scheme > Int8:
		return fmt.Errorf("quant: %v is not a scheme of bitsandbytes' weights: use NF4, FP4 or Int8", c.Scheme)
	case c.Scheme == Int8 && (c.Double || c.Blocksize != 0):
		return fmt.Errorf("quant: int8 has one float32 scale a row: neither a blocksize nor double quantization apply")
	case !(c.Threshold >= 0) || c.Threshold > 0 && c.Scheme != Int8:
		return fmt.Errorf("quant: outlier threshold %v: it is for int8, and 0 (none) or a positive number such as 6", c.Threshold)
	case c.Scheme == Int8:
		return PerChannel.blocks(s)
	}
	return nil
}

// BitsPerWeight implements Format.
func (c Config) BitsPerWeight(shape tensor.Shape) float64 {
	return storedBits(shape, nestedIn(c.Double), c.header)
}

// New implements Format.
func (c Config) New(t tensor.Type) (*State, error) { return newState(t, c.header) }

// Quantize implements Format. Host tensors take a faster path to the same bytes.
func (c Config) Quantize(src Source, o Options) (*State, error) {
	s, err := stateFor(c, src)
	if err != nil {
		return nil, err
	}
	if o.Parallel == nil {
		o.Parallel = c.Parallel
	}
	t, host := src.(tensorSource)
	if !host || !c.Scheme.FourBit() {
		return quantize(s, src, o, nil, nestedIn(c.Double))
	}
	if err := s.quantizeAll(t.t, o.parallel()); err != nil {
		return nil, err
	}
	if c.Double {
		err = s.nest(StateBlocksize)
	}
	return s, err
}

// Quantize quantizes a tensor of F32, F16 or BF16. A tensor that holds NaN or an infinity is refused: one such element would spoil its
// whole block. bitsandbytes takes int8 weights through f16: its bytes are those of the tensor converted to F16 first, as layers.Quantized
// does.
func Quantize(t *tensor.Tensor, cfg Config) (*State, error) { return QuantizeTensor(t, cfg, Options{}) }

func (s *State) quantizeAll(t *tensor.Tensor, run func(n int, f func(lo, hi int))) error {
	bad := make([]bool, len(s.Absmax))
	run(len(bad), func(lo, hi int) {
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
			lo, hi := s.Span(b)
			x := make([]float32, hi-lo)
			if err := (tensorSource{t}).Read(x, lo); err != nil {
				return err
			}
			return s.checkElements(maxAbsBits(x), lo, hi-1, t.Type())
		}
	}
	return nil
}

// DefaultGroup is the usual number of elements that share a scale in integer formats of few bits (GPTQ, AWQ).
const DefaultGroup = 128

// AffineFormat stores integers: x ≈ (code − zero)·step (Jacob et al. 2018, arXiv 1712.05877, equation 1). Symmetric, the zero point is
// 2^(Bits-1) and the step absmax/(2^(Bits-1)−1); asymmetric, both come from the extremes (AffineParams).
type AffineFormat struct {
	Bits       int         // 2 to 8
	Per        Granularity // 0 = DefaultGroup
	Asymmetric bool        // store a zero point a block
	Stochastic bool        // round up with the probability of the fraction (Options.Seed) instead of to the nearest, ties to even
}

func (f AffineFormat) per() Granularity {
	if f.Per == 0 {
		return DefaultGroup
	}
	return f.Per
}

// Name implements Format: "int4:group=128", "int8:channel,asym,stochastic".
func (f AffineFormat) Name() string {
	return formatName(fmt.Sprintf("int%d", f.Bits), f.per().text(), option(f.Asymmetric, "asym"), option(f.Stochastic, "stochastic"))
}

func (f AffineFormat) header(s *State) error {
	s.Scheme, s.Bits = Affine, f.Bits
	if f.Asymmetric {
		s.Zeros = []uint8{}
	}
	return f.per().blocks(s)
}

// BitsPerWeight implements Format.
func (f AffineFormat) BitsPerWeight(shape tensor.Shape) float64 {
	return storedBits(shape, 0, f.header)
}

// New implements Format.
func (f AffineFormat) New(t tensor.Type) (*State, error) { return newState(t, f.header) }

// Quantize implements Format.
func (f AffineFormat) Quantize(src Source, o Options) (*State, error) {
	s, err := stateFor(f, src)
	if err != nil {
		return nil, err
	}
	return quantize(s, src, o, func(e *Encoder) error {
		e.stochastic, e.seed = f.Stochastic, o.Seed
		return nil
	}, 0)
}

// BlockwiseFormat is 8-bit blockwise quantization with a map of 256 values (Dettmers et al. 2022, arXiv 2110.02861), equal to the
// library's quantize_blockwise.
type BlockwiseFormat struct {
	Map       string // a name that MapByName knows; "" = dynamic_signed
	Blocksize int    // 0 = StateBlocksize
	Double    bool   // store the scales in 8 bits, in blocks of Blocksize
}

func (f BlockwiseFormat) blocksize() int {
	if f.Blocksize == 0 {
		return StateBlocksize
	}
	return f.Blocksize
}

// nested is the block size of the second level.
func (f BlockwiseFormat) nested() int {
	if f.Double {
		return f.blocksize()
	}
	return 0
}

// Name implements Format: "blockwise8", "blockwise8:map=linear_signed,block=64,double".
func (f BlockwiseFormat) Name() string {
	return formatName("blockwise8", option(f.Map != "" && f.Map != defaultMap, "map="+f.Map),
		option(f.Blocksize != 0 && f.Blocksize != StateBlocksize, fmt.Sprintf("block=%d", f.Blocksize)), option(f.Double, "double"))
}

func (f BlockwiseFormat) header(s *State) error {
	s.Scheme, s.Blocksize = Blockwise8, f.blocksize()
	if f.Map == "" || f.Map == defaultMap {
		return nil
	}
	values, err := MapByName(f.Map)
	s.Map = values[:]
	return err
}

// BitsPerWeight implements Format.
func (f BlockwiseFormat) BitsPerWeight(shape tensor.Shape) float64 {
	return storedBits(shape, f.nested(), f.header)
}

// New implements Format.
func (f BlockwiseFormat) New(t tensor.Type) (*State, error) { return newState(t, f.header) }

// Quantize implements Format.
func (f BlockwiseFormat) Quantize(src Source, o Options) (*State, error) {
	s, err := stateFor(f, src)
	if err != nil {
		return nil, err
	}
	return quantize(s, src, o, nil, f.nested())
}

// FP8Format stores 8-bit floats of x over a scale that maps the largest magnitude to the largest value (Micikevicius et al. 2022, arXiv
// 2209.05433, section 3.1).
type FP8Format struct {
	Scheme Scheme      // FP8E4M3 or FP8E5M2; the zero value is FP8E4M3
	Per    Granularity // 0 = PerChannel
}

func (f FP8Format) scheme() Scheme {
	if f.Scheme == 0 {
		return FP8E4M3
	}
	return f.Scheme
}

func (f FP8Format) per() Granularity {
	if f.Per == 0 {
		return PerChannel
	}
	return f.Per
}

// Name implements Format: "fp8_e4m3:channel", "fp8_e5m2:group=128".
func (f FP8Format) Name() string { return formatName(f.scheme().String(), f.per().text()) }

func (f FP8Format) header(s *State) error {
	s.Scheme = f.scheme()
	if s.Scheme != FP8E4M3 && s.Scheme != FP8E5M2 {
		return fmt.Errorf("quant: %v is not an 8-bit float: use FP8E4M3 or FP8E5M2", s.Scheme)
	}
	return f.per().blocks(s)
}

// BitsPerWeight implements Format.
func (f FP8Format) BitsPerWeight(shape tensor.Shape) float64 {
	return storedBits(shape, 0, f.header)
}

// New implements Format.
func (f FP8Format) New(t tensor.Type) (*State, error) { return newState(t, f.header) }

// Quantize implements Format.
func (f FP8Format) Quantize(src Source, o Options) (*State, error) {
	s, err := stateFor(f, src)
	if err != nil {
		return nil, err
	}
	return quantize(s, src, o, nil, 0)
}

// KBitFormat stores an index into a table of 2^Bits values for each element and absmax for each flat block: NormalLevels, or a table
// fitted to the tensor.
type KBitFormat struct {
	Bits      int  // 2 to 6
	Blocksize int  // elements per scale; 0 = DefaultBlocksize
	Fit       bool // fit the table to the tensor (k-means in one dimension, 0 staying a value) and store it
	Double    bool // store the scales in 8 bits
}

// Name implements Format: "cb3", "cb5:block=128,fit,double".
func (f KBitFormat) Name() string {
	return formatName(fmt.Sprintf("cb%d", f.Bits), option(f.Blocksize != 0 && f.Blocksize != DefaultBlocksize, fmt.Sprintf("block=%d", f.Blocksize)),
		option(f.Fit, "fit"), option(f.Double, "double"))
}

func (f KBitFormat) header(s *State) error {
	s.Scheme, s.Bits, s.Blocksize = KBit, f.Bits, f.Blocksize
	if f.Blocksize == 0 {
		s.Blocksize = DefaultBlocksize
	}
	return nil
}

// BitsPerWeight implements Format.
func (f KBitFormat) BitsPerWeight(shape tensor.Shape) float64 {
	return storedBits(shape, nestedIn(f.Double), f.header)
}

// New implements Format.
func (f KBitFormat) New(t tensor.Type) (*State, error) { return newState(t, f.header) }

// Quantize implements Format.
func (f KBitFormat) Quantize(src Source, o Options) (*State, error) {
	s, err := stateFor(f, src)
	if err != nil {
		return nil, err
	}
	var prepare func(e *Encoder) error
	if f.Fit {
		prepare = func(e *Encoder) error { return e.fitLevels(src, o) }
	}
	return quantize(s, src, o, prepare, nestedIn(f.Double))
}
