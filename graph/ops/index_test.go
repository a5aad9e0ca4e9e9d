package ops_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// TestPositionsBeyond32Bits: the places of elements in tensors of more than 2^31 elements, computed without the tensors.
func TestPositionsBeyond32Bits(t *testing.T) {
	const n = 1 << 31
	g := graph.New("g")
	x := g.Input("x", tensor.T(tensor.F32, 3, n, 2))
	idx, err := tensor.Of([]int64{n - 1, 5, -1, n, 0, 1 << 40}, 3, 2, 1)
	require.NoError(t, err)
	tuples, err := tensor.Of([]int64{2, n - 1, 0, 7, 2, n, 3, 0}, 4, 2)
	require.NoError(t, err)
	i, k := g.Input("i", idx.Type()), g.Input("k", tuples.Type())
	u, rows := g.Input("u", tensor.T(tensor.F32, 3, 2, 1)), g.Input("rows", tensor.T(tensor.F32, 4, 2))
	ys := []graph.Value{ops.GatherElements(x, 1, i), ops.GatherND(x, k, 0), ops.ScatterElements(x, 1, i, u, ops.ScatterSum), ops.ScatterND(x, k, rows, ops.ScatterSet)}
	require.NoError(t, g.Err())

	elements := []int64{2 * (n - 1), 10, -1, -1, 2 * 2 * n, -1}
	slices := []int64{2*n + n - 1, 7, -1, -1}
	for j, want := range [][]int64{elements, slices, elements, slices} {
		at := positions(t, ys[j])
		require.Equal(t, tensor.I64, at.DType())
		out, err := plan.Eval(cpu.New(cpu.Options{Threads: 1}), plan.Feed{i: idx, k: tuples}, at)
		require.NoError(t, err)
		require.Equal(t, want, tensor.Data[int64](out[0]))
	}
	small := ops.GatherElements(g.Input("s", tensor.T(tensor.F32, 3, 4, 2)), 1, i)
	require.Equal(t, tensor.I32, positions(t, small).DType())
}

// positions is the index input of the gather or scatter that y is a view of.
func positions(t *testing.T, y graph.Value) graph.Value {
	t.Helper()
	for {
		n := y.Node()
		switch n.Op.(type) {
		case ops.GatherRows, ops.ScatterRows:
			return n.In[1]
		}
		require.NotEmpty(t, n.In, "%v", n)
		y = n.In[0]
	}
}

// TestScatterKeepsTheLast: of several updates to one place the last stays, and only it has a gradient; in the other kinds all
// count.
func TestScatterKeepsTheLast(t *testing.T) {
	g := graph.New("g")
	x, u := g.Input("x", tensor.T(tensor.F64, 3)), g.Input("u", tensor.T(tensor.F64, 4))
	at := g.Input("at", tensor.T(tensor.I32, 4))
	idx, err := tensor.Of([]int32{1, 1, 0, 7})
	require.NoError(t, err)
	feed := plan.Feed{x: tensorOf(tensor.F64, []float64{10, 20, 30}), u: tensorOf(tensor.F64, []float64{1, 2, 3, 4}), at: idx}
	for kind, want := range map[ops.ScatterKind][]float64{
		ops.ScatterSet: {3, 2, 30}, ops.ScatterSum: {13, 23, 30}, ops.ScatterProd: {30, 40, 30}, ops.ScatterMax: {10, 20, 30}, ops.ScatterMin: {3, 1, 30},
	} {
		out, err := plan.Eval(cpu.New(cpu.Options{Threads: 1}), feed, ops.ScatterElements(x, 0, at, u, kind))
		require.NoError(t, err)
		require.Equal(t, want, tensor.Data[float64](out[0]))
	}
}
