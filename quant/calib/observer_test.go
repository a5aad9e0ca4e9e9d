package calib

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func observers(t require.TestingT) map[string]func() Observer {
	must := func(o Observer, err error) Observer {
		require.NoError(t, err)
		return o
	}
	return map[string]func() Observer{
		"minmax":     func() Observer { return NewMinMax() },
		"average":    func() Observer { o, err := NewMovingAverage(0.1); return must(o, err) },
		"percentile": func() Observer { o, err := NewPercentile(99, 512); return must(o, err) },
		"mse":        func() Observer { o, err := NewMSE(Affine{4, true}, 512); return must(o, err) },
		"entropy":    func() Observer { o, err := NewEntropy(4, 512); return must(o, err) },
	}
}

func batches(r *rand.Rand, n int) [][]float32 {
	out := make([][]float32, n)
	for i := range out {
		out[i] = make([]float32, 1000+r.IntN(2000))
		for j := range out[i] {
			out[i][j] = float32(r.NormFloat64() * math.Exp(r.NormFloat64()) * float64(1+i))
		}
	}
	return out
}

func TestObserversMerge(t *testing.T) {
	all := batches(rand.New(rand.NewPCG(1, 1)), 9)
	for name, make := range observers(t) {
		t.Run(name, func(t *testing.T) {
			_, err := make().Range()
			require.ErrorIs(t, err, ErrNoData)
			whole := make()
			for _, b := range all {
				require.NoError(t, whole.Observe(b))
			}
			want, err := whole.Range()
			require.NoError(t, err)
			require.Less(t, want.Lo, float32(0))
			for cut := range len(all) + 1 {
				a, b := make(), make()
				for i, batch := range all {
					if i < cut {
						require.NoError(t, a.Observe(batch))
					} else {
						require.NoError(t, b.Observe(batch))
					}
				}
				require.NoError(t, a.Merge(b))
				got, err := a.Range()
				require.NoError(t, err)
				if name == "average" { // a sum in another order
					require.InDelta(t, want.Lo, got.Lo, 1e-5*float64(-want.Lo))
					require.InDelta(t, want.Hi, got.Hi, 1e-5*float64(want.Hi))
				} else {
					require.Equal(t, want, got, "cut at %d", cut)
				}
			}
		})
	}
}

func TestObserversRefuse(t *testing.T) {
	for name, make := range observers(t) {
		o := make()
		require.ErrorContains(t, o.Observe([]float32{1, float32(math.Inf(1))}), "value 1 of a batch is +Inf", name)
		_, err := o.Range()
		require.ErrorIs(t, err, ErrNoData, name)
		require.NoError(t, o.Observe(nil))
		for other, makeOther := range observers(t) {
			if other != name {
				require.ErrorContains(t, o.Merge(makeOther()), "make both alike")
			}
		}
		require.NoError(t, o.Observe([]float32{0, 0, 0}), name)
		r, err := o.Range()
		require.NoError(t, err)
		require.Equal(t, Range{}, r, name)
	}
	for want, err := range map[string]error{
		"percentile 0":   second(NewPercentile(0, 0)),
		"3 bins":         second(NewPercentile(99, 3)),
		"averaging":      second(NewMovingAverage(2)),
		"grid of 1 bits": second(NewMSE(Affine{Bits: 1}, 0)),
		"for 9 bits":     second(NewEntropy(9, 0)),
	} {
		require.ErrorContains(t, err, want)
	}
}

func second[T any](_ T, err error) error { return err }

func TestHistogramKeepsEveryCount(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		bins := rapid.IntRange(2, 70).Draw(t, "bins")
		h := NewHistogram(bins)
		var all []float32
		for range rapid.IntRange(1, 6).Draw(t, "batches") {
			b := rapid.SliceOf(rapid.Float32Range(-1e30, 1e30)).Draw(t, "batch")
			require.NoError(t, h.Add(b))
			all = append(all, b...)
		}
		require.Equal(t, int64(len(all)), h.Len())
		require.LessOrEqual(t, len(h.counts), bins)
		left := append([]float32(nil), all...)
		slices.Sort(left)
		h.Each(func(lo, hi float64, count uint64) {
			for range count {
				require.GreaterOrEqual(t, float64(left[0]), lo)
				require.Less(t, float64(left[0]), hi)
				left = left[1:]
			}
		})
		require.Empty(t, left)
		whole := NewHistogram(bins)
		require.NoError(t, whole.Add(all))
		require.Equal(t, whole, h, "the order of batches matters")
	})
}

// TestMovingAverageFormula is PyTorch's: the first batch starts, each further one moves by c.
func TestMovingAverageFormula(t *testing.T) {
	m, err := NewMovingAverage(0.25)
	require.NoError(t, err)
	for _, b := range [][]float32{{-1, 4}, {-3, 8}, {-1, 0}} {
		require.NoError(t, m.Observe(b))
	}
	r, err := m.Range()
	require.NoError(t, err)
	require.Equal(t, Range{-1.375, 3.75}, r) // -1 -> -1.5 -> -1.375; 4 -> 5 -> 3.75
}

