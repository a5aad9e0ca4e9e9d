package plan_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/autograd"
	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// TestJoin: on a device that makes the loss over a vocabulary and its gradient at once, the gradient makes no logits again, and both are the
// same as apart. A head that is trained, and a device that can not, change nothing.
func TestJoin(t *testing.T) {
	const rows, dim, classes = 7, 16, 11
	dev, uniting := cpu.New(cpu.Options{Threads: 1}), withKernels(ops.LinearLossUnitOp{})
	step := func(dev device.Device, exact, trained bool) (names map[string]int, loss, grad *tensor.Tensor) {
		g := graph.New("head")
		x, w, labels := g.Input("x", tensor.T(tensor.F32, rows, dim)), g.Input("w", tensor.T(tensor.F32, classes, dim)), g.Input("labels", tensor.T(tensor.I32, rows))
		out := ops.LinearCrossEntropy(x, w, labels)
		weighed := ops.Sum(ops.Mul(out, g.Const(filled(tensor.T(tensor.F32, rows), 3))))
		wrt := []graph.Value{x}
		if trained {
			wrt = append(wrt, w)
		}
		grads, err := autograd.GradValues(weighed, wrt...)
		require.NoError(t, err)
		p, err := plan.Compile(append([]graph.Value{weighed}, grads...), plan.Options{Device: dev, Exact: exact, Verify: true})
		require.NoError(t, err)
		names = map[string]int{}
		for _, l := range p.Launches() {
			names[l.Node.Op.Name()]++
		}
		l := tensor.New(labels.Type())
		for i := range rows {
			l.Set(i, float64(i*3%classes-1))
		}
		res, err := p.Run(t.Context(), plan.Feed{x: filled(x.Type(), 1), w: filled(w.Type(), 2), labels: l})
		require.NoError(t, err)
		loss, grad = res.Tensor(weighed), res.Tensor(grads[0])
		require.NoError(t, p.Close())
		return names, loss, grad
	}
	plain, wantLoss, want := step(dev, false, false)
	require.Equal(t, 1, plain["linear_cross_entropy_grad"])
	names, loss, grad := step(uniting, false, false)
	require.Equal(t, 1, names["linear_loss_unit"])
	require.Zero(t, names["linear_cross_entropy_grad"])
	require.Zero(t, names["linear_cross_entropy"])
	require.Equal(t, wantLoss, loss)
	for i := range rows * dim {
		require.InDelta(t, want.At(i), grad.At(i), 1e-6)
	}
	for _, other := range []struct{ exact, trained bool }{{true, false}, {false, true}} {
		names, _, _ = step(uniting, other.exact, other.trained)
		require.Equal(t, 1, names["linear_cross_entropy_grad"])
		require.Zero(t, names["linear_loss_unit"])
	}
}
