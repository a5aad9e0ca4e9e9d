package models

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// HF returns config.json for weights stored in a dtype ("float32", "bfloat16"): the keys of the file that the configuration was read
// from, with what may have changed since (dtype, vocabulary, whether the head is tied, no quantization), or without one those of
// transformers 5. The rotary order is the half-split one: weights must have gone through ToHalfSplit.
func (c Config) HF(dtype string) (map[string]any, error) {
	f, err := familyOf(c.Type)
	if err != nil {
		return nil, err
	}
	if c.File == nil {
		return c.keys(f, dtype), nil
	}
	var kept map[string]json.RawMessage
	if err := json.Unmarshal(c.File, &kept); err != nil {
		return nil, jsonError(err)
	}
	out := make(map[string]any, len(kept))
	for k, v := range kept {
		out[k] = v
	}
	delete(out, "quantization_config")
	key := "dtype"
	if _, old := out["torch_dtype"]; old {
		key = "torch_dtype"
		delete(out, "dtype")
	}
	out[key], out["vocab_size"] = dtype, c.Vocab
	if _, said := out["tie_word_embeddings"]; said || c.Tied != f.defaults.Tied {
		out["tie_word_embeddings"] = c.Tied
	}
	return out, nil
}

// keys is a config.json of transformers 5 made from nothing but the fields.
func (c Config) keys(f *family, dtype string) map[string]any {
	act := c.Act
	if act == "" {
		act = "silu"
	}
	out := map[string]any{
		"architectures": []string{f.class}, "model_type": f.model, "dtype": dtype, "hidden_act": act,
		"vocab_size": c.Vocab, "hidden_size": c.Hidden, "intermediate_size": c.Intermediate, "num_hidden_layers": c.Layers,
		"num_attention_heads": c.Heads, "num_key_value_heads": c.KVHeads, "head_dim": c.HeadDim, "max_position_embeddings": c.MaxPositions,
		"rms_norm_eps": float64(c.Eps), "tie_word_embeddings": c.Tied,
		"attention_dropout": 0.0, "initializer_range": c.InitStd, "use_cache": true,
	}
	if !f.learned {
		rope := c.Rope.keys(c.HeadDim)
		out["rope_parameters"], out["rope_theta"] = rope, c.Rope.Theta // the latter for transformers 4
		if c.Rope.Scaling == Dynamic {
			out["max_position_embeddings"] = c.Rope.Original
		}
		if c.Rope.Scaling != "" {
			out["rope_scaling"] = rope
		}
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
	f.keys(c, out)
	return out
}

// keys is rope_parameters of transformers 5.
func (r Rope) keys(headDim int) map[string]any {
	out := map[string]any{"rope_type": "default", "rope_theta": r.Theta}
	if r.Dim != 0 && r.Dim != headDim {
		out["partial_rotary_factor"] = float64(r.Dim) / float64(headDim)
	}
	if r.Scaling == "" {
		return out
	}
	out["rope_type"] = string(r.Scaling)
	if r.Factor != 0 {
		out["factor"] = r.Factor
	}
	if r.Original != 0 && r.Scaling != Dynamic {
		out["original_max_position_embeddings"] = r.Original
	}
	switch r.Scaling {
	case Llama3:
		out["low_freq_factor"], out["high_freq_factor"] = r.Low, r.High
	case Yarn:
		out["beta_fast"], out["beta_slow"], out["truncate"], out["attention_factor"] = r.BetaFast, r.BetaSlow, !r.NoTruncate, r.Attention
	case LongRope:
		out["short_factor"], out["long_factor"] = r.Short, r.Long
		if r.Attention != 0 {
			out["attention_factor"] = r.Attention
		}
	}
	return out
}

// ToHalfSplit reorders the rows of q_proj and k_proj weights and biases from interleaved rotary pairs (2i, 2i+1) to halves
// (i, i+D/2). Other tensors, and those of a model that is half-split already, are returned as they are.
func (m *Model) ToHalfSplit(name string, t *tensor.Tensor) (*tensor.Tensor, error) {
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
