package models

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/autograd"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Llama is the architecture of Llama 1 to 3 (Touvron et al. 2023): pre-norm blocks of rotary grouped-query attention and a
// gated MLP. Field names are those of Hugging Face checkpoints.
type Llama struct {
	Backbone *Backbone         `name:"model"`
	Head     layers.Projection `name:"lm_head"` // nil: the embedding, transposed

	config Config
	policy layers.Policy
}

// Backbone is a Llama without its head.
type Backbone struct {
	Embed  *layers.Embedding `name:"embed_tokens"`
	Blocks []*Block          `name:"layers"`
	Norm   *layers.RMSNorm   `name:"norm"`
}

// Block is one layer: x + attention(norm(x)), then x + mlp(norm(x)).
type Block struct {
	Norm1 *layers.RMSNorm   `name:"input_layernorm"`
	Attn  *layers.Attention `name:"self_attn"`
	Norm2 *layers.RMSNorm   `name:"post_attention_layernorm"`
	MLP   *layers.GatedMLP  `name:"mlp"`
}

// NewLlama builds the model of a configuration from a source of weights.
func NewLlama(c Config, src layers.Source) (*Llama, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	m := &Llama{config: c, policy: src.Policy()}
	src = src.WithLinear(layers.Normal(c.InitStd))
	body := src.Sub("model")
	m.Backbone = &Backbone{
		Embed: layers.NewEmbedding(body.Sub("embed_tokens"), c.Vocab, c.Hidden, layers.Normal(c.InitStd)),
		Norm:  layers.NewRMSNorm(body.Sub("norm"), c.Hidden, c.Eps),
	}
	for i := range c.Layers {
		if src.Err() != nil {
			break // the weights are not this configuration's: more layers would only repeat it
		}
		m.Backbone.Blocks = append(m.Backbone.Blocks, newBlock(c, body.Sub("layers.%d", i)))
	}
	if !c.Tied {
		m.Head = src.Head("lm_head", layers.Normal(c.InitStd), c.Hidden, c.Vocab)
	}
	return m, src.Err()
}

func newBlock(c Config, src layers.Source) *Block {
	b := &Block{
		Norm1: layers.NewRMSNorm(src.Sub("input_layernorm"), c.Hidden, c.Eps),
		Attn:  layers.NewAttention(src.Sub("self_attn"), c.Hidden, c.Heads, c.KVHeads, c.HeadDim, c.AttentionBias),
		Norm2: layers.NewRMSNorm(src.Sub("post_attention_layernorm"), c.Hidden, c.Eps),
		MLP:   layers.NewGatedMLP(src.Sub("mlp"), c.Hidden, c.Intermediate, c.MLPBias),
	}
	b.Attn.Interleaved = c.Rope.Interleaved
	return b
}

// Config returns the architecture.
func (m *Llama) Config() Config { return m.config }

// Inputs are the values of one call.
type Inputs struct {
	Tokens   graph.Value   // i32 (B, T)
	Pos      graph.Value   // i32 (B, T): position in the document
	DocStart graph.Value   // i32 (B, T): where the token's document begins in the row; absent = one document a row
	Random   layers.Random // for dropout; zero = none
	Cache    *Cache        // generation
	Start    graph.Value   // i32 (B): tokens in the cache before this call; with Cache only

	// Checkpoint says of each block, from 0, whether its activations are computed again in the backward sweep instead of kept; nil =
	// every block keeps its own.
	Checkpoint func(block int) bool
	// Embedded, if set, maps the embeddings (B, T, hidden) to what enters the first block: the place of noise such as layers.NEFTune.
	Embedded func(x graph.Value) graph.Value
	Eager    bool // round 16-bit attention where transformers does, see layers.AttentionContext
}

// FirstBlocks marks the first n blocks for Inputs.Checkpoint, nil for none. The first blocks are those to recompute: their backward
// sweep comes last, when the activations that later blocks keep are gone.
func FirstBlocks(n int) func(block int) bool {
	if n <= 0 {
		return nil
	}
	return func(block int) bool { return block < n }
}

// AllBlocks marks every block for Inputs.Checkpoint if on.
func AllBlocks(on bool) func(block int) bool {
	if !on {
		return nil
	}
	return func(int) bool { return true }
}

// Cache holds the keys and values of every layer.
type Cache struct{ Layers []*layers.KVCache }