func TestPercentileExactAndBinned(t *testing.T) {
	r := rand.New(rand.NewPCG(2, 2))
	for _, n := range []int{101, 5000, 100000} {
		all := make([]float32, n)
		for i := range all {
			all[i] = float32(r.NormFloat64())
		}
		p, err := NewPercentile(90, 4096)
		require.NoError(t, err)
		for at := 0; at < n; at += 997 {
			require.NoError(t, p.Observe(all[at:min(at+997, n)]))
		}
		got, err := p.Range()
		require.NoError(t, err)
		slices.Sort(all)
		tol := 1e-6
		if n > exactValues {
			tol = p.s.hist.Width()
			require.Less(t, tol, 0.01)
		}
		at := 0.05 * float64(n-1)
		lo := float64(all[int(at)]) + (at-math.Floor(at))*float64(all[int(at)+1]-all[int(at)])
		at = 0.95 * float64(n-1)
		hi := float64(all[int(at)]) + (at-math.Floor(at))*float64(all[int(at)+1]-all[int(at)])
		require.InDelta(t, lo, got.Lo, tol)
		require.InDelta(t, hi, got.Hi, tol)
	}
}

func squaredError(x []float32, a Affine, r Range) float64 {
	p := a.Params(r)
	sum := 0.0
	for _, v := range x {
		_, y := a.Round(v, p)
		sum += float64(v-y) * float64(v-y)
	}
	return sum
}

func TestMSEFindsTheLeastError(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 3))
	for _, n := range []int{2000, 60000} {
		for _, a := range []Affine{{2, true}, {4, true}, {4, false}, {8, false}} {
			x := make([]float32, n)
			for i := range x {
				x[i] = float32(r.ExpFloat64() * r.NormFloat64())
			}
			m, err := NewMSE(a, 0)
			require.NoError(t, err)
			require.NoError(t, m.Observe(x))
			got, err := m.Range()
			require.NoError(t, err)
			full := rangeOf(slices.Min(x), slices.Max(x))
			least := math.Inf(1)
			for i := 1; i <= 100; i++ {
				f := float32(i) / 100
				least = min(least, squaredError(x, a, Range{full.Lo * f, full.Hi * f}))
			}
			slack := 1.0
			if n > exactValues {
				slack = 1.01 // bins stand for their centres
			}
			require.LessOrEqual(t, squaredError(x, a, got), least*slack, "%+v", a)
			if a.Bits < 8 {
				require.Less(t, squaredError(x, a, got), 0.7*squaredError(x, a, full), "%+v", a)
			}
		}
	}
}

// TestEntropyBruteForce compares the divergence with one computed from distributions written out in full.
func TestEntropyBruteForce(t *testing.T) {
	r := rand.New(rand.NewPCG(4, 4))
	counts := make([]float64, 64)
	for range 5000 {
		if i := int(math.Abs(r.NormFloat64()) * 12); i < 64 {
			counts[i]++
		}
	}
	counts[63] = 3
	for n := 8; n <= 64; n++ {
		p, q := slices.Clone(counts[:n]), make([]float64, n)
		for _, c := range counts[n:] {
			p[n-1] += c
		}
		for l := range 8 {
			lo, hi := l*n/8, (l+1)*n/8
			sum, filled := 0.0, 0.0
			for _, c := range counts[lo:hi] {
				sum += c
				if c != 0 {
					filled++
				}
			}
			for i := lo; i < hi; i++ {
				if counts[i] != 0 {
					q[i] = sum / filled
				}
			}
		}
		ps, qs, kl := 0.0, 0.0, 0.0
		for i := range p {
			ps, qs = ps+p[i], qs+q[i]
		}
		for i := range p {
			if p[i] > 0 {
				kl += p[i] / ps * math.Log(p[i]/ps/(q[i]/qs))
			}
		}
		if got := divergence(counts, n, 8); math.IsInf(kl, 1) {
			require.True(t, math.IsInf(got, 1))
		} else {
			require.InDelta(t, kl, got, 1e-12, "first %d bins", n)
		}
	}
}

func TestEntropyCutsALongTail(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 5))
	x := make([]float32, 100000)
	for i := range x {
		x[i] = float32(r.NormFloat64())
	}
	x[7], x[8] = 40, -35
	for _, bits := range []int{4, 8} {
		e, err := NewEntropy(bits, 0)
		require.NoError(t, err)
		require.NoError(t, e.Observe(x))
		got, err := e.Range()
		require.NoError(t, err)
		require.Less(t, got.AbsMax(), float32(6))
		require.Greater(t, got.AbsMax(), float32(1.5))
		require.Equal(t, got.Hi, -got.Lo)
	}
}

// Values that are far from 0 and close together take no more memory than others.
func TestEntropyOfAConstant(t *testing.T) {
	e, err := NewEntropy(8, 0)
	require.NoError(t, err)
	require.NoError(t, e.Observe([]float32{5, 5, -5}))
	require.LessOrEqual(t, len(e.magnitudes()), DefaultBins)
	r, err := e.Range()
	require.NoError(t, err)
	require.Equal(t, Range{-5, 5}, r)
}
