package quant

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/bitsandbyes/bitsandbyes/internal/isa"
	"github.com/bitsandbyes/bitsandbyes/tensor"
	"github.com/stretchr/testify/require"
)

// Every format gives the same bytes and the same values at all levels.
func TestLevelsOfFormats(t *testing.T) {
	formats := append(Formats(), AffineFormat{Bits: 4, Stochastic: true}, AffineFormat{Bits: 8, Per: 8, Asymmetric: true, Stochastic: true},
		AffineFormat{Bits: 3, Per: PerTensor}, BlockwiseFormat{Blocksize: 64, Map: "linear_signed"}, BlockwiseFormat{Blocksize: 48, Double: true},
		FP8Format{Per: 24}, FP8Format{Scheme: FP8E5M2, Per: PerTensor}, Config{Scheme: NF4, Blocksize: 34})
	for _, dims := range [][]int{{1}, {3, 1}, {5, 7}, {3, 100}, {64, 64}, {2, 4100}, {7, 1024}} {
		for _, d := range []tensor.DType{tensor.F32, tensor.BF16, tensor.F16} {
			x := tensor.New(tensor.T(d, dims...))
			rng := rand.New(rand.NewPCG(uint64(x.Shape().Size()), 1))
			for i := range x.Shape().Size() {
				x.Set(i, rng.NormFloat64()*math.Ldexp(0.3, -rng.IntN(10)))
			}
			for _, f := range formats {
				if c, ok := f.(Config); ok && c.Scheme == Int8 && len(dims) < 2 {
					continue
				}
				levelsOfFormat(t, f, x, fmt.Sprintf("%v %v %s", dims, d, f.Name()))
			}
		}
	}
}

func levelsOfFormat(t *testing.T, f Format, x *tensor.Tensor, what string) {
	var want *State
	values := map[string][]byte{}
	eachLevel(t, func(level string) {
		s, err := QuantizeTensor(x, f, Options{Parallel: halves, Seed: 7})
		require.NoError(t, err, what)
		if level == isa.Generic.String() {
			want = s
		}
		require.Equal(t, want.Codes, s.Codes, "%s, %s", level, what)
		require.Equal(t, want, s, "%s, %s", level, what)
		streamed, err := Convert(want, f, Options{Seed: 7})
		require.NoError(t, err, what)
		for _, d := range []tensor.DType{tensor.F32, tensor.BF16, tensor.F16} {
			for i, s := range []*State{s, streamed} {
				out, err := s.Dequantize(d)
				require.NoError(t, err, what)
				key := fmt.Sprint(d, i)
				if level == isa.Generic.String() {
					values[key] = out.Bytes()
				}
				require.Equal(t, values[key], out.Bytes(), "%s, %s to %v", level, what, d)
			}
		}
	})
}

// The loops of 8-bit floats and integers meet every kind of quotient.
func TestLevelsOfOddQuotients(t *testing.T) {
	x := make([]float32, 1<<16)
	rng := rand.New(rand.NewPCG(4, 4))
	for i := range x {
		x[i] = math.Float32frombits(uint32(i)<<16 | rng.Uint32()&0xffff)
		if !finite(x[i]) {
			x[i] = float32(rng.IntN(64)-32) / 2
		}
	}
	n := len(x)
	for _, scale := range []float32{1, 0.37, 1e-38, 1e-45, 3e38} {
		for _, f := range []Float8{E4M3, E5M2} {
			want := make([]uint8, n)
			for i, v := range x {
				want[i] = f.Encode(v/scale, true)
			}
			eachLevel(t, func(level string) {
				got := make([]uint8, n)
				encodeFloat8(f, got, x, scale)
				require.Equal(t, want, got, "%s, %v over %v", level, f, scale)
			})
		}
		for _, a := range []affine{
			{step: float64(scale), zero: 8, lowest: -8, highest: 7}, {step: 0, zero: 3},
			{step: float64(scale), zero: 128, lowest: -127, highest: 127, stochastic: true, base: 1 << 63, first: math.MaxUint64 - 5},
		} {
			want := make([]uint8, n)
			a.codes(want, x)
			eachLevel(t, func(level string) {
				got := make([]uint8, n)
				if affineCodes(got, x, a) {
					require.Equal(t, want, got, "%s, %+v", level, a)
				}
			})
		}
	}
}

// Every code of the 8-bit floats, NaN and infinities among them, has the same value at all levels, whatever its scale.
func TestLevelsOfFloat8Values(t *testing.T) {
	t.Run("f32", levelsOfFloat8Values[float32])
	t.Run("bf16", levelsOfFloat8Values[tensor.BFloat16])
	t.Run("f16", levelsOfFloat8Values[tensor.Float16])
}

func levelsOfFloat8Values[E Real](t *testing.T) {
	codes := make([]byte, 256)
	for i := range codes {
		codes[i] = byte(i)
	}
	for _, f := range []Float8{E4M3, E5M2} {
		for _, scale := range []float32{1, 0, 0.37, 1e-42, 3e38} {
			want := make([]E, len(codes))
			for i := range want {
				want[i] = fromFloat32[E](f.Decode(byte(i)) * scale)
			}
			eachLevel(t, func(level string) {
				got := make([]E, len(codes))
				dequantize8(got, codes, []float32{scale}, 0, len(codes), f.table(), false)
				require.Equal(t, bitsOf(want), bitsOf(got), "%s, %v times %v", level, f, scale)
			})
		}
	}
}
