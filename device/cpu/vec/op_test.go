package vec

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/bitsandbyes/bitsandbyes/tensor"
	"github.com/stretchr/testify/require"
)

// oracle is a function in float64 and how many units in the last place its loops may be off.
type oracle struct {
	op    Op
	ulp   float64
	f     func(x float64) float64
	flush float64 // smaller results may be 0
}

var oracles = []oracle{
	{OpExp, 2, math.Exp, 0},
	{OpExpm1, 4, math.Expm1, 0},
	{OpSigmoid, 4, func(x float64) float64 { return 1 / (1 + math.Exp(-x)) }, 0x1p-126},
	{OpSiLU, 4, func(x float64) float64 { return x / (1 + math.Exp(-x)) }, 0x1p-119},
	{OpSoftplus, 4, softplus, 0},
	{OpTanh, 2, math.Tanh, 0},
	{OpErf, 2, math.Erf, 0},
	{OpLog, 2, math.Log, 0},
	{OpLog1p, 3, math.Log1p, 0},
	{OpRsqrt, 1.5, func(x float64) float64 { return 1 / math.Sqrt(x) }, 0},
	{OpSin, 1, math.Sin, 0},
	{OpCos, 1, math.Cos, 0},
}

// every covers each exponent of both signs densely, and what is special.
func every() []float32 {
	r := rand.New(rand.NewPCG(3, 4))
	vals := append(inputs(), 0, float32(math.Copysign(0, -1)), 0x1p-149, -0x1p-149, 0x1p-126, math.MaxFloat32, -math.MaxFloat32, 0.35, 0.625, 0.9375, 4, 1<<27)
	for e := range uint32(512) {
		for range 160 {
			vals = append(vals, math.Float32frombits(e<<23|r.Uint32()&0x7fffff))
		}
	}
	for range 40000 { // where results change fastest
		vals = append(vals, float32(r.NormFloat64()*2), 1+float32(r.NormFloat64()/100))
	}
	return vals
}

// TestFunctionsAgainstFloat64 holds every level to the stated error over all exponents.
func TestFunctionsAgainstFloat64(t *testing.T) {
	src := every()
	dst := make([]float32, len(src))
	for level, l := range implementations() {
		for _, o := range oracles {
			l.run(o.op, dst, src, nil, nil)
			worst, at := 0.0, float32(0)
			for i, x := range src {
				want := o.f(float64(x))
				if e := ulps(dst[i], want); !(e <= worst) && !(dst[i] == 0 && math.Abs(want) < o.flush) {
					worst, at = e, x
				}
			}
			t.Logf("%s %v: %.2f ulp at %v (%x)", level, o.op, worst, at, math.Float32bits(at))
			require.LessOrEqual(t, worst, o.ulp, "%s %v(%v)", level, o.op, at)
		}
	}
}

// ulps is how far got is from want in units in the last place of want as a float32, infinite where only one is NaN.
func ulps(got float32, want float64) float64 {
	w := float32(want)
	switch g := float64(got); {
	case math.IsNaN(want) || got != got:
		if math.IsNaN(want) && got != got {
			return 0
		}
		return math.Inf(1)
	case got == w:
		return 0
	case math.IsInf(float64(w), 0) && g*want > 0: // the largest numbers round to infinity
		return (math.MaxFloat32 - math.Abs(g)) / 0x1p104
	case math.IsInf(g, 0) && g*want > 0:
		return (math.MaxFloat32 - math.Abs(want)) / 0x1p104
	default:
		unit := math.Max(math.Ldexp(1, math.Ilogb(want)-23), 0x1p-149)
		return math.Abs(g-want) / unit
	}
}

// TestGELU: both forms lose digits where their factors cancel, so the error is bounded beside |x| too.
func TestGELU(t *testing.T) {
	src := every()
	dst := make([]float32, len(src))
	tanhForm := func(x float64) float64 {
		return x / 2 * (1 + math.Tanh(math.Sqrt(2/math.Pi)*(x+0.044715*x*x*x)))
	}
	for level, l := range implementations() {
		for _, o := range []oracle{
			{OpGELU, 0, func(x float64) float64 { return x / 2 * math.Erfc(-x/math.Sqrt2) }, 0},
			{OpGELUTanh, 0, tanhForm, 0},
		} {
			l.run(o.op, dst, src, nil, nil)
			for i, x := range src {
				want := o.f(float64(x))
				if x != x || math.IsInf(float64(x), -1) {
					require.True(t, dst[i] != dst[i] || dst[i] == 0, "%s %v(%v) = %v", level, o.op, x, dst[i])
					continue
				}
				if x > 0x1p100 || x < -0x1p40 { // powers overflow: x or 0
					require.Equal(t, max(x, 0), dst[i]+0, "%s %v(%v)", level, o.op, x)
					continue
				}
				require.InDelta(t, want, float64(dst[i]), 4e-7*math.Max(math.Abs(want), 0x1p-100)+1e-7*math.Min(1, math.Abs(float64(x))), "%s %v(%v)", level, o.op, x)
			}
		}
	}
}

