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

// TestCastSlabs: the variables of a slab that a step casts are cast at once, also in a step that writes the slab; few of them one by one.
func TestCastSlabs(t *testing.T) {
	for _, c := range []struct {
		used, want int // variables read, casts launched
	}{{6, 1}, {5, 1}, {3, 3}} {
		t.Run(fmt.Sprint(c.used), func(t *testing.T) {
			dev := cpu.New(cpu.Options{Threads: 1})
			slab := graph.NewVar("slab", tensor.T(tensor.F32, 6*256))
			var results [2][]byte
			for i, noFuse := range []bool{true, false} {
				g := graph.New("slab")
				x := g.Input("x", tensor.T(tensor.BF16, 3, 16))
				var y graph.Value
				for k := range c.used {
					w := graph.NewVar(fmt.Sprint("w", k), tensor.T(tensor.F32, 16, 16))
					w.Slab, w.Offset = slab, int64(k*256)
					p := ops.Linear(x, ops.Cast(g.Read(w), tensor.BF16))
					if y.Absent() {
						y = p
					} else {
						y = ops.Add(ops.ReLU(y), p)
					}
				}
				g.Write(slab, ops.Add(g.Read(slab), ops.Scalar(g.Read(slab), 1)))
				require.NoError(t, g.Err())
				store := plan.NewStore(dev)
				require.NoError(t, store.Set(slab, filled(slab.Type, 3)))
				p, err := plan.Compile([]graph.Value{y}, plan.Options{Device: dev, Store: store, Verify: true, NoFuse: noFuse, Exact: true})
				require.NoError(t, err)
				casts := 0
				for _, l := range p.Launches() {
					if l.Node.Op.Name() == "cast" {
						casts++
					}
				}
				if !noFuse {
					require.Equal(t, c.want, casts)
				}
				for range 2 {
					res, err := p.Run(t.Context(), plan.Feed{x: filled(x.Type(), 1)})
					require.NoError(t, err)
					results[i] = append(results[i], res.Tensor(y).Bytes()...)
				}
				after, err := store.Get(slab)
				require.NoError(t, err)
				results[i] = append(results[i], after.Bytes()...)
				require.NoError(t, p.Close())
				require.NoError(t, store.Close())
			}
			require.Equal(t, results[0], results[1])
		})
	}
}

// TestCastSlabsRecomputed: where blocks are recomputed large weights are cast block by block, and small ones at once as ever.
func TestCastSlabsRecomputed(t *testing.T) {
	dev := cpu.New(cpu.Options{Threads: 1})
	casts := func(dim int, again bool) (n int) {
		const parts = 6
		slab := graph.NewVar("slab", tensor.T(tensor.F32, parts*dim*dim))
		g := graph.New("blocks")
		x := g.Input("x", tensor.T(tensor.BF16, 1, dim))
		var vars []*graph.Var
		for k := range parts {
			w := graph.NewVar(fmt.Sprint("w", k), tensor.T(tensor.F32, dim, dim))
			w.Slab, w.Offset = slab, int64(k*dim*dim)
			vars = append(vars, w)
		}
		layers := func(y graph.Value, read func(*graph.Var) graph.Value) graph.Value {
			for k := range parts {
				y = ops.Linear(y, ops.Cast(read(vars[k]), tensor.BF16))
			}
			return y
		}
		y := layers(x, g.Read)
		if again { // as autograd does for a region
			undo, first := g.InPhase(graph.Recompute), y
			y = layers(y, func(v *graph.Var) graph.Value { return ops.After(g.Read(v), first) })
			undo()
		}
		p, err := plan.Compile([]graph.Value{y}, plan.Options{Device: dev, Verify: true})
		require.NoError(t, err)
		for _, l := range p.Launches() {
			if l.Node.Op.Name() == "cast" {
				n++
			}
		}
		require.NoError(t, p.Close())
		return n
	}
	require.Equal(t, []int{1, 12, 1, 7}, []int{casts(520, false), casts(520, true), casts(16, false), casts(16, true)})
}
