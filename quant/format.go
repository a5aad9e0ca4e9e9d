package quant

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"

	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Format is a way to quantize tensors. Config, AffineFormat, BlockwiseFormat, FP8Format and KBitFormat are the formats of this package;
// ParseFormat makes one from its name.
type Format interface {
	// Name is a short text without spaces that ParseFormat reads back to an equal format, such as "int4:group=128,asym".
	Name() string
	// BitsPerWeight is the storage of an element of a tensor of that shape, scales and zero points included, in bits. It is 0 for tensors without
	// elements and for formats that do not take the shape.
	BitsPerWeight(shape tensor.Shape) float64
	// New returns a valid state of all zeros for a tensor of F32, F16 or BF16, with plain scales.
	New(t tensor.Type) (*State, error)
	// Quantize quantizes a tensor, which is read in pieces. It refuses NaN and infinities, which would spoil their whole block.
	Quantize(src Source, o Options) (*State, error)
}

// Source gives the elements of a tensor in float32. Read may be called at the same time from several goroutines.
type Source interface {
	// Type is the type of the tensor: F32, F16 or BF16 of any shape.
	Type() tensor.Type
	// Read fills dst with the elements from flat, row-major index lo on.
	Read(dst []float32, lo int) error
}

// Options say how a format does its work. The zero value does it in the calling goroutine.
type Options struct {
	// Parallel runs f over parts of [0, n) that together cover it, possibly at the same time; nil runs f(0, n). The result does not
	// depend on it.
	Parallel func(n int, f func(lo, hi int))
	// Seed selects the random numbers of stochastic rounding. Element i gets the same number whatever the shape and the order.
	Seed uint64
}

func (o Options) parallel() func(n int, f func(lo, hi int)) {
	if o.Parallel == nil {
		return func(n int, f func(lo, hi int)) { f(0, n) }
	}
	return o.Parallel
}

// Parallel splits [0, n) evenly over the processors that the program may use. It is for Options.Parallel where there is no pool of threads
// to share.
func Parallel(n int, f func(lo, hi int)) {
	parts := min(runtime.GOMAXPROCS(0), n)
	if parts <= 1 {
		f(0, n)
		return
	}
	var wg sync.WaitGroup
	for p := 1; p < parts; p++ {
		wg.Go(func() { f(n*p/parts, n*(p+1)/parts) })
	}
	f(0, n/parts)
	wg.Wait()
}

// From makes a source of a host tensor.
func From(t *tensor.Tensor) Source { return tensorSource{t} }

type tensorSource struct{ t *tensor.Tensor }

func (s tensorSource) Type() tensor.Type {
	if s.t == nil {
		return tensor.Type{}
	}
	return s.t.Type()
}

func (s tensorSource) Read(dst []float32, lo int) error {
	if s.t == nil {
		return fmt.Errorf("quant: no tensor to read")
	}
	if n := s.t.Shape().Size(); lo < 0 || len(dst) > n-lo {
		return fmt.Errorf("quant: %d elements from %d on do not fit %v", len(dst), lo, s.t.Type())
	}
	switch hi := lo + len(dst); s.t.DType() {
	case tensor.F32:
		copy(dst, tensor.Data[float32](s.t)[lo:hi])
	case tensor.F16:
		toFloat32(dst, tensor.Data[tensor.Float16](s.t)[lo:hi])
	case tensor.BF16:
		toFloat32(dst, tensor.Data[tensor.BFloat16](s.t)[lo:hi])
	default:
		return fmt.Errorf("quant: element type %v cannot be quantized: convert to f32, f16 or bf16 first", s.t.DType())
	}
	return nil
}

// QuantizeTensor quantizes a host tensor.
func QuantizeTensor(t *tensor.Tensor, f Format, o Options) (*State, error) {
	if t == nil {
		return nil, fmt.Errorf("quant: no tensor to quantize")
	}
	if f == nil {
		return nil, errNoFormat
	}
	return f.Quantize(From(t), o)
}

var errNoFormat = errors.New("quant: no format: use Config{} for nf4, or ParseFormat")

// stateFor makes the state that a format fills from src.
func stateFor(f Format, src Source) (*State, error) {
	if src == nil {
		return nil, errors.New("quant: no source to quantize")
	}
	return f.New(src.Type())
}

// Convert quantizes what s stands for in another format, without holding it dequantized: exact float32 values are made piece by piece.
func Convert(s *State, f Format, o Options) (*State, error) {
	if err := s.Validate(); err != nil {
		return nil, err
	}
	if f == nil {
		return nil, errNoFormat
	}
	return f.Quantize(s, o)
}

