package llamacpp

import (
	"fmt"
	"math"
	"slices"
)

// factors is a small tensor that goes with the metadata.
type factors struct {
	name   string
	values []float32
}

// entries are what describes a model beside its weights.
type entries struct {
	kvs      []kv
	tensors  []factors
	warnings []string // what llama.cpp will not do as the model does
}

func (e *entries) add(key string, v any) { e.kvs = append(e.kvs, kv{Key: key, Value: v}) }

func (e *entries) warn(format string, args ...any) {
	e.warnings = append(e.warnings, fmt.Sprintf(format, args...))
}

// common are the metadata that all architectures but GPT-2 have.
func (c *hfConfig) common(e *entries) {
	for _, k := range []struct{ gguf, hf string }{
		{"%.vocab_size", "vocab_size"}, {"%.context_length", "max_position_embeddings"}, {"%.embedding_length", "hidden_size"},
		{"%.block_count", "num_hidden_layers"}, {"%.feed_forward_length", "intermediate_size"},
		{"%.attention.head_count", "num_attention_heads"}, {"%.attention.head_count_kv", "num_key_value_heads"},
	} {
		e.add(k.gguf, c.integer(k.hf))
	}
	e.add("%.attention.layer_norm_rms_epsilon", float32(c.float("rms_norm_eps")))
	e.add("%.attention.key_length", c.headDim())
	e.add("%.attention.value_length", c.headDim())
}

// rope are the metadata of a rotary embedding: p is rope_parameters, or that of one kind of layer.
func (c *hfConfig) rope(e *entries, p *hfConfig, theta string) {
	head := c.headDim()
	e.add(theta, float32(p.float("rope_theta")))
	if f := p.float("partial_rotary_factor"); f != 0 && f != 1 {
		c.fail("rotations of a part of each head (partial_rotary_factor %v) can be written for phi3 only", f)
	}
	e.add("%.rope.dimension_count", head)
	scaling := func(kind string) {
		e.add("%.rope.scaling.type", kind)
		e.add("%.rope.scaling.factor", float32(p.float("factor")))
	}
	original := p.integer("original_max_position_embeddings")
	switch kind := p.text("rope_type"); kind {
	case "", "default":
	case "linear":
		scaling(kind)
	case "yarn":
		scaling(kind)
		c.yarn(e, p, original)
	case "llama3":
		e.add("%.rope.scaling.original_context_length", original)
		e.tensors = append(e.tensors, factors{ropeFreqs, llama3Factors(p.float("rope_theta"), int(head), p.float("factor"),
			p.float("low_freq_factor"), p.float("high_freq_factor"), int(original))})
	case "longrope":
		short := p.list("short_factor")
		if !slices.Equal(short, p.list("long_factor")) || p.float("attention_factor") != 1 {
			c.fail("longrope scaling can be written for phi3 only")
		}
		e.tensors = append(e.tensors, factors{ropeFreqs, short})
	default:
		c.fail("rope_type %q cannot be written: llama.cpp has none, linear, yarn, llama3, and longrope for phi3", kind)
	}
	if c.err == nil {
		c.err = p.err
	}
}

// yarn adds what differs from llama.cpp's own defaults.
func (c *hfConfig) yarn(e *entries, p *hfConfig, original uint32) {
	e.add("%.rope.scaling.original_context_length", original)
	if t, ok := p.keys["truncate"].(bool); ok && !t {
		c.fail("yarn scaling with truncate false cannot be written: llama.cpp rounds the border dimensions")
	}
	if a := p.float("attention_factor"); a != 0 {
		if a /= 0.1*math.Log(max(p.float("factor"), 1)) + 1; math.Abs(a-1) > 1e-6 {
			e.add("%.rope.scaling.attn_factor", float32(a))
		}
	}
	if fast, slow := p.float("beta_fast"), p.float("beta_slow"); fast != 0 && fast != 32 || slow != 0 && slow != 1 {
		c.fail("yarn scaling with beta_fast %v and beta_slow %v cannot be written: llama.cpp takes 32 and 1 for all files of this architecture", fast, slow)
	}
}

