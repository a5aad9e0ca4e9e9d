package plan_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// TestCastScaled: small variables of a slab that are each cast, every other after a factor, are cast at once, to the same bits, also in a step that
// writes the slab; what lies behind them is not cast.
func TestCastScaled(t *testing.T) {
	const pairs, dim = 10, 16
	dev := cpu.New(cpu.Options{Threads: 1})
	run := func(noFuse, write bool, size int) (out *tensor.Tensor, casts int) {
		slab := graph.NewVar("slab", tensor.T(tensor.F32, size))
		g := graph.New("adapters")
		x := ops.Cast(g.Input("x", tensor.T(tensor.F32, dim, dim)), tensor.BF16)
		h := x
		for i := range pairs {
			a, b := graph.NewVar(fmt.Sprint("a", i), tensor.T(tensor.F32, dim, dim)), graph.NewVar(fmt.Sprint("b", i), tensor.T(tensor.F32, dim, dim))
			a.Slab, b.Slab, a.Offset, b.Offset = slab, slab, int64(2*i)*dim*dim, int64(2*i+1)*dim*dim
			s := ops.Linear(h, ops.Cast(g.Read(a), tensor.BF16))
			h = ops.Add(x, ops.Linear(s, ops.Cast(ops.Scale(g.Read(b), 0.3), tensor.BF16)))
		}
		if write {
			g.Write(slab, ops.Scale(g.Read(slab), 0.5))
		}
		store := plan.NewStore(dev)
		require.NoError(t, store.Set(slab, filled(slab.Type, 5)))
		p, err := plan.Compile([]graph.Value{h}, plan.Options{Device: dev, Store: store, Verify: true, NoFuse: noFuse})
		require.NoError(t, err)
		require.NoError(t, p.CheckArena())
		for _, l := range p.Launches() {
			if in := l.Node.In; len(in) > 0 && in[0].Valid() && in[0].DType() == tensor.F32 && l.Node.Out[0].DType == tensor.BF16 {
				casts++
			}
		}
		res, err := p.Run(t.Context(), plan.Feed{x.Node().In[0]: filled(tensor.T(tensor.F32, dim, dim), 1)})
		require.NoError(t, err)
		out = res.Tensor(h)
		require.NoError(t, p.Close())
		return out, casts
	}
	const whole = 2 * pairs * dim * dim
	want, plain := run(true, false, whole)
	require.Equal(t, 1+2*pairs, plain)
	got, casts := run(false, false, whole)
	require.Equal(t, 3, casts, "x, the plain casts, the scaled ones")
	require.Equal(t, want, got)
	got, casts = run(false, true, 100*whole)
	require.Equal(t, 3, casts)
	require.Equal(t, want, got)
}
