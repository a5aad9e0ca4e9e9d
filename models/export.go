package models

import (
	"fmt"
	"strings"

	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// HF returns config.json in the keys of transformers 5, with the dtype of the stored weights ("float32", "bfloat16"). The rotary
// order is the half-split one: weights must have gone through ToHalfSplit.
func (c Config) HF(dtype string) map[string]any {
	rope := map[string]any{"rope_type": "default", "rope_theta": c.Rope.Theta}
	if c.Rope.Llama3 {
		rope = map[string]any{"rope_type": "llama3", "rope_theta": c.Rope.Theta, "factor": c.Rope.Factor, "low_freq_factor": c.Rope.Low,
			"high_freq_factor": c.Rope.High, "original_max_position_embeddings": c.Rope.Original}
	}
	out := map[string]any{
		"architectures": []string{"LlamaForCausalLM"}, "model_type": "llama", "dtype": dtype, "hidden_act": "silu",
		"vocab_size": c.Vocab, "hidden_size": c.Hidden, "intermediate_size": c.Intermediate, "num_hidden_layers": c.Layers,
		"num_attention_heads": c.Heads, "num_key_value_heads": c.KVHeads, "head_dim": c.HeadDim, "max_position_embeddings": c.MaxPositions,
		"rms_norm_eps": float64(c.Eps), "rope_parameters": rope, "rope_theta": c.Rope.Theta, "tie_word_embeddings": c.Tied,
		"attention_bias": c.AttentionBias, "mlp_bias": c.MLPBias, "attention_dropout": 0.0, "initializer_range": c.InitStd,
		"use_cache": true,
	}
	for key, ids := range map[string][]int32{"bos_token_id": c.BOS, "eos_token_id": c.EOS} {
		switch len(ids) {
		case 0:
			out[key] = nil
		case 1:
			out[key] = ids[0]
		default:
			out[key] = ids
		}
	}
	if c.Pad >= 0 {
		out["pad_token_id"] = c.Pad
	}
	if c.Rope.Llama3 {
		out["rope_scaling"] = rope
	}
	return out
}

// ToHalfSplit reorders the rows of q_proj and k_proj weights and biases from interleaved rotary pairs (2i, 2i+1) to halves
// (i, i+D/2). Other tensors, and those of a model that is half-split already, are returned as they are.
func (m *Llama) ToHalfSplit(name string, t *tensor.Tensor) (*tensor.Tensor, error) {
	if !m.config.Rope.Interleaved || !(strings.Contains(name, ".q_proj.") || strings.Contains(name, ".k_proj.")) || strings.Contains(name, "lora_A") {
		return t, nil
	}
	d := m.config.HeadDim
	rows := t.Shape().Dim(0)
	if rows%d != 0 {
		return nil, fmt.Errorf("%s has %d rows, which is no multiple of the head size %d", name, rows, d)
	}
	out := tensor.New(t.Type())
	row := len(t.Bytes()) / max(rows, 1)
	for r := range rows {
		head, i := r/d, r%d
		from := head*d + 2*i
		if i >= d/2 {
			from = head*d + 2*(i-d/2) + 1
		}
		copy(out.Bytes()[r*row:(r+1)*row], t.Bytes()[from*row:(from+1)*row])
	}
	return out, nil
}
