package quant

import (
	"fmt"
	"math"

	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// piece is how many elements are read at a time; a multiple of 8, so that packed codes of parts do not share a byte.
const piece = 4096

// fill quantizes elements lo to hi-1 of src, which must lie on borders of blocks and pieces, or be the ends. Where blocks are short and
// begin on whole bytes, their elements are read once: scales and then codes are made of as many blocks at a time as fit in a piece.
// Otherwise all scales come first.
func (e *Encoder) fill(src Source, o Options, lo, hi int) error {
	if lo == hi {
		return nil
	}
	failed := firstError{}
	var then func(x []float32, first, lo int) error
	if e.readsOnce() {
		then = e.encodeBlocks
	}
	first, last := e.s.Block(lo), e.s.Block(hi-1)
	o.parallel()(last+1-first, func(from, to int) {
		failed.set(e.fitBlocks(src, first+from, first+to, then))
	})
	if failed.err != nil || then != nil {
		return failed.err
	}
	o.parallel()(Blocks(hi-lo, piece), func(from, to int) {
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

// readsOnce reports whether every block is short and begins at a multiple of 8.
func (e *Encoder) readsOnce() bool {
	_, length := e.s.rows()
	return e.s.Blocksize <= piece && (e.s.Blocksize%8 == 0 || e.s.Blocksize >= length && e.s.ByRow) && (!e.s.ByRow || length%8 == 0)
}

// encodeBlocks writes the codes of blocks from first on, whose elements are x from element lo on and whose scales are set.
func (e *Encoder) encodeBlocks(x []float32, first, lo int) error {
	s := e.s
	switch {
	case s.Scheme.FourBit():
		quantizeBlocks4(s.Codes[lo/2:], s.Absmax[first:], x, s.Blocksize, s.Scheme, 0, Blocks(len(x), s.Blocksize), nil)
		return nil
	case s.Scheme == Blockwise8 && !s.ByRow:
		return Quantize8(s.Codes[lo:], s.Absmax[first:], x, s.Blocksize, e.book)
	}
	var codes [piece]uint8
	for i, b := 0, first; i < len(x); b++ {
		_, end := s.Span(b)
		n := min(end-lo, len(x)) - i
		e.Encode(codes[i:], x[i:i+n], b, lo+i)
		i += n
	}
	return s.Pack(codes[:len(x)], lo)
}

// fitBlocks sets the scales of blocks from to to-1, of any length, and shows the elements of short ones to then, where it is given: as
// many whole blocks as are read at once, the first of them, and its first element.
func (e *Encoder) fitBlocks(src Source, from, to int, then func(x []float32, first, lo int) error) error {
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
		first, at := b, lo
		for ; b <= last; b++ {
			_, hi := e.s.Span(b)
			if err := e.fitFinite(src, b, x[at-lo:hi-lo], at); err != nil {
				return err
			}
			at = hi
		}
		if then == nil {
			continue
		}
		if err := then(x, first, lo); err != nil {
			return err
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
