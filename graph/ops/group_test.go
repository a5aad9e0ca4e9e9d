package ops_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// TestGroupCosts: a group is as much arithmetic as its nodes, and reads once what they share.
func TestGroupCosts(t *testing.T) {
	cost := func(op graph.Op, in ...tensor.Type) (flops, bytes int64) {
		out, err := op.Infer(in)
		require.NoError(t, err)
		return op.(graph.Coster).Cost(in, out)
	}
	table, q, k := tensor.T(tensor.F32, 3, 4), tensor.T(tensor.BF16, 3, 6, 8), tensor.T(tensor.BF16, 3, 2, 8)
	x, a, b := tensor.T(tensor.BF16, 3, 64), tensor.T(tensor.BF16, 4, 64), tensor.T(tensor.BF16, 9, 64)
	weight := func(n int) (ops.QuantMatMul, []tensor.Type) {
		return ops.QuantMatMul{Scheme: quant.NF4, Blocksize: 64, N: n, K: 64}, []tensor.Type{tensor.T(tensor.U8, 32*n), tensor.T(tensor.F32, n)}
	}
	w1, parts1 := weight(16)
	w2, parts2 := weight(8)
	var quants ops.QuantMatMulGroup
	quants.N, quants.Of[0].QuantMatMul, quants.Of[1].QuantMatMul = 2, w1, w2
	for _, c := range []struct {
		group  graph.Op
		in     []tensor.Type
		nodes  [2]graph.Op
		of     [2][]tensor.Type
		shared int64
	}{
		{ops.RoPEGroup{N: 2}, []tensor.Type{table, table, q, k}, [2]graph.Op{ops.RoPEOp{}, ops.RoPEOp{}}, [2][]tensor.Type{{q, table, table}, {k, table, table}}, 2 * table.Bytes()},
		{ops.MatMulGroup{N: 2}, []tensor.Type{x, a, b}, [2]graph.Op{ops.MatMul{TransB: true}, ops.MatMul{TransB: true}}, [2][]tensor.Type{{x, a}, {x, b}}, x.Bytes()},
		{quants, append(append([]tensor.Type{x}, parts1...), parts2...), [2]graph.Op{w1, w2}, [2][]tensor.Type{append([]tensor.Type{x}, parts1...), append([]tensor.Type{x}, parts2...)}, x.Bytes()},
	} {
		flops, bytes := cost(c.group, c.in...)
		f1, b1 := cost(c.nodes[0], c.of[0]...)
		f2, b2 := cost(c.nodes[1], c.of[1]...)
		require.Equal(t, []int64{f1 + f2, b1 + b2 - c.shared}, []int64{flops, bytes}, "%v", c.group)
	}
}
