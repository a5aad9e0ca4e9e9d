package tensor_test

import (
	"math"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// TestHalves: every half is its own rounding, and rounding picks the nearest, ties to even.
func TestHalves(t *testing.T) {
	for i := range 1 << 16 {
		b, f := tensor.BFloat16(i), tensor.Float16(i)
		if x := b.Float32(); x == x {
			require.Equal(t, b, tensor.ToBF16(x))
		} else {
			require.True(t, math.IsNaN(float64(tensor.ToBF16(x).Float32())))
		}
		if x := f.Float32(); x == x {
			require.Equal(t, f, tensor.ToF16(x))
		} else {
			require.True(t, math.IsNaN(float64(tensor.ToF16(x).Float32())))
		}
	}
	require.Equal(t, float32(65504), tensor.ToF16(65519.99).Float32())
	require.True(t, math.IsInf(float64(tensor.ToF16(65520).Float32()), 1))
	require.Equal(t, float32(0), tensor.ToF16(1.0/(1<<25)).Float32(), "a tie with zero goes to even")
	require.Equal(t, float32(1.0/(1<<24)), tensor.ToF16(1.1/(1<<25)).Float32())
	require.Equal(t, float32(1), tensor.ToBF16(1.00390625).Float32(), "a tie goes to even")
	require.Equal(t, float32(1.015625), tensor.ToBF16(1.01171875).Float32(), "a tie goes to even")
}

func TestHalfIsNearest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		x := rapid.Float32Range(-65519, 65519).Draw(t, "x")
		for _, d := range []tensor.DType{tensor.F16, tensor.BF16} {
			got := tensor.New(tensor.T(d, 3))
			got.Set(1, float64(x))
			bits := tensor.Data[uint16](got)
			diff := math.Abs(got.At(1) - float64(x))
			for i, step := range []int{-1, 1} {
				bits[i*2] = uint16(int(bits[1]) + step)
				if n := got.At(i * 2); n == n {
					require.LessOrEqual(t, diff, math.Abs(n-float64(x)))
				}
			}
		}
	})
}

func TestConvert(t *testing.T) {
	x, err := tensor.Of([]float64{1e30, -1e30, 2.9, -2.9, math.NaN(), 0.5})
	require.NoError(t, err)
	for d, want := range map[tensor.DType][]float64{
		tensor.I8: {127, -128, 2, -2, 0, 0}, tensor.U8: {255, 0, 2, 0, 0, 0}, tensor.I32: {math.MaxInt32, math.MinInt32, 2, -2, 0, 0},
		tensor.U16: {65535, 0, 2, 0, 0, 0}, tensor.Bool: {1, 1, 1, 1, 1, 1},
	} {
		y, err := x.Convert(d)
		require.NoError(t, err)
		for i, w := range want {
			require.Equal(t, w, y.At(i), "%v element %d", d, i)
		}
	}
	big, err := tensor.Of([]uint64{math.MaxUint64, 1<<53 + 1})
	require.NoError(t, err)
	back, err := big.Convert(tensor.I64)
	require.NoError(t, err)
	require.Equal(t, []int64{math.MaxInt64, 1<<53 + 1}, tensor.Data[int64](back))
	_, err = x.Convert(tensor.Invalid)
	require.Error(t, err)
}

