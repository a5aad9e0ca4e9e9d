package models

import (
	"errors"
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/autograd"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Model is a causal language model of any family: its layers and the output head. New builds one.
type Model struct {
	Body Body              `name:"."`
	Head layers.Projection `name:"lm_head"` // nil: the embedding, transposed

	config Config
	policy layers.Policy
}

// Body is a model without its head: a pointer to a struct of layers whose tags give the names of the family's checkpoints.
type Body interface {
	// Table is the token embedding (vocabulary, hidden), which a tied head reads too.
	Table() *graph.Var
	// Embed returns what enters the first layer, (B, T, hidden) in dtype d.
	Embed(in Inputs, d tensor.DType) graph.Value
	// Stack lists the layers in their order.
	Stack() []Layer
	// Final normalises what leaves the last layer, (B, T, hidden).
	Final(x graph.Value) graph.Value
}

// Layer is one layer of a model.
type Layer interface {
	// Forward maps x (B, T, hidden) to the same shape.
	Forward(x graph.Value, c layers.AttentionContext) graph.Value
}

// Config returns the architecture. A head that an adapter gave a model whose head was the embedding shows in it.
func (m *Model) Config() Config {
	c := m.config
	if c.Tied && m.Head != nil {
		c.Tied = len(layers.Params(&struct {
			Head layers.Projection `name:"lm_head"`
		}{m.Head})) == 0
	}
	return c
}

// Inputs are the values of one call.
type Inputs struct {
	Tokens   graph.Value        // i32 (B, T)
	Pos      graph.Value        // i32 (B, T): position in the document
	DocStart graph.Value        // i32 (B, T): where the token's document begins in the row; absent = one document a row
	Bounds   ops.DocumentBounds // of the documents of DocStart; zero = nothing is known of them
	// Single says that every row is one document from its first token, and padding after it. Attention then does without DocStart: what
	// padding sees of the document changes nothing, since nothing is made of it.
	Single bool
	Random layers.Random // for dropout; zero = none
	Cache  *Cache        // generation
	Start  graph.Value   // i32 (B): tokens in the cache before this call; with Cache only

	// Checkpoint says of each block, from 0, whether its activations are computed again in the backward sweep instead of kept; nil =
	// every block keeps its own.
	Checkpoint func(block int) bool
	// Embedded, if set, maps the embeddings (B, T, hidden) to what enters the first block: the place of noise such as layers.NEFTune.
	Embedded func(x graph.Value) graph.Value
	// Routes, if set, notes where the routers of experts send tokens: one entry for each layer that has experts.
	Routes *layers.Routes
	Eager  bool // round 16-bit attention where transformers does, see layers.AttentionContext
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
func (m *Model) NewCache(batch, capacity int) *Cache {
	c := &Cache{}
	for i := range m.Body.Stack() {
		c.Layers = append(c.Layers, layers.NewKVCache(fmt.Sprintf("cache.%d", i), m.policy.ComputeType(), batch, m.config.KVHeads, capacity, m.config.HeadDim))
	}
	return c
}

// CacheServes reports whether keys that were cached in a sequence of some length are those of a longer one. Where rotary positions
// depend on the length (dynamic and longrope scaling) they are not once it crosses a border: the sequence has to be computed again
// from its beginning.
func (m *Model) CacheServes(length, longer int) bool {
	return m.config.Rope.sameFor(length, longer) && m.config.LocalRope.sameFor(length, longer)
}

// Hidden returns the normalised activations before the head, (B, T, hidden) in the compute dtype.
func (m *Model) Hidden(in Inputs) graph.Value {
	states := m.HiddenStates(in)
	return states[len(states)-1]
}

// HiddenStates returns the activations (B, T, hidden) that enter each layer, the first being the embedding, and last those of Hidden: one
// more than the model has layers.
func (m *Model) HiddenStates(in Inputs) []graph.Value {
	if !in.Tokens.Valid() {
		return []graph.Value{in.Tokens}
	}
	g := in.Tokens.Graph()
	if in.Pos.Absent() {
		return []graph.Value{g.Fail("model", []graph.Value{in.Tokens}, errors.New("Inputs.Pos is absent: give the position of each token in its document, i32 like Tokens; for rows of one document ops.Iota(g, tokens.Type(), 1)"))}
	}
	defer g.Scope("model")()
	contexts := m.contexts(in)
	x := within(g, "embed_tokens", func() graph.Value { return m.Body.Embed(in, m.policy.ComputeType()) })
	if in.Embedded != nil {
		x = in.Embedded(x)
	}
	var states []graph.Value
	for i, l := range m.Body.Stack() {
		states = append(states, x)
		x = m.layer(g, i, l, x, contexts[i], in)
	}
	return append(states, within(g, "norm", func() graph.Value { return m.Body.Final(x) }))
}

// contexts is what the attention of each layer takes: layers of one rotary embedding share its tables.
func (m *Model) contexts(in Inputs) []layers.AttentionContext {
	out := make([]layers.AttentionContext, len(m.Body.Stack()))
	docs := in.DocStart
	if in.Single {
		docs = graph.Value{}
	}
	var full, local layers.AttentionContext
	for i := range out {
		c := &full
		if m.config.window(i) > 0 && m.config.LocalRope.Theta != 0 {
			c = &local
		}
		if r := m.config.rope(i); r.Theta != 0 && c.Cos.Absent() {
			c.Cos, c.Sin = r.tables(in, m.config.HeadDim)
		}
		out[i] = layers.AttentionContext{Cos: c.Cos, Sin: c.Sin, DocStart: docs, Bounds: in.Bounds, Start: in.Start, Routes: in.Routes, Eager: in.Eager}
		if in.Cache != nil {
			out[i].Cache = in.Cache.Layers[i]
		}
	}
	return out
}

// within builds in a scope.
func within(g *graph.Graph, scope string, f func() graph.Value) graph.Value {
	defer g.Scope(scope)()
	return f()
}

func (m *Model) layer(g *graph.Graph, i int, l Layer, x graph.Value, ctx layers.AttentionContext, in Inputs) graph.Value {
	defer g.Scope(fmt.Sprintf("layers.%d", i))()
	if in.Checkpoint == nil || !in.Checkpoint(i) {
		return l.Forward(x, ctx)
	}
	autograd.Checkpoint(g, func() { x = l.Forward(x, ctx) })
	return x
}

// TiedTable implements layers.Tied.
func (m *Model) TiedTable() *graph.Var {
	if m.Head != nil {
		return nil
	}
	return m.Body.Table()
}
