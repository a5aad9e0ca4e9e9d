package models_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/autograd"
	"github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/models"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// TestDocumentsOnce: the documents of packed rows are listed once a step for all layers and both directions, and once more where the first
// block is computed again.
func TestDocumentsOnce(t *testing.T) {
	for _, c := range []struct {
		compute   tensor.DType
		recompute int
		want      int
	}{{tensor.BF16, 0, 1}, {tensor.BF16, 3, 2}, {tensor.F32, 0, 0}} {
		dev := cpu.New(cpu.Options{Threads: 1})
		src := layers.NewSource(layers.Options{Seed: 3, Policy: layers.Policy{Compute: c.compute}})
		model, err := models.New(models.Config{Vocab: 50, Hidden: 32, Intermediate: 48, Layers: 3, Heads: 4, KVHeads: 2, HeadDim: 8, MaxPositions: 16, Eps: 1e-5,
			Rope: models.Rope{Theta: 10000}, Tied: true, InitStd: 0.5, Pad: -1}, src)
		require.NoError(t, err)
		layers.SetTrainable(model, true)
		g := graph.New("documents")
		typ := tensor.T(tensor.I32, 2, 9)
		in := models.Inputs{Tokens: g.Input("tokens", typ), Pos: g.Input("pos", typ), DocStart: g.Input("doc", typ),
			Bounds: ops.DocumentBounds{Most: 7, Longest: 5}, Checkpoint: models.FirstBlocks(c.recompute)}
		loss := ops.Sum(model.TokenLoss(model.Hidden(in), g.Input("targets", typ)))
		grads, err := autograd.Grad(loss, layers.Trainable(model)...)
		require.NoError(t, err)
		p, err := plan.Compile(append([]graph.Value{loss}, grads...), plan.Options{Device: dev})
		require.NoError(t, err)
		lists := 0
		for _, l := range p.Launches() {
			if _, ok := l.Node.Op.(ops.Documents); ok && !l.Copy {
				lists++
			}
		}
		require.Equal(t, c.want, lists, "%v, %d blocks computed again", c.compute, c.recompute)
		for _, n := range g.Nodes() {
			if a, ok := n.Op.(ops.AttentionGrad); ok && c.want > 0 {
				require.Equal(t, int32(9), a.Longest)
				require.Equal(t, tensor.T(tensor.I32, 9), n.In[10].Type(), "room for seven documents, made even")
			}
		}
		require.NoError(t, p.Close())
		require.NoError(t, dev.Close())
	}
}
