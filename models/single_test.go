package models_test

import (
	"context"
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

// TestSingleDocuments: where a row is one document and padding, Single changes no bit of the loss and of the gradients, and attention does without
// the input that tells documents apart.
func TestSingleDocuments(t *testing.T) {
	want := singleRun(t, false)
	got := singleRun(t, true)
	require.Equal(t, len(want), len(got))
	for i := range want {
		require.Equal(t, want[i].Bytes(), got[i].Bytes(), "output %d", i)
	}
}

// singleRun returns the loss and every gradient for two rows of 5 and 9 tokens, padded to 9.
func singleRun(t *testing.T, single bool) []*tensor.Tensor {
	dev := cpu.New(cpu.Options{Threads: 1})
	store := plan.NewStore(dev)
	src := layers.NewSource(layers.Options{Seed: 3})
	model, err := models.New(models.Config{Vocab: 50, Hidden: 32, Intermediate: 48, Layers: 2, Heads: 4, KVHeads: 2, HeadDim: 8, MaxPositions: 16, Eps: 1e-5,
		Rope: models.Rope{Theta: 10000}, Tied: true, InitStd: 0.5, Pad: -1}, src)
	require.NoError(t, err)
	layers.SetTrainable(model, true)
	g := graph.New("single")
	typ := tensor.T(tensor.I32, 2, 9)
	in := models.Inputs{Tokens: g.Input("tokens", typ), Pos: g.Input("pos", typ), DocStart: g.Input("doc", typ), Single: single}
	targets := g.Input("targets", typ)
	loss := ops.Sum(model.TokenLoss(model.Hidden(in), targets))
	params := layers.Trainable(model)
	grads, err := autograd.Grad(loss, params...)
	require.NoError(t, err)
	outs := append([]graph.Value{loss}, grads...)
	p, err := plan.Compile(outs, plan.Options{Device: dev, Store: store})
	require.NoError(t, err)
	require.NoError(t, src.Load(store))
	feed := plan.Feed{in.Tokens: rowsOf(typ, func(r, i int) int { return (7*r + 3*i) % 50 }), targets: rowsOf(typ, func(r, i int) int {
		if i >= 4+4*r {
			return -100
		}
		return (11*r + i) % 50
	}), in.Pos: rowsOf(typ, func(r, i int) int { return i - docOf(r, i) }), in.DocStart: rowsOf(typ, docOf)}
	res, err := p.Run(context.Background(), feed)
	require.NoError(t, err)
	var vals []*tensor.Tensor
	for _, v := range outs {
		vals = append(vals, res.Tensor(v))
	}
	return vals
}

// docOf is where the document of token i of row r begins: padding is one of its own.
func docOf(r, i int) int {
	if n := 5 + 4*r; i >= n {
		return n
	}
	return 0
}

func rowsOf(typ tensor.Type, f func(r, i int) int) *tensor.Tensor {
	x := tensor.New(typ)
	for r := range 2 {
		for i := range 9 {
			x.Set(r*9+i, float64(f(r, i)))
		}
	}
	return x
}