// NewCache declares caches for a batch of rows of at most capacity tokens.
func (m *Llama) NewCache(batch, capacity int) *Cache {
	c := &Cache{}
	for i := range m.Backbone.Blocks {
		c.Layers = append(c.Layers, layers.NewKVCache(fmt.Sprintf("cache.%d", i), m.policy.ComputeType(), batch, m.config.KVHeads, capacity, m.config.HeadDim))
	}
	return c
}

// Hidden returns the normalised activations before the head, (B, T, hidden) in the compute dtype.
func (m *Llama) Hidden(in Inputs) graph.Value {
	states := m.HiddenStates(in)
	return states[len(states)-1]
}

// HiddenStates returns the activations (B, T, hidden) that enter each block, the first being the embedding, and last those of Hidden: one
// more than the model has layers.
func (m *Llama) HiddenStates(in Inputs) []graph.Value {
	if !in.Tokens.Valid() {
		return []graph.Value{in.Tokens}
	}
	g := in.Tokens.Graph()
	defer g.Scope("model")()
	ctx := layers.AttentionContext{DocStart: in.DocStart, Start: in.Start, Eager: in.Eager}
	ctx.Cos, ctx.Sin = m.config.Rope.tables(in.Pos, m.config.HeadDim)
	x := within(g, "embed_tokens", func() graph.Value { return ops.Cast(m.Backbone.Embed.Forward(in.Tokens), m.policy.ComputeType()) })
	if in.Embedded != nil {
		x = in.Embedded(x)
	}
	var states []graph.Value
	for i, b := range m.Backbone.Blocks {
		if in.Cache != nil {
			ctx.Cache = in.Cache.Layers[i]
		}
		states = append(states, x)
		x = m.block(g, i, b, x, ctx, in)
	}
	return append(states, within(g, "norm", func() graph.Value { return m.Backbone.Norm.Forward(x) }))
}

// within builds in a scope.
func within(g *graph.Graph, scope string, f func() graph.Value) graph.Value {
	defer g.Scope(scope)()
	return f()
}

func (m *Llama) block(g *graph.Graph, i int, b *Block, x graph.Value, ctx layers.AttentionContext, in Inputs) graph.Value {
	defer g.Scope(fmt.Sprintf("layers.%d", i))()
	if in.Checkpoint == nil || !in.Checkpoint(i) {
		return b.Forward(x, ctx)
	}
	autograd.Checkpoint(g, func() { x = b.Forward(x, ctx) })
	return x
}

// Forward maps x (B, T, hidden) to the same shape.
func (b *Block) Forward(x graph.Value, c layers.AttentionContext) graph.Value {
	if !x.Valid() {
		return x
	}
	g := x.Graph()
	y := within(g, "input_layernorm", func() graph.Value { return b.Norm1.Forward(x) })
	x = within(g, "self_attn", func() graph.Value { return ops.Add(x, b.Attn.Forward(y, c)) })
	y = within(g, "post_attention_layernorm", func() graph.Value { return b.Norm2.Forward(x) })
	return within(g, "mlp", func() graph.Value { return ops.Add(x, b.MLP.Forward(y)) })
}

// Logits maps hidden activations (..., hidden) to float32 scores (..., vocabulary).
func (m *Llama) Logits(h graph.Value) graph.Value {
	if !h.Valid() {
		return h
	}
	defer h.Graph().Scope("lm_head")()
	if m.Head != nil {
		return ops.Cast(m.Head.Forward(h), tensor.F32)
	}
	return ops.Cast(ops.Linear(h, ops.Cast(h.Graph().Read(m.Backbone.Embed.Weight), h.DType())), tensor.F32)
}

// TokenLoss returns the cross-entropy (B, T) in float32 of the scores at each position against targets i32 (B, T): the token
// that follows, or a negative number where none counts. The full logits never exist.
func (m *Llama) TokenLoss(h, targets graph.Value) graph.Value {
	if !h.Valid() {
		return h
	}
	defer h.Graph().Scope("lm_head")()
	w, ok := m.headWeight(h)
	if !ok { // an adapted or quantized head
		return ops.TokenLoss(m.Logits(h), targets)
	}
	return ops.LinearCrossEntropy(h, w, targets)
}

func (m *Llama) headWeight(h graph.Value) (graph.Value, bool) {
	v := m.Backbone.Embed.Weight
	if m.Head != nil {
		l, ok := m.Head.(*layers.Linear)
		if !ok || l.Bias != nil {
			return graph.Value{}, false
		}
		v = l.Weight
	}
	return ops.Cast(h.Graph().Read(v), h.DType()), true
}
