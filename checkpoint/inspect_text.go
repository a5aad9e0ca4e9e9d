package checkpoint

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
)

// WriteText prints the description for people: what it is, what its configuration says, and its tensors.
func (in Info) WriteText(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s, %d tensors, %d elements, %d bytes\n", in.Path, in.Kind, len(in.Tensors), in.Elements, in.Bytes)
	for _, k := range sortedKeys(in.ByDType) {
		fmt.Fprintf(&b, "  %-5s %d bytes\n", k, in.ByDType[k])
	}
	in.writeConfig(&b)
	for _, k := range sortedKeys(in.Metadata) {
		fmt.Fprintf(&b, "  metadata %s: %s\n", quoted(k), quoted(in.Metadata[k]))
	}
	if q := in.Quantized; q != nil {
		fmt.Fprintf(&b, "  %s\n", q.text())
	}
	if len(in.Files) > 1 {
		for _, f := range in.Files {
			fmt.Fprintf(&b, "  file %s: %d bytes\n", printable(f.Name), f.Bytes)
		}
	}
	for _, c := range in.Checkpoints {
		state := "intact"
		if !c.Intact {
			state = "damaged: " + c.Problem
		}
		fmt.Fprintf(&b, "  checkpoint %s: %s\n", c.Name, state)
	}
	for _, warning := range in.Warnings {
		fmt.Fprintf(&b, "  warning: %s\n", warning)
	}
	width := 0
	for _, t := range in.Tensors {
		width = max(width, min(len(printable(t.Name)), 80))
	}
	for _, t := range in.Tensors {
		fmt.Fprintf(&b, "  %-*s  %-4s %v\n", width, printable(t.Name), t.DType, t.Shape)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// shownKeys are those of config.json, adapter_config.json and state.json that say what a model, an adapter or a checkpoint is, in the order in
// which a person asks. What is null, false or empty says nothing and is left out.
var shownKeys = []string{
	"model_type", "num_hidden_layers", "n_layer", "n_layers", "dim", "hidden_dim", "n_heads", "n_kv_heads", "seq_len", "hidden_size", "n_embd", "intermediate_size", "num_attention_heads", "n_head", "num_key_value_heads", "head_dim",
	"num_experts", "num_local_experts", "num_experts_per_tok", "vocab_size", "max_position_embeddings", "n_positions", "sliding_window", "rope_theta", "rope_scaling",
	"rope_parameters", "tie_word_embeddings", "dtype", "torch_dtype", "bos_token_id", "eos_token_id",
	"peft_type", "base_model_name_or_path", "revision", "r", "lora_alpha", "lora_dropout", "use_rslora", "use_dora", "lora_bias", "bias", "target_modules", "target_parameters",
	"exclude_modules", "modules_to_save", "trainable_token_indices", "layers_to_transform", "rank_pattern", "alpha_pattern", "init_lora_weights",
	"step", "epoch", "best_step", "best_eval_loss",
}

// writeConfig prints the shown keys of the configuration.
func (in Info) writeConfig(b *strings.Builder) {
	var keys map[string]json.RawMessage
	if json.Unmarshal(in.Config, &keys) != nil {
		return
	}
	for _, k := range shownKeys {
		var line bytes.Buffer
		if json.Compact(&line, keys[k]) != nil {
			continue
		}
		switch v := line.String(); v {
		case "", "null", "false", "[]", "{}", `""`:
		default:
			fmt.Fprintf(b, "  %s: %s\n", k, clipped(v))
		}
	}
}

// clipped is JSON text of a file, cut where it is long; control characters cannot occur in it but for those of hostile strings.
func clipped(v string) string {
	const limit = 200
	clean := strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 || r == 0x202e {
			return '\ufffd'
		}
		return r
	}, v)
	if len(clean) <= limit {
		return clean
	}
	return strings.ToValidUTF8(clean[:limit], "") + "..."
}
