package quant

import (
	"fmt"
	"math"
	"sync"

	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Encoder sets the scales and computes the codes of a State whose scales are not quantized again. It is what the quantizers of all
// formats use, and lets calibration choose scales and round one element at a time. Methods may be called at the same time for different
// blocks.
type Encoder struct {
	s          *State
	table      *table4      // NF4, FP4
	book       *Codebook    // Blockwise8
	search     *levelSearch // KBit
	stochastic bool
	seed       uint64
}

// Encoder returns an encoder for s, which must be valid and not nested.
func (s *State) Encoder() (*Encoder, error) {
	if err := s.Validate(); err != nil {
		return nil, err
	}
	if s.Nested() {
		return nil, fmt.Errorf("quant: the scales of this %v state are quantized: encode before they are, or dequantize and quantize anew", s.Scheme)
	}
	e := &Encoder{s: s}
	switch s.Scheme {
	case NF4, FP4:
		e.table = quantTables()[s.Scheme]
	case Blockwise8:
		e.book = DynamicSigned()
		if s.Map != nil {
			e.book = newCodebook([256]float32(s.Map))
		}
	case KBit:
		e.search = newLevelSearch(s.levels())
	}
	return e, nil
}

// Fit sets the scale (and zero point) of block b from the extremes of x, which must not hold NaN or infinities.
func (e *Encoder) Fit(b int, x []float32) {
	lo, hi := extremes(x)
	e.SetRange(b, lo, hi)
}

// SetRange sets the scale of block b so that values from lo to hi are covered; with zero points the range is widened to hold 0, without
// them it is symmetric.
func (e *Encoder) SetRange(b int, lo, hi float32) {
	absmax := max(-lo, hi, 0)
	switch s := e.s; s.Scheme {
	case NF4, FP4, Int8, Blockwise8:
		s.Absmax[b] = flush(absmax)
	case KBit:
		s.Absmax[b] = absmax
	case FP8E4M3:
		s.Absmax[b] = stepFor(absmax, E4M3.Max())
	case FP8E5M2:
		s.Absmax[b] = stepFor(absmax, E5M2.Max())
	case Affine:
		if s.Zeros == nil {
			s.Absmax[b] = stepFor(absmax, float32(int(1)<<(s.Bits-1)-1))
			return
		}
		s.Absmax[b], s.Zeros[b] = AffineParams(lo, hi, s.Bits)
	}
}

// stepFor is absmax/top, a little less where top steps would overflow.
func stepFor(absmax, top float32) float32 {
	step := absmax / top
	if !finite(step * top) {
		step = math.Nextafter32(step, 0)
	}
	return step
}

// AffineParams returns the step and zero point with which codes of that many bits cover lo to hi, widened to hold 0:
// step = (hi−lo)/(2^bits−1), zero = rint(−lo/step).
func AffineParams(lo, hi float32, bits int) (step float32, zero uint8) {
	lo, hi = min(lo, 0), max(hi, 0)
	top := float64(int(1)<<bits - 1)
	step = float32((float64(hi) - float64(lo)) / top)
	if step == 0 {
		return 0, 0
	}
	z := min(math.RoundToEven(-float64(lo)/float64(step)), top)
	return min(step, stepFor(math.MaxFloat32, float32(max(z, top-z)))), uint8(z)
}

// Code is the code of x in block b, as the scale of the block stands. Ties go to the even code or as the scheme's kernels have it.
func (e *Encoder) Code(b int, x float32) uint8 {
	var code [1]uint8
	e.Encode(code[:], []float32{x}, b, 0)
	return code[0]
}

// Value is what a code is worth in block b.
func (e *Encoder) Value(b int, code uint8) float32 {
	s := e.s
	return float32(float32(s.levels()[code]-s.zero(b))*s.Absmax[b]) * s.post()
}

// Encode writes the codes of x, elements of block b from flat index first on, one a byte. With stochastic rounding the index selects the
// random number. The elements must be finite.
func (e *Encoder) Encode(codes []uint8, x []float32, b, first int) {
	codes = codes[:len(x)]
	scale := e.s.Absmax[b]
	switch e.s.Scheme {
	case NF4, FP4:
		e.table.codes(codes, x, scale)
	case Int8:
		encodeRow(codes, x, scale)
	case Blockwise8:
		e.book.codes(codes, x, scale)
	case Affine:
		e.encodeAffine(codes, x, b, first)
	case FP8E4M3:
		encodeFloat8(E4M3, codes, x, scale)
	case FP8E5M2:
		encodeFloat8(E5M2, codes, x, scale)
	case KBit:
		e.search.codes(codes, x, scale)
	}
}

func encodeRow(codes []uint8, x []float32, stat float32) {
	r := float32(127 * Rcp(stat))
	if !PlainScale(stat) {
		for i, v := range x {
			codes[i] = uint8(rowCode(min(max(v, -stat), stat), stat, r))
		}
		return
	}
	// A calibrated statistic may be below the largest element.
	if step := rowCodesStep(); len(x) >= step && maxAbsBits(x) <= math.Float32bits(stat) {
		n := len(x) &^ (step - 1)
		rowCodes(tensor.View[int8](codes[:n]), x, r, float32(math.Inf(1)))
		codes, x = codes[n:], x[n:]
	}
	for i, v := range x {
		codes[i] = uint8(math.Float32bits(min(max(float32(v*r), -127), 127) + roundMagic))
	}
}

func encodeFloat8(f Float8, codes []uint8, x []float32, scale float32) {
	if scale == 0 {
		clear(codes)
		return
	}
	done := 0
	if step := step8(); len(x) >= step {
		done = len(x) &^ (step - 1)
		float8Codes(f, codes, x[:done], scale)
	}
	for i, v := range x[done:] {
		codes[done+i] = f.Encode(v/scale, true)
	}
}

// affine is how a block's elements become integers.
type affine struct {
	step, zero, lowest, highest float64
	stochastic                  bool
	base, first                 uint64 // of the random numbers
}

func (e *Encoder) encodeAffine(codes []uint8, x []float32, b, first int) {
	a := affine{step: float64(e.s.Absmax[b]), zero: float64(e.s.zero(b)), stochastic: e.stochastic, base: mix64(e.seed + gamma), first: uint64(first)}
	a.lowest, a.highest = -a.zero, float64(int(1)<<e.s.Bits-1)-a.zero
	switch {
	case a.step == 0:
		a.lowest, a.highest = 0, 0
	case e.stochastic && e.s.Zeros == nil:
		// The step is rounded, so -absmax may lie a little beyond the code that stands for it: it is not to be rounded to the next.
		a.lowest++
	}
	if e.s.DType != tensor.F32 { // AffineParams and stepFor see to float32
		most := math.Floor(beyond(e.s.DType) / a.step)
		if float64(float32(most)*e.s.Absmax[b]) >= beyond(e.s.DType) {
			most--
		}
		a.lowest, a.highest = max(a.lowest, -most), min(a.highest, most)
	}
	if done := len(x) &^ 7; affineCodes(codes, x[:done], a) {
		codes, x = codes[done:], x[done:]
		a.first += uint64(done)
	}
	a.codes(codes, x)
}

// codes is the definition.
func (a affine) codes(codes []uint8, x []float32) {
	// magic64 added to a float64 below 2^51 in magnitude and taken off again rounds it to an integer, ties to even.
	const magic64 = 3 << 51
	for i, v := range x {
		// The bounds are integers, so clamping first gives the same code and keeps the sum exact.
		q := float64(v) / a.step
		if a.stochastic {
			q = math.Floor(q + uniform(a.base, a.first+uint64(i)))
		}
		switch {
		case !(q > a.lowest):
			q = a.lowest
		case q > a.highest:
			q = a.highest
		}
		codes[i] = uint8(int(q + magic64 - magic64 + a.zero))
	}
}

// beyond is the least magnitude that rounds to infinity in a dtype.
func beyond(d tensor.DType) float64 {
	switch d {
	case tensor.F16:
		return 65520
	case tensor.BF16:
		return 0x1.FFp127
	}
	return 0x1.FFFFFFp127
}

const gamma = 0x9e3779b97f4a7c15

// uniform is a number in [0, 1) that depends on base, the mixed seed, and counter alone: two rounds of the finalizer of SplitMix64
// (Steele, Lea, Flood 2014) over their combination.
func uniform(base, counter uint64) float64 {
	return float64(mix64(base+counter*gamma)>>11) / (1 << 53)
}

func mix64(z uint64) uint64 {
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// extremes are the smallest and the largest of x and 0.
func extremes(x []float32) (lo, hi float32) {
	for _, v := range x { // the built-in functions take five times as long for their care of NaN and -0
		if v < lo {
			lo = v
		}
		if v > hi {
			hi = v
		}
	}
	return lo, hi
}

// firstError keeps one of the errors of parts that run at the same time, the first to arrive.
type firstError struct {
	mu  sync.Mutex
	err error
}

// set reports whether there is an error now.
func (f *firstError) set(err error) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil {
		f.err = err
	}
	return f.err != nil
}
