// Package llamacpp translates between models as llama.cpp keeps them in GGUF files and as Hugging Face does: which architecture is which
// model_type, what tensors are called and how their rows lie, metadata and config.json, vocabularies, LoRA adapters
// (https://github.com/ggml-org/llama.cpp, convert_hf_to_gguf.py and convert_lora_to_gguf.py).
//
// Open makes a GGUF file a model: a config.json for package models and a checkpoint.Reader of tensors under Hugging Face names. Export and
// ExportLoRA go the other way. An architecture is a row of a table, and both ways read the same row.
package llamacpp

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// change is what happens to a tensor on its way from Hugging Face to llama.cpp.
type change uint8

const (
	same change = iota
	// paired: rows of a head in the order of rotary pairs (0, d/2, 1, d/2+1, ...), because this architecture rotates neighbours.
	paired
	// plusOne: a norm's weight w is stored as 1 + w.
	plusOne
	// transposed: a Conv1D keeps (in, out).
	transposed
	// stacked: one tensor holds this of all experts, (expert, out, in).
	stacked
)

// row is a tensor's name in both worlds, without .weight or .bias; # is the number of a layer, @ that of an expert.
type row struct {
	gguf, hf string
	change   change
}

// arch is an architecture of llama.cpp and the families of models that it stands for.
type arch struct {
	name   string
	models []string // values of model_type; which one a file is, its metadata tell
	rows   []row
	// buffers are tensors that hold no weights: what they mean is in config.json.
	buffers []string

	// config gives the keys of config.json beside the common ones, metadata is the reverse.
	config   func(m *meta) map[string]any
	metadata func(c *hfConfig, e *entries)
	// scales names tensors, by their end, that are multiplied when they are written, so that what llama.cpp computes is the model.
	scales func(c *hfConfig) (end string, by float64)
}

// decoder are the names that all architectures but GPT-2 share.
var decoder = []row{
	{"token_embd", "model.embed_tokens", same},
	{"output_norm", "model.norm", same},
	{"output", "lm_head", same},
	{"blk.#.attn_norm", "model.layers.#.input_layernorm", same},
	{"blk.#.attn_q", "model.layers.#.self_attn.q_proj", same},
	{"blk.#.attn_k", "model.layers.#.self_attn.k_proj", same},
	{"blk.#.attn_v", "model.layers.#.self_attn.v_proj", same},
	{"blk.#.attn_output", "model.layers.#.self_attn.o_proj", same},
	{"blk.#.ffn_norm", "model.layers.#.post_attention_layernorm", same},
	{"blk.#.ffn_gate", "model.layers.#.mlp.gate_proj", same},
	{"blk.#.ffn_up", "model.layers.#.mlp.up_proj", same},
	{"blk.#.ffn_down", "model.layers.#.mlp.down_proj", same},
}

// with returns rows in which those of the same GGUF name are replaced, and others added.
func with(rows []row, more ...row) []row {
	out := slices.Clone(rows)
	for _, r := range more {
		if i := slices.IndexFunc(out, func(o row) bool { return o.gguf == r.gguf }); i >= 0 {
			out[i] = r
		} else {
			out = append(out, r)
		}
	}
	return out
}

// without leaves rows out.
func without(rows []row, names ...string) []row {
	return slices.DeleteFunc(slices.Clone(rows), func(r row) bool { return slices.Contains(names, r.gguf) })
}

// headNorms are the norms of the heads of queries and keys.
var headNorms = []row{
	{"blk.#.attn_q_norm", "model.layers.#.self_attn.q_norm", same},
	{"blk.#.attn_k_norm", "model.layers.#.self_attn.k_norm", same},
}

// gemmaNorms are the four norms of a Gemma layer and the last one, which all are stored as 1 + w.
var gemmaNorms = []row{
	{"output_norm", "model.norm", plusOne},
	{"blk.#.attn_norm", "model.layers.#.input_layernorm", plusOne},
	{"blk.#.post_attention_norm", "model.layers.#.post_attention_layernorm", plusOne},
	{"blk.#.ffn_norm", "model.layers.#.pre_feedforward_layernorm", plusOne},
	{"blk.#.post_ffw_norm", "model.layers.#.post_feedforward_layernorm", plusOne},
}

