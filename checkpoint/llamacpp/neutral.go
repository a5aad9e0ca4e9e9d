package llamacpp

import "slices"

// neutral are keys of features that the families here do not have, and the values at which they change nothing. Booleans count as 0 and 1.
var neutral = map[string][]float64{
	"%.attention.causal":                  {1},
	"%.attention.clamp_kqv":               {0},
	"%.attention.max_alibi_bias":          {0},
	"%.attention.scale":                   {0},
	"%.attention.output_scale":            {0, 1},
	"%.attention.temperature_scale":       {0},
	"%.attention.temperature_length":      {0},
	"%.attention.shared_kv_layers":        {0},
	"%.attention.q_lora_rank":             {0},
	"%.attention.kv_lora_rank":            {0},
	"%.logit_scale":                       {0, 1},
	"%.residual_scale":                    {0, 1},
	"%.embedding_scale":                   {0, 1},
	"%.use_parallel_residual":             {0},
	"%.swin_norm":                         {0},
	"%.router_logit_softcapping":          {0},
	"%.expert_weights_scale":              {0, 1},
	"%.expert_weights_norm":               {1},
	"%.expert_gating_func":                {0, 1}, // not said, softmax
	"%.expert_shared_count":               {0},
	"%.expert_shared_feed_forward_length": {0},
	"%.expert_group_count":                {0, 1},
	"%.leading_dense_block_count":         {0},
	"%.moe_every_n_layers":                {0, 1},
	"%.interleave_moe_layer_step":         {0, 1},
	"%.nextn_predict_layers":              {0},
	"%.rope.scaling.alpha":                {0, 1},
	"%.pooling_type":                      {0},
	"%.embedding_length_out":              {0},
	"%.decoder_block_count":               {0},
	"%.rope.scaling.yarn_log_multiplier":  {0},
	"%.rope.scaling.yarn_ext_factor":      {1},
	"%.rope.scaling.yarn_attn_factor":     {1},
	"%.activation_sparsity_scale":         {0},
}

// plain refuses a file whose metadata ask for what is not computed here.
func (m *meta) plain() {
	for key, values := range neutral {
		raw, ok := m.f.Value(m.key(key))
		if !ok {
			continue
		}
		v, isNumber := scalar(raw)
		if on, isBool := raw.(bool); isBool {
			v, isNumber = 0, true
			if on {
				v = 1
			}
		}
		if !isNumber || !slices.Contains(values, v) {
			m.fail("metadata key %q is %v, which changes what the model computes in a way that is not supported", m.key(key), raw)
		}
	}
}
