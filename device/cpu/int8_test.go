package cpu

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/bitsandbyes/bitsandbyes/autograd"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/internal/golden/bnb"
	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// TestGoldenBNBInt8Ops compares the ops of LLM.int8() with the CUDA library.
func TestGoldenBNBInt8Ops(t *testing.T) {
	d := New(Options{Threads: 2})
	defer func() { require.NoError(t, d.Close()) }()
	bnb.Int8(t, d)
}

// The product of two int8 matrices is exact in int32 for every extent, also where a float32 sum would have been rounded.
func TestInt8MatMulEqualsNaive(t *testing.T) {
	d := New(Options{Threads: 2})
	defer func() { require.NoError(t, d.Close()) }()
	rng := rand.New(rand.NewPCG(8, 8))
	for _, s := range [][3]int{{1, 3000, 5}, {300, 33, 17}, {7, 1024, 70}, {259, 2049, 3}, {2, 40000, 2}} {
		m, k, n := s[0], s[1], s[2]
		a, b := tensor.New(tensor.T(tensor.I8, m, k)), tensor.New(tensor.T(tensor.I8, n, k))
		for _, x := range []*tensor.Tensor{a, b} {
			codes := tensor.Data[int8](x)
			for i := range codes {
				codes[i] = int8(rng.IntN(256) - 128)
				if rng.IntN(2) == 0 {
					codes[i] = -128 // sums near the limits
				}
			}
		}
		g := graph.New("int8")
		vals, feed := nnFeed(g, []*tensor.Tensor{a, b})
		out, err := plan.Eval(d, feed, ops.Int8Dot(ops.Int8MatMul{TransB: true}, vals[0], vals[1]))
		require.NoError(t, err)
		got, x, w := tensor.Data[int32](out[0]), tensor.Data[int8](a), tensor.Data[int8](b)
		for i := range m {
			for j := range n {
				var want int32
				for l := range k {
					want += int32(x[i*k+l]) * int32(w[j*k+l])
				}
				require.Equal(t, want, got[i*n+j])
			}
		}
	}
}

// The kernel of the whole layer gives the bits of its steps, for tiles and tasks of all kinds, and the same with any number of threads.
func TestInt8LinearEqualsSteps(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 3))
	for _, s := range [][3]int{{1, 65, 33}, {5, 1300, 40}, {300, 70, 90}, {513, 40, 5}} {
		m, k, n := s[0], s[1], s[2]
		for _, dt := range []tensor.DType{tensor.F32, tensor.F16, tensor.BF16} {
			x, w, bias := tensor.New(tensor.T(dt, m, k)), tensor.New(tensor.T(tensor.F16, n, k)), tensor.New(tensor.T(dt, n))
			for _, v := range []*tensor.Tensor{x, w, bias} {
				for i := range v.Type().Size() {
					v.Set(i, rng.NormFloat64())
				}
			}
			x.Set(rng.IntN(m*k), 8)
			x.Set(rng.IntN(m*k), -60)
			var first []byte
			for threads := range 3 {
				d := New(Options{Threads: threads + 1})
				g := graph.New("int8")
				vals, feed := nnFeed(g, []*tensor.Tensor{x, w, bias})
				codes, stats, _ := ops.QuantizeRowsTo8(vals[1], 0)
				y := ops.LinearInt8(vals[0], codes, stats, vals[2], 6)
				plain := ops.LinearInt8(vals[0], codes, stats, vals[2], 0)
				steps := ops.Int8Linear{}.Decompose([]graph.Value{vals[0], codes, stats, vals[2]})[0]
				mixed := ops.Int8Linear{Threshold: 6}.Decompose([]graph.Value{vals[0], codes, stats, vals[2]})[0]
				out, err := plan.Eval(d, feed, y, plain, steps, mixed)
				require.NoError(t, err)
				require.Equal(t, out[2].Bytes(), out[1].Bytes())
				require.NotEqual(t, out[1].Bytes(), out[0].Bytes())
				require.Less(t, bnb.NormError(out[0], out[3]), map[tensor.DType]float64{tensor.F32: 1e-6, tensor.F16: 1e-4, tensor.BF16: 1e-3}[dt])
				if first == nil {
					first = append(first, out[0].Bytes()...)
				}
				require.Equal(t, first, out[0].Bytes())
				require.NoError(t, d.Close())
			}
		}
	}
}

