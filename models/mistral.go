package models

import (
	"fmt"
	"slices"
)

// mistral is Mistral 7B and its kin (Jiang et al. 2023): a Llama whose queries see a window of keys.
var mistral = family{
	model:    "mistral",
	class:    "MistralForCausalLM",
	defaults: Config{Eps: 1e-6, KVHeads: 8},
	parse: func(h *hfFile, c *Config) error {
		var k struct {
			Window optional[int] `json:"sliding_window"`
			Types  []string      `json:"layer_types"`
		}
		if err := h.extra(&k); err != nil {
			return err
		}
		window := k.Window.or(4096)
		if err := windows(c, nil, window, func(int) bool { return window != 0 }); err != nil {
			return err
		}
		for i, t := range k.Types {
			if (t == slidingAttention) != (window != 0) {
				return fmt.Errorf("config.json: layer_types[%d] is %q, but in model_type \"mistral\" all layers are alike and sliding_window is %d", i, t, window)
			}
		}
		return h.rope(c, 10000)
	},
	build: llamaBuild,
	keys:  windowKeys,
}

// windowKeys writes the one window of all layers, or null.
func windowKeys(c Config, out map[string]any) {
	out["sliding_window"] = nil
	if len(c.Windows) > 0 {
		out["sliding_window"] = slices.Max(c.Windows)
	}
}
