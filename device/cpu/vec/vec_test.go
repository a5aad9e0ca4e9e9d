package vec

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/bitsandbyes/bitsandbyes/tensor"
	"github.com/stretchr/testify/require"
)

var inf = float32(math.Inf(1))

// implementations are the loops in use and those of pure Go.
func implementations() map[string]*loops { return map[string]*loops{"fast": &fast, "go": {}} }

// inputs covers the range of exp densely, its ends, and special values.
func inputs() []float32 {
	r := rand.New(rand.NewPCG(1, 2))
	vals := []float32{0, -0x1p-149, 1, -1, 88.7, 88.72, 88.73, 89, 100, -87.3, -87.4, -100, -103.9, -104, -105, -1000, 1e30, -1e30}
	for range 20000 {
		vals = append(vals, r.Float32()*195-106, float32(r.NormFloat64()))
	}
	return append(vals, inf, -inf, float32(math.NaN()))
}

func TestExp(t *testing.T) {
	src := inputs()
	worst := 0.0
	for name, l := range implementations() {
		dst := make([]float32, len(src))
		apply(l.exp, exp32, dst, src)
		for i, x := range src {
			want := math.Exp(float64(x))
			got := float64(dst[i])
			if math.IsNaN(want) {
				require.True(t, math.IsNaN(got), name)
				continue
			}
			if want > math.MaxFloat32 {
				require.True(t, math.IsInf(got, 1) || want < math.MaxFloat32*(1+1e-6), "%s exp(%v) = %v", name, x, got)
				continue
			}
			ulp := math.Max(want*0x1p-23, 0x1p-149)
			off := math.Abs(got-want) / ulp
			require.Less(t, off, 2.0, "%s exp(%v) = %v, want %v", name, x, got, want)
			worst = max(worst, off)
		}
	}
	t.Logf("largest error %.2f ulp", worst)
}

func TestFunctionsOfExp(t *testing.T) {
	gelu := func(x float64) float64 {
		return x / 2 * (1 + math.Tanh(math.Sqrt(2/math.Pi)*(x+0.044715*x*x*x)))
	}
	for name, l := range implementations() {
		for _, f := range []struct {
			name  string
			asm   func(int, *float32, *float32)
			scale func(float32) float32
			want  func(float64) float64
		}{
			{"sigmoid", l.sigmoid, sigmoid32, func(x float64) float64 { return 1 / (1 + math.Exp(-x)) }},
			{"silu", l.silu, silu32, func(x float64) float64 { return x / (1 + math.Exp(-x)) }},
			{"gelu", l.geluTanh, geluTanh32, gelu},
		} {
			src := inputs()
			src = src[:len(src)-2] // the limit at -Inf is a NaN for those that multiply by x
			dst := make([]float32, len(src))
			apply(f.asm, f.scale, dst, src)
			for i, x := range src {
				want := f.want(float64(x))
				require.InDelta(t, want, dst[i], 1e-6*math.Max(math.Abs(want), 1), "%s %s(%v)", name, f.name, x)
			}
			nan := [8]float32{3: float32(math.NaN())}
			apply(f.asm, f.scale, nan[:], nan[:])
			require.True(t, nan[3] != nan[3] && nan[2] == nan[2])
		}
	}
}

func TestExpSumOfEveryLength(t *testing.T) {
	r := rand.New(rand.NewPCG(4, 2))
	for name, l := range implementations() {
		for n := range 70 {
			src, dst := make([]float32, n), make([]float32, n+1)
			want := 0.0
			for i := range src {
				src[i] = float32(r.NormFloat64() * 5)
				want += math.Exp(float64(src[i]) - 2.5)
			}
			dst[n] = 77
			got := l.expShifted(dst, src, 2.5)
			require.InEpsilon(t, want+1, got+1, 1e-5, name)
			require.EqualValues(t, 77, dst[n])
			for i, x := range src {
				require.InEpsilon(t, math.Exp(float64(x)-2.5), dst[i], 1e-6)
			}
		}
	}
	require.Equal(t, float32(2), ExpSum([]float32{0, 0}, []float32{1, 1}, 1))
	row := []float32{-inf, 0}
	require.Equal(t, float32(1), ExpSum(row, row, 0))
	require.Equal(t, []float32{0, 1}, row)
}

