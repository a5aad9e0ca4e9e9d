package autograd_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/autograd"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// TestForeignValues refuses values whose node numbers belong to another graph, and absent outputs.
func TestForeignValues(t *testing.T) {
	a, b := graph.New("a"), graph.New("b")
	x, y := a.Input("x", tensor.T(tensor.F32, 2)), b.Input("y", tensor.T(tensor.F32, 2))
	_, err := autograd.GradValues(ops.Sum(ops.Mul(x, x)), y)
	require.ErrorContains(t, err, `belongs to graph "b"`)
	_, err = autograd.VJP([]graph.Value{{}}, []graph.Value{x}, x)
	require.ErrorContains(t, err, "absent")
}

// TestGradOfStopped asks for the gradient of a stopped value itself.
func TestGradOfStopped(t *testing.T) {
	g := graph.New("g")
	x := g.Input("x", tensor.T(tensor.F32, 2))
	y := autograd.StopGrad(ops.Mul(x, x))
	grads, err := autograd.GradValues(ops.Sum(ops.Mul(x, y)), x, y)
	require.NoError(t, err)
	require.Equal(t, x.Type(), grads[0].Type())
	require.Equal(t, y.Type(), grads[1].Type())
}
