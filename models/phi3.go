package models

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/layers"
)

// phi3 is Phi-3, 3.5 and 4-mini (Abdin et al. 2024): a Llama with fused projections, of which Attn is a *layers.FusedAttention and MLP
// a *layers.FusedMLP.
var phi3 = family{
	model:    "phi3",
	class:    "Phi3ForCausalLM",
	defaults: Config{Eps: 1e-5},
	parse: func(h *hfFile, c *Config) error {
		var k struct {
			Window optional[int] `json:"sliding_window"`
			Resid  float64       `json:"resid_pdrop"`
			Embd   float64       `json:"embd_pdrop"`
		}
		if err := h.extra(&k); err != nil {
			return err
		}
		if k.Resid != 0 || k.Embd != 0 {
			return fmt.Errorf("config.json: resid_pdrop %v and embd_pdrop %v are not supported for model_type \"phi3\"; set them to 0", k.Resid, k.Embd)
		}
		window := k.Window.or(0)
		if err := windows(c, nil, window, func(int) bool { return window != 0 }); err != nil {
			return err
		}
		if h.Original == nil {
			n := 4096
			h.Original = &n
		}
		h.partial, h.renamed = true, map[string]string{"su": string(LongRope), "yarn": string(LongRope)}
		if err := h.rope(c, 10000); err != nil {
			return err
		}
		if s := c.Rope.Scaling; s != "" && s != LongRope {
			return fmt.Errorf("config.json: rope_type %q is not supported for model_type \"phi3\"; supported: default, longrope", s)
		}
		return nil
	},
	build: func(c Config, src layers.Source) (Body, error) {
		act, err := c.activation()
		if err != nil {
			return nil, err
		}
		return newDecoder(c, src, layers.NewRMSNorm, func(i int, src layers.Source) Layer {
			attn := layers.NewFusedAttention(src.Sub("self_attn"), c.Hidden, c.attention(i))
			mlp := layers.NewFusedMLP(src.Sub("mlp"), c.Hidden, c.Intermediate)
			mlp.Act = act
			return newBlock(c, src, attn, mlp)
		}), nil
	},
	keys: func(c Config, out map[string]any) {
		out["resid_pdrop"], out["embd_pdrop"] = 0.0, 0.0
		windowKeys(c, out)
		if c.Rope.Original != 0 {
			out["original_max_position_embeddings"] = c.Rope.Original
		}
	},
}
