package models

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/autograd"
	"github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// TestSmoothedLoss compares label smoothing without logits, and of capped logits, with the loss over classes on the logits.
func TestSmoothedLoss(t *testing.T) {
	for name, limit := range map[string]float64{"plain": 0, "capped": 3} {
		t.Run(name, func(t *testing.T) {
			c := Config{Type: "gemma2", Vocab: 40, Hidden: 16, Intermediate: 8, Layers: 1, Heads: 2, KVHeads: 1, HeadDim: 8, MaxPositions: 64, Eps: 1e-6,
				Act: gemmaAct, Rope: Rope{Theta: 1e4}, LogitCap: limit, Tied: true, InitStd: 0.5, Pad: -1}
			src := layers.NewSource(layers.Options{Seed: 5})
			m, err := New(c, src)
			require.NoError(t, err)
			layers.SetTrainable(m, true)
			store := plan.NewStore(cpu.New(cpu.Options{Threads: 1}))
			defer func() { require.NoError(t, store.Close()) }()
			require.NoError(t, src.Load(store))
			typ := tensor.T(tensor.I32, 2, 9)
			ids, pos, next := tensor.New(typ), tensor.New(typ), tensor.New(typ)
			for i := range typ.Size() {
				ids.Set(i, float64(i*7%40))
				pos.Set(i, float64(i%9))
				next.Set(i, float64(i*11%40))
			}
			next.Set(4, -100)
			run := func(loss func(h, targets graph.Value) graph.Value) (out [][]float32) {
				g := graph.New("loss")
				l := loss(m.Hidden(Inputs{Tokens: g.Const(ids), Pos: g.Const(pos)}), g.Const(next))
				grads, err := autograd.Grad(l, layers.Trainable(m)...)
				require.NoError(t, err)
				vals := append([]graph.Value{l}, grads...)
				p, err := plan.Compile(vals, plan.Options{Device: store.Device(), Store: store})
				require.NoError(t, err)
				res, err := p.Run(t.Context(), nil)
				require.NoError(t, err)
				for _, v := range vals {
					out = append(out, res.Tensor(v).Float32s())
				}
				require.NoError(t, p.Close())
				return out
			}
			got := run(func(h, targets graph.Value) graph.Value { return ops.Sum(m.SmoothedLoss(h, targets, 0.2)) })
			want := run(func(h, targets graph.Value) graph.Value {
				return ops.ClassLoss(ops.Reshape(m.Logits(h), 18, 40), ops.Reshape(targets, 18), ops.ClassLossOptions{Reduction: ops.LossSum, Smoothing: 0.2})
			})
			for i := range want {
				require.InDeltaSlice(t, toFloat64(want[i]), toFloat64(got[i]), 2e-4)
			}
		})
	}
}

func toFloat64(x []float32) []float64 {
	out := make([]float64, len(x))
	for i, v := range x {
		out[i] = float64(v)
	}
	return out
}