// TestNarrow: what is finite stays so or is an error; what is not finite stays what it is.
func TestNarrow(t *testing.T) {
	largest := map[tensor.DType]float64{tensor.F16: 65504, tensor.BF16: 0x1.FEp127, tensor.F32: math.MaxFloat32}
	for d, top := range largest {
		ulp := top - math.Nextafter(top, 0)
		for x, fits := range map[float64]bool{top: true, -top: true, math.Inf(-1): true, math.NaN(): true, 1e-320: true, top * 1.01: false, -top * 2: false, top + ulp: true} {
			for _, from := range []tensor.DType{tensor.F64, tensor.F32} {
				v, err := tensor.Of([]float64{0, x})
				require.NoError(t, err)
				if v, err = v.Convert(from); d == from || err != nil || math.IsInf(v.At(1), 0) && !math.IsInf(x, 0) {
					continue
				}
				got, err := v.Narrow(d)
				if !fits {
					var large *tensor.RangeError
					require.ErrorAs(t, err, &large)
					require.Equal(t, tensor.RangeError{Index: 1, Value: v.At(1), DType: d}, *large)
					continue
				}
				require.NoError(t, err)
				want, err := v.Convert(d)
				require.NoError(t, err)
				require.Equal(t, want.Bytes(), got.Bytes())
			}
		}
	}
	whole, err := tensor.Of([]int64{65519, 65520})
	require.NoError(t, err)
	_, err = whole.Narrow(tensor.F16)
	require.EqualError(t, err, "element 1 is 65520, which f16 cannot hold")
	for _, d := range []tensor.DType{tensor.F64, tensor.F32, tensor.BF16, tensor.I8, tensor.I64} {
		_, err = whole.Narrow(d)
		require.NoError(t, err)
	}
	short, err := tensor.Of([]uint16{65519, 65535})
	require.NoError(t, err)
	_, err = short.Narrow(tensor.F16)
	require.ErrorContains(t, err, "element 1 is 65535")
	mixed, err := tensor.Of([]float32{float32(math.Inf(1)), 1, float32(math.Inf(-1)), -1e6, float32(math.Inf(1))})
	require.NoError(t, err)
	_, err = mixed.Narrow(tensor.F16)
	require.EqualError(t, err, "element 3 is -1e+06, which f16 cannot hold")
	_, err = mixed.Narrow(tensor.BF16)
	require.NoError(t, err, "what is infinite already may stay")
	_, err = whole.Narrow(tensor.Invalid)
	require.Error(t, err)
}

func TestShape(t *testing.T) {
	s := tensor.S(2, 3, 4)
	require.Equal(t, "[2,3,4]", s.String())
	require.Equal(t, []int{12, 4, 1}, s.Strides())
	require.Equal(t, 4, s.Dim(-1))
	require.Zero(t, s.Dim(3))
	require.Equal(t, s, tensor.S(2, 3, 4))
	require.Equal(t, 1, tensor.S().Size())
	for _, bad := range []tensor.Shape{tensor.S(-1), tensor.S(1<<40, 1<<40), tensor.S(1, 1, 1, 1, 1, 1, 1, 1, 1)} {
		require.False(t, bad.Valid())
		require.Equal(t, "[invalid]", bad.String())
	}
	require.True(t, tensor.S(0, 1<<40, 1<<40).Valid(), "nothing in it")
	b, err := tensor.Broadcast(tensor.S(3, 1), tensor.S(2, 1, 4))
	require.NoError(t, err)
	require.Equal(t, tensor.S(2, 3, 4), b)
	_, err = tensor.Broadcast(tensor.S(3), tensor.S(4))
	require.ErrorContains(t, err, "do not broadcast")
	for _, d := range tensor.DTypes() {
		got, ok := tensor.ParseDType(d.String())
		require.True(t, ok)
		require.Equal(t, d, got)
	}
	_, ok := tensor.ParseDType("invalid")
	require.False(t, ok)
}

func TestStorage(t *testing.T) {
	for n := range 200 {
		b := tensor.AlignedBytes(n)
		require.Len(t, b, n)
		if n > 0 {
			require.Zero(t, uintptr(unsafe.Pointer(&b[0]))%64)
		}
	}
	raw := tensor.AlignedBytes(17)
	x, err := tensor.FromBytes(tensor.T(tensor.F64, 2), raw[1:17])
	require.NoError(t, err)
	require.Zero(t, uintptr(unsafe.Pointer(&x.Bytes()[0]))%8, "unaligned storage is copied")
	_, err = tensor.FromBytes(tensor.T(tensor.F64, 3), raw[:16])
	require.ErrorContains(t, err, "needs 24 bytes, got 16")
	_, err = tensor.FromBytes(tensor.T(tensor.F64, -3), nil)
	require.Error(t, err)
	require.Nil(t, tensor.Data[float32](x), "another size")
	_, err = x.Reshape(3)
	require.Error(t, err)
	y, err := x.Reshape(2, 1)
	require.NoError(t, err)
	y.Set(0, 7)
	require.Equal(t, float64(7), x.At(0))
	require.Equal(t, float64(7), x.Clone().At(0))
	_, err = tensor.Of([]int32{1, 2}, 3)
	require.Error(t, err)
}

func TestPrint(t *testing.T) {
	x, err := tensor.Of([]float32{1, 2.5, -3, 4}, 2, 2)
	require.NoError(t, err)
	require.Equal(t, "f32[2,2]\n[[  1 2.5]\n [ -3   4]]", x.String())
	require.Equal(t, "invalid", tensor.New(tensor.T(tensor.F32, -1)).String())
	require.Contains(t, tensor.New(tensor.T(tensor.F32, 2000)).String(), "...")
}
