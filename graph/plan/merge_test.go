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

// residualBlocks are three layers of a residual stream: h += norm(h)·w, with norms whose weights are frozen. early has each sum read by
// something else before it is normalised.
func residualBlocks(x, w, scale graph.Value, early bool) graph.Value {
	h, side := x, x
	for range 3 {
		h = ops.Add(h, ops.Linear(ops.RMSNorm(h, scale, 1e-5), w))
		if early {
			side = ops.Add(side, ops.Linear(h, w))
		}
	}
	return ops.Add(ops.LayerNorm(h, scale, graph.Value{}, 1e-5), side)
}

// TestMerge: a residual sum and the norm of it become one node where a device can do both, and so does the gradient's way through a norm and
// its sum with that around it. A sum that something reads before the norm stays, and so do all on a device that can not.
func TestMerge(t *testing.T) {
	const rows, dim = 6, 16
	step := func(dev device.Device, early bool) (names map[string]int, out, grad *tensor.Tensor) {
		g := graph.New("residual")
		x, w, scale := g.Input("x", tensor.T(tensor.F32, rows, dim)), g.Input("w", tensor.T(tensor.F32, dim, dim)), g.Input("scale", tensor.T(tensor.F32, dim))
		y := residualBlocks(x, w, scale, early)
		grads, err := autograd.GradValues(ops.Sum(ops.Square(y)), x)
		require.NoError(t, err)
		p, err := plan.Compile([]graph.Value{y, grads[0]}, plan.Options{Device: dev, Verify: true})
		require.NoError(t, err)
		require.NoError(t, p.CheckArena())
		names = map[string]int{}
		for _, l := range p.Launches() {
			names[l.Node.Op.Name()]++
		}
		res, err := p.Run(t.Context(), plan.Feed{x: filled(x.Type(), 1), w: filled(w.Type(), 2), scale: filled(scale.Type(), 3)})
		require.NoError(t, err)
		out, grad = res.Tensor(y), res.Tensor(grads[0])
		require.NoError(t, p.Close())
		return names, out, grad
	}
	for _, early := range []bool{false, true} {
		plain, want, wantGrad := step(cpu.New(cpu.Options{Threads: 1}), early)
		require.Zero(t, plain["add_norm"]+plain["add_rmsnorm_grad"])
		names, got, grad := step(withKernels(ops.AddNormOp{}, ops.AddRMSNormGradOp{}), early)
		require.Equal(t, want, got, "no bit changes forwards")
		for i := range rows * dim {
			require.InDelta(t, wantGrad.At(i), grad.At(i), 1e-4)
		}
		if early {
			require.Zero(t, names["add_norm"])
			continue
		}
		require.Equal(t, 3, names["add_norm"], "two norms of sums, and the last")
		require.Equal(t, 1, names["rmsnorm"], "of the input")
		require.Equal(t, 3, names["add_rmsnorm_grad"])
	}
}