// gated refuses activations that an architecture does not have; the key is hidden_act or, for Gemma, hidden_activation.
func (c *hfConfig) gated(allowed ...string) {
	for _, key := range []string{"hidden_act", "hidden_activation", "activation_function"} {
		if act := c.text(key); act != "" && !slices.Contains(allowed, act) {
			c.fail("%s %q cannot be written: llama.cpp computes this architecture with %s", key, act, allowed[0])
		}
	}
}

func llamaMetadata(c *hfConfig, e *entries) {
	c.gated("silu", "swish")
	c.common(e)
	c.rope(e, c.object("rope_parameters"), "%.rope.freq_base")
	if n := c.integer("num_local_experts"); n > 0 {
		e.add("%.expert_count", n)
		e.add("%.expert_used_count", c.integer("num_experts_per_tok"))
	}
	if w := c.integer("sliding_window"); w > 0 {
		e.add("%.attention.sliding_window", w)
		if w < c.integer("max_position_embeddings") {
			e.warn("llama.cpp's architecture \"llama\" has no sliding window: there, a token sees more than the %d before it that it was trained with", w)
		}
	}
}

func qwenMetadata(c *hfConfig, e *entries) {
	c.gated("silu", "swish")
	if c.on("use_sliding_window") && c.integer("sliding_window") > 0 {
		c.fail("use_sliding_window cannot be written: llama.cpp computes %s without windows; set it to false", c.text("model_type"))
	}
	if c.text("model_type") != "qwen2" { // whose attention_bias is not asked for
		c.unbiased()
	}
	c.common(e)
	c.rope(e, c.object("rope_parameters"), "%.rope.freq_base")
}

// unbiased refuses biases of attention that an architecture does not have.
func (c *hfConfig) unbiased() {
	if c.on("attention_bias") {
		c.fail("attention_bias cannot be written for %s: llama.cpp computes it without", c.text("model_type"))
	}
}

func qwenMoEMetadata(c *hfConfig, e *entries) {
	if raw, ok := c.keys["norm_topk_prob"].(bool); !ok || !raw {
		c.fail("norm_topk_prob false cannot be written: llama.cpp always normalizes the weights of experts")
	}
	if list, _ := c.keys["mlp_only_layers"].([]any); len(list) > 0 || c.integer("decoder_sparse_step") > 1 {
		c.fail("layers without experts cannot be written for qwen3_moe")
	}
	qwenMetadata(c, e)
	e.add("%.expert_count", c.integer("num_experts"))
	e.add("%.expert_used_count", c.integer("num_experts_per_tok"))
	e.add("%.expert_feed_forward_length", c.integer("moe_intermediate_size"))
}

// gemma adds what both Gemmas have. period is how often a layer without a window comes where the file does not say.
func (c *hfConfig) gemma(e *entries, period int) {
	c.gated("gelu_pytorch_tanh")
	c.unbiased()
	c.common(e)
	e.add("%.attention.sliding_window", c.integer("sliding_window"))
	for _, k := range []string{"attn_logit_softcapping", "final_logit_softcapping"} {
		if v := c.float(k); v != 0 {
			e.add("%."+k, float32(v))
		}
	}
	types, _ := c.keys["layer_types"].([]any)
	at := func(n int) bool {
		for i, t := range types {
			if (t == "full_attention") != (i%n == n-1) {
				return false
			}
		}
		return true
	}
	if at(period) {
		return
	}
	for n := 1; n <= len(types)+1; n++ {
		if at(n) {
			e.add("%.attention.sliding_window_pattern", uint32(n))
			return
		}
	}
	c.fail("layer_types cannot be written: llama.cpp has a layer without a window at regular distances")
}

func gemma2Metadata(c *hfConfig, e *entries) {
	c.gemma(e, 2)
	c.rope(e, c.object("rope_parameters"), "%.rope.freq_base")
}

