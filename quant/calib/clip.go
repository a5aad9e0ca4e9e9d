package calib

import (
	"math"
	"sync"

	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// BlockRange says which range of a block's values is to be covered.
type BlockRange func(block []float32) (Range, error)

// ClipBlocks returns the weight with each block of the format limited to the range that limits gives for it, so that the format, which
// covers extremes, covers that range.
func ClipBlocks(w Matrix, f quant.Format, limits BlockRange, par Parallel) (Matrix, error) {
	st, err := blocksOf(w, f)
	if err != nil {
		return Matrix{}, err
	}
	out := w.Clone()
	var mu sync.Mutex
	par.run(st.Blocks(), func(from, to int) {
		for b := from; b < to; b++ {
			lo, hi := st.Span(b)
			r, e := limits(w.Data[lo:hi])
			if e != nil {
				mu.Lock()
				err = e
				mu.Unlock()
				return
			}
			for i := lo; i < hi; i++ {
				out.Data[i] = min(max(out.Data[i], r.Lo), r.Hi)
			}
		}
	})
	return out, err
}

// blocksOf returns an empty state, for how it cuts a weight into blocks.
func blocksOf(w Matrix, f quant.Format) (*quant.State, error) {
	if err := w.check("weight"); err != nil {
		return nil, err
	}
	return f.New(tensor.T(tensor.F32, w.Rows, w.Cols))
}

// ClipLeastError returns the weight with the extremes of each block cut off at the share of its range, in steps of 2% down to one half,
// that gives the quantized block the least squared error. It is the MSE observer for weights, whatever the format.
func ClipLeastError(w Matrix, f quant.Format, par Parallel) (Matrix, error) {
	st, err := blocksOf(w, f)
	if err != nil {
		return Matrix{}, err
	}
	n := st.Blocks()
	least, factor := make([]float64, n), make([]float32, n)
	shrunk := func(factor func(b int) float32) Matrix {
		out := w.Clone()
		par.run(n, func(from, to int) {
			for b := from; b < to; b++ {
				lo, hi := st.Span(b)
				shrink(out.Data[lo:hi], factor(b))
			}
		})
		return out
	}
	for i := range clipSteps / 4 {
		c := 1 - 2*float32(i)/clipSteps
		q, err := ByFormat(f, par)(shrunk(func(int) float32 { return c }))
		if err != nil {
			return Matrix{}, err
		}
		par.run(n, func(from, to int) {
			for b := from; b < to; b++ {
				lo, hi := st.Span(b)
				if e := distance(q.Data[lo:hi], w.Data[lo:hi]); i == 0 || e < least[b] {
					least[b], factor[b] = e, c
				}
			}
		})
	}
	return shrunk(func(b int) float32 { return factor[b] }), nil
}

// shrink limits values to a share of their largest magnitude.
func shrink(x []float32, factor float32) {
	if factor == 1 {
		return
	}
	limit := float32(0)
	for _, v := range x {
		limit = max(limit, float32(math.Abs(float64(v))))
	}
	limit *= factor
	for i, v := range x {
		x[i] = min(max(v, -limit), limit)
	}
}
