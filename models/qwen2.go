package models

import "slices"

// qwen2 is Qwen 2 and 2.5 (Yang et al. 2024): a Llama with biases on queries, keys and values, and windows in its upper layers
// where use_sliding_window asks for them.
var qwen2 = family{
	model:    "qwen2",
	class:    "Qwen2ForCausalLM",
	defaults: Config{Eps: 1e-6, KVHeads: 32, QKVBias: true},
	parse: func(h *hfFile, c *Config) error {
		if err := qwenWindows(h, c); err != nil {
			return err
		}
		return h.rope(c, 10000)
	},
	build: llamaBuild,
	keys:  qwenKeys,
}

// qwenWindows reads what Qwen's families say about windows: none unless use_sliding_window, then from layer max_window_layers on,
// or where layer_types has them.
func qwenWindows(h *hfFile, c *Config) error {
	var k struct {
		Use    bool          `json:"use_sliding_window"`
		Window optional[int] `json:"sliding_window"`
		From   optional[int] `json:"max_window_layers"`
		Types  []string      `json:"layer_types"`
	}
	if err := h.extra(&k); err != nil {
		return err
	}
	window := 0
	if k.Use {
		window = k.Window.or(4096)
	}
	from := k.From.or(28)
	return windows(c, k.Types, window, func(i int) bool { return window != 0 && i >= from })
}

// qwenKeys writes the windows of layers.
func qwenKeys(c Config, out map[string]any) {
	out["use_sliding_window"], out["sliding_window"] = false, nil
	if len(c.Windows) > 0 {
		out["use_sliding_window"], out["sliding_window"] = true, slices.Max(c.Windows)
	}
	out["layer_types"] = layerTypes(c)
	out["max_window_layers"] = c.Layers
}

// layerTypes is layer_types of a configuration.
func layerTypes(c Config) []string {
	out := slices.Repeat([]string{fullAttention}, c.Layers)
	for i := range out {
		if c.window(i) > 0 {
			out[i] = slidingAttention
		}
	}
	return out
}
