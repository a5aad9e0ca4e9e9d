package quant

import (
	"math"
	"testing"

	"github.com/bitsandbyes/bitsandbyes/tensor"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// edge draws a finite number near where arithmetic of one of the element types ends: its largest, its smallest normal and denormal ones, zeros, powers of two, each
// some units in the last place off, times a factor that the steps of formats have.
func edge(limit float64) *rapid.Generator[float32] {
	return rapid.Custom(func(t *rapid.T) float32 {
		x := float32(rapid.OneOf(
			rapid.SampledFrom([]float64{limit, limit, 0, 65504, 0x1.FEp127, math.MaxFloat32, math.SmallestNonzeroFloat32, 0x1p-126, 0x1p-149, 0x1p-24, 0x1p-14, 0x1p-133, 0x1p126, 0x1p-100}),
			rapid.Map(rapid.IntRange(-149, 127), func(e int) float64 { return math.Ldexp(1, e) })).Draw(t, "of"))
		x /= rapid.SampledFrom([]float32{1, 1, 1, 127, 7, 15, 448, 57344, 255, 0.993}).Draw(t, "part")
		x = math.Float32frombits(math.Float32bits(x) + uint32(rapid.IntRange(-3, 3).Draw(t, "off")))
		if rapid.Bool().Draw(t, "negative") {
			x = -x
		}
		return float32(min(max(float64(x), -limit), limit)) // NaN, from below zero, stays
	}).Filter(finite)
}

// TestEveryDTypeAtTheEdges: finite elements stay finite when they are read back in their own type, or the tensor is refused with what can be held.
func TestEveryDTypeAtTheEdges(t *testing.T) {
	all := allFormats()
	limits := map[tensor.DType]float64{tensor.F32: math.MaxFloat32, tensor.F16: 65504, tensor.BF16: 0x1.FEp127}
	rapid.Check(t, func(rt *rapid.T) {
		d := rapid.SampledFrom([]tensor.DType{tensor.F32, tensor.F16, tensor.BF16}).Draw(rt, "dtype")
		f := all[rapid.IntRange(0, len(all)-1).Draw(rt, "format")]
		few := rapid.SliceOfN(edge(limits[d]), 1, 5).Draw(rt, "values")
		n, many := rapid.IntRange(1, 300).Draw(rt, "n"), rapid.IntRange(0, 300).Draw(rt, "many")
		w := tensor.New(tensor.T(d, 1, n))
		for i := range n { // small ones beside large ones, and blocks of one value alone
			if i >= many || i%64 < 2 {
				w.Set(i, float64(few[i*7/64%len(few)]))
			}
		}
		s, err := QuantizeTensor(w, f, Options{})
		if err != nil {
			require.ErrorContains(rt, err, "holds up to")
			return
		}
		back, err := s.Dequantize(d)
		require.NoError(rt, err)
		for i := range n {
			require.Zero(rt, back.At(i)-back.At(i), "%s %v: %v became %v", f.Name(), d, w.At(i), back.At(i))
		}
	})
}

// TestMomentsAtTheEdges: what an optimizer remembers in 8 bits stays finite and keeps its sign, whatever the gradients. Blocks whose largest element has no
// normal reciprocal come back as zeros or next to them, as the GPU's kernels have it.
func TestMomentsAtTheEdges(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		x := rapid.SliceOfN(edge(math.MaxFloat32), 1, 40).Draw(rt, "x")
		book := DynamicSigned()
		if rapid.Bool().Draw(rt, "second") {
			book = DynamicUnsigned()
			for i, v := range x {
				x[i] = abs32(v)
			}
		}
		for _, quantize := range []func([]byte, []float32, []float32, int, *Codebook) error{Quantize8[float32], QuantizeMoments8[float32]} {
			codes, absmax, back := make([]byte, len(x)), make([]float32, Blocks(len(x), 16)), make([]float32, len(x))
			require.NoError(rt, quantize(codes, absmax, x, 16, book))
			require.NoError(rt, Dequantize8(back, codes, absmax, 16, book))
			for i, v := range back {
				require.Zero(rt, v-v, "%v became %v", x[i], v)
				require.GreaterOrEqual(rt, float64(v)*float64(x[i]), 0., "%v became %v", x[i], v)
				if absmax[i/16] > 0x1p126 {
					require.LessOrEqual(rt, math.Abs(float64(v)), 1e-6*float64(absmax[i/16]), "zero, or next to it on the side of the element")
					continue
				}
				require.LessOrEqual(rt, math.Abs(float64(v)-float64(x[i])), 0.1*float64(absmax[i/16])+0x1p-126, "%v became %v", x[i], v)
			}
		}
	})
}
