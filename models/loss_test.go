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

// TestLossInParts: capped logits that are computed for some tokens at a time give the loss and the gradients of those computed at once, in
// less memory.
func TestLossInParts(t *testing.T) {
	c := Config{Type: "gemma2", Vocab: 3000, Hidden: 16, Intermediate: 8, Layers: 1, Heads: 2, KVHeads: 1, HeadDim: 8, MaxPositions: 64, Eps: 1e-6,
		Act: gemmaAct, Rope: Rope{Theta: 1e4}, LogitCap: 3, Tied: true, InitStd: 0.5, Pad: -1}
	src := layers.NewSource(layers.Options{Seed: 5})
	m, err := New(c, src)
	require.NoError(t, err)
	layers.SetTrainable(m, true)
	store := plan.NewStore(cpu.New(cpu.Options{Threads: 1}))
	defer func() { require.NoError(t, store.Close()) }()
	require.NoError(t, src.Load(store))
	const rows, tokens = 2, 50
	typ := tensor.T(tensor.I32, rows, tokens)
	ids, pos, next := tensor.New(typ), tensor.New(typ), tensor.New(typ)
	for i := range rows * tokens {
		ids.Set(i, float64(i*53%3000))
		pos.Set(i, float64(i%tokens))
		next.Set(i, float64(i*97%3000))
	}
	next.Set(7, -100)
	var peaks []int64
	run := func(most int) [][]float32 {
		g := graph.New("loss")
		in := Inputs{Tokens: g.Const(ids), Pos: g.Const(pos)}
		targets := g.Const(next)
		h := m.Hidden(in)
		w, _ := m.headWeight(h)
		out := m.inParts(h, w, targets, most, func(logits, targets graph.Value) []graph.Value {
			return []graph.Value{ops.TokenLoss(logits, targets), ops.TokenHits(logits, targets)}
		})
		grads, err := autograd.Grad(ops.MeanLoss(out[0], targets), layers.Trainable(m)...)
		require.NoError(t, err)
		vals := append(out, grads...)
		p, err := plan.Compile(vals, plan.Options{Device: store.Device(), Store: store})
		require.NoError(t, err)
		defer func() { require.NoError(t, p.Close()) }()
		peaks = append(peaks, p.Report().Arena)
		res, err := p.Run(t.Context(), nil)
		require.NoError(t, err)
		var got [][]float32
		for _, v := range vals {
			got = append(got, res.Tensor(v).Float32s())
		}
		return got
	}
	whole, parts := run(1<<30), run(3000*7)
	for i := range whole {
		require.InDeltaSlice(t, whole[i], parts[i], 1e-5)
	}
	require.Zero(t, parts[0][7])
	require.Less(t, peaks[1], peaks[0]/2, "bytes at the peak: %d in parts, %d at once", peaks[1], peaks[0])
	t.Logf("bytes at the peak: %d in parts, %d at once", peaks[1], peaks[0])
}
