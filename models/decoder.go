package models

import (
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Decoder is a Backbone under the name that most families give it.
type Decoder struct {
	*Backbone `name:"model"`
}

// Backbone is a model without its head, of token embedding, layers and a norm: the Body of most families.
type Backbone struct {
	Embedding *layers.Embedding `name:"embed_tokens"`
	Layers    []Layer           `name:"layers"`
	Norm      *layers.RMSNorm   `name:"norm"`

	// Scale multiplies the embedding, rounded to the compute dtype (Gemma); 0 = 1.
	Scale float64
}

// Table implements Body.
func (b *Backbone) Table() *graph.Var { return b.Embedding.Weight }

// Embed implements Body.
func (b *Backbone) Embed(in Inputs, d tensor.DType) graph.Value {
	x := ops.Cast(b.Embedding.Forward(in.Tokens), d)
	if b.Scale == 0 || !x.Valid() {
		return x
	}
	return ops.Scale(x, b.Scale)
}

// Stack implements Body.
func (b *Backbone) Stack() []Layer { return b.Layers }

// Final implements Body.
func (b *Backbone) Final(x graph.Value) graph.Value { return b.Norm.Forward(x) }

// newDecoder declares embedding, norm and, with layer, each layer from a source that stands at its name.
func newDecoder(c Config, src layers.Source, norm func(src layers.Source, dim int, eps float32) *layers.RMSNorm,
	layer func(i int, src layers.Source) Layer) *Decoder {
	body := src.Sub("model")
	b := &Backbone{
		Embedding: layers.NewEmbedding(body.Sub("embed_tokens"), c.Vocab, c.Hidden, layers.Normal(c.InitStd)),
		Norm:      norm(body.Sub("norm"), c.Hidden, c.Eps),
	}
	for i := range c.Layers {
		if src.Err() != nil {
			break // the weights are not this configuration's: more layers would only repeat it
		}
		b.Layers = append(b.Layers, layer(i, body.Sub("layers.%d", i)))
	}
	return &Decoder{b}
}

// Block is the layer of most families, pre-norm: x + attention(norm(x)), then x + mlp(norm(x)).
type Block struct {
	Norm1 *layers.RMSNorm `name:"input_layernorm"`
	Attn  Mixer           `name:"self_attn"`
	Norm2 *layers.RMSNorm `name:"post_attention_layernorm"`
	MLP   FeedForward     `name:"mlp"`
}

// Mixer is the attention of a layer: *layers.Attention, *layers.FusedAttention.
type Mixer interface {
	// Forward maps x (B, T, hidden) to the same shape, each token seeing those that the context lets it.
	Forward(x graph.Value, c layers.AttentionContext) graph.Value
}

// FeedForward is the part of a layer that takes tokens one by one: *layers.GatedMLP, *layers.FusedMLP.
type FeedForward interface {
	// Forward maps x (B, T, hidden) to the same shape.
	Forward(x graph.Value) graph.Value
}

// Forward implements Layer.
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

// newBlock declares a Block around an attention and an MLP.
func newBlock(c Config, src layers.Source, attn Mixer, mlp FeedForward) *Block {
	return &Block{
		Norm1: layers.NewRMSNorm(src.Sub("input_layernorm"), c.Hidden, c.Eps),
		Attn:  attn,
		Norm2: layers.NewRMSNorm(src.Sub("post_attention_layernorm"), c.Hidden, c.Eps),
		MLP:   mlp,
	}
}

// newAttention declares the attention of a layer with separate projections.
func newAttention(c Config, layer int, src layers.Source) *layers.Attention {
	qkv := c.QKVBias || c.AttentionBias
	return &layers.Attention{
		Q:              src.Linear("q_proj", c.Hidden, c.Heads*c.HeadDim, qkv),
		K:              src.Linear("k_proj", c.Hidden, c.KVHeads*c.HeadDim, qkv),
		V:              src.Linear("v_proj", c.Hidden, c.KVHeads*c.HeadDim, qkv),
		O:              src.Linear("o_proj", c.Heads*c.HeadDim, c.Hidden, c.AttentionBias),
		AttentionShape: c.attention(layer),
	}
}

// newGatedMLP declares a gated MLP with the activation of the configuration.
func newGatedMLP(c Config, src layers.Source) (*layers.GatedMLP, error) {
	act, err := c.activation()
	if err != nil {
		return nil, err
	}
	m := layers.NewGatedMLP(src, c.Hidden, c.Intermediate, c.MLPBias)
	m.Act = act
	return m, nil
}

// newGatedDecoder is a decoder of Blocks with a gated MLP, whose attentions attend declares.
func newGatedDecoder(c Config, src layers.Source, attend func(i int, src layers.Source) Mixer) (Body, error) {
	var failed error
	d := newDecoder(c, src, layers.NewRMSNorm, func(i int, src layers.Source) Layer {
		attn := attend(i, src.Sub("self_attn"))
		mlp, err := newGatedMLP(c, src.Sub("mlp"))
		if err != nil {
			failed = err
		}
		return newBlock(c, src, attn, mlp)
	})
	return d, failed
}
