package step

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/internal/isa"
)

// TestFactorsLayout: the assembly finds the factors by their place.
func TestFactorsLayout(t *testing.T) {
	var f Factors
	for i, at := range []uintptr{
		unsafe.Offsetof(f.GScale), unsafe.Offsetof(f.Before), unsafe.Offsetof(f.Rate), unsafe.Offsetof(f.After), unsafe.Offsetof(f.B1),
		unsafe.Offsetof(f.N1), unsafe.Offsetof(f.B2), unsafe.Offsetof(f.N2), unsafe.Offsetof(f.B3), unsafe.Offsetof(f.N3),
		unsafe.Offsetof(f.C1), unsafe.Offsetof(f.C2), unsafe.Offsetof(f.OverC2), unsafe.Offsetof(f.Alpha), unsafe.Offsetof(f.Eps),
		unsafe.Offsetof(f.WD), unsafe.Offsetof(f.coupled), unsafe.Offsetof(f.first), unsafe.Offsetof(f.nesterov),
	} {
		require.EqualValues(t, 4*i, at, "field %d", i)
	}
}

// hypers are settings that together reach every branch of every rule.
func hypers() map[string]ops.Hyper {
	return map[string]ops.Hyper{
		"adam":     {Rule: ops.Adam, Beta1: 0.9, Beta2: 0.999, Eps: 1e-8},
		"adamw":    {Rule: ops.AdamTorch, Beta1: 0.8, Beta2: 0.95, Eps: 1e-6},
		"ademamix": {Rule: ops.AdEMAMix, Beta1: 0.9, Beta2: 0.999, Beta3: 0.9999, Alpha: 5, TAlpha: 9, TBeta3: 9, Eps: 1e-8},
		"lion":     {Rule: ops.Lion, Beta1: 0.9, Beta2: 0.99},
		"sgd":      {Rule: ops.Momentum},
		"momentum": {Rule: ops.Momentum, Beta1: 0.9, Dampening: 0.2},
		"nesterov": {Rule: ops.Momentum, Beta1: 0.9, Nesterov: true},
		"rmsprop":  {Rule: ops.RMSprop, Beta1: 0.99, Eps: 1e-8},
		"adagrad":  {Rule: ops.Adagrad, Eps: 1e-10},
	}
}

// factorsOf sets what a tensor adds, as an update op would.
func factorsOf(h ops.Hyper, step float64, decay float32) Factors {
	f := NewFactors(h, step)
	f.GScale, f.Rate = 0.7, 0.02
	switch {
	case h.DecayFirst():
		f.Before = 1 - decay
	case h.DecayLast():
		f.After = 1 - decay
	default:
		f.WD = decay
	}
	return f
}

var specials = []float32{
	0, float32(math.Copysign(0, -1)), 1e-40, -1e-45, 3e38, -3e38, float32(math.Inf(1)), float32(math.Inf(-1)), float32(math.NaN()), 1e-30, -1e25,
}

// operand draws n numbers of many sizes at an odd place in memory, specials among them.
func operand(r *rand.Rand, n int, positive bool) []float32 {
	x := make([]float32, n+1)[1:]
	for i := range x {
		x[i] = float32(r.NormFloat64() * math.Pow(10, r.NormFloat64()*3))
		if r.IntN(9) == 0 {
			x[i] = specials[r.IntN(len(specials))]
		}
		if positive {
			x[i] = float32(math.Abs(float64(x[i])))
		}
	}
	return x
}

func requireBits(t *testing.T, want, got []float32, format string, args ...any) {
	t.Helper()
	for i, w := range want {
		if g := got[i]; math.Float32bits(g) != math.Float32bits(w) && (g == g || w == w) {
			require.Failf(t, "bits differ", "%s: element %d of %d is %v (%#x), not %v (%#x)", fmt.Sprintf(format, args...), i, len(want), g, math.Float32bits(g), w, math.Float32bits(w))
		}
	}
}

