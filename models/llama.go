package models

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/layers"
)

// llama is the architecture of Llama 1 to 3 (Touvron et al. 2023) and SmolLM: pre-norm layers of rotary grouped-query attention
// and a gated MLP.
var llama = family{
	model:    "llama",
	class:    "LlamaForCausalLM",
	defaults: Config{Eps: 1e-6},
	parse: func(h *hfFile, c *Config) error {
		var k struct {
			AttentionBias bool `json:"attention_bias"`
			MLPBias       bool `json:"mlp_bias"`
			PretrainingTP int  `json:"pretraining_tp"`
		}
		if err := h.extra(&k); err != nil {
			return err
		}
		if k.PretrainingTP > 1 {
			return fmt.Errorf("config.json: pretraining_tp %d is not supported; set it to 1", k.PretrainingTP)
		}
		c.AttentionBias, c.MLPBias = k.AttentionBias, k.MLPBias
		return h.rope(c, 10000)
	},
	build: llamaBuild,
	keys: func(c Config, out map[string]any) {
		out["attention_bias"], out["mlp_bias"] = c.AttentionBias, c.MLPBias
	},
}

// llamaBuild declares the layers of a Llama, with the biases and windows of the configuration.
func llamaBuild(c Config, src layers.Source) (Body, error) {
	return newGatedDecoder(c, src, func(i int, src layers.Source) Mixer { return newAttention(c, i, src) })
}
