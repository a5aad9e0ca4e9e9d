package plan_test

import (
	"fmt"
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

// TestShare: of three adapters on a frozen layer each, where the gradients of A and B are added to variables or returned, both products that read the
// gradient of a layer's output become one, on a device that can. What they give are the same bits here, where the kernel is those products.
func TestShare(t *testing.T) {
	const rows, dim, rank, layers = 20, 16, 4, 3
	step := func(dev device.Device, kept, noFuse bool) (names map[string]int, out []*tensor.Tensor) {
		g := graph.New("adapters")
		store := plan.NewStore(dev)
		x := g.Input("x", tensor.T(tensor.F32, rows, dim))
		h := x
		variable := func(name string, seed uint64, dims ...int) *graph.Var {
			v := graph.NewVar(fmt.Sprint(name, seed), tensor.T(tensor.F32, dims...))
			require.NoError(t, store.Set(v, filled(v.Type, seed)))
			return v
		}
		var factors []graph.Value
		var sums []*graph.Var
		for i := range uint64(layers) {
			w := g.Const(filled(tensor.T(tensor.F32, dim, dim), i))
			a := g.Read(variable("a", i, rank, dim))
			b := g.Read(variable("b", i, dim, rank))
			sums = append(sums, variable("da", i, rank, dim), variable("db", i, dim, rank))
			h = ops.Tanh(ops.Add(ops.Linear(h, w), ops.Linear(ops.Scale(ops.Linear(h, a), 2), b)))
			factors = append(factors, a, b)
		}
		grads, err := autograd.GradValues(ops.Sum(ops.Square(h)), factors...)
		require.NoError(t, err)
		outs := []graph.Value{h}
		for i, d := range grads {
			if kept {
				g.Write(sums[i], ops.Add(g.Read(sums[i]), d))
			} else {
				outs = append(outs, d)
			}
		}
		p, err := plan.Compile(outs, plan.Options{Device: dev, Store: store, Verify: true, NoFuse: noFuse})
		require.NoError(t, err)
		require.NoError(t, p.CheckArena())
		names = map[string]int{}
		for _, l := range p.Launches() {
			names[l.Node.Op.Name()]++
		}
		res, err := p.Run(t.Context(), plan.Feed{x: filled(x.Type(), 1)})
		require.NoError(t, err)
		for _, o := range outs {
			out = append(out, res.Tensor(o))
		}
		for _, v := range sums {
			got, err := store.Get(v)
			require.NoError(t, err)
			out = append(out, got)
		}
		require.NoError(t, p.Close())
		return names, out
	}
	for _, kept := range []bool{false, true} {
		plain, want := step(cpu.New(cpu.Options{Threads: 1}), kept, false)
		require.Zero(t, plain["matmul_pair"])
		names, got := step(withKernels(ops.MatMulPair{}), kept, false)
		require.Equal(t, layers, names["matmul_pair"])
		require.Equal(t, want, got)
		names, _ = step(withKernels(ops.MatMulPair{}), kept, true)
		require.Zero(t, names["matmul_pair"])
	}
}
