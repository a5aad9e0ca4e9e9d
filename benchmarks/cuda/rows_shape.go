package main

import (
	"fmt"
	"math/rand/v2"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func init() {
	add(
		embedRow(8192, 128256, 4096), embedGradRow(8192, 128256, 4096), embedGradRow(16384, 50257, 768), embedGradRow(4096, 49152, 576),
		moveRow("transpose", ops.Permute{Rank: 2, Perm: [tensor.MaxRank]int8{1, 0}}, 8192, 4096),
		moveRow("transpose of heads", ops.Permute{Rank: 4, Perm: [tensor.MaxRank]int8{0, 2, 1, 3}}, 2, 4096, 32, 128),
		sortRow(1, 128256, 50),
	)
}

// tokens are ids as a text has them: few that are frequent, many that are rare.
func tokens(n, vocabulary int) operand {
	rng := rand.New(rand.NewPCG(11, 1))
	ids := make([]int32, n)
	for i := range ids {
		x := rng.Float64()
		ids[i] = int32(x * x * x * float64(vocabulary))
	}
	return operand{t: tensor.T(tensor.I32, n), ints: ids}
}

func embedRow(n, vocabulary, width int) Row {
	return Row{Work: "embedding", Detail: fmt.Sprintf("%d of %d×%d bf16", n, vocabulary, width), Bytes: float64(2 * n * width * 2),
		Make: func(r *rig) (*work, error) {
			return r.op(ops.GatherRows{}, floats(tensor.BF16, vocabulary, width), tokens(n, vocabulary))
		}}
}

// embedGradRow reads a row for each token and writes the table, which is cleared before.
func embedGradRow(n, vocabulary, width int) Row {
	return Row{Work: "embedding gradient", Detail: fmt.Sprintf("%d into %d×%d bf16", n, vocabulary, width), Bytes: float64((n + vocabulary) * width * 2),
		Make: func(r *rig) (*work, error) {
			return r.op(ops.ScatterAddRows{Size: int64(vocabulary)}, floats(tensor.BF16, n, width), tokens(n, vocabulary))
		}}
}

func moveRow(name string, op graph.Op, dims ...int) Row {
	t := tensor.T(tensor.BF16, dims...)
	return Row{Work: name, Detail: fmt.Sprint(t), Bytes: float64(2 * t.Bytes()),
		Make: func(r *rig) (*work, error) { return r.op(op, operand{t: t}) }}
}

func sortRow(lanes, n, k int) Row {
	return Row{Work: "top k", Detail: fmt.Sprintf("%d of %d×%d f32", k, lanes, n), Bytes: float64(4 * lanes * n),
		Make: func(r *rig) (*work, error) {
			return r.op(ops.SortOp{Axis: 1, K: int64(k), Descending: true}, floats(tensor.F32, lanes, n))
		}}
}