// A NaN shows in all that is computed from its row, its column or its weight, fused and step by step.
func TestInt8KeepsNaN(t *testing.T) {
	d := New(Options{Threads: 1})
	defer func() { require.NoError(t, d.Close()) }()
	for _, dt := range []tensor.DType{tensor.F32, tensor.F16, tensor.BF16} {
		x, w := tensor.New(tensor.T(dt, 4, 6)), tensor.New(tensor.T(dt, 3, 6))
		for i := range 24 {
			x.Set(i, float64(i%5)-2)
			w.Set(i%18, float64(i%7)-3)
		}
		x.Set(2*6+1, math.NaN())
		g := graph.New("nan")
		vals, feed := nnFeed(g, []*tensor.Tensor{x, w})
		rows, cols := g.Apply(ops.QuantizeRows8{Strict: true}, vals[0]), g.Apply(ops.QuantizeColumns8{Strict: true}, vals[0])
		codes, stats, _ := ops.QuantizeRowsTo8(vals[1], 0)
		in := []graph.Value{vals[0], codes, stats, {}}
		master := ops.LinearInt8Master(vals[0], vals[1], graph.Value{}, 0)
		gw, err := autograd.VJP([]graph.Value{master}, []graph.Value{ops.Linear(vals[0], vals[1])}, vals[1])
		require.NoError(t, err)
		_, laxStats, _ := ops.QuantizeRowsTo8(vals[0], 0)
		out, err := plan.Eval(d, feed, rows[1], cols[1], ops.LinearInt8(vals[0], codes, stats, graph.Value{}, 0), ops.LinearInt8(vals[0], codes, stats, graph.Value{}, 2),
			ops.Int8Linear{}.Decompose(in)[0], ops.Int8Linear{Threshold: 2}.Decompose(in)[0], ops.SwitchBackLinear(ops.SwitchBack{}, vals[0], vals[1], graph.Value{}),
			master, gw[0], laxStats)
		require.NoError(t, err)
		for i := range 4 {
			require.Equal(t, i == 2, math.IsNaN(out[0].At(i)), "row statistics")
			require.False(t, math.IsNaN(out[9].At(i)), "the library's statistics pass over NaN")
		}
		for i := range 6 {
			require.Equal(t, i == 1, math.IsNaN(out[1].At(i)), "column statistics")
		}
		for _, y := range out[2:8] {
			for i := range 12 {
				require.Equal(t, i/3 == 2, math.IsNaN(y.At(i)))
			}
		}
		for i := range 18 {
			require.True(t, math.IsNaN(out[8].At(i)), "a row of dy is NaN")
		}
	}
}

