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

// eachLevel runs f with each set of instructions that this processor has, pure Go first.
func eachLevel(t testing.TB, f func(name string)) {
	t.Helper()
	was := level
	defer func() { level, avoidVBMI = was, false }()
	for _, l := range isa.Levels {
		if !isa.Has(l) {
			continue
		}
		level = l
		f(l.String())
		if l == isa.AVX512 && isa.VBMI() {
			avoidVBMI = true
			f(l.String() + " without VBMI")
			avoidVBMI = false
		}
	}
}

// awkward are lengths around the steps of loops.
var awkward = []int{0, 1, 2, 7, 8, 15, 16, 17, 31, 32, 63, 64, 65, 96, 127, 128, 160, 257, 1000, 1024, 4097}

// weights are normal numbers in blocks of very different scales, with denormal numbers, zeros of both signs and, if asked for, NaN and
// infinities strewn in.
func weights(n int, special bool, seed uint64) []float32 {
	rng := rand.New(rand.NewPCG(seed, 5))
	x := make([]float32, n+1)[1:] // not aligned
	scale := 1.0
	for i := range x {
		if i%32 == 0 {
			scale = math.Ldexp(1, []int{0, -6, -40, -90, -101, -126, -140, 60, 126}[rng.IntN(9)])
		}
		x[i] = float32(rng.NormFloat64() * scale * math.Ldexp(1, -rng.IntN(12)))
		switch k := rng.IntN(200); {
		case k < 4:
			x[i] = math.Float32frombits([]uint32{0, 1 << 31, 1, 1<<31 | 0x7fffff}[k])
		case special && k < 7:
			x[i] = math.Float32frombits([]uint32{0x7fc00001, infBits, infBits | 1<<31}[k-4])
		}
	}
	return x
}

func as[E Real](x []float32) []E {
	out := make([]E, len(x))
	for i, v := range x {
		out[i] = fromFloat32[E](v)
	}
	return out
}

// bitsOf are the bits of a slice, so that NaN and the sign of zero count.
func bitsOf[E Real](x []E) []byte { return tensor.AsBytes(x) }

func TestLevelsOfQuantize8(t *testing.T) {
	t.Run("f32", levelsOfQuantize8[float32])
	t.Run("bf16", levelsOfQuantize8[tensor.BFloat16])
	t.Run("f16", levelsOfQuantize8[tensor.Float16])
}

func levelsOfQuantize8[E Real](t *testing.T) {
	for name, book := range books(t) {
		for i, n := range awkward {
			x := as[E](weights(n, i%2 == 0, uint64(n)))
			for _, blocksize := range []int{16, 33, 64, 256, 2048, 5000} {
				codes, absmax := make([]byte, n), make([]float32, Blocks(n, blocksize))
				for b := range absmax { // the definition
					lo, hi := b*blocksize, min((b+1)*blocksize, n)
					absmax[b] = AbsMax(toFloat32(make([]float32, hi-lo), x[lo:hi]))
					for i, v := range x[lo:hi] {
						q := scaled(widened(v), Rcp(absmax[b]))
						codes[lo+i] = searchNaive(&book.values, min(max(q, -math.MaxFloat32), math.MaxFloat32))
						if q != q {
							codes[lo+i] = 0
						}
					}
				}
				adjusted := make([]byte, n)
				for i, v := range x {
					adjusted[i] = book.SignAdjust(codes[i], widened(v))
				}
				eachLevel(t, func(level string) {
					got, scales := make([]byte, n), make([]float32, len(absmax))
					require.NoError(t, Quantize8(got, scales, x, blocksize, book))
					what := fmt.Sprintf("%s, %s, %d in blocks of %d", level, name, n, blocksize)
					require.Equal(t, bitsOf(absmax), bitsOf(scales), what)
					require.Equal(t, codes, got, what)
					require.NoError(t, QuantizeMoments8(got, scales, x, blocksize, book))
					require.Equal(t, bitsOf(absmax), bitsOf(scales), what)
					require.Equal(t, adjusted, got, what)
				})
			}
		}
	}
}

// A first moment is encoded by its own table with the results of the correction.
func TestLevelsOfMoments(t *testing.T) {
	for name, book := range books(t) {
		for i, n := range awkward {
			x := weights(min(n, 300), i%2 == 0, uint64(n))
			want := make([]byte, len(x))
			a := book.QuantizeBlock(want, x)
			for i, v := range x {
				want[i] = book.SignAdjust(want[i], v)
			}
			eachLevel(t, func(level string) {
				got := make([]byte, len(x))
				require.Equal(t, a, book.QuantizeBlockSigned(got, x))
				require.Equal(t, want, got, "%s, %s, %d", level, name, n)
			})
		}
	}
	require.NotNil(t, DynamicSigned().MomentCells())
	require.NotNil(t, DynamicUnsigned().Cells())
}

