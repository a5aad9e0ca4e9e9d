package llamacpp

import (
	"encoding/json"
	"math"

	"github.com/bitsandbyes/bitsandbyes/checkpoint/gguf"
)

// configOf makes config.json, in the keys of transformers 5, of a file's metadata.
func configOf(f *gguf.File, a *arch) ([]byte, error) {
	m := &meta{f: f, arch: a.name}
	m.plain()
	out := m.common()
	for k, v := range a.config(m) {
		out[k] = v
	}
	if m.err != nil {
		return nil, m.err
	}
	return json.MarshalIndent(out, "", "  ")
}

// common are the keys that families share.
func (m *meta) common() map[string]any {
	hidden, heads := m.needed("%.embedding_length"), m.needed("%.attention.head_count")
	out := map[string]any{
		"dtype": "float32", "hidden_size": hidden, "num_attention_heads": heads, "num_hidden_layers": m.needed("%.block_count"),
		"max_position_embeddings": m.needed("%.context_length"), "intermediate_size": m.integer("%.feed_forward_length", 0),
		"num_key_value_heads": m.integer("%.attention.head_count_kv", heads), "head_dim": m.headDim(hidden, heads),
		"attention_dropout": 0.0, "use_cache": true,
	}
	if m.arch != "gpt2" {
		const eps = "%.attention.layer_norm_rms_epsilon"
		if !m.has(eps) {
			m.fail("metadata key %q is missing", m.key(eps))
		}
		out["rms_norm_eps"] = m.float(eps, 0)
	}
	if t, ok := m.f.Tensor("token_embd.weight"); ok {
		out["vocab_size"] = t.Shape.Dim(0) // the key of that name counts the tokenizer's, where it is there at all
	} else {
		m.fail("tensor \"token_embd.weight\" is missing")
	}
	_, head := m.f.Tensor("output.weight")
	out["tie_word_embeddings"] = !head
	m.tokens(out)
	return out
}

// tokens are the special ids, absent where the file names none.
func (m *meta) tokens(out map[string]any) {
	for key, from := range map[string]string{"bos_token_id": "bos", "pad_token_id": "padding"} {
		if id := m.id(from); id != nil {
			out[key] = *id
		}
	}
	eos, eot := m.id("eos"), m.id("eot")
	switch {
	case eos != nil && eot != nil && *eot != *eos:
		out["eos_token_id"] = []int32{*eos, *eot} // a turn ends a text too
	case eos != nil:
		out["eos_token_id"] = *eos
	}
}

// headDim is the size of a head; where no key says so, all of them together are as wide as the model.
func (m *meta) headDim(hidden, heads int) int {
	k := m.integer("%.attention.key_length", 0)
	if v := m.integer("%.attention.value_length", k); v != k {
		m.fail("heads of keys of %d features and of values of %d are not supported", k, v)
	}
	if k == 0 && m.arch != "phi3" { // there, part of a head turns
		k = m.integer("%.rope.dimension_count", 0)
	}
	if k == 0 && heads > 0 {
		k = hidden / heads
	}
	return k
}

// rope are the keys of the rotary embedding that all layers share.
func (m *meta) rope(theta float64) map[string]any {
	p := map[string]any{"rope_type": "default", "rope_theta": m.float("%.rope.freq_base", theta)}
	kind, factor := m.text("%.rope.scaling.type"), m.float("%.rope.scaling.factor", 0)
	if factor == 0 {
		factor = m.float("%.rope.scale_linear", 0) // of older files
	}
	if head := m.headDim(m.needed("%.embedding_length"), m.needed("%.attention.head_count")); m.integer("%.rope.dimension_count", head) != head {
		m.fail("heads of %d features of which %d turn are not supported for %q", head, m.integer("%.rope.dimension_count", head), m.arch)
	}
	original := m.integer("%.rope.scaling.original_context_length", 0)
	factors := m.floats(ropeFreqs)
	switch {
	case factors != nil && kind != "" && kind != "none":
		m.fail("rope scaling %q beside the tensor %q is not supported", kind, ropeFreqs)
	case factors != nil:
		m.bands(p, factors, original)
	case kind == "yarn":
		p["rope_type"], p["factor"] = "yarn", factor
		if original > 0 {
			p["original_max_position_embeddings"] = original
		}
		p["beta_fast"], p["beta_slow"] = m.float("%.rope.scaling.yarn_beta_fast", 32), m.float("%.rope.scaling.yarn_beta_slow", 1)
		// llama.cpp multiplies the magnitude that the factor gives.
		p["attention_factor"] = m.float("%.rope.scaling.attn_factor", 1) * (0.1*math.Log(max(factor, 1)) + 1)
	case (kind == "linear" || kind == "" || kind == "none") && (factor == 0 || factor == 1 || kind == "none"):
	case kind == "linear" || kind == "":
		p["rope_type"], p["factor"] = "linear", factor
	default:
		m.fail("rope scaling %q is not supported; none, linear and yarn are, and longrope for phi3", kind)
	}
	if kind != "yarn" {
		m.unscaled()
	}
	return p
}

