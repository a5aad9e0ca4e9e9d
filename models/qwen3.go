package models

import "github.com/bitsandbyes/bitsandbyes/layers"

// qwen3 is Qwen 3 (2025): a Llama with a norm on every head of queries and keys, and heads whose size is its own.
var qwen3 = family{
	model:    "qwen3",
	class:    "Qwen3ForCausalLM",
	defaults: Config{Eps: 1e-6, KVHeads: 32, HeadDim: 128},
	parse: func(h *hfFile, c *Config) error {
		var k struct {
			AttentionBias bool `json:"attention_bias"`
		}
		if err := h.extra(&k); err != nil {
			return err
		}
		c.AttentionBias = k.AttentionBias
		if err := qwenWindows(h, c); err != nil {
			return err
		}
		return h.rope(c, 10000)
	},
	build: func(c Config, src layers.Source) (Body, error) {
		return newGatedDecoder(c, src, func(i int, src layers.Source) Mixer { return newNormedAttention(c, i, src, layers.NewRMSNorm) })
	},
	keys: func(c Config, out map[string]any) {
		out["attention_bias"] = c.AttentionBias
		qwenKeys(c, out)
	},
}

// newNormedAttention is newAttention with norms q_norm and k_norm on the heads of queries and keys.
func newNormedAttention(c Config, layer int, src layers.Source, norm func(src layers.Source, dim int, eps float32) *layers.RMSNorm) *layers.Attention {
	a := newAttention(c, layer, src)
	a.QNorm, a.KNorm = norm(src.Sub("q_norm"), c.HeadDim, c.Eps), norm(src.Sub("k_norm"), c.HeadDim, c.Eps)
	return a
}
