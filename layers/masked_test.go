package layers_test

import (
	"context"
	"fmt"
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/autograd"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/optim"
	"github.com/bitsandbyes/bitsandbyes/quant/prune"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// net is two layers with an activation between.
type net struct {
	Up   layers.Projection `name:"up"`
	Down layers.Projection `name:"down"`
}

func (n *net) Forward(x graph.Value) graph.Value { return n.Down.Forward(ops.Tanh(n.Up.Forward(x))) }

// prunedNet prunes up to 2:4 and leaves down alone.
func prunedNet(t *testing.T, store *plan.Store, load func(n *net)) (*net, []*layers.Masked) {
	src := layers.NewSource(layers.Options{Seed: 3})
	n := &net{Up: src.Linear("up", 20, 13, true), Down: src.Linear("down", 13, 4, false)}
	load(n)
	require.NoError(t, src.Load(store))
	masked, err := layers.Prune(n, store, func(path string, w *tensor.Tensor) (prune.Mask, error) {
		if path != "up" {
			return nil, nil
		}
		return prune.NM(prune.Magnitudes(w.Float32s()), w.Shape().Dim(1), 2, 4)
	})
	require.NoError(t, err)
	require.Len(t, masked, 1)
	require.Same(t, masked[0], n.Up)
	in, out := n.Up.Features()
	require.Equal(t, [2]int{20, 13}, [2]int{in, out})
	return n, masked
}

// TestMaskedZerosSurviveTraining takes steps with decay: the pruned weights stay exactly 0, the others move, and 2:4 holds.
func TestMaskedZerosSurviveTraining(t *testing.T) {
	for _, slab := range []bool{false, true} {
		for _, name := range []string{"adamw", "adamw8bit", "sgd"} {
			for _, keep := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/slab %v/keep %v", name, slab, keep), func(t *testing.T) {
					store := newStore(t)
					opt, err := optim.New(name, optim.Config{WeightDecay: 0.1, Momentum: 0.9})
					require.NoError(t, err)
					var group *optim.Group
					n, masked := prunedNet(t, store, func(n *net) {
						layers.SetTrainable(n, true)
						if slab {
							group, err = optim.NewGroup(layers.Trainable(n), optim.Options{Optimizer: opt})
							require.NoError(t, err)
						}
					})
					before, err := store.Get(masked[0].Weight)
					require.NoError(t, err)
					train(t, store, n, masked, opt, group, keep)
					after, err := store.Get(masked[0].Weight)
					require.NoError(t, err)
					a, b := after.Float32s(), before.Float32s()
					require.Equal(t, prune.Of(b), prune.Of(a))
					require.Equal(t, 0.5, prune.Of(a).Sparsity())
					require.NoError(t, prune.CheckNM(a, 20, 2, 4))
					for i, v := range a {
						require.False(t, math.Signbit(float64(v)) && v == 0, "a negative zero is a change")
						require.Equal(t, v == 0, v == b[i])
					}
				})
			}
		}
	}
}

func train(t *testing.T, store *plan.Store, n *net, masked []*layers.Masked, opt *optim.Optimizer, group *optim.Group, keep bool) {
	g := graph.New("step")
	x, y := g.Input("x", tensor.T(tensor.F32, 8, 20)), g.Input("y", tensor.T(tensor.F32, 8, 4))
	loss := ops.Mean(ops.Square(ops.Sub(n.Forward(x), y)))
	params := layers.Trainable(n)
	grads, err := autograd.Grad(loss, params...)
	require.NoError(t, err)
	compile := func(out graph.Value) *plan.Plan {
		p, err := plan.Compile([]graph.Value{out}, plan.Options{Store: store})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, p.Close()) })
		return p
	}
	update := g
	if group != nil {
		group.Accumulate(g, grads)
		update = graph.New("update")
	}
	lr := ops.Fill(update, tensor.F32, 0.01)
	if group == nil {
		opt.Update(g, params, grads, lr)
	} else {
		group.Apply(update, optim.Scalars{LR: lr})
		group.Zero(update)
	}
	if keep {
		layers.KeepMasks(update, masked...)
	}
	plans := []*plan.Plan{compile(loss)}
	if group != nil {
		plans = append(plans, compile(lr))
	}
	for step := range 12 {
		xs, ys := tensor.New(x.Type()), tensor.New(y.Type())
		for i := range xs.Type().Size() {
			xs.Set(i, math.Sin(float64(i*(step+1))))
		}
		for i := range ys.Type().Size() {
			ys.Set(i, math.Cos(float64(i*(step+2))))
		}
		for i, p := range plans {
			_, err := p.Run(context.Background(), []plan.Feed{{x: xs, y: ys}, nil}[i])
			require.NoError(t, err)
		}
	}
}

// TestKeepMasksUndoesForeignUpdates writes ones over whole weights, alone and in a slab: KeepMasks puts the zeros back.
func TestKeepMasksUndoesForeignUpdates(t *testing.T) {
	for _, slab := range []bool{false, true} {
		store := newStore(t)
		var group *optim.Group
		n, masked := prunedNet(t, store, func(n *net) {
			layers.SetTrainable(n, true)
			if slab {
				opt, err := optim.New("sgd", optim.Config{})
				require.NoError(t, err)
				group, err = optim.NewGroup(layers.Trainable(n), optim.Options{Optimizer: opt})
				require.NoError(t, err)
			}
		})
		want, err := store.Get(masked[0].Weight)
		require.NoError(t, err)
		down := n.Down.(*layers.Linear).Weight
		g := graph.New("ones")
		ones := func(v *graph.Var) { g.Write(v, ops.AddScalar(ops.Scale(g.Read(v), 0), 1)) }
		if slab {
			for _, v := range group.ParamSlabs() {
				ones(v)
			}
		} else {
			ones(masked[0].Weight)
			ones(down)
		}
		layers.KeepMasks(g, masked...)
		p, err := plan.Compile([]graph.Value{g.Writes()[0].Value}, plan.Options{Device: store.Device(), Store: store})
		require.NoError(t, err)
		_, err = p.Run(context.Background(), nil)
		require.NoError(t, err)
		require.NoError(t, p.Close())
		got, err := store.Get(masked[0].Weight)
		require.NoError(t, err)
		for i, v := range got.Float32s() {
			require.Equal(t, want.At(i) != 0, v == 1)
			require.True(t, v == 0 || v == 1)
		}
		rest, err := store.Get(down)
		require.NoError(t, err)
		require.Equal(t, float32(1), rest.Float32s()[0])
	}
}

func TestPruneRefuses(t *testing.T) {
	store := newStore(t)
	src := layers.NewSource(layers.Options{})
	n := &net{Up: src.Linear("up", 4, 2, false), Down: src.Linear("down", 2, 4, false)}
	require.NoError(t, src.Load(store))
	_, err := layers.Prune(n, store, func(string, *tensor.Tensor) (prune.Mask, error) { return prune.Mask{true}, nil })
	require.ErrorContains(t, err, "prune up: a mask of 1 elements for a weight f32[2,4]")
	require.IsType(t, &layers.Linear{}, n.Up)
}
