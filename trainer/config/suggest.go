package config

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/bitsandbyes/bitsandbyes/internal/nearest"
)

// otherNames maps what other tools call a setting to the key here.
var otherNames = map[string]string{
	"lora_r": "adapter.r", "rank": "adapter.r", "lora_rank": "adapter.r", "lora_alpha": "adapter.alpha",
	"lora_dropout": "adapter.dropout", "target_modules": "adapter.targets", "lora_target": "adapter.targets",
	"base_model": "model", "model_name_or_path": "model", "load_in_4bit": "quantize.scheme", "load_in_8bit": "quantize.scheme",
	"double_quant": "quantize.double", "quant_type": "quantize.scheme", "block_size": "quantize.blocksize",
	"dataset": "data.path", "datasets": "data.path", "max_length": "data.seq_len", "max_seq_length": "data.seq_len",
	"sequence_len": "data.seq_len", "cutoff_len": "data.seq_len", "packing": "data.pack", "sample_packing": "data.pack",
	"chat_template": "data.template", "val_set_size": "data.val", "eval_dataset": "data.val_path", "test_datasets": "data.val_path", "train_on_inputs": "data.mask",
	"learning_rate": "train.lr", "lr_scheduler": "train.schedule", "lr_scheduler_type": "train.schedule",
	"num_epochs": "train.epochs", "num_train_epochs": "train.epochs", "max_steps": "train.steps", "iters": "train.steps",
	"batch_size": "train.batch", "global_batch_size": "train.batch", "micro_batch_size": "train.micro_batch",
	"per_device_train_batch_size": "train.micro_batch", "gradient_accumulation_steps": "train.batch",
	"warmup_ratio": "train.warmup", "warmup_steps": "train.warmup", "max_grad_norm": "train.clip", "grad_clip": "train.clip",
	"adam_beta1": "train.betas", "adam_beta2": "train.betas", "adam_epsilon": "train.eps", "bf16": "train.dtype",
	"fp16": "train.dtype", "initial_scale": "train.loss_scale", "loss_scale_window": "train.loss_scale_interval", "gradient_checkpointing": "train.checkpointing", "activation_offloading": "train.offload", "enable_activation_offloading": "train.offload", "optim": "train.optimizer",
	"eval_steps": "eval.every", "save_steps": "save.every", "save_total_limit": "save.keep", "output_dir": "out",
	"resume_from_checkpoint": "resume", "load_best_model_at_end": "save.best", "early_stopping_patience": "eval.patience",
	"early_stopping_threshold": "eval.min_delta", "label_smoothing_factor": "train.label_smoothing", "eval_on_start": "eval.at_start", "router_aux_loss_coef": "train.router_loss", "neftune_noise_alpha": "train.neftune", "noisy_embedding_alpha": "train.neftune",
	"dpo_beta": "train.preference_args.beta", "simpo_gamma": "train.preference_args.gamma", "precompute_ref_log_probs": "train.preference_args.reference",
}

// suggestKey returns "; did you mean train.lr?" for a mistyped key, else the keys of its section, else how to list all.
func suggestKey(key string) string {
	names := append(sections(), Keys()...)
	if best := closest(key, names); best != "" {
		return "; did you mean " + best + "?"
	}
	section := sectionOf(key)
	if keys := sectionKeys(section); section != "" && len(keys) > 0 {
		for _, s := range sections() {
			if sectionOf(s) == section {
				keys = append(keys, s)
			}
		}
		return "; the keys of " + section + " are " + leaves(keys)
	}
	return "; --print-config shows every key"
}

// suggestFlag is suggestKey for a name on the command line, where short forms and the command's own flags count too.
func suggestFlag(name string, own map[string]bool) string {
	names := append(Keys(), slices.Sorted(maps.Keys(shortForms))...)
	names = append(names, slices.Sorted(maps.Keys(own))...)
	if best := closest(name, names); best != "" {
		return "; did you mean --" + best + "?"
	}
	return "; --print-config shows every key"
}

// didYouMean returns "; did you mean X?" when a name is near, else "; " and the whole list.
func didYouMean(got string, names []string, what string) string {
	if best := closest(got, names); best != "" {
		return "; did you mean " + best + "?"
	}
	shown := make([]string, len(names))
	for i, n := range names {
		if shown[i] = n; n == "" {
			shown[i] = `""`
		}
	}
	return fmt.Sprintf("; %sone of %s", what, strings.Join(shown, ", "))
}

// Closest returns the name that was most likely meant by got, "" when none is near.
func Closest(got string, names []string) string { return closest(got, names) }

// closest returns the name that was most likely meant, "" when none is near. Besides the whole text it tries the last part
// alone, because a key is often written without its section or in the wrong one.
func closest(got string, names []string) string {
	if len(got) > 60 {
		return ""
	}
	got = strings.ToLower(strings.ReplaceAll(got, "-", "_"))
	leaf := got[strings.LastIndex(got, ".")+1:]
	if known, ok := otherNames[leaf]; ok && slices.Contains(names, known) {
		return known
	}
	best, bestCost := "", 1+max(1, len(got)/3)
	for _, n := range names {
		norm := strings.ReplaceAll(n, "-", "_")
		nameLeaf := norm[strings.LastIndex(norm, ".")+1:]
		cost := nearest.Distance(got, norm)
		if len(leaf) > 1 {
			// Under another section a leaf has to fit nearly exactly.
			cost = min(cost, 1+3*nearest.Distance(leaf, nameLeaf))
		}
		if n != "" && cost < bestCost {
			best, bestCost = n, cost
		}
	}
	return best
}

// sections returns the names of the sections in order.
func sections() []string {
	var names []string
	for _, k := range Keys() {
		if s := sectionOf(k); s != "" && !slices.Contains(names, s) {
			names = append(names, s)
		}
	}
	return names
}

// sectionKeys returns the dotted keys of a section.
func sectionKeys(section string) []string {
	var keys []string
	for _, k := range Keys() {
		if sectionOf(k) == section {
			keys = append(keys, k)
		}
	}
	return keys
}

func leaves(keys []string) string {
	out := make([]string, len(keys))
	for i, k := range keys {
		out[i] = k[strings.LastIndex(k, ".")+1:]
	}
	return strings.Join(out, ", ")
}
