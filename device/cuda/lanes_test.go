package cuda

import (
	"context"
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/autograd"
	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/device/cuda/emulator"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// TestMovesToHost: inputs of recomputed blocks wait in pinned memory, copied by a stream of their own, plainly and within a recording, where copies are
// branches of the graph. The numbers are those without, to the bit.
func TestMovesToHost(t *testing.T) {
	dev := testDevice(t)
	const blocks, rows, width = 6, 96, 64
	steps := func(o plan.Options) (sums []float64, r plan.Report) {
		g := graph.New("tower")
		first := g.Input("x", tensor.T(tensor.F32, rows, width))
		weight := graph.NewVar("w", tensor.T(tensor.F32, width))
		x := first
		for range blocks {
			autograd.Checkpoint(g, func() {
				for range 3 {
					x = ops.Add(x, ops.Mul(ops.RMSNorm(ops.Tanh(x), g.Read(weight), 1e-6), ops.Sigmoid(x)))
				}
			})
		}
		loss := ops.Sum(ops.Square(x))
		grads, err := autograd.Grad(loss, weight)
		require.NoError(t, err)
		norm := ops.Sum(ops.Square(grads[0]))
		store := plan.NewStore(dev)
		ones := tensor.New(weight.Type)
		for i := range width {
			ones.Set(i, 1+float64(i)/width)
		}
		require.NoError(t, store.Set(weight, ones))
		o.Device, o.Store = dev, store
		p, err := plan.Compile([]graph.Value{loss, norm}, o)
		require.NoError(t, err)
		in := tensor.New(first.Type())
		for run := range 4 {
			for i := range in.Type().Size() {
				in.Set(i, math.Sin(float64(i*(run+1))))
			}
			res, err := p.Run(context.Background(), plan.Feed{first: in})
			require.NoError(t, err)
			sums = append(sums, res.Float(loss), res.Float(norm))
		}
		r = p.Report()
		require.NoError(t, p.Close())
		require.NoError(t, store.Close())
		return sums, r
	}
	want, plain := steps(plan.Options{})
	orders := []string{""} // of a GPU
	if onEmulator() {
		orders = []string{"late", "1", "2", "3"}
		t.Cleanup(func() { require.NoError(t, emulator.Reset()) })
	}
	for _, order := range orders {
		if order != "" {
			require.NoError(t, emulator.Set("streams="+order))
		}
		for way := range plan.Launchings {
			got, r := steps(plan.Options{Move: plan.MoveInputs, Launch: plan.Launching(way)})
			require.Equal(t, want, got, "%s, order %s", plan.Launchings[way], order)
			require.Positive(t, r.Away)
			require.Less(t, r.Arena, plain.Arena)
		}
	}
	require.Greater(t, device.Parallel(dev).Lanes(), int(graph.Copy))
}
