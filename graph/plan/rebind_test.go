package plan_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// TestDropThenSet gives a variable new storage between two runs: the plan must follow it.
func TestDropThenSet(t *testing.T) {
	dev := cpu.New(cpu.Options{Threads: 1})
	store := plan.NewStore(dev)
	v := graph.NewVar("w", tensor.T(tensor.F32, 2))
	g := graph.New("g")
	y := ops.Scale(g.Read(v), 2)
	p, err := plan.Compile([]graph.Value{y}, plan.Options{Device: dev, Store: store})
	require.NoError(t, err)
	require.Zero(t, store.Bytes(), "compiling allocates no variable")
	for i := range 3 {
		x, err := tensor.Of([]float32{float32(i), 1})
		require.NoError(t, err)
		require.NoError(t, store.Drop(v))
		require.NoError(t, store.Set(v, x))
		res, err := p.Run(context.Background(), nil)
		require.NoError(t, err)
		require.Equal(t, []float32{2 * float32(i), 2}, res.Tensor(y).Float32s())
	}
}

// TestNegativeZero keeps the sign of a constant zero, which equal attributes would lose.
func TestNegativeZero(t *testing.T) {
	dev := cpu.New(cpu.Options{Threads: 1})
	g := graph.New("g")
	negative := 0.0
	x := ops.Fill(g, tensor.F32, 1)
	out, err := plan.Eval(dev, nil, ops.Div(x, ops.Fill(g, tensor.F32, 0)), ops.Div(x, ops.Fill(g, tensor.F32, -1/(1/negative))))
	require.NoError(t, err)
	require.Positive(t, out[0].At(0))
	require.Negative(t, out[1].At(0))
}