// unscaled refuses a factor of the magnitude of rotations where it means nothing.
func (m *meta) unscaled() {
	if a := m.float("%.rope.scaling.attn_factor", 1); a != 1 {
		m.fail("metadata key %q is %v, which is supported for yarn, and for phi3 with factors", m.key("%.rope.scaling.attn_factor"), a)
	}
}

// bands describes factors, one for each pair of features, that divide the frequencies. If they are those of Llama 3.1's formula, up to their
// rounding, they are named so; else they are kept as they are, in the words of longrope.
func (m *meta) bands(p map[string]any, factors []float32, original int) {
	theta, _ := p["rope_theta"].(float64)
	for _, n := range []int{original, 8192} {
		f := float64(factors[len(factors)-1])
		if n <= 0 || !near(llama3Factors(theta, 2*len(factors), f, 1, 4, n), factors) {
			continue
		}
		p["rope_type"], p["factor"], p["low_freq_factor"], p["high_freq_factor"] = "llama3", decimal(float32(f)), 1.0, 4.0
		p["original_max_position_embeddings"] = n
		return
	}
	list := make([]float64, len(factors))
	for i, v := range factors {
		list[i] = decimal(v)
	}
	p["rope_type"], p["short_factor"], p["long_factor"], p["attention_factor"] = "longrope", list, list, 1.0
	p["factor"], p["original_max_position_embeddings"] = 1.0, m.integer("%.context_length", 0)
}

func near(a, b []float32) bool {
	for i := range a {
		if math.Abs(float64(a[i])-float64(b[i])) > 4e-6*math.Abs(float64(b[i])) {
			return false
		}
	}
	return len(a) == len(b)
}

// llama3Factors are the divisors of Llama 3.1's frequencies: 1 for short waves, factor for long ones, blended between.
func llama3Factors(theta float64, dim int, factor, low, high float64, original int) []float32 {
	out := make([]float32, dim/2)
	for i := range out {
		freq := 1 / math.Pow(theta, float64(2*i)/float64(dim))
		wave := 2 * math.Pi / freq
		switch long, short := float64(original)/low, float64(original)/high; {
		case wave < short:
			out[i] = 1
		case wave > long:
			out[i] = float32(factor)
		default:
			smooth := (float64(original)/wave - low) / (high - low)
			out[i] = float32(1 / ((1-smooth)/factor + smooth))
		}
	}
	return out
}

func llamaConfig(m *meta) map[string]any {
	out := map[string]any{"model_type": "llama", "hidden_act": "silu", "rope_parameters": m.rope(10000)}
	out["attention_bias"], out["mlp_bias"] = m.tensor("blk.0.attn_output.bias"), m.tensor("blk.0.ffn_down.bias")
	window := m.integer("%.attention.sliding_window", 0)
	if n := m.integer("%.expert_count", 0); n > 0 {
		out["model_type"], out["num_local_experts"], out["num_experts_per_tok"] = "mixtral", n, m.needed("%.expert_used_count")
		out["sliding_window"] = orNull(window)
	} else if window > 0 {
		out["model_type"], out["sliding_window"] = "mistral", window
	}
	return out
}

func (m *meta) tensor(name string) bool { _, ok := m.f.Tensor(name); return ok }

// orNull is nil for 0.
func orNull(n int) any {
	if n == 0 {
		return nil
	}
	return n
}

func qwenConfig(m *meta) map[string]any {
	return map[string]any{"model_type": m.arch, "hidden_act": "silu", "rope_parameters": m.rope(10000), "use_sliding_window": false,
		"attention_bias": m.arch == "qwen3" && m.tensor("blk.0.attn_q.bias")}
}

func qwenMoEConfig(m *meta) map[string]any {
	return map[string]any{"model_type": "qwen3_moe", "hidden_act": "silu", "rope_parameters": m.rope(10000), "use_sliding_window": false,
		"attention_bias": m.tensor("blk.0.attn_q.bias"), "num_experts": m.needed("%.expert_count"), "num_experts_per_tok": m.needed("%.expert_used_count"),
		"moe_intermediate_size": m.needed("%.expert_feed_forward_length"), "norm_topk_prob": true, "decoder_sparse_step": 1, "mlp_only_layers": []int{}}
}