func TestLevelsOfDequantize8(t *testing.T) {
	t.Run("f32", levelsOfDequantize8[float32])
	t.Run("bf16", levelsOfDequantize8[tensor.BFloat16])
	t.Run("f16", levelsOfDequantize8[tensor.Float16])
}

func levelsOfDequantize8[E Real](t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	scales := []float32{1, 0.1, 3e-39, 0, float32(math.Inf(1)), 1e38, 6e4, float32(math.NaN()), 1e-7, 2, 2, 2}
	for name, book := range books(t) {
		for _, n := range append(awkward, StreamBytes/2+64*3) {
			if n > 5000 && name != "dynamic true 7/8" {
				continue
			}
			codes := make([]byte, n)
			for i := range codes {
				codes[i] = byte(rng.IntN(256))
			}
			for _, blocksize := range []int{16, 33, 64, 256, 5000} {
				absmax := make([]float32, Blocks(n, blocksize))
				for b := range absmax {
					absmax[b] = scales[rng.IntN(len(scales))]
				}
				lo := rng.IntN(n/3 + 1)
				want := make([]E, n-lo)
				for i := range want {
					want[i] = fromFloat32[E](book.values[codes[lo+i]] * absmax[(lo+i)/blocksize])
				}
				eachLevel(t, func(level string) {
					got := tensor.View[E](tensor.AlignedBytes(len(bitsOf(want))))
					require.NoError(t, Dequantize8Range(got, codes, absmax, lo, n, blocksize, book))
					require.Equal(t, bitsOf(want), bitsOf(got), "%s, %s, %d to %d in blocks of %d", level, name, lo, n, blocksize)
				})
			}
		}
	}
}

func TestLevelsOfQuantize4(t *testing.T) {
	t.Run("f32", levelsOfQuantize4[float32])
	t.Run("bf16", levelsOfQuantize4[tensor.BFloat16])
	t.Run("f16", levelsOfQuantize4[tensor.Float16])
}

func levelsOfQuantize4[E Real](t *testing.T) {
	for _, scheme := range []Scheme{NF4, FP4} {
		for i, n := range append(awkward, 64*130) {
			x := as[E](weights(n, i%2 == 0, uint64(n)))
			wide := toFloat32(make([]float32, n), x)
			for _, blocksize := range []int{32, 34, 64, 96, 4096} {
				codes, absmax := naive4(wide, blocksize, scheme)
				eachLevel(t, func(level string) {
					got, scales, bad := make([]byte, len(codes)), make([]float32, len(absmax)), make([]bool, len(absmax))
					quantizeBlocks4(got, scales, x, blocksize, scheme, 0, len(absmax), bad)
					what := fmt.Sprintf("%s, %v, %d in blocks of %d", level, scheme, n, blocksize)
					require.Equal(t, bitsOf(absmax), bitsOf(scales), what)
					require.Equal(t, codes, got, what)
					for b := range bad {
						bits := maxAbsBitsGo(wide[b*blocksize : min((b+1)*blocksize, n)])
						require.Equal(t, bits >= fastHigh, bad[b], what)
					}
				})
			}
		}
	}
}

// No bucket holds two thresholds, and the elements next to each threshold get the codes of the definition.
func TestVectorTables4(t *testing.T) {
	for _, scheme := range []Scheme{NF4, FP4} {
		tab := newTable4(scheme)
		var x []float32
		for _, v := range append(scheme.Thresholds(), 0, 1, 2.0/3) {
			for n := -3; n <= 3; n++ {
				x = append(x, min(step(v, n), 1), max(-step(v, n), -1))
			}
		}
		for i := range 4096 {
			x = append(x, float32(i)/4096, -float32(i)/4096)
		}
		for len(x)%32 != 0 {
			x = append(x, 1)
		}
		want := make([]byte, len(x)/2)
		tab.blockNaive(want, x, 1)
		eachLevel(t, func(level string) {
			if step8() > len(x) {
				return
			}
			got, r := make([]byte, len(x)/2), [1]float32{1}
			encode4(got, x, r[:], len(x), scheme)
			require.Equal(t, want, got, "%s, %v", level, scheme)
		})
	}
}

func TestLevelsOfRows8(t *testing.T) {
	t.Run("f32", levelsOfRows8[float32])
	t.Run("bf16", levelsOfRows8[tensor.BFloat16])
	t.Run("f16", levelsOfRows8[tensor.Float16])
}

