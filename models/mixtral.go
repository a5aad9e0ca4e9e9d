package models

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/layers"
)

// mixtral is Mixtral (Jiang et al. 2024): Mistral's attention, and in every layer experts of which each token takes some, their weights
// made to add up to 1. Files have experts under block_sparse_moe, or fused as transformers 5 holds them.
var mixtral = family{
	model:    "mixtral",
	class:    "MixtralForCausalLM",
	defaults: Config{Eps: 1e-5, KVHeads: 8},
	experts:  mixtralExperts,
	parse: func(h *hfFile, c *Config) error {
		k := struct {
			Experts     int           `json:"num_local_experts"`
			PerToken    int           `json:"num_experts_per_tok"`
			BalanceCoef float64       `json:"router_aux_loss_coef"`
			Jitter      float64       `json:"router_jitter_noise"`
			Window      optional[int] `json:"sliding_window"`
		}{Experts: 8, PerToken: 2, BalanceCoef: 0.001}
		if err := h.extra(&k); err != nil {
			return err
		}
		if k.Jitter != 0 {
			return fmt.Errorf("config.json: router_jitter_noise %v is not supported; set it to 0", k.Jitter)
		}
		if k.Experts < 1 {
			return fmt.Errorf("config.json: num_local_experts is %d, it must be between 1 and %d", k.Experts, maxExperts)
		}
		c.Mixture = Mixture{Experts: k.Experts, PerToken: k.PerToken, Hidden: c.Intermediate, Normalize: true, BalanceCoef: k.BalanceCoef}
		window := k.Window.or(0)
		if err := windows(c, nil, window, func(int) bool { return window != 0 }); err != nil {
			return err
		}
		return h.rope(c, 1e6)
	},
	build: func(c Config, src layers.Source) (Body, error) {
		return newSparseDecoder(c, src, mixtralExperts, func(i int, src layers.Source) Mixer { return newAttention(c, i, src) })
	},
	keys: func(c Config, out map[string]any) {
		windowKeys(c, out)
		out["num_local_experts"], out["num_experts_per_tok"], out["router_aux_loss_coef"] = c.Mixture.Experts, c.Mixture.PerToken, c.Mixture.BalanceCoef
	},
}

var mixtralExperts = expertNames{"block_sparse_moe", "w1", "w3", "w2"}
