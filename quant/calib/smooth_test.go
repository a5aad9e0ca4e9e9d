package calib

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/quant"
)

// withOutliers gives a few channels large activations, as LLMs have them.
func withOutliers(r *rand.Rand, rows, cols int) Matrix {
	x := correlated(r, rows, cols)
	for t := range rows {
		for _, j := range []int{1, cols / 2} {
			x.Row(t)[j] *= 60
		}
	}
	return x
}

func statsOf(t *testing.T, x Matrix) *ChannelStats {
	c := NewChannelStats(x.Cols)
	require.NoError(t, c.Add(x))
	return c
}

// float64Product is x·wᵀ.
func float64Product(x, w Matrix) []float64 {
	out := make([]float64, x.Rows*w.Rows)
	for t := range x.Rows {
		for r := range w.Rows {
			for k, v := range x.Row(t) {
				out[t*w.Rows+r] += float64(v) * float64(w.Row(r)[k])
			}
		}
	}
	return out
}

func TestProduct(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	for _, n := range []int{1, 2, 5, 8, 11} {
		for _, rows := range []int{1, 2, 3} {
			x, w := randomWeight(r, rows, n+1), randomWeight(r, n, n+1)
			want := float64Product(x, w)
			got := product(x, w, threads)
			for i := range want {
				require.InDelta(t, want[i], got.Data[i], 1e-6)
			}
			require.Equal(t, got, product(x, w, nil))
		}
	}
}

// TestSmoothingKeepsTheFunction folds factors into the norm's scale before two layers and into a linear layer before one, in numbers that
// binary floats divide exactly, and in general numbers within rounding.
func TestSmoothingKeepsTheFunction(t *testing.T) {
	r := rand.New(rand.NewPCG(2, 2))
	const k = 12
	producer, consumer, in := randomWeight(r, k, 7), randomWeight(r, 5, k), randomWeight(r, 9, 7)
	bias := randomWeight(r, 1, k).Data
	forward := func(producer, consumer Matrix, bias []float32) []float64 {
		h := float64Product(in, producer)
		out := make([]float64, in.Rows*consumer.Rows)
		for t := range in.Rows {
			for i := range consumer.Rows {
				for j := range k {
					out[t*consumer.Rows+i] += (h[t*k+j] + float64(bias[j])) * float64(consumer.Row(i)[j])
				}
			}
		}
		return out
	}
	want := forward(producer, consumer, bias)
	for name, tol := range map[string]float64{"powers of two": 0, "general": 1e-7} {
		s := make([]float32, k)
		for j := range s {
			if s[j] = float32(math.Exp(r.NormFloat64())); tol == 0 {
				s[j] = float32(math.Exp2(math.Round(r.NormFloat64() * 3)))
			}
		}
		p, c, b := producer.Clone(), consumer.Clone(), append([]float32(nil), bias...)
		require.NoError(t, DivideOutputs(p, s, b))
		require.NoError(t, c.ScaleColumns(s))
		got := forward(p, c, b)
		for i := range want {
			require.InDelta(t, want[i], got[i], tol, name)
		}
	}
	require.ErrorContains(t, DivideOutputs(producer, make([]float32, 3)), "3 factors for 12 outputs")
	require.ErrorContains(t, DivideOutputs(producer, make([]float32, k), bias[:2]), "bias of 2")
}

func TestSmoothFactorsFormula(t *testing.T) {
	s, err := SmoothFactors([]float32{16, 0, 4, 1}, []float32{4, 2, 0, 1}, 0.75)
	require.NoError(t, err)
	require.InDeltaSlice(t, []float32{8 / float32(math.Sqrt2), 1, 1, 1}, s, 1e-6)
	for alpha, spread := range map[float64]bool{0: false, 1: true} { // alpha 1 moves all difficulty to the weight
		s, err = SmoothFactors([]float32{100, 1}, []float32{1, 1}, alpha)
		require.NoError(t, err)
		require.Equal(t, spread, s[0] > s[1])
	}
	_, err = SmoothFactors([]float32{1}, []float32{1}, 1.5)
	require.ErrorContains(t, err, "migration strength 1.5")
	_, err = SmoothFactors([]float32{1}, nil, 0.5)
	require.ErrorContains(t, err, "1 channels")
	_, err = SmoothFactors([]float32{float32(math.NaN())}, []float32{1}, 0.5)
	require.ErrorContains(t, err, "channel 0")
}