func levelsOfRows8[E Real](t *testing.T) {
	nan := func(x []E) (found bool) {
		for _, v := range x {
			found = found || v != v || widened(v) != widened(v)
		}
		return found
	}
	for i, n := range awkward {
		for _, exponent := range []int{0, -20, -120, 100} {
			x := as[E](weights(n, i%3 == 0, uint64(n)))
			if i%2 == 0 { // one scale
				rng := rand.New(rand.NewPCG(uint64(n), 9))
				for i := range x {
					x[i] = fromFloat32[E](float32(math.Ldexp(rng.NormFloat64()*2.5, exponent)))
				}
			}
			for _, threshold := range []float32{0, 6, 1e-5} {
				var codes []int8
				var mask []bool
				var stat float32
				eachLevel(t, func(level string) {
					got, marks := make([]int8, n), make([]bool, n)
					s := QuantizeRow(got, x, threshold, marks)
					require.Equal(t, nan(x), HasNaN(x), level)
					if level == isa.Generic.String() {
						codes, mask, stat = got, marks, s
						want := make([]int8, n)
						rowCodesNaive(want, toFloat32(make([]float32, n), x), s, threshold)
						require.Equal(t, want, got)
						return
					}
					what := fmt.Sprintf("%s, %d elements, threshold %v", level, n, threshold)
					require.Equal(t, math.Float32bits(stat), math.Float32bits(s), what)
					require.Equal(t, codes, got, what)
					require.Equal(t, mask, marks, what)
				})
			}
		}
	}
}

func TestLevelsOfProducts8(t *testing.T) {
	t.Run("f32", levelsOfProducts8[float32])
	t.Run("bf16", levelsOfProducts8[tensor.BFloat16])
	t.Run("f16", levelsOfProducts8[tensor.Float16])
}

func levelsOfProducts8[E Real](t *testing.T) {
	rng := rand.New(rand.NewPCG(2, 9))
	for _, cols := range awkward {
		acc, columns, bias := make([]int32, 3*cols), make([]float32, cols), make([]E, cols)
		for i := range acc {
			acc[i] = int32(rng.Uint32()) >> rng.IntN(31)
		}
		for i := range columns {
			columns[i] = float32(math.Ldexp(rng.Float64(), rng.IntN(30)-20))
			bias[i] = fromFloat32[E](float32(math.Ldexp(rng.NormFloat64(), rng.IntN(30)-15)))
		}
		rows := []float32{0.02, 1e-9, float32(math.NaN())}
		for _, b := range [][]E{nil, bias} {
			var want []byte
			eachLevel(t, func(level string) {
				dst := make([]E, 3*cols)
				require.NoError(t, DequantizeProduct(dst, acc, rows, columns, b, 3, cols))
				if level == isa.Generic.String() {
					want = bitsOf(dst)
				}
				require.Equal(t, want, bitsOf(dst), "%s, %d columns, bias %v", level, cols, b != nil)
			})
		}
	}
}

func TestLevelsOfOutliers(t *testing.T) {
	t.Run("f32", levelsOfOutliers[float32])
	t.Run("bf16", levelsOfOutliers[tensor.BFloat16])
	t.Run("f16", levelsOfOutliers[tensor.Float16])
}

func levelsOfOutliers[E Real](t *testing.T) {
	rng := rand.New(rand.NewPCG(2, 9))
	for _, found := range []int{0, 1, 2, 13} {
		for _, columns := range []int{0, 1, 15, 16, 31, 65} {
			kept, weight, start := make([]float32, found), make([]float32, 5*found*OutlierStrip), make([]E, columns)
			for _, x := range [][]float32{kept, weight} {
				for i := range x {
					x[i] = float32(rng.NormFloat64())
				}
			}
			for i := range start {
				start[i] = fromFloat32[E](float32(rng.NormFloat64()))
			}
			want := append([]E(nil), start...)
			for c := range want {
				sum := float32(0)
				for j := range found {
					sum += float32(kept[j] * weight[c/16*16*found+16*j+c%16])
				}
				want[c] = fromFloat32[E](widened(want[c]) + sum)
			}
			eachLevel(t, func(level string) {
				got := append([]E(nil), start...)
				require.NoError(t, AddOutliers(got, kept, weight))
				require.Equal(t, bitsOf(want), bitsOf(got), "%s, %d columns, %d outliers", level, columns, found)
			})
		}
	}
	require.ErrorContains(t, AddOutliers(make([]E, 33), make([]float32, 2), make([]float32, 64)), "do not fit")
}

func TestLevelsOfScaledCodes(t *testing.T) {
	t.Run("f32", levelsOfScaledCodes[float32])
	t.Run("bf16", levelsOfScaledCodes[tensor.BFloat16])
	t.Run("f16", levelsOfScaledCodes[tensor.Float16])
}

func levelsOfScaledCodes[E Real](t *testing.T) {
	for _, n := range awkward {
		codes, want := make([]int8, n+1), make([]E, n)
		for _, scale := range []float32{0.3, 1e-42, 1e37, float32(math.Inf(1)), float32(math.NaN())} {
			for i := range want {
				codes[i] = int8(i * 7)
				want[i] = fromFloat32[E](float32(codes[i]) * scale)
			}
			eachLevel(t, func(level string) {
				got := make([]E, n)
				ScaleCodes(got, codes, scale)
				require.Equal(t, bitsOf(want), bitsOf(got), "%s, %d codes times %v", level, n, scale)
			})
		}
	}
}