// TestArithmeticHasEqualBits: the exact functions, with every special value in every place, of every length, in place and unaligned.
func TestArithmeticHasEqualBits(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	special := []float32{0, float32(math.Copysign(0, -1)), 1, -1, 0.5, 1.5, 2.5, -2.5, inf, -inf, float32(math.NaN()), 0x1p-149, -0x1p-149, math.MaxFloat32, 65520, 0x1p-24}
	fill := func(n int) []float32 {
		x := make([]float32, n)
		for i := range x {
			switch r.IntN(3) {
			case 0:
				x[i] = special[r.IntN(len(special))]
			case 1:
				x[i] = float32(r.NormFloat64())
			default:
				x[i] = math.Float32frombits(r.Uint32())
			}
		}
		return x
	}
	for o := range OpExp {
		for _, n := range []int{0, 1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 101, 2048} {
			a, b, c := fill(n + 1)[1:], fill(n + 3)[3:], fill(n)
			want := make([]float32, n)
			levels[0].run(o, want, a, b, c)
			for level, l := range implementations() {
				got := append(make([]float32, n), 77)
				l.run(o, got[:n], a, b, c)
				equalBits(t, want, got[:n], "%s %v of %d", level, o, n)
				require.EqualValues(t, 77, got[n], "%s %v of %d", level, o, n)
				in := append([]float32(nil), b...)
				l.run(o, in, a, in, c)
				equalBits(t, want, in, "%s %v of %d in place", level, o, n)
			}
		}
	}
}

// equalBits takes all NaNs for equal.
func equalBits(t *testing.T, want, got []float32, msg string, args ...any) {
	t.Helper()
	for i, w := range want {
		if math.Float32bits(w) != math.Float32bits(got[i]) && (w == w || got[i] == got[i]) {
			require.Failf(t, "bits differ", msg+": element %d is %v, want %v", append(args, i, got[i], w)...)
		}
	}
}

// TestPositionDoesNotMatter: an element has the same bits alone and inside a row.
func TestPositionDoesNotMatter(t *testing.T) {
	src := inputs()[:300]
	for level, l := range implementations() {
		for o := range NumOps {
			if o.Arity() > 1 {
				continue
			}
			row, one := make([]float32, len(src)), make([]float32, 1)
			l.run(o, row, src, nil, nil)
			for i := range src {
				l.run(o, one, src[i:], nil, nil)
				equalBits(t, row[i:i+1], one, "%s %v element %d", level, o, i)
			}
		}
	}
}

func BenchmarkOp(b *testing.B) {
	const n = 1024
	x, y, z := make([]float32, n), make([]float32, n), make([]float32, n)
	for i := range x {
		x[i], y[i] = float32(i%200)/10-10, float32(i%7)
	}
	for level, l := range implementations() {
		for o := range NumOps {
			b.Run(o.String()+"/"+level, func(b *testing.B) {
				b.SetBytes(int64(4 * n * (o.Arity() + 1)))
				for b.Loop() {
					l.run(o, z, x, y, x)
				}
			})
		}
	}
}

func BenchmarkConvert(b *testing.B) {
	x, h := make([]float32, 4096), make([]byte, 8192)
	for level, l := range implementations() {
		for _, dt := range []tensor.DType{tensor.BF16, tensor.F16} {
			b.Run("widen/"+dt.String()+"/"+level, func(b *testing.B) {
				b.SetBytes(6 * 4096)
				for b.Loop() {
					l.widen(x, h, dt)
				}
			})
			b.Run("narrow/"+dt.String()+"/"+level, func(b *testing.B) {
				b.SetBytes(6 * 4096)
				for b.Loop() {
					l.narrow(h, x, dt)
				}
			})
		}
	}
}