// slides says which layers have the window: all but every period-th, or as a list of booleans tells.
func (m *meta) slides(period int) []string {
	n := m.needed("%.block_count")
	if n < 0 || n > 4096 {
		return nil // refused where the configuration is read
	}
	out := make([]string, n)
	list, ok := m.f.Value(m.key("%.attention.sliding_window_pattern"))
	on, isList := list.([]bool)
	if ok && !isList {
		period = m.integer("%.attention.sliding_window_pattern", period)
	}
	if isList && len(on) < n || !isList && period < 0 {
		m.fail("metadata key %q does not say for each of %d layers whether it has a window", m.key("%.attention.sliding_window_pattern"), n)
		return nil
	}
	for i := range out {
		out[i] = "full_attention"
		if isList && on[i] || !isList && period > 0 && i%period != period-1 {
			out[i] = "sliding_attention"
		}
	}
	return out
}

func gemma2Config(m *meta) map[string]any {
	out := m.gemma("gemma2", 2, 46)
	out["rope_parameters"], out["sliding_window"] = m.rope(10000), m.integer("%.attention.sliding_window", 4096)
	return out
}

// gemma are the keys of both Gemmas. In the largest, of a known number of layers, scores are scaled by the size that a head would have if
// all together were as wide as the model; no key of a file tells.
func (m *meta) gemma(model string, period, largest int) map[string]any {
	hidden, heads := m.needed("%.embedding_length"), m.needed("%.attention.head_count")
	scale := m.headDim(hidden, heads)
	if m.integer("%.block_count", 0) == largest && heads > 0 {
		scale = hidden / heads
	}
	null := func(key string) any {
		if v := m.float(key, 0); v != 0 {
			return v
		}
		return nil
	}
	return map[string]any{"model_type": model, "hidden_activation": "gelu_pytorch_tanh", "layer_types": m.slides(period), "query_pre_attn_scalar": scale,
		"attention_bias": false, "attn_logit_softcapping": null("%.attn_logit_softcapping"), "final_logit_softcapping": null("%.final_logit_softcapping")}
}

func gemma3Config(m *meta) map[string]any {
	out := m.gemma("gemma3_text", 6, 62)
	out["sliding_window"] = m.integer("%.attention.sliding_window", 0)
	out["rope_parameters"] = map[string]any{
		"full_attention":    m.rope(1e6),
		"sliding_attention": map[string]any{"rope_type": "default", "rope_theta": m.float("%.rope.freq_base_swa", 10000)},
	}
	return out
}

func phi3Config(m *meta) map[string]any {
	hidden, heads := m.needed("%.embedding_length"), m.needed("%.attention.head_count")
	head := m.headDim(hidden, heads)
	turns := m.integer("%.rope.dimension_count", head)
	context := m.needed("%.context_length")
	original := m.integer("%.rope.scaling.original_context_length", context)
	p := map[string]any{"rope_type": "default", "rope_theta": m.float("%.rope.freq_base", 10000)}
	if turns != head && head > 0 {
		p["partial_rotary_factor"] = float64(turns) / float64(head)
	}
	long, short, kind := m.floats(ropeLong), m.floats(ropeShort), m.text("%.rope.scaling.type")
	switch {
	case (long == nil) != (short == nil), kind == "longrope" && long == nil:
		m.fail("of the tensors %q and %q of longrope one or both are missing", ropeLong, ropeShort)
	case kind != "" && kind != "none" && kind != "longrope":
		m.fail("rope scaling %q is not supported for phi3; none and longrope are", kind)
	case long == nil:
		m.unscaled()
	default:
		p["rope_type"], p["long_factor"], p["short_factor"] = "longrope", decimals(long), decimals(short)
		p["original_max_position_embeddings"] = original
		p["attention_factor"] = m.float("%.rope.scaling.attn_factor", 1)
	}
	return map[string]any{"model_type": "phi3", "hidden_act": "silu", "rope_parameters": p, "original_max_position_embeddings": original,
		"sliding_window": orNull(m.integer("%.attention.sliding_window", 0))}
}

func decimals(list []float32) []float64 {
	out := make([]float64, len(list))
	for i, v := range list {
		out[i] = decimal(v)
	}
	return out
}

func gpt2Config(m *meta) map[string]any {
	hidden := m.needed("%.embedding_length")
	return map[string]any{"model_type": "gpt2", "activation_function": "gelu_new", "n_embd": hidden, "n_head": m.needed("%.attention.head_count"),
		"n_layer": m.needed("%.block_count"), "n_positions": m.needed("%.context_length"), "n_inner": m.integer("%.feed_forward_length", 4*hidden),
		"layer_norm_epsilon": m.float("%.attention.layer_norm_epsilon", 1e-5), "attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}
}
