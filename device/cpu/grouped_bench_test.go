package cpu

import (
	"fmt"
	"testing"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// dealt are the offsets of rows that are dealt to experts evenly, the first ones getting what is left; with fewer rows than experts, to those
// alone.
func dealt(rows, experts int) *tensor.Tensor {
	t := tensor.New(tensor.T(tensor.I32, experts+1))
	at := 0
	for e := range experts {
		if at += rows / experts; e < rows%experts {
			at++
		}
		t.Set(e+1, float64(at))
	}
	return t
}

// BenchmarkGrouped is the up projection of a layer of 64 experts of 1024 x 2048 (out, in), for 4096 rows (512 tokens of 8 experts each) and for
// 8, one token, beside what its decomposition comes to: a product of all rows for each expert, here of one, times 64.
func BenchmarkGrouped(b *testing.B) {
	const experts, out, in = 64, 1024, 2048
	for _, rows := range []int{4096, 8} {
		x, at := repeated(tensor.F32, rows, in), dealt(rows, experts)
		for _, threads := range []int{1, 2} {
			run := func(name string, times float64, op graph.Op, inputs ...*tensor.Tensor) {
				b.Run(fmt.Sprintf("rows=%d/threads=%d/%s", rows, threads, name), func(b *testing.B) {
					usual, fastest := benchLaunches(b, threads, op, append([]*tensor.Tensor{x}, inputs...))
					b.ReportMetric(times*usual.Seconds()*1e3, "ms")
					b.ReportMetric(times*fastest.Seconds()*1e3, "best-ms")
				})
			}
			run("dense", 1, ops.GroupedMatMul{}, repeated(tensor.F32, experts, out, in), at)
			run("nf4", 1, ops.QuantGroupedMatMul{Blocksize: 64, Experts: experts, N: out, K: in, Nested: true}, append([]*tensor.Tensor{at}, randomParts(experts*out*in)...)...)
			run("dense_decomposed", experts, ops.MatMul{TransB: true}, repeated(tensor.F32, out, in))
			run("nf4_decomposed", experts, ops.QuantMatMul{Blocksize: 64, N: out, K: in, Nested: true}, randomParts(out*in)...)
		}
	}
}
