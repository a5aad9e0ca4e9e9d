package models

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/layers"
)

// qwen3MoE is Qwen3-MoE (2025): Qwen 3 with experts in every decoder_sparse_step-th layer but those of mlp_only_layers, which have a gated
// MLP of intermediate_size. norm_topk_prob says whether the weights of a token's experts are made to add up to 1.
var qwen3MoE = family{
	model:    "qwen3_moe",
	class:    "Qwen3MoeForCausalLM",
	defaults: Config{Eps: 1e-6, KVHeads: 4},
	experts:  qwen3Experts,
	parse: func(h *hfFile, c *Config) error {
		k := struct {
			AttentionBias bool    `json:"attention_bias"`
			Experts       int     `json:"num_experts"`
			Local         int     `json:"num_local_experts"` // transformers 5 reads either
			PerToken      int     `json:"num_experts_per_tok"`
			Hidden        int     `json:"moe_intermediate_size"`
			Normalize     bool    `json:"norm_topk_prob"`
			Step          int     `json:"decoder_sparse_step"`
			Dense         []int   `json:"mlp_only_layers"`
			BalanceCoef   float64 `json:"router_aux_loss_coef"`
		}{PerToken: 8, Hidden: 768, Step: 1, BalanceCoef: 0.001}
		if err := h.extra(&k); err != nil {
			return err
		}
		if k.Experts == 0 {
			if k.Experts = k.Local; k.Local == 0 {
				k.Experts = 128
			}
		}
		if k.Step < 1 || k.Experts < 0 {
			return fmt.Errorf("config.json: decoder_sparse_step is %d and num_experts %d; both must be positive", k.Step, k.Experts)
		}
		for _, layer := range k.Dense {
			if layer < 0 || layer >= c.Layers {
				return fmt.Errorf("config.json: mlp_only_layers names layer %d, the model has layers 0 to %d", layer, c.Layers-1)
			}
		}
		c.AttentionBias = k.AttentionBias
		c.Mixture = Mixture{Experts: k.Experts, PerToken: k.PerToken, Hidden: k.Hidden, Normalize: k.Normalize, Every: k.Step, Dense: k.Dense, BalanceCoef: k.BalanceCoef}
		var w struct {
			Use    bool          `json:"use_sliding_window"`
			Window optional[int] `json:"sliding_window"`
		}
		if err := h.extra(&w); err != nil {
			return err
		}
		window := 0
		if w.Use {
			window = w.Window.or(4096)
		}
		if err := windows(c, nil, window, func(int) bool { return window != 0 }); err != nil {
			return err
		}
		return h.rope(c, 10000)
	},
	build: func(c Config, src layers.Source) (Body, error) {
		return newSparseDecoder(c, src, qwen3Experts, func(i int, src layers.Source) Mixer {
			return newNormedAttention(c, i, src, layers.NewRMSNorm)
		})
	},
	keys: func(c Config, out map[string]any) {
		x := c.Mixture
		out["attention_bias"] = c.AttentionBias
		windowKeys(c, out)
		out["use_sliding_window"] = len(c.Windows) > 0
		out["num_experts"], out["num_experts_per_tok"], out["moe_intermediate_size"] = x.Experts, x.PerToken, x.Hidden
		out["norm_topk_prob"], out["decoder_sparse_step"], out["router_aux_loss_coef"] = x.Normalize, max(x.Every, 1), x.BalanceCoef
		if out["mlp_only_layers"] = x.Dense; x.Dense == nil {
			out["mlp_only_layers"] = []int{}
		}
	},
}

var qwen3Experts = expertNames{"mlp", "gate_proj", "up_proj", "down_proj"}
