package models

import (
	"fmt"
	"math"
	"slices"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/layers"
)

// gemma2 is Gemma 2 (Gemma Team 2024): norms on both sides of attention and MLP, windows in every other layer, capped scores and
// logits, and an embedding scaled by the square root of its width.
var gemma2 = family{
	model:    "gemma2",
	class:    "Gemma2ForCausalLM",
	defaults: Config{Eps: 1e-6, KVHeads: 4, HeadDim: 256, Tied: true, Act: gemmaAct},
	parse: func(h *hfFile, c *Config) error {
		k, err := gemmaKeys(h, c)
		if err != nil {
			return err
		}
		c.AttentionCap, c.LogitCap = k.AttentionCap.or(50), k.LogitCap.or(30)
		if err := windows(c, k.Types, k.Window.or(4096), func(i int) bool { return (i+1)%2 != 0 }); err != nil {
			return err
		}
		return h.rope(c, 10000)
	},
	build: func(c Config, src layers.Source) (Body, error) {
		return newGemma(c, src, func(i int, src layers.Source) *layers.Attention { return newAttention(c, i, src) })
	},
	keys: func(c Config, out map[string]any) {
		writeGemma(c, out)
		out["attn_logit_softcapping"], out["final_logit_softcapping"] = orNull(c.AttentionCap), orNull(c.LogitCap)
	},
}

// gemmaAct is the activation of every Gemma.
const gemmaAct = "gelu_pytorch_tanh"

// gemmaConfig is the keys that Gemma 2 and 3 share.
type gemmaConfig struct {
	Act           string            `json:"hidden_activation"`
	AttentionBias bool              `json:"attention_bias"`
	QueryScalar   optional[float64] `json:"query_pre_attn_scalar"`
	AttentionCap  optional[float64] `json:"attn_logit_softcapping"`
	LogitCap      optional[float64] `json:"final_logit_softcapping"`
	Window        optional[int]     `json:"sliding_window"`
	Pattern       optional[int]     `json:"sliding_window_pattern"`
	Types         []string          `json:"layer_types"`
	Bidirectional bool              `json:"use_bidirectional_attention"`
}

// gemmaKeys reads them. Of the two names of the activation, transformers heeds hidden_activation alone.
func gemmaKeys(h *hfFile, c *Config) (k gemmaConfig, err error) {
	if err := h.extra(&k); err != nil {
		return k, err
	}
	if c.Act = k.Act; c.Act == "" {
		c.Act = gemmaAct
	}
	scalar := k.QueryScalar.or(256)
	switch {
	case k.Bidirectional:
		return k, fmt.Errorf("config.json: use_bidirectional_attention is not supported for model_type %q; supported: causal attention", h.ModelType)
	case !(scalar > 0):
		return k, fmt.Errorf("config.json: query_pre_attn_scalar %v must be positive", scalar)
	}
	c.AttentionBias = k.AttentionBias
	c.QueryScale = 1 / math.Sqrt(scalar)
	return k, nil
}

func writeGemma(c Config, out map[string]any) {
	delete(out, "hidden_act")
	out["hidden_activation"] = c.Act
	out["attention_bias"] = c.AttentionBias
	out["query_pre_attn_scalar"] = queryScalar(c)
	out["layer_types"] = layerTypes(c)
	if len(c.Windows) > 0 {
		out["sliding_window"] = slices.Max(c.Windows)
	}
}

// queryScalar is query_pre_attn_scalar, whose inverse square root is the scale of scores: whole in all known models.
func queryScalar(c Config) float64 {
	if c.QueryScale == 0 {
		return float64(c.HeadDim)
	}
	s := 1 / (c.QueryScale * c.QueryScale)
	if r := math.Round(s); math.Abs(s-r) < 1e-9*s {
		return r
	}
	return s
}

func orNull(x float64) any {
	if x == 0 {
		return nil
	}
	return x
}

// GemmaBlock is a layer of Gemma 2 and 3: x + norm(attention(norm(x))), then x + norm(mlp(norm(x))).
type GemmaBlock struct {
	Norm1 *layers.RMSNorm   `name:"input_layernorm"`
	Attn  *layers.Attention `name:"self_attn"`
	Norm2 *layers.RMSNorm   `name:"post_attention_layernorm"`
	Norm3 *layers.RMSNorm   `name:"pre_feedforward_layernorm"`
	MLP   *layers.GatedMLP  `name:"mlp"`
	Norm4 *layers.RMSNorm   `name:"post_feedforward_layernorm"`
}

// Forward implements Layer.
func (b *GemmaBlock) Forward(x graph.Value, c layers.AttentionContext) graph.Value {
	if !x.Valid() {
		return x
	}
	g := x.Graph()
	y := within(g, "input_layernorm", func() graph.Value { return b.Norm1.Forward(x) })
	y = within(g, "self_attn", func() graph.Value { return b.Attn.Forward(y, c) })
	x = within(g, "post_attention_layernorm", func() graph.Value { return ops.Add(x, b.Norm2.Forward(y)) })
	y = within(g, "pre_feedforward_layernorm", func() graph.Value { return b.Norm3.Forward(x) })
	y = within(g, "mlp", func() graph.Value { return b.MLP.Forward(y) })
	return within(g, "post_feedforward_layernorm", func() graph.Value { return ops.Add(x, b.Norm4.Forward(y)) })
}

// newGemma declares a decoder of GemmaBlocks, whose attentions attend declares.
func newGemma(c Config, src layers.Source, attend func(i int, src layers.Source) *layers.Attention) (Body, error) {
	var failed error
	norm := layers.NewRMSNormAroundOne
	d := newDecoder(c, src, norm, func(i int, src layers.Source) Layer {
		b := &GemmaBlock{
			Norm1: norm(src.Sub("input_layernorm"), c.Hidden, c.Eps),
			Attn:  attend(i, src.Sub("self_attn")),
			Norm2: norm(src.Sub("post_attention_layernorm"), c.Hidden, c.Eps),
			Norm3: norm(src.Sub("pre_feedforward_layernorm"), c.Hidden, c.Eps),
			Norm4: norm(src.Sub("post_feedforward_layernorm"), c.Hidden, c.Eps),
		}
		var err error
		if b.MLP, err = newGatedMLP(c, src.Sub("mlp")); err != nil {
			failed = err
		}
		return b
	})
	d.Scale = math.Sqrt(float64(c.Hidden))
	return d, failed
}
