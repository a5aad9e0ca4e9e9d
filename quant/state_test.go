package quant

import (
	"math"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"github.com/bitsandbyes/bitsandbyes/tensor"
	"github.com/stretchr/testify/require"
)

func randomTensor(t testing.TB, d tensor.DType, dims ...int) *tensor.Tensor {
	t.Helper()
	rng := rand.New(rand.NewPCG(uint64(len(dims)), 3))
	x := tensor.New(tensor.T(d, dims...))
	for i := range x.Shape().Size() {
		x.Set(i, rng.NormFloat64()*0.05)
	}
	return x
}

// halves runs the two halves of [0, n) at the same time.
func halves(n int, f func(lo, hi int)) {
	var wg sync.WaitGroup
	wg.Go(func() { f(0, n/2) })
	wg.Go(func() { f(n/2, n) })
	wg.Wait()
}

func TestStateRoundTrip(t *testing.T) {
	for _, dims := range [][]int{{}, {0}, {0, 5}, {1}, {7, 11}, {37, 172}, {2, 3, 64}} {
		for _, d := range []tensor.DType{tensor.F32, tensor.F16, tensor.BF16} {
			for _, cfg := range []Config{{}, {Double: true}, {Scheme: FP4, Blocksize: 32}, {Scheme: FP4, Blocksize: 4096, Double: true}} {
				x := randomTensor(t, d, dims...)
				s, err := Quantize(x, cfg)
				require.NoError(t, err)
				cfg.Parallel = halves
				p, err := Quantize(x, cfg)
				require.NoError(t, err)
				require.Equal(t, s, p, "parallel parts give the same bytes")
				dict, err := s.StateDict("w")
				require.NoError(t, err)
				back, err := FromStateDict("w", lookupIn(dict))
				require.NoError(t, err)
				a, err := s.Dequantize(tensor.F32)
				require.NoError(t, err)
				b, err := back.Dequantize(tensor.F32)
				require.NoError(t, err)
				require.Equal(t, a.Bytes(), b.Bytes())
				require.Equal(t, x.Shape(), a.Shape())
				require.Equal(t, s.Bytes(), back.Bytes())
				for i := range x.Shape().Size() {
					require.InDelta(t, x.At(i), a.At(i), 0.05)
				}
			}
		}
	}
}

func TestDequantizeRangeOfState(t *testing.T) {
	x := randomTensor(t, tensor.BF16, 131, 173)
	s, err := Quantize(x, Config{Blocksize: 32, Double: true})
	require.NoError(t, err)
	all, err := s.Dequantize(tensor.F32)
	require.NoError(t, err)
	want := tensor.Data[float32](all)
	got := make([]float32, len(want))
	for lo := 0; lo < len(got); lo += 1237 {
		hi := min(lo+1237, len(got))
		require.NoError(t, DequantizeRange(s, got[lo:hi], lo, hi))
	}
	require.Equal(t, want, got)
	require.Error(t, DequantizeRange(s, got, -1, 5))
	require.Error(t, DequantizeRange(s, got, 0, len(got)+1))
	require.Error(t, DequantizeRange(s, got[:3], 0, 4))
	require.Zero(t, testing.AllocsPerRun(10, func() { _ = DequantizeRange(s, got, 0, len(got)) }))
}

func TestQuantizeRefuses(t *testing.T) {
	x := randomTensor(t, tensor.F32, 8, 8)
	for name, cfg := range map[string]Config{
		"blocksize": {Blocksize: 33}, "affine": {Scheme: Affine}, "int8 blocks": {Scheme: Int8, Blocksize: 64}, "threshold": {Threshold: 6}, "small": {Blocksize: 16}, "large": {Blocksize: 8192}, "negative": {Blocksize: -64}, "scheme": {Scheme: 9},
	} {
		_, err := Quantize(x, cfg)
		require.ErrorContains(t, err, "quant: ", name)
	}
	_, err := Quantize(nil, Config{})
	require.Error(t, err)
	_, err = Quantize(tensor.New(tensor.T(tensor.I32, 4)), Config{})
	require.ErrorContains(t, err, "i32")
	for _, v := range []float64{math.NaN(), math.Inf(1), math.Inf(-1)} {
		x.Set(63, v)
		_, err = Quantize(x, Config{Blocksize: 32})
		require.ErrorContains(t, err, "elements 32 to 63")
	}
}

