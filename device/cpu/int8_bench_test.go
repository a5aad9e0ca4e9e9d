package cpu

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// BenchmarkInt8 times a linear layer of 1024 by 1024 on 256 rows: the int8 product alone and as naive loops, LLM.int8() without and with
// outlier columns, and the float32 product.
func BenchmarkInt8(b *testing.B) {
	const m, n, k = 256, 1024, 1024
	rng := rand.New(rand.NewPCG(1, 1))
	x, w := tensor.New(tensor.T(tensor.F32, m, k)), tensor.New(tensor.T(tensor.F32, n, k))
	for _, v := range []*tensor.Tensor{x, w} {
		data := tensor.Data[float32](v)
		for i := range data {
			data[i] = float32(rng.NormFloat64())
		}
	}
	for c := range 5 {
		x.Set(c*k+100*c, 20)
	}
	codes, stats, xc := tensor.New(tensor.T(tensor.I8, n, k)), tensor.New(tensor.T(tensor.F32, n)), tensor.New(tensor.T(tensor.I8, m, k))
	for i := range n * k {
		codes.Set(i, float64(rng.IntN(255)-127))
		xc.Set(i%(m*k), float64(rng.IntN(255)-127))
	}
	for i := range n {
		stats.Set(i, 1)
	}
	run := func(name string, in []*tensor.Tensor, build func(v []graph.Value) graph.Value) {
		b.Run(name, func(b *testing.B) {
			d := New(Options{Threads: 1})
			defer func() { require.NoError(b, d.Close()) }()
			g := graph.New(name)
			vals, feed := nnFeed(g, in)
			p, err := plan.Compile([]graph.Value{build(vals)}, plan.Options{Device: d})
			require.NoError(b, err)
			defer func() { require.NoError(b, p.Close()) }()
			b.ResetTimer()
			for range b.N {
				_, err := p.Run(b.Context(), feed)
				require.NoError(b, err)
			}
			b.ReportMetric(2*m*n*k/float64(b.Elapsed().Nanoseconds())*float64(b.N), "GOP/s")
		})
	}
	run("float32", []*tensor.Tensor{x, w}, func(v []graph.Value) graph.Value { return ops.Linear(v[0], v[1]) })
	run("int8-product", []*tensor.Tensor{xc, codes}, func(v []graph.Value) graph.Value {
		return ops.Int8Dot(ops.Int8MatMul{TransB: true}, v[0], v[1])
	})
	for _, threshold := range []float32{0, 6} {
		run(fmt.Sprintf("linear-threshold-%v", threshold), []*tensor.Tensor{x, codes, stats}, func(v []graph.Value) graph.Value {
			return ops.LinearInt8(v[0], v[1], v[2], graph.Value{}, threshold)
		})
	}
	b.Run("naive-product", func(b *testing.B) {
		a, w, out := tensor.Data[int8](xc), tensor.Data[int8](codes), make([]int32, m*n)
		for range b.N {
			for i := range out {
				sum, row, col := int32(0), a[i/n*k:][:k], w[i%n*k:][:k]
				for l, v := range row {
					sum += int32(v) * int32(col[l])
				}
				out[i] = sum
			}
		}
		b.ReportMetric(2*m*n*k/float64(b.Elapsed().Nanoseconds())*float64(b.N), "GOP/s")
	})
}