func TestExported(t *testing.T) {
	t.Logf("assembly: %v", Accelerated())
	x := []float32{0, 1, 2}
	for _, f := range []func(dst, src []float32){Exp, Sigmoid, SiLU, GELUTanh} {
		dst := []float32{9, 9}
		f(dst, x)
		require.NotEqual(t, float32(9), dst[1])
		f(nil, x)
		f(dst, nil)
	}
	require.Equal(t, 0, Widen(x, make([]byte, 8), tensor.I16))
	require.Equal(t, 0, Narrow(make([]byte, 8), x, tensor.F64))
	require.Equal(t, 2, Widen(x, make([]byte, 8), tensor.F32))
	require.Equal(t, 2, Narrow(make([]byte, 8), x, tensor.F32))
}

// TestConversions takes every 16-bit pattern, and roundings around each, through both implementations.
func TestConversions(t *testing.T) {
	half := make([]uint16, 1<<16+3)
	for i := range half {
		half[i] = uint16(i)
	}
	r := rand.New(rand.NewPCG(1, 2))
	vals := []float32{0, inf, -inf, math.MaxFloat32, 65504, 65519.9, 65520, 0x1p-24, 0x1p-25, 0x1.8p-25, 0x1p-149}
	for range 1 << 16 {
		vals = append(vals, math.Float32frombits(r.Uint32()))
	}
	for h := range half {
		vals = append(vals, math.Float32frombits(uint32(h)<<16|0x8000), tensor.Float16(h).Float32()*(1+0x1p-11))
	}
	widened := func(dt tensor.DType, h uint16) float32 {
		if dt == tensor.F16 {
			return tensor.Float16(h).Float32()
		}
		return tensor.BFloat16(h).Float32()
	}
	narrowed := func(dt tensor.DType, v float32) uint16 {
		if dt == tensor.F16 {
			return uint16(tensor.ToF16(v))
		}
		return uint16(tensor.ToBF16(v))
	}
	for name, l := range implementations() {
		for _, dt := range []tensor.DType{tensor.BF16, tensor.F16} {
			wide, short := make([]float32, len(half)), make([]uint16, len(vals))
			require.Equal(t, len(half), l.widen(wide, tensor.AsBytes(half), dt))
			require.Equal(t, len(vals), l.narrow(tensor.AsBytes(short), vals, dt))
			for i, h := range half {
				if math.Float32bits(wide[i]) != math.Float32bits(widened(dt, h)) {
					require.Failf(t, "widen", "%s %v %04x gives %x", name, dt, h, math.Float32bits(wide[i]))
				}
			}
			for i, v := range vals {
				if short[i] != narrowed(dt, v) {
					require.Failf(t, "narrow", "%s %v %x gives %04x", name, dt, math.Float32bits(v), short[i])
				}
			}
		}
	}
}

func BenchmarkVec(b *testing.B) {
	x, y, h := make([]float32, 4096), make([]float32, 4096), make([]byte, 8192)
	for i := range x {
		x[i] = float32(i%200)/10 - 10
	}
	for name, f := range map[string]func(){
		"Exp":        func() { Exp(y, x) },
		"ExpSum":     func() { ExpSum(y, x, 10) },
		"SiLU":       func() { SiLU(y, x) },
		"GELUTanh":   func() { GELUTanh(y, x) },
		"WidenBF16":  func() { Widen(y, h, tensor.BF16) },
		"NarrowBF16": func() { Narrow(h, x, tensor.BF16) },
		"ExpGo":      func() { apply(nil, exp32, y, x) },
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				f()
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/4096, "ns/element")
		})
	}
}