// archs is the registry.
var archs = []*arch{
	{
		name: "llama", models: []string{"llama", "mistral", "mixtral"}, buffers: []string{ropeFreqs},
		rows: with(decoder,
			row{"blk.#.attn_q", "model.layers.#.self_attn.q_proj", paired},
			row{"blk.#.attn_k", "model.layers.#.self_attn.k_proj", paired},
			row{"blk.#.ffn_gate_inp", "model.layers.#.block_sparse_moe.gate", same},
			row{"blk.#.ffn_gate_exps", "model.layers.#.block_sparse_moe.experts.@.w1", stacked},
			row{"blk.#.ffn_down_exps", "model.layers.#.block_sparse_moe.experts.@.w2", stacked},
			row{"blk.#.ffn_up_exps", "model.layers.#.block_sparse_moe.experts.@.w3", stacked}),
		config: llamaConfig, metadata: llamaMetadata,
	},
	{name: "qwen2", models: []string{"qwen2"}, rows: decoder, config: qwenConfig, metadata: qwenMetadata},
	{name: "qwen3", models: []string{"qwen3"}, rows: with(decoder, headNorms...), config: qwenConfig, metadata: qwenMetadata},
	{
		name: "qwen3moe", models: []string{"qwen3_moe"},
		rows: with(with(without(decoder, "blk.#.ffn_gate", "blk.#.ffn_up", "blk.#.ffn_down"), headNorms...),
			row{"blk.#.ffn_gate_inp", "model.layers.#.mlp.gate", same},
			row{"blk.#.ffn_gate_exps", "model.layers.#.mlp.experts.@.gate_proj", stacked},
			row{"blk.#.ffn_down_exps", "model.layers.#.mlp.experts.@.down_proj", stacked},
			row{"blk.#.ffn_up_exps", "model.layers.#.mlp.experts.@.up_proj", stacked}),
		config: qwenMoEConfig, metadata: qwenMoEMetadata,
	},
	{
		name: "gemma2", models: []string{"gemma2"}, rows: without(with(decoder, gemmaNorms...), "output"),
		config: gemma2Config, metadata: gemma2Metadata, scales: gemma2Scale,
	},
	{
		name: "gemma3", models: []string{"gemma3_text"},
		rows: with(with(decoder, gemmaNorms...),
			row{"blk.#.attn_q_norm", "model.layers.#.self_attn.q_norm", plusOne},
			row{"blk.#.attn_k_norm", "model.layers.#.self_attn.k_norm", plusOne}),
		config: gemma3Config, metadata: gemma3Metadata, scales: gemma3Scale,
	},
	{
		name: "phi3", models: []string{"phi3"}, buffers: []string{ropeLong, ropeShort},
		rows: with(without(decoder, "blk.#.attn_q", "blk.#.attn_k", "blk.#.attn_v", "blk.#.ffn_gate"),
			row{"blk.#.attn_qkv", "model.layers.#.self_attn.qkv_proj", same},
			row{"blk.#.ffn_up", "model.layers.#.mlp.gate_up_proj", same}),
		config: phi3Config, metadata: phi3Metadata,
	},
	{
		name: "gpt2", models: []string{"gpt2"},
		rows: []row{
			{"token_embd", "transformer.wte", same},
			{"position_embd", "transformer.wpe", same},
			{"output_norm", "transformer.ln_f", same},
			{"output", "lm_head", same},
			{"blk.#.attn_norm", "transformer.h.#.ln_1", same},
			{"blk.#.attn_qkv", "transformer.h.#.attn.c_attn", transposed},
			{"blk.#.attn_output", "transformer.h.#.attn.c_proj", transposed},
			{"blk.#.ffn_norm", "transformer.h.#.ln_2", same},
			{"blk.#.ffn_up", "transformer.h.#.mlp.c_fc", transposed},
			{"blk.#.ffn_down", "transformer.h.#.mlp.c_proj", transposed},
		},
		config: gpt2Config, metadata: gpt2Metadata,
	},
}

// The tensors that are no weights.
const (
	ropeFreqs = "rope_freqs.weight"
	ropeLong  = "rope_factors_long.weight"
	ropeShort = "rope_factors_short.weight"
)

// Architectures lists the values of general.architecture that are read and written.
func Architectures() []string {
	var out []string
	for _, a := range archs {
		out = append(out, a.name)
	}
	return out
}

func archNamed(name string) *arch {
	for _, a := range archs {
		if a.name == name {
			return a
		}
	}
	return nil
}

// archOf finds the architecture of a model_type.
func archOf(model string) (*arch, error) {
	var known []string
	for _, a := range archs {
		if slices.Contains(a.models, model) {
			return a, nil
		}
		known = append(known, a.models...)
	}
	return nil, fmt.Errorf("model_type %q cannot be written as GGUF; %s can", model, strings.Join(known, ", "))
}

// ends are the last parts of tensors' names.
var ends = []string{".weight", ".bias"}

// fromGGUF translates the name of a tensor: its row, and the Hugging Face name, in which @ is left for the expert.
func (a *arch) fromGGUF(name string) (r row, hf string, ok bool) {
	return a.find(name, func(r row) (from, to string) { return r.gguf, r.hf })
}

// fromHF translates the other way; expert is -1 for a tensor of no expert.
func (a *arch) fromHF(name string) (r row, gguf string, expert int, ok bool) {
	pattern, expert := name, -1
	if head, tail, cut := strings.Cut(name, ".experts."); cut {
		number, rest, _ := strings.Cut(tail, ".")
		n, err := strconv.Atoi(number)
		if err != nil || strconv.Itoa(n) != number {
			return row{}, "", -1, false
		}
		pattern, expert = head+".experts.@."+rest, n
	}
	r, gguf, ok = a.find(pattern, func(r row) (from, to string) { return r.hf, r.gguf })
	return r, gguf, expert, ok
}

// find matches a name with the rows; direction picks which side is looked up and which one is the answer.
func (a *arch) find(name string, direction func(row) (from, to string)) (row, string, bool) {
	for _, end := range ends {
		base, ok := strings.CutSuffix(name, end)
		if !ok {
			continue
		}
		pattern, layer, ok := numbered(base)
		if !ok {
			return row{}, "", false
		}
		for _, r := range a.rows {
			if from, to := direction(r); from == pattern {
				return r, strings.Replace(to, "#", layer, 1) + end, true
			}
		}
	}
	return row{}, "", false
}

// numbered replaces the first part of a name that is a number by #; ok is false for one that is not written as numbers are.
func numbered(name string) (pattern, number string, ok bool) {
	parts := strings.Split(name, ".")
	for i, p := range parts {
		if p == "" || p[0] < '0' || p[0] > '9' {
			continue
		}
		if n, err := strconv.Atoi(p); err != nil || strconv.Itoa(n) != p {
			return "", "", false
		}
		parts[i] = "#"
		return strings.Join(parts, "."), p, true
	}
	return name, "", true
}