// Whatever the shape, the threshold and the outliers, y is as near to the product with the dequantized weight as half a code of each
// element that was quantized allows, and three roundings to f16: of outliers' weights, of the int8 part and of the sum. A weight
// below 2^-14 is rounded to a multiple of f16's smallest number.
func TestInt8LinearErrorBound(t *testing.T) {
	const smallestHalf = 1.0 / (1 << 24)
	d := New(Options{Threads: 2})
	defer func() { require.NoError(t, d.Close()) }()
	rapid.Check(t, func(rt *rapid.T) {
		m, k, n := rapid.IntRange(1, 9).Draw(rt, "m"), rapid.IntRange(1, 80).Draw(rt, "k"), rapid.IntRange(1, 40).Draw(rt, "n")
		threshold := rapid.SampledFrom([]float32{0, 0.5, 6}).Draw(rt, "threshold")
		scale := rapid.SampledFrom([]float64{0, 1e-3, 1, 8}).Draw(rt, "scale")
		largest := rapid.SampledFrom([]float64{1, 1, 1e-5}).Draw(rt, "largest statistic")
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 1))
		x, w, stats := tensor.New(tensor.T(tensor.F16, m, k)), tensor.New(tensor.T(tensor.I8, n, k)), tensor.New(tensor.T(tensor.F32, n))
		for i := range m * k {
			x.Set(i, scale*rng.NormFloat64())
		}
		for i := range n * k {
			w.Set(i, float64(rng.IntN(255)-127))
		}
		for i := range n {
			stats.Set(i, largest*rng.Float64())
		}
		g := graph.New("bound")
		vals, feed := nnFeed(g, []*tensor.Tensor{x, w, stats})
		_, rowStats, outliers := ops.QuantizeRowsTo8(vals[0], threshold)
		out, err := plan.Eval(d, feed, ops.LinearInt8(vals[0], vals[1], vals[2], graph.Value{}, threshold), rowStats, outliers)
		require.NoError(rt, err)
		for i := range m * n {
			want, size, bound := 0.0, 0.0, 0.0
			for l := range k {
				if out[2].At(l) != 0 {
					bound += math.Abs(x.At(i/n*k+l)) * smallestHalf / 2
				}
				weight := w.At(i%n*k+l) * stats.At(i%n) / 127
				want += x.At(i/n*k+l) * weight
				size += math.Abs(x.At(i/n*k+l) * weight)
				bound += math.Abs(weight) * out[1].At(i/n) / 254
			}
			got := out[0].At(i)
			require.LessOrEqual(rt, math.Abs(got-want), bound+3.0/2048*(size+bound)+1e-7, "element %d", i)
		}
	})
}

// The product's kernel gives the values of package quant, infinities beyond f16 included.
func TestDequantizeProductEqualsQuant(t *testing.T) {
	d := New(Options{Threads: 2})
	defer func() { require.NoError(t, d.Close()) }()
	const m, n = 37, 1000
	rng := rand.New(rand.NewPCG(5, 5))
	acc, rows, cols := tensor.New(tensor.T(tensor.I32, m, n)), tensor.New(tensor.T(tensor.F32, m)), tensor.New(tensor.T(tensor.F32, n))
	for i := range m * n {
		acc.Set(i, math.Trunc(rng.NormFloat64()*math.Pow(10, float64(rng.IntN(9)))))
	}
	for i := range n {
		rows.Set(i%m, 3*rng.Float64())
		cols.Set(i, 3*rng.Float64())
	}
	for _, dt := range []tensor.DType{tensor.F32, tensor.F16, tensor.BF16} {
		bias := tensor.New(tensor.T(dt, n))
		for i := range n {
			bias.Set(i, rng.NormFloat64())
		}
		for _, in := range [][]*tensor.Tensor{{acc, rows, cols}, {acc, rows, cols, bias}} {
			g := graph.New("product")
			vals, feed := nnFeed(g, in)
			out, err := plan.Eval(d, feed, ops.DequantizeProductFrom8(vals[0], vals[1], vals[2], append(vals, graph.Value{})[3], dt))
			require.NoError(t, err)
			var b []byte
			if len(in) == 4 {
				b = bias.Bytes()
			}
			want := tensor.New(tensor.T(dt, m, n))
			switch dt {
			case tensor.F32:
				err = quantProduct[float32](want, acc, rows, cols, b)
			case tensor.F16:
				err = quantProduct[tensor.Float16](want, acc, rows, cols, b)
			case tensor.BF16:
				err = quantProduct[tensor.BFloat16](want, acc, rows, cols, b)
			}
			require.NoError(t, err)
			for i := range m * n {
				require.Equal(t, want.At(i)+0, out[0].At(i)+0, "element %d in %v", i, dt) // + 0: zeros of both signs are equal
			}
		}
	}
}

func quantProduct[E interface {
	quant.Real
	tensor.Element
}](dst, acc, rows, cols *tensor.Tensor, bias []byte) error {
	return quant.DequantizeProduct(tensor.Data[E](dst), tensor.Data[int32](acc), tensor.Data[float32](rows), tensor.Data[float32](cols), tensor.View[E](bias),
		acc.Shape().Dim(0), acc.Shape().Dim(1))
}