func TestSmoothSearchBeatsPlainInt8(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 3))
	x := withOutliers(r, 200, 48)
	weights := []Matrix{randomWeight(r, 20, 48), randomWeight(r, 10, 48)}
	act, wgt := PerToken(Affine{8, true}), ByFormat(quant.AffineFormat{Bits: 8, Per: quant.PerChannel}, nil)
	best, err := SmoothSearch(x, statsOf(t, x).AbsMax(), weights, nil, act, wgt, threads)
	require.NoError(t, err)
	ones := make([]float32, 48)
	for j := range ones {
		ones[j] = 1
	}
	exact, err := outputs(x, weights, nil)
	require.NoError(t, err)
	plain, err := scaledError(x, weights, exact, ones, act, wgt, nil)
	require.NoError(t, err)
	require.Less(t, best.Error, 0.5*plain, "alpha %v", best.Ratio)
	for _, alpha := range ratios(0, 1, 20) {
		one, err := SmoothSearch(x, statsOf(t, x).AbsMax(), weights, []float64{alpha}, act, wgt, nil)
		require.NoError(t, err)
		require.LessOrEqual(t, best.Error, one.Error)
	}
}

func TestPerTokenIsRowQuantization(t *testing.T) {
	r := rand.New(rand.NewPCG(4, 4))
	x := randomWeight(r, 5, 33)
	for _, grid := range []Affine{{8, true}, {8, false}, {4, true}} {
		got, err := PerToken(grid)(x.Clone())
		require.NoError(t, err)
		for i := range x.Rows {
			step := grid.Params(rangeOf(slices.Min(x.Row(i)), slices.Max(x.Row(i)))).Step
			for j, v := range x.Row(i) {
				require.InDelta(t, v, got.Row(i)[j], float64(step)*0.501)
			}
		}
	}
	_, err := PerToken(Affine{Bits: 9})(x)
	require.ErrorContains(t, err, "9 bits")
}

func TestAWQBeatsRoundToNearest(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 5))
	x := withOutliers(r, 300, 64)
	weights := []Matrix{randomWeight(r, 24, 64), randomWeight(r, 8, 64)}
	for _, bits := range []int{2, 3, 4} {
		rt := ByFormat(quant.AffineFormat{Bits: bits, Per: 32, Asymmetric: true}, threads)
		got, err := AWQSearch(x, statsOf(t, x).MeanAbs(), weights, rt, threads)
		require.NoError(t, err)
		require.Less(t, got.Error, 0.7*got.Plain, "%d bits, ratio %v", bits, got.Ratio)
		require.Positive(t, got.Ratio)
		exact, err := outputs(x, weights, nil)
		require.NoError(t, err)
		again, err := scaledError(x, weights, exact, got.Factors, nil, rt, nil)
		require.NoError(t, err)
		require.Equal(t, got.Error, again)
	}
}

func TestAWQFactorsFormula(t *testing.T) {
	s := AWQFactors([]float32{1, 4, 16}, 0.5) // 1, 2, 4 over sqrt(4·1)
	require.Equal(t, []float32{0.5, 1, 2}, s)
	for _, f := range AWQFactors([]float32{3, 0, 7}, 0) {
		require.Equal(t, float32(1), f)
	}
}

func TestClipSearch(t *testing.T) {
	r := rand.New(rand.NewPCG(6, 6))
	x, w := correlated(r, 200, 64), randomWeight(r, 12, 64)
	for i := range w.Rows { // a single outlier stretches the grid of its group
		w.Row(i)[i*5] = 1
	}
	for _, size := range []int{0, 16, 24} {
		per := quant.Granularity(size)
		if size == 0 {
			per = quant.PerChannel
		}
		rt := ByFormat(quant.AffineFormat{Bits: 3, Per: per}, nil)
		clipped, err := ClipSearch(x, w, size, rt, threads)
		require.NoError(t, err)
		q, err := rt(clipped.Clone())
		require.NoError(t, err)
		plain, err := rt(w.Clone())
		require.NoError(t, err)
		require.Less(t, blockError(x, w, q, size), blockError(x, w, plain, size), "groups of %d", size)
		for g, f := range groupFactors(w, clipped, size) { // no other factor is better, group by group
			for i := range clipShrink / 2 {
				other := 1 - float32(i)/clipShrink
				alt := clip(w, groupsOf(size, w.Cols), func(k int) float32 {
					if k == g {
						return other
					}
					return f
				})
				qa, err := rt(alt)
				require.NoError(t, err)
				require.LessOrEqual(t, groupError(x, w, q, size, g), groupError(x, w, qa, size, g)*(1+1e-9))
			}
		}
	}
}

