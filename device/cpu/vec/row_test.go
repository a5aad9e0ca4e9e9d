package vec

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

var lengths = []int{0, 1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 47, 63, 64, 65, 97, 256, 1009}

func normals(r *rand.Rand, n int) []float32 {
	x := make([]float32, n+1)
	for i := range x {
		x[i] = float32(r.NormFloat64())
	}
	return x[1:] // unaligned
}

// TestSumsHaveEqualBits: the order of additions is the same at every level, and the sums are right.
func TestSumsHaveEqualBits(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	for _, n := range lengths {
		x, y, w := normals(r, n), normals(r, n), normals(r, n)
		of := func(l *loops) []float64 {
			return []float64{l.sum(x), l.sumProducts(x, y), l.sumSquares(x, 0.3), l.sumRounded(x, y),
				l.sumNormal(x, y, nil, 0.3, 1.7), l.sumNormal(x, y, w, 0.3, 1.7)}
		}
		want := of(levels[0])
		for level, l := range implementations() {
			require.Equal(t, want, of(l), "%s of %d", level, n)
		}
		var exact [3]float64
		for i := range x {
			exact[0] += float64(x[i])
			exact[1] += float64(x[i]) * float64(y[i])
			exact[2] += float64(y[i]) * float64(w[i]) * (float64(x[i]) - 0.3) * 1.7
		}
		require.InDelta(t, exact[0], want[0], 1e-10)
		require.InDelta(t, exact[1], want[1], 1e-10)
		require.InDelta(t, exact[2], want[5], 1e-6*float64(n+1))
	}
}

func TestPeaks(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 8))
	nan := float32(math.NaN())
	for level, l := range implementations() {
		for _, n := range lengths {
			x := normals(r, n)
			high, low := -inf, inf
			for _, v := range x {
				high, low = max(high, v), min(low, v)
			}
			require.Equal(t, []float32{high, high, low}, []float32{l.peakOf(x), l.highestOf(x), l.lowestOf(x)}, "%s of %d", level, n)
			if n == 0 {
				continue
			}
			at := r.IntN(n)
			kept := x[at]
			x[at] = -inf
			require.Equal(t, -inf, l.lowestOf(x))
			require.False(t, math.IsNaN(float64(l.highestOf(x))), "infinity is no NaN")
			x[at] = nan
			require.True(t, l.highestOf(x) != l.highestOf(x) && l.lowestOf(x) != l.lowestOf(x), "%s of %d: NaN at %d", level, n, at)
			x[at] = -nan
			require.True(t, l.highestOf(x) != l.highestOf(x))
			if n > 1 {
				require.False(t, math.IsNaN(float64(l.peakOf(x))), "%s of %d: NaN at %d is passed over", level, n, at)
			}
			x[at] = kept
		}
	}
}

func TestRowFormulasHaveEqualBits(t *testing.T) {
	r := rand.New(rand.NewPCG(10, 8))
	k := [4]float32{0.3, 1.7, -0.2, 0.9}
	for o := range NumRowOps {
		for _, n := range lengths {
			a, b, c := normals(r, n), normals(r, n), normals(r, n)
			want := make([]float32, n)
			levels[0].runRow(o, want, a, b, c, k)
			for level, l := range implementations() {
				got := append(make([]float32, n), 77)
				l.runRow(o, got[:n], a, b, c, k)
				equalBits(t, want, got[:n], "%s formula %d of %d", level, o, n)
				require.EqualValues(t, 77, got[n])
				in := append([]float32(nil), a...)
				l.runRow(o, in, in, b, c, k)
				equalBits(t, want, in, "%s formula %d of %d in place", level, o, n)
			}
		}
	}
}

func TestTurnAndAddWide(t *testing.T) {
	r := rand.New(rand.NewPCG(11, 8))
	for _, n := range lengths {
		x, cos, sin := normals(r, 2*n), normals(r, n), normals(r, n)
		want, sums := make([]float32, 2*n), make([]float64, n)
		levels[0].turn(want[:n], want[n:], x[:n], x[n:], cos, sin, -1)
		levels[0].addTo(sums, cos)
		levels[0].addTo(sums, sin)
		for level, l := range implementations() {
			y := append([]float32(nil), x...)
			l.turn(y[:n], y[n:], y[:n], y[n:], cos, sin, -1)
			equalBits(t, want, y, "%s turn of %d", level, n)
			pairs, wantPairs := append([]float32(nil), x...), make([]float32, 2*n)
			l.turnPairs(pairs, pairs, cos, sin, -1)
			levels[0].turnPairs(wantPairs, x, cos, sin, -1)
			equalBits(t, wantPairs, pairs, "%s pairs of %d", level, n)
			got := make([]float64, n)
			l.addTo(got, cos)
			l.addTo(got, sin)
			require.Equal(t, sums, got, "%s of %d", level, n)
		}
	}
}

func TestStream(t *testing.T) {
	r := rand.New(rand.NewPCG(15, 8))
	for _, n := range lengths {
		for shift := range 4 {
			x := normals(r, n)
			for level, l := range implementations() {
				y := make([]float32, n+6)
				l.stream(y[shift:shift+n], x)
				require.Equal(t, x, y[shift:shift+n], "%s of %d", level, n)
				require.Equal(t, make([]float32, 6-shift), y[shift+n:])
			}
		}
	}
}

func BenchmarkRow(b *testing.B) {
	const n = 1024
	r := rand.New(rand.NewPCG(11, 8))
	x, y, w := normals(r, n), normals(r, n), make([]float32, n)
	for level, l := range implementations() {
		for name, f := range map[string]func(){
			"Sum":         func() { l.sum(x) },
			"SumProducts": func() { l.sumProducts(x, y) },
			"SumSquares":  func() { l.sumSquares(x, 1) },
			"SumNormal":   func() { l.sumNormal(x, y, w, 1, 1) },
			"Peak":        func() { l.peakOf(x) },
			"Highest":     func() { l.highestOf(x) },
			"ExpSum":      func() { l.expShifted(w, x, 1) },
			"Scale":       func() { l.runRow(RowScale, w, x, nil, nil, [4]float32{1}) },
			"NormalGrad":  func() { l.runRow(RowNormalGradWeighted, w, x, y, x, [4]float32{1}) },
		} {
			b.Run(name+"/"+level, func(b *testing.B) {
				b.SetBytes(4 * n)
				for b.Loop() {
					f()
				}
			})
		}
	}
}
