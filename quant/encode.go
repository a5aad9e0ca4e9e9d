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
	for i, v := range x {
		// A calibrated statistic may be below the largest element.
		codes[i] = uint8(math.Float32bits(min(max(float32(v*r), -127), 127) + roundMagic))
	}
}

func encodeFloat8(f Float8, codes []uint8, x []float32, scale float32) {
	if scale == 0 {
		clear(codes)
		return
	}
	for i, v := range x {
		codes[i] = f.Encode(v/scale, true)
	}
}

func (e *Encoder) encodeAffine(codes []uint8, x []float32, b, first int) {
	// magic64 added to a float64 below 2^51 in magnitude and taken off again rounds it to an integer, ties to even.
	const magic64 = 3 << 51
	step, zero := float64(e.s.Absmax[b]), float64(e.s.zero(b))
	lowest, highest := -zero, float64(int(1)<<e.s.Bits-1)-zero
	switch {
	case step == 0:
		lowest, highest = 0, 0
	case e.stochastic && e.s.Zeros == nil:
		// The step is rounded, so -absmax may lie a little beyond the code that stands for it: it is not to be rounded to the next.
		lowest++
	}
	for i, v := range x {
		// The bounds are integers, so clamping first gives the same code and keeps the sum exact.
		q := float64(v) / step
		if e.stochastic {
			q = math.Floor(q + uniform(e.seed, uint64(first+i)))
		}
		switch {
		case !(q > lowest):
			q = lowest
		case q > highest:
			q = highest
		}
		codes[i] = uint8(int(q + magic64 - magic64 + zero))
	}
}

// uniform is a number in [0, 1) that depends on seed and counter alone: two rounds of the finalizer of SplitMix64 (Steele, Lea, Flood
// 2014) over their combination.
func uniform(seed, counter uint64) float64 {
	return float64(mix64(mix64(seed+0x9e3779b97f4a7c15)+counter*0x9e3779b97f4a7c15)>>11) / (1 << 53)
}

func mix64(z uint64) uint64 {
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// extremes are the smallest and the largest of x and 0.
func extremes(x []float32) (lo, hi float32) {
	for _, v := range x {
		lo, hi = min(lo, v), max(hi, v)
	}
	return lo, hi
}

// piece is how many elements are read at a time; a multiple of 8, so that packed codes of parts do not share a byte.
const piece = 4096

// fill quantizes elements lo to hi-1 of src: first the scales of the blocks that begin there, then the codes. lo and hi must lie on
// borders of blocks and pieces, or be the ends.
func (e *Encoder) fill(src Source, o Options, lo, hi int) error {
	if lo == hi {
		return nil
	}
	first, last := e.s.Block(lo), e.s.Block(hi-1)
	failed := firstError{}
	o.parallel()(last+1-first, func(from, to int) {
		failed.set(e.fitBlocks(src, first+from, first+to, nil))
	})
	if failed.err != nil {
		return failed.err
	}
	pieces := Blocks(hi-lo, piece)
	o.parallel()(pieces, func(from, to int) {
		buffer, codes := make([]float32, piece), make([]uint8, piece)
		for p := from; p < to; p++ {
			at := lo + p*piece
			if failed.set(e.encodePiece(src, buffer[:min(piece, hi-at)], codes, at)) {
				return
			}
		}
	})
	return failed.err
}

// fitBlocks sets the scales of blocks from to to-1, of any length, and shows the elements of short ones to then, where it is given.
func (e *Encoder) fitBlocks(src Source, from, to int, then func(b int, x []float32)) error {
	buffer := make([]float32, piece)
	for b := from; b < to; {
		lo, hi := e.s.Span(b)
		if hi-lo > piece {
			if err := e.fitLong(src, b, buffer); err != nil {
				return err
			}
			b++
			continue
		}
		// As many whole blocks as fit are read at once.
		last, end := b, hi
		for last+1 < to {
			if _, next := e.s.Span(last + 1); next-lo <= piece {
				last, end = last+1, next
				continue
			}
			break
		}
		x := buffer[:end-lo]
		if err := src.Read(x, lo); err != nil {
			return err
		}
		for ; b <= last; b++ {
			_, hi := e.s.Span(b)
			if err := e.fitFinite(src, b, x[:hi-lo], lo); err != nil {
				return err
			}
			if then != nil {
				then(b, x[:hi-lo])
			}
			x, lo = x[hi-lo:], hi
		}
	}
	return nil
}

// fitFinite sets the scale of block b from all of its elements, the first of which is element lo.
func (e *Encoder) fitFinite(src Source, b int, x []float32, lo int) error {
	bits := maxAbsBits(x)
	if err := e.s.checkElements(bits, lo, lo+len(x)-1, src.Type()); err != nil {
		return err
	}
	if e.s.Zeros != nil {
		e.Fit(b, x)
		return nil
	}
	e.SetRange(b, 0, math.Float32frombits(bits))
	return nil
}

// fitLong sets the scale of one block that is read in several pieces.
func (e *Encoder) fitLong(src Source, b int, buffer []float32) error {
	var low, high float32
	err := eachPiece(src, e.s, b, buffer, func(x []float32, at int) error {
		if err := e.s.checkElements(maxAbsBits(x), at, at+len(x)-1, src.Type()); err != nil {
			return err
		}
		l, h := extremes(x)
		low, high = min(low, l), max(high, h)
		return nil
	})
	e.SetRange(b, low, high)
	return err
}

// eachPiece reads block b in pieces of the buffer's length.
func eachPiece(src Source, s *State, b int, buffer []float32, f func(x []float32, at int) error) error {
	lo, hi := s.Span(b)
	for at := lo; at < hi; at += len(buffer) {
		x := buffer[:min(len(buffer), hi-at)]
		if err := src.Read(x, at); err != nil {
			return err
		}
		if err := f(x, at); err != nil {
			return err
		}
	}
	return nil
}

// checkElements refuses elements that a scheme cannot hold, given their maxAbsBits.
func (s *State) checkElements(bits uint32, first, last int, t tensor.Type) error {
	if bits >= infBits {
		return fmt.Errorf("quant: elements %d to %d of %v hold NaN or infinity: repair the weights or keep this tensor unquantized", first, last, t)
	}
	if largest := math.Float32frombits(bits); largest > s.largest() {
		return fmt.Errorf("quant: elements %d to %d of %v reach %v, and %v holds up to %v: repair the weights or keep this tensor unquantized",
			first, last, t, largest, s.Scheme, s.largest())
	}
	return nil
}

// largest is the largest magnitude that a scheme quantizes. The reciprocal of a greater absmax is 0 in bitsandbytes' kernels, which would
// make the whole block zero, and an int8 code times its statistic would be infinite.
func (s *State) largest() float32 {
	switch s.Scheme {
	case NF4, FP4, Blockwise8:
		return math.Float32frombits(fastHigh - 1)
	case Int8:
		return 0x1p121
	}
	return math.MaxFloat32
}

// encodePiece reads elements from `at` on and stores their codes.
func (e *Encoder) encodePiece(src Source, x []float32, codes []uint8, at int) error {
	if err := src.Read(x, at); err != nil {
		return err
	}
	for i := 0; i < len(x); {
		b := e.s.Block(at + i)
		_, end := e.s.Span(b)
		n := min(end-at, len(x)) - i
		e.Encode(codes[i:], x[i:i+n], b, at+i)
		i += n
	}
	return e.s.Pack(codes[:len(x)], at)
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