func groupFactors(w, clipped Matrix, size int) map[int]float32 {
	out := map[int]float32{}
	for g := range w.Rows * groupsOf(size, w.Cols).perRow() {
		if g%7 == 0 {
			out[g] = 1
		}
	}
	return out
}

// groupError is the squared error of one group's part of the outputs.
func groupError(x, w, q Matrix, size, group int) float64 {
	sum := 0.0
	lo, hi := groupsOf(size, w.Cols).span(group)
	for t := range x.Rows {
		d := 0.0
		for i := lo; i < hi; i++ {
			d += float64(x.Row(t)[i%w.Cols]) * (float64(q.Data[i]) - float64(w.Data[i]))
		}
		sum += d * d
	}
	return sum
}

func blockError(x, w, q Matrix, size int) float64 {
	sum := 0.0
	for g := range w.Rows * groupsOf(size, w.Cols).perRow() {
		sum += groupError(x, w, q, size, g)
	}
	return sum
}

func TestClipBlocks(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 7))
	w := randomWeight(r, 6, 40)
	for i := range 6 {
		w.Row(i)[i] = 2
	}
	for _, f := range []quant.Format{quant.AffineFormat{Bits: 3, Per: 20}, quant.Config{Blocksize: 32}, quant.KBitFormat{Bits: 2, Double: true},
		quant.AffineFormat{Bits: 4, Per: quant.PerTensor, Asymmetric: true}} {
		got, err := ClipLeastError(w, f, threads)
		require.NoError(t, err)
		st, err := blocksOf(w, f)
		require.NoError(t, err)
		better := 0
		for b := range st.Blocks() {
			lo, hi := st.Span(b)
			errorOf := func(m Matrix) float64 {
				q, err := ByFormat(f, nil)(m.Clone())
				require.NoError(t, err)
				return distance(q.Data[lo:hi], w.Data[lo:hi])
			}
			if st.Nested() || f.Name() == "cb2:double" {
				continue // blocks share second-level scales
			}
			require.LessOrEqual(t, errorOf(got), errorOf(w)*(1+1e-6), f.Name())
			if errorOf(got) < errorOf(w) {
				better++
			}
		}
		if f.Name() != "cb2:double" {
			require.Positive(t, better, f.Name())
		}
		limited, err := ClipBlocks(w, f, func(block []float32) (Range, error) {
			require.LessOrEqual(t, len(block), st.Blocksize)
			return Range{-0.1, 0.2}, nil
		}, threads)
		require.NoError(t, err)
		for i, v := range limited.Data {
			require.Equal(t, min(max(w.Data[i], -0.1), 0.2), v)
		}
		_, err = ClipBlocks(w, f, func([]float32) (Range, error) { return Range{}, ErrNoData }, threads)
		require.ErrorIs(t, err, ErrNoData)
	}
	w.Data[3] = float32(math.NaN())
	_, err := ClipLeastError(w, quant.AffineFormat{Bits: 4}, nil)
	require.ErrorContains(t, err, "(0, 3) is NaN")
}

func TestSearchesRefuse(t *testing.T) {
	rt := ByFormat(quant.AffineFormat{Bits: 4}, nil)
	x, w := NewMatrix(2, 3), NewMatrix(4, 3)
	x.Data[0] = 1
	for want, f := range map[string]func() error{
		"nothing was observed": func() error { return second(AWQSearch(NewMatrix(0, 3), nil, []Matrix{w}, rt, nil)) },
		"2 channel means":      func() error { return second(AWQSearch(x, make([]float32, 2), []Matrix{w}, rt, nil)) },
		"no weights":           func() error { return second(AWQSearch(x, make([]float32, 3), nil, rt, nil)) },
		"has 5 columns":        func() error { return second(ClipSearch(x, NewMatrix(1, 5), 0, rt, nil)) },
		"groups of -1":         func() error { return second(ClipSearch(x, w, -1, rt, nil)) },
	} {
		require.ErrorContains(t, f(), want)
	}
}
