package vec

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/bitsandbyes/bitsandbyes/tensor"
	"github.com/stretchr/testify/require"
)

var inf = float32(math.Inf(1))

// implementations are the loops of every level that this processor has.
func implementations() map[string]*loops {
	all := map[string]*loops{}
	for l, loops := range levels {
		all[l.String()] = loops
	}
	return all
}

// inputs covers the range of exp densely, its ends, and special values.
func inputs() []float32 {
	r := rand.New(rand.NewPCG(1, 2))
	vals := []float32{0, -0x1p-149, 1, -1, 88.7, 88.72, 88.73, 89, 100, -87.3, -87.4, -100, -103.9, -104, -105, -1000, 1e30, -1e30}
	for range 20000 {
		vals = append(vals, r.Float32()*195-106, float32(r.NormFloat64()))
	}
	return append(vals, inf, -inf, float32(math.NaN()))
}

func TestExpSumOfEveryLength(t *testing.T) {
	r := rand.New(rand.NewPCG(4, 2))
	for name, l := range implementations() {
		for n := range 70 {
			src, dst := make([]float32, n), make([]float32, n+1)
			want := 0.0
			for i := range src {
				src[i] = float32(r.NormFloat64() * 5)
				want += math.Exp(float64(src[i] - 2.5))
			}
			dst[n] = 77
			got := l.expShifted(dst, src, 2.5)
			require.InEpsilon(t, want+1, got+1, 1e-5, name)
			require.EqualValues(t, 77, dst[n])
			for i, x := range src {
				require.InEpsilon(t, math.Exp(float64(x-2.5)), dst[i], 3e-7)
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
	for _, f := range []func(dst, src []float32){Exp, Sigmoid, SiLU, Tanh} {
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