// gemma2Scale makes up for a query_pre_attn_scalar that is not the one which llama.cpp takes: scores are linear in the queries.
func gemma2Scale(c *hfConfig) (end string, by float64) {
	return "self_attn.q_proj.weight", c.queryScale(46)
}

func gemma3Scale(c *hfConfig) (end string, by float64) {
	return "self_attn.q_norm.weight", c.queryScale(62)
}

// queryScale is sqrt(L/query_pre_attn_scalar), where L is what llama.cpp divides by: the size of a head, but that of even heads in the
// largest model, which it knows by its number of layers.
func (c *hfConfig) queryScale(largest uint32) float64 {
	have, want := c.headDim(), c.float("query_pre_attn_scalar")
	if c.integer("num_hidden_layers") == largest {
		have = c.integer("hidden_size") / max(c.integer("num_attention_heads"), 1)
	}
	if !(want > 0) {
		return 1
	}
	return math.Sqrt(float64(have) / want)
}

func gemma3Metadata(c *hfConfig, e *entries) {
	c.gemma(e, 6)
	p := c.object("rope_parameters")
	c.rope(e, p.object("full_attention"), "%.rope.freq_base")
	local := p.object("sliding_attention")
	if kind := local.text("rope_type"); kind != "" && kind != "default" {
		c.fail("rope_type %q of layers with a window cannot be written", kind)
	}
	if theta := local.float("rope_theta"); theta != 10000 {
		e.add("%.rope.freq_base_swa", float32(theta))
	}
	if c.float("attn_logit_softcapping") != 0 || c.float("final_logit_softcapping") != 0 {
		c.fail("soft caps cannot be written for gemma3_text: llama.cpp computes it without them")
	}
}

func phi3Metadata(c *hfConfig, e *entries) {
	c.gated("silu", "swish")
	c.common(e)
	p := c.object("rope_parameters")
	e.add("%.rope.freq_base", float32(p.float("rope_theta")))
	turns := c.headDim()
	if f := p.float("partial_rotary_factor"); f != 0 {
		turns = uint32(float64(turns) * f)
	}
	e.add("%.rope.dimension_count", turns)
	e.add("%.attention.sliding_window", c.integer("sliding_window"))
	original := p.integer("original_max_position_embeddings")
	if original == 0 {
		original = c.integer("original_max_position_embeddings")
	}
	if original > 0 {
		e.add("%.rope.scaling.original_context_length", original)
	}
	switch kind := p.text("rope_type"); kind {
	case "", "default":
	case "longrope":
		a := p.float("attention_factor")
		if s := float64(c.integer("max_position_embeddings")) / float64(max(original, 1)); a == 0 && s > 1 {
			a = math.Sqrt(1 + math.Log(s)/math.Log(float64(original)))
		}
		if a != 0 {
			e.add("%.rope.scaling.attn_factor", float32(a))
		}
		e.tensors = append(e.tensors, factors{ropeLong, p.list("long_factor")}, factors{ropeShort, p.list("short_factor")})
	default:
		c.fail("rope_type %q cannot be written for phi3; longrope can", kind)
	}
	if c.err == nil {
		c.err = p.err
	}
}

func gpt2Metadata(c *hfConfig, e *entries) {
	c.gated("gelu_new", "gelu_pytorch_tanh")
	if scaled, ok := c.keys["scale_attn_weights"].(bool); ok && !scaled {
		c.fail("scale_attn_weights false cannot be written: llama.cpp always scales the scores")
	}
	inner := c.integer("n_inner")
	if inner == 0 {
		inner = 4 * c.integer("n_embd")
	}
	e.add("%.block_count", c.integer("n_layer"))
	e.add("%.context_length", c.integer("n_positions"))
	e.add("%.embedding_length", c.integer("n_embd"))
	e.add("%.feed_forward_length", inner)
	e.add("%.attention.head_count", c.integer("n_head"))
	e.add("%.attention.layer_norm_epsilon", float32(c.float("layer_norm_epsilon")))
}
