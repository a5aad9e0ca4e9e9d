package models

import (
	"encoding/json"
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/layers"
)

// gemma3 is the text model of Gemma 3 (Gemma Team 2025): Gemma 2 without caps, with norms on the heads of queries and keys, and
// another rotary embedding in the layers with a window.
var gemma3 = family{
	model:    "gemma3_text",
	class:    "Gemma3ForCausalLM",
	defaults: Config{Eps: 1e-6, KVHeads: 4, HeadDim: 256, Tied: true, Act: gemmaAct},
	parse: func(h *hfFile, c *Config) error {
		k, err := gemmaKeys(h, c)
		if err != nil {
			return err
		}
		c.AttentionCap, c.LogitCap = k.AttentionCap.or(0), k.LogitCap.or(0)
		pattern := k.Pattern.or(6)
		if pattern < 1 {
			return fmt.Errorf("config.json: sliding_window_pattern %d must be positive", pattern)
		}
		if err := windows(c, k.Types, k.Window.or(4096), func(i int) bool { return (i+1)%pattern != 0 }); err != nil {
			return err
		}
		return gemma3Rope(h, c)
	},
	build: func(c Config, src layers.Source) (Body, error) {
		return newGemma(c, src, func(i int, src layers.Source) *layers.Attention {
			return newNormedAttention(c, i, src, layers.NewRMSNormAroundOne)
		})
	},
	keys: func(c Config, out map[string]any) {
		writeGemma(c, out)
		out["attn_logit_softcapping"], out["final_logit_softcapping"] = orNull(c.AttentionCap), orNull(c.LogitCap)
		local := c.LocalRope
		if local.Theta == 0 {
			local = c.Rope
		}
		out["rope_parameters"] = map[string]any{fullAttention: c.Rope.keys(c.HeadDim), slidingAttention: local.keys(c.HeadDim)}
		delete(out, "rope_theta")
		delete(out, "rope_scaling")
	},
}

// gemma3Rope reads both rotary embeddings: rope_parameters with one object for each kind of layer, or rope_theta and rope_scaling
// for those without a window and rope_local_base_freq for the others.
func gemma3Rope(h *hfFile, c *Config) error {
	var k struct {
		Local *float64 `json:"rope_local_base_freq"`
	}
	if err := h.extra(&k); err != nil {
		return err
	}
	var kinds struct {
		Full    ropeParams `json:"full_attention"`
		Sliding ropeParams `json:"sliding_attention"`
	}
	read := func(raw json.RawMessage, v any) error {
		if len(raw) == 0 {
			return nil
		}
		if err := json.Unmarshal(raw, v); err != nil {
			return fmt.Errorf("config.json: rope scaling: %w", err)
		}
		return nil
	}
	if err := read(h.RopeParameters, &kinds); err != nil {
		return err
	}
	if err := read(h.RopeScaling, &kinds.Full); err != nil {
		return err
	}
	theta, local := 1e6, 1e4
	if h.RopeTheta != nil {
		theta = *h.RopeTheta
	}
	if k.Local != nil {
		local = *k.Local
	}
	var err error
	if c.Rope, err = kinds.Full.rope(h, c, theta); err != nil {
		return err
	}
	c.LocalRope, err = kinds.Sliding.rope(h, c, local)
	return err
}
