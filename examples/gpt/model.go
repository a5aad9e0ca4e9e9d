package main

import (
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// gpt is a decoder-only transformer with rotary positions. Tags name the weights.
type gpt struct {
	Embed  *layers.Embedding `name:"embed"`
	Blocks []*block          `name:"blocks"`
	Norm   *layers.RMSNorm   `name:"norm"`
	Head   layers.Projection `name:"head"`

	headDim int
}

// block is x + attention(norm(x)), then x + mlp(norm(x)).
type block struct {
	Norm1 *layers.RMSNorm   `name:"norm1"`
	Attn  *layers.Attention `name:"attn"`
	Norm2 *layers.RMSNorm   `name:"norm2"`
	MLP   *layers.GatedMLP  `name:"mlp"`
}

func newGPT(src layers.Source, s sizes, vocab int) *gpt {
	const eps = 1e-5
	src = src.WithLinear(layers.Normal(0.02))
	m := &gpt{
		Embed:   layers.NewEmbedding(src.Sub("embed"), vocab, s.Dim, layers.Normal(0.02)),
		Norm:    layers.NewRMSNorm(src.Sub("norm"), s.Dim, eps),
		Head:    src.Linear("head", s.Dim, vocab, false),
		headDim: s.Dim / s.Heads,
	}
	for i := range s.Layers {
		b := src.Sub("blocks.%d", i)
		m.Blocks = append(m.Blocks, &block{
			Norm1: layers.NewRMSNorm(b.Sub("norm1"), s.Dim, eps),
			Attn:  layers.NewAttention(b.Sub("attn"), s.Dim, s.Heads, s.Heads, m.headDim, false),
			Norm2: layers.NewRMSNorm(b.Sub("norm2"), s.Dim, eps),
			MLP:   layers.NewGatedMLP(b.Sub("mlp"), s.Dim, 3*s.Dim, false),
		})
	}
	layers.SetTrainable(m, true)
	return m
}

// forward maps tokens (B, T) to the scores of the next character (B, T, vocabulary).
func (m *gpt) forward(tokens graph.Value) graph.Value {
	g := tokens.Graph()
	pos := ops.Iota(g, tensor.T(tensor.I32, tokens.Shape().Dims()...), 1)
	freq, err := tensor.Of(ops.InvFreq(10000, m.headDim))
	if err != nil {
		return g.Fail("rope", nil, err)
	}
	cos, sin := ops.RopeTables(pos, g.Const(freq))
	x := m.Embed.Forward(tokens)
	for _, b := range m.Blocks {
		x = ops.Add(x, b.Attn.Forward(b.Norm1.Forward(x), layers.AttentionContext{Cos: cos, Sin: sin}))
		x = ops.Add(x, b.MLP.Forward(b.Norm2.Forward(x)))
	}
	return m.Head.Forward(m.Norm.Forward(x))
}
