package calib

import (
	"fmt"
	"math"
)

// Steps of AWQ's searches, as the authors' code has them.
const (
	awqRatios  = 20
	clipShrink = 20 // clip factors are 1, 1-1/20, ..., above 1/2
)

// AWQFactors returns s[j] = mean|X[:,j]|^ratio, divided by sqrt(max s · min s) so that scales spread around 1 (Lin et al. 2023, AWQ,
// arXiv 2306.00978, equation 5 and its code). A channel without activation keeps the floor of the others.
func AWQFactors(meanAbs []float32, ratio float64) []float32 {
	s := make([]float64, len(meanAbs))
	lo, hi := math.Inf(1), 0.0
	for j, m := range meanAbs {
		s[j] = math.Max(math.Pow(float64(m), ratio), 1e-4)
		lo, hi = math.Min(lo, s[j]), math.Max(hi, s[j])
	}
	out := make([]float32, len(s))
	for j, v := range s {
		out[j] = float32(v / math.Sqrt(lo*hi))
	}
	return out
}

// AWQSearch finds the scales that protect the channels of weights which meet large activations: for each exponent from 0 to 1 in steps
// of 0.05, weights are scaled, quantized and compared on the samples' outputs. Ratio 0 is no scaling, so the result is never worse than
// rounding to nearest on the samples. All weights read the same input. Unlike SmoothQuant the activations stay exact.
func AWQSearch(samples Matrix, meanAbs []float32, weights []Matrix, w RoundTrip, par Parallel) (Scales, error) {
	if err := checkSamples(samples, weights); err != nil {
		return Scales{}, err
	}
	if len(meanAbs) != samples.Cols {
		return Scales{}, fmt.Errorf("calib: %d channel means for %d channels", len(meanAbs), samples.Cols)
	}
	exact, err := outputs(samples, weights, par)
	if err != nil {
		return Scales{}, err
	}
	best := Scales{Error: math.Inf(1)}
	for _, ratio := range ratios(0, 1, awqRatios) {
		s := AWQFactors(meanAbs, ratio)
		e, err := scaledError(samples, weights, exact, s, nil, w, par)
		if err != nil {
			return Scales{}, err
		}
		if ratio == 0 {
			best.Plain = e
		}
		if e < best.Error {
			best.Factors, best.Ratio, best.Error = s, ratio, e
		}
	}
	return best, best.check()
}

// ClipSearch returns the weight with the extremes of each group cut off where that makes the quantized group's part of the layer's output
// on the samples more exact (AWQ's second search). size is the number of neighbours along a row that are clipped together, which should
// be the format's group; 0 = the whole row. The result is to be quantized like any weight: its groups then have narrower grids.
func ClipSearch(samples, weight Matrix, size int, w RoundTrip, par Parallel) (clipped Matrix, err error) {
	if err := checkSamples(samples, []Matrix{weight}); err != nil {
		return Matrix{}, err
	}
	if size < 0 {
		return Matrix{}, fmt.Errorf("calib: groups of %d: must not be negative (0 = whole rows)", size)
	}
	gs := groupsOf(size, weight.Cols)
	grams := gramBlocks(samples, gs, par)
	n := weight.Rows * gs.perRow()
	best, factor := make([]float64, n), make([]float32, n)
	for i := range clipShrink / 2 {
		f := 1 - float32(i)/clipShrink
		q, err := w(clip(weight, gs, func(int) float32 { return f }))
		if err != nil {
			return Matrix{}, err
		}
		par.run(n, func(lo, hi int) {
			for g := lo; g < hi; g++ {
				from, to := gs.span(g)
				e := quadratic(grams[g%gs.perRow()], q.Data[from:to], weight.Data[from:to])
				if i == 0 || e < best[g] {
					best[g], factor[g] = e, f
				}
			}
		})
	}
	return clip(weight, gs, func(g int) float32 { return factor[g] }), nil
}

// clip limits each group to its largest magnitude times factor.
func clip(m Matrix, gs groups, factor func(group int) float32) Matrix {
	out := m.Clone()
	for g := range m.Rows * gs.perRow() {
		lo, hi := gs.span(g)
		shrink(out.Data[lo:hi], factor(g))
	}
	return out
}

// gramBlocks are XᵀX of the columns of each group of a row.
func gramBlocks(samples Matrix, gs groups, par Parallel) [][]float64 {
	out := make([][]float64, gs.perRow())
	par.run(len(out), func(lo, hi int) {
		for g := lo; g < hi; g++ {
			from, to := gs.span(g)
			n := to - from
			gram := make([]float64, n*n)
			for t := range samples.Rows {
				x := samples.Row(t)[from:to]
				for i, v := range x {
					row := gram[i*n:][:i+1]
					for j := range row {
						row[j] += float64(float64(v) * float64(x[j]))
					}
				}
			}
			out[g] = gram
		}
	})
	return out
}

// quadratic is dᵀ·G·d for d = q - w and the lower triangle of a symmetric G.
func quadratic(gram []float64, q, w []float32) float64 {
	n := len(q)
	sum := 0.0
	for i := range n {
		di := float64(q[i]) - float64(w[i])
		if di == 0 {
			continue
		}
		s := 0.0
		for j := range i {
			s += float64(gram[i*n+j] * (float64(q[j]) - float64(w[j])))
		}
		sum += di * (2*s + gram[i*n+i]*di)
	}
	return sum
}

// groups cuts rows of a matrix into groups of size neighbours (0 = the whole row); the last of a row may be short.
type groups struct{ size, cols int }

func groupsOf(size, cols int) groups {
	if size == 0 {
		size = cols
	}
	return groups{size, cols}
}

// perRow is the number of groups of a row.
func (g groups) perRow() int { return (g.cols + g.size - 1) / g.size }

// span returns the elements of group i, flat.
func (g groups) span(i int) (lo, hi int) {
	row, in := i/g.perRow()*g.cols, i%g.perRow()*g.size
	return row + in, row + min(in+g.size, g.cols)
}