// Formats lists the formats that exist, each with its usual settings, from the fewest bits to the most.
func Formats() []Format {
	return []Format{
		KBitFormat{Bits: 2}, AffineFormat{Bits: 2}, KBitFormat{Bits: 3}, AffineFormat{Bits: 3},
		Config{Scheme: NF4, Double: true}, Config{Scheme: NF4}, Config{Scheme: FP4, Double: true}, Config{Scheme: FP4},
		AffineFormat{Bits: 4}, AffineFormat{Bits: 4, Asymmetric: true}, KBitFormat{Bits: 5}, AffineFormat{Bits: 5},
		KBitFormat{Bits: 6}, AffineFormat{Bits: 6}, AffineFormat{Bits: 7},
		Config{Scheme: Int8}, AffineFormat{Bits: 8, Per: PerChannel}, FP8Format{}, FP8Format{Scheme: FP8E5M2}, BlockwiseFormat{},
	}
}

// Granularity says how many elements share a scale: a positive number is a group of so many along the last axis.
type Granularity int

// The granularities that are not a size.
const (
	PerChannel Granularity = -1 // one scale for each row, the last axis
	PerTensor  Granularity = -2 // one scale
)

// text is the option of a format's name.
func (p Granularity) text() string {
	switch p {
	case PerChannel:
		return "channel"
	case PerTensor:
		return "tensor"
	}
	return fmt.Sprintf("group=%d", int(p))
}

// blocks sets how blocks are cut.
func (p Granularity) blocks(s *State) error {
	switch {
	case p == PerTensor:
		s.Blocksize = max(s.Size(), 1)
	case p == PerChannel:
		s.ByRow, s.Blocksize = true, max(s.Shape.Dim(-1), 1)
	case p > 0:
		s.ByRow, s.Blocksize = true, int(p)
	default:
		return fmt.Errorf("quant: granularity %d: use PerChannel, PerTensor or a number of elements", int(p))
	}
	return nil
}

// newState makes a state of zeros whose header says how blocks are cut.
func newState(t tensor.Type, header func(s *State) error) (*State, error) {
	s := &State{Shape: t.Shape, DType: t.DType}
	if err := header(s); err != nil {
		return nil, err
	}
	if err := s.checkHeader(); err != nil {
		return nil, err
	}
	s.Codes = tensor.AlignedBytes(s.codesSize())
	s.Absmax = make([]float32, s.Blocks())
	if s.Zeros != nil {
		s.Zeros = make([]uint8, s.Blocks())
	}
	return s, nil
}

// storedBits is Format.BitsPerWeight: the bytes of a state of that shape, which is not allocated. nested is the block size of the second
// level of scales, 0 for none.
func storedBits(shape tensor.Shape, nested int, header func(s *State) error) float64 {
	s := &State{Shape: shape, DType: tensor.F32}
	if header(s) != nil || s.checkHeader() != nil || s.Size() == 0 {
		return 0
	}
	blocks := s.Blocks()
	bytes := float64(s.codesSize()) + 4*float64(blocks)
	if s.Zeros != nil {
		bytes += float64(blocks)
	}
	if nested > 0 {
		bytes += float64(blocks) + 4*float64(Blocks(blocks, nested)) - 4*float64(blocks)
	}
	return 8 * bytes / float64(s.Size())
}

// quantize fills a new state of a format; prepare, where given, sets the encoder up first. Scales are quantized in blocks of nested, or
// not at 0.
func quantize(s *State, src Source, o Options, prepare func(e *Encoder) error, nested int) (*State, error) {
	e, err := s.Encoder()
	if err != nil {
		return nil, err
	}
	if prepare != nil {
		if err := prepare(e); err != nil {
			return nil, err
		}
	}
	if err := e.fill(src, o, 0, s.Size()); err != nil {
		return nil, err
	}
	if nested > 0 {
		err = s.nest(nested)
	}
	return s, err
}

// formatName joins a scheme's name and its options.
func formatName(name string, options ...string) string {
	var set []string
	for _, o := range options {
		if o != "" {
			set = append(set, o)
		}
	}
	if len(set) == 0 {
		return name
	}
	return name + ":" + strings.Join(set, ",")
}

// option is text where it is set.
func option(set bool, text string) string {
	if set {
		return text
	}
	return ""
}