func TestSliceSizesAreChecked(t *testing.T) {
	x := make([]float32, 65)
	require.Error(t, Quantize4(make([]byte, 32), make([]float32, 2), x, 64, NF4))
	require.Error(t, Quantize4(make([]byte, 33), make([]float32, 1), x, 64, NF4))
	require.Error(t, Quantize4(make([]byte, 33), make([]float32, 2), x, 64, Scheme(2)))
	require.NoError(t, Quantize4(make([]byte, 33), make([]float32, 2), x, 64, FP4))
	require.NoError(t, Quantize4(nil, nil, x[:0], 64, FP4))
	require.Error(t, Dequantize4(x, make([]byte, 33), make([]float32, 1), 64, NF4))
	require.Error(t, Quantize8(make([]byte, 64), make([]float32, 2), x, 64, DynamicSigned()))
	require.Error(t, Quantize8(make([]byte, 65), make([]float32, 2), x, 0, DynamicSigned()))
	require.Error(t, Quantize8(make([]byte, 65), make([]float32, 2), x, 64, nil))
	require.Error(t, Dequantize8Range(x, make([]byte, 65), make([]float32, 2), 3, 2, 64, DynamicSigned()))
	require.Error(t, RestoreScales(x, make([]byte, 3), x, 0, 0, 4, 256, &DynamicSigned().values))
	require.Error(t, RestoreScales(x, make([]byte, 3), x, 0, 0, 3, 256, nil))
}

func TestQuantize8LongHalfBlocks(t *testing.T) {
	x := randomTensor(t, tensor.BF16, 9001)
	for _, blocksize := range []int{1, 7, 4096, 5000, 20000} {
		codes, absmax := quantizeTensor8(t, x, blocksize, DynamicSigned())
		f, err := x.Convert(tensor.F32)
		require.NoError(t, err)
		want, wantAbsmax := quantizeTensor8(t, f, blocksize, DynamicSigned())
		require.Equal(t, want, codes)
		require.Equal(t, wantAbsmax, absmax)
	}
}

func TestMapErrors(t *testing.T) {
	_, err := DynamicMap(true, 7, 7)
	require.Error(t, err)
	_, err = LinearMap(true, 9)
	require.Error(t, err)
	_, err = FP8Map(true, 5, 5)
	require.Error(t, err)
	_, err = NormalMap(math.NaN(), true)
	require.Error(t, err)
	_, err = NewCodebook([256]float32{3, 1})
	require.ErrorContains(t, err, "ascend")
	_, err = NewCodebook([256]float32{255: float32(math.NaN())})
	require.ErrorContains(t, err, "finite")
}

// NF4 was derived from the normal map; the canonical constants differ from exact quantiles by rounding only.
func TestNormalMapIsNearNF4(t *testing.T) {
	m, err := NormalMap(0.9677083, true)
	require.NoError(t, err)
	var nonZero []float32
	for _, v := range m {
		if v != 0 {
			nonZero = append(nonZero, v)
		}
	}
	want := NF4.Values()
	require.InDeltaSlice(t, append(append([]float32{}, want[:7]...), want[8:]...), nonZero, 2e-7)
}

func TestPythonFloat(t *testing.T) {
	for v, want := range map[float64]string{
		0: "0.0", 1: "1.0", 0.1: "0.1", 0.0001: "0.0001", 0.00001: "1e-05", 1e15: "1000000000000000.0", 1e16: "1e+16",
		1.5e-7: "1.5e-07", -2.5: "-2.5", 1.5e300: "1.5e+300", 123456.75: "123456.75",
	} {
		require.Equal(t, want, pythonFloat(v))
	}
	require.Equal(t, "-0.0", pythonFloat(math.Copysign(0, -1)))
}

func TestSchemeNames(t *testing.T) {
	for _, s := range []Scheme{NF4, FP4, Int8} {
		got, ok := ParseScheme(s.String())
		require.True(t, ok)
		require.Equal(t, s, got)
		require.Equal(t, s != Int8, s.FourBit())
	}
	require.ErrorContains(t, Quantize4(make([]byte, 1), make([]float32, 1), []float32{1}, 64, Int8), "int8 is not a 4-bit scheme")
	_, ok := ParseScheme("int4")
	require.False(t, ok)
	require.True(t, strings.Contains(Scheme(99).String(), "99"))
	require.False(t, Scheme(99).Valid())
	require.Empty(t, Affine.Thresholds())
}

// A block of zeros: the plain quantizer gives code 0; the signed one steps back over the wrap, and both are worth 0.
func TestZeroBlock(t *testing.T) {
	x, codes := make([]float32, 8), make([]byte, 8)
	x[3] = float32(math.Copysign(0, -1))
	require.Zero(t, DynamicSigned().QuantizeBlock(codes, x))
	require.Equal(t, make([]byte, 8), codes)
	require.Zero(t, DynamicSigned().QuantizeBlockSigned(codes, x))
	require.Equal(t, []byte{255, 255, 255, 0, 255, 255, 255, 255}, codes)
}
