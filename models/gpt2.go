package models

import (
	"fmt"
	"strings"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// gpt2 is GPT-2 (Radford et al. 2019): learned positions, LayerNorm, a plain MLP, and linear layers stored (in, out).
var gpt2 = family{
	model:    "gpt2",
	class:    "GPT2LMHeadModel",
	defaults: Config{Tied: true},
	learned:  true,
	buffers:  []string{".attn.bias", ".attn.masked_bias"}, // causal masks
	parse:    parseGPT2,
	build: func(c Config, src layers.Source) (Body, error) {
		if !src.Has("transformer.wte.weight") && src.Has("wte.weight") { // saved without its head
			src = src.WithNames(func(name string) string { return strings.TrimPrefix(name, "transformer.") })
		}
		return newGPT2(c, src)
	},
	keys: func(c Config, out map[string]any) {
		for _, k := range []string{"hidden_act", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
			"num_key_value_heads", "head_dim", "max_position_embeddings", "rms_norm_eps", "attention_dropout"} {
			delete(out, k)
		}
		for k, v := range map[string]any{"activation_function": c.Act, "n_embd": c.Hidden, "n_inner": c.Intermediate, "n_layer": c.Layers,
			"n_head": c.Heads, "n_positions": c.MaxPositions, "layer_norm_epsilon": float64(c.Eps), "attn_pdrop": 0.0, "embd_pdrop": 0.0,
			"resid_pdrop": 0.0, "scale_attn_weights": c.QueryScale == 0} {
			out[k] = v
		}
	},
}

func parseGPT2(h *hfFile, c *Config) error {
	var k struct {
		Embd      int               `json:"n_embd"`
		Inner     *int              `json:"n_inner"`
		Layers    int               `json:"n_layer"`
		Heads     int               `json:"n_head"`
		Positions int               `json:"n_positions"`
		Eps       optional[float64] `json:"layer_norm_epsilon"`
		Act       string            `json:"activation_function"`
		Attn      float64           `json:"attn_pdrop"`
		Resid     float64           `json:"resid_pdrop"`
		EmbdDrop  float64           `json:"embd_pdrop"`
		Scale     optional[bool]    `json:"scale_attn_weights"`
		Inverse   bool              `json:"scale_attn_by_inverse_layer_idx"`
		Upcast    bool              `json:"reorder_and_upcast_attn"`
		Cross     bool              `json:"add_cross_attention"`
	}
	if err := h.extra(&k); err != nil {
		return err
	}
	for _, f := range []struct {
		key string
		on  bool
	}{{"scale_attn_by_inverse_layer_idx", k.Inverse}, {"reorder_and_upcast_attn", k.Upcast}, {"add_cross_attention", k.Cross}} {
		if f.on {
			return fmt.Errorf("config.json: %s is not supported for model_type \"gpt2\"; only models that have it false are", f.key)
		}
	}
	if k.Heads < 1 || k.Embd%k.Heads != 0 {
		return fmt.Errorf("config.json: n_embd %d is not a multiple of n_head %d", k.Embd, k.Heads)
	}
	c.Hidden, c.Layers, c.Heads, c.KVHeads, c.HeadDim, c.MaxPositions = k.Embd, k.Layers, k.Heads, k.Heads, k.Embd/k.Heads, k.Positions
	if c.Intermediate = 4 * k.Embd; k.Inner != nil {
		c.Intermediate = *k.Inner
	}
	if c.Act = k.Act; c.Act == "" {
		c.Act = "gelu_new"
	}
	c.Eps = float32(k.Eps.or(1e-5))
	if !k.Scale.or(true) {
		c.QueryScale = 1
	}
	if k.Attn != 0 || k.Resid != 0 || k.EmbdDrop != 0 {
		c.Notes = append(c.Notes, fmt.Sprintf("config.json has dropout for training (attn_pdrop %v, resid_pdrop %v, embd_pdrop %v): it is not applied here; use adapter.dropout",
			k.Attn, k.Resid, k.EmbdDrop))
	}
	return nil
}

// GPT2 is the Body of a GPT-2.
type GPT2 struct {
	Trunk *GPT2Trunk `name:"transformer"`
}

// GPT2Trunk is a GPT-2 without its head.
type GPT2Trunk struct {
	Tokens    *layers.Embedding `name:"wte"`
	Positions *layers.Embedding `name:"wpe"`
	Blocks    []*GPT2Block      `name:"h"`
	Norm      *layers.LayerNorm `name:"ln_f"`

	stack []Layer
}

// GPT2Block is a layer: x + attention(norm(x)), then x + mlp(norm(x)).
type GPT2Block struct {
	Norm1 *layers.LayerNorm `name:"ln_1"`
	Attn  *GPT2Attention    `name:"attn"`
	Norm2 *layers.LayerNorm `name:"ln_2"`
	MLP   *GPT2MLP          `name:"mlp"`
}

// GPT2Attention has one projection for queries, keys and values.
type GPT2Attention struct {
	QKV layers.Projection `name:"c_attn"`
	O   layers.Projection `name:"c_proj"`

	layers.AttentionShape
}

// GPT2MLP is proj(act(fc(x))).
type GPT2MLP struct {
	Up   layers.Projection `name:"c_fc"`
	Down layers.Projection `name:"c_proj"`

	Act layers.Activation
}

func newGPT2(c Config, src layers.Source) (Body, error) {
	act, err := c.activation()
	if err != nil {
		return nil, err
	}
	src = src.Sub("transformer")
	normal := layers.Normal(c.InitStd)
	t := &GPT2Trunk{
		Tokens:    layers.NewEmbedding(src.Sub("wte"), c.Vocab, c.Hidden, normal),
		Positions: layers.NewEmbedding(src.Sub("wpe"), c.MaxPositions, c.Hidden, normal),
		Norm:      newLayerNorm(src.Sub("ln_f"), c),
	}
	for i := range c.Layers {
		if src.Err() != nil {
			break
		}
		s := src.Sub("h.%d", i)
		attn, mlp := s.Sub("attn"), s.Sub("mlp")
		b := &GPT2Block{
			Norm1: newLayerNorm(s.Sub("ln_1"), c),
			Attn: &GPT2Attention{QKV: attn.Conv1D("c_attn", c.Hidden, 3*c.Hidden), O: attn.Conv1D("c_proj", c.Hidden, c.Hidden),
				AttentionShape: c.attention(i)},
			Norm2: newLayerNorm(s.Sub("ln_2"), c),
			MLP:   &GPT2MLP{Up: mlp.Conv1D("c_fc", c.Hidden, c.Intermediate), Down: mlp.Conv1D("c_proj", c.Intermediate, c.Hidden), Act: act},
		}
		t.Blocks, t.stack = append(t.Blocks, b), append(t.stack, b)
	}
	return &GPT2{t}, nil
}

func newLayerNorm(src layers.Source, c Config) *layers.LayerNorm {
	n := layers.NewLayerNorm(src, c.Hidden)
	n.Eps = float64(c.Eps)
	return n
}

// Table implements Body.
func (m *GPT2) Table() *graph.Var { return m.Trunk.Tokens.Weight }

// Embed implements Body. Rows longer than the table of positions are refused.
func (m *GPT2) Embed(in Inputs, d tensor.DType) graph.Value {
	if n := m.Trunk.Positions.Weight.Type.Dim(0); in.Tokens.Dim(1) > n {
		return in.Tokens.Graph().Fail("embed", []graph.Value{in.Tokens}, fmt.Errorf("rows have %d tokens, the model has %d learned positions (n_positions)", in.Tokens.Dim(1), n))
	}
	return ops.Add(ops.Cast(m.Trunk.Tokens.Forward(in.Tokens), d), ops.Cast(m.Trunk.Positions.Forward(in.Pos), d))
}

// Stack implements Body.
func (m *GPT2) Stack() []Layer { return m.Trunk.stack }

// Final implements Body.
func (m *GPT2) Final(x graph.Value) graph.Value { return m.Trunk.Norm.Forward(x) }

// Forward implements Layer.
func (b *GPT2Block) Forward(x graph.Value, c layers.AttentionContext) graph.Value {
	if !x.Valid() {
		return x
	}
	g := x.Graph()
	y := within(g, "ln_1", func() graph.Value { return b.Norm1.Forward(x) })
	x = within(g, "attn", func() graph.Value { return ops.Add(x, b.Attn.Forward(y, c)) })
	y = within(g, "ln_2", func() graph.Value { return b.Norm2.Forward(x) })
	return within(g, "mlp", func() graph.Value { return ops.Add(x, b.MLP.Forward(y)) })
}

// Forward maps x (B, T, hidden) to the same shape.
func (a *GPT2Attention) Forward(x graph.Value, c layers.AttentionContext) graph.Value {
	y := within(x.Graph(), "c_attn", func() graph.Value { return a.QKV.Forward(x) })
	y = a.AttendFused(y, c)
	return within(x.Graph(), "c_proj", func() graph.Value { return a.O.Forward(y) })
}

// Forward maps x (B, T, hidden) to the same shape.
func (m *GPT2MLP) Forward(x graph.Value) graph.Value {
	y := within(x.Graph(), "c_fc", func() graph.Value { return m.Act(m.Up.Forward(x)) })
	return within(x.Graph(), "c_proj", func() graph.Value { return m.Down.Forward(y) })
}