// TestAdvance compares every level with the Go loops bit by bit.
func TestAdvance(t *testing.T) {
	for _, level := range isa.Levels {
		if !isa.Has(level) {
			t.Logf("%v is not here", level)
			continue
		}
		for name, h := range hypers() {
			r := rand.New(rand.NewPCG(1, 2))
			for _, n := range []int{0, 1, 15, 16, 17, 31, 97, 256, 1003} {
				for _, step := range []float64{1, 2, 700} {
					f := factorsOf(h, step, []float32{0, 0.01}[r.IntN(2)])
					p, g := operand(r, n, false), operand(r, n, false)
					var s, want [3][]float32
					for j := range f.Moments {
						s[j] = operand(r, n, j == 1 || h.Rule == ops.RMSprop || h.Rule == ops.Adagrad)
						want[j] = append([]float32{}, s[j]...)
					}
					wantP := append([]float32{}, p...)
					f.advanceGo(wantP, g, &want)
					f.advance(&byLevel[level], p, g, &s)
					for j := range f.Moments {
						requireBits(t, want[j], s[j], "%v %s step %v: moment %d", level, name, step, j)
					}
					requireBits(t, wantP, p, "%v %s step %v: parameter", level, name, step)
				}
			}
		}
	}
}

// TestDivisionByC2 divides roots by c2, for which the wide loops do without the divider: an exact quotient divided by itself is a step of 1.
func TestDivisionByC2(t *testing.T) {
	if !isa.Has(isa.AVX512) {
		t.Skip("needs AVX-512")
	}
	f := NewFactors(ops.Hyper{Rule: ops.AdamTorch, Beta1: 0.9, Beta2: 1 - 1e-7, Eps: 1e-8}, 1)
	f.B2, f.N2, f.Eps, f.B1, f.N1, f.Rate = 1, 0, 0, 1, 0, -1
	const n = 1 << 12
	p, g, m, v := make([]float32, n), make([]float32, n), make([]float32, n), make([]float32, n)
	for _, c2 := range []float32{1, math.Nextafter32(1, 0), 0.5, math.Nextafter32(0.5, 1), 0.031606995, 0.0031, 2.4414062e-4, 0.70710678, 0.99999, 1e-7} {
		f.C2 = c2
		for base := uint32(1 << 23); base < 3<<23; base += n * 5 {
			for i := range v {
				v[i], p[i] = math.Float32frombits(base+uint32(i)*3), 0
				m[i] = sqrt32(v[i]) / c2
			}
			f.advance(&byLevel[isa.AVX512], p, g, &[3][]float32{m, v})
			for i, x := range p {
				if x != 1 {
					require.Failf(t, "not exact", "quotient of sqrt(%v) and %v by itself: %v", v[i], c2, x)
				}
			}
		}
	}
}

func BenchmarkAdvance(b *testing.B) {
	const n = 2048 // in the first cache
	r := rand.New(rand.NewPCG(1, 2))
	for _, name := range []string{"adam", "adamw", "ademamix", "lion", "sgd", "momentum", "rmsprop", "adagrad"} {
		for _, level := range isa.Levels {
			if !isa.Has(level) {
				continue
			}
			b.Run(fmt.Sprintf("%s/%v", name, level), func(b *testing.B) {
				f := factorsOf(hypers()[name], 7, 0.01)
				f.Rate = 1e-6
				p, g, s := make([]float32, n), make([]float32, n), [3][]float32{}
				for j := range f.Moments {
					s[j] = make([]float32, n)
				}
				for i := range g {
					g[i] = float32(r.NormFloat64())
				}
				b.SetBytes(4 * n * int64(3+2*f.Moments))
				cheapest(b, n, func() { f.advance(&byLevel[level], p, g, &s) })
			})
		}
	}
}

// cheapest runs f over n elements and reports its shortest time, which other work on the machine does not touch.
func cheapest(b *testing.B, n int, f func()) {
	least := time.Duration(math.MaxInt64)
	for b.Loop() {
		start := time.Now()
		f()
		least = min(least, time.Since(start))
	}
	b.ReportMetric(float64(least.Nanoseconds())/float64(n), "least-ns/elem")
}
