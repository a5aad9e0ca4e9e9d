package config

import "strings"

// field is one key of the configuration: the row that reading, checking, writing and hashing share.
type field struct {
	key     string
	value   value
	example string   // a valid value as written in YAML
	enum    []string // allowed values of a string, nil when free
	silent  bool     // does not change what is computed: left out of Hash
}

// Allowed values.
var (
	schemes     = []string{"none", "nf4", "fp4", "int8"}
	computes    = []string{"", "f32", "bf16", "f16"}
	adapters    = []string{"lora", "none"}
	formats     = []string{"auto", "text", "prompt_completion", "messages", "sharegpt", "alpaca", "preference", "tokens", "bin"}
	masks       = []string{"none", "prompt", "assistant", "last"}
	objectives  = []string{"sft"}
	schedules   = []string{"cosine", "linear", "constant", "wsd"}
	dtypes      = []string{"auto", "f32", "bf16", "f16"}
	params      = []string{"f32", "bf16"}
	checkpoints = []string{"auto", "on", "off"}
	optimizers  = optimizerNames()
)

// optimizerNames lists bitsandbytes' classes in lower case: each rule in its plain, 8-bit and 32-bit form, and paged
// variants of the rules that have them.
func optimizerNames() []string {
	var names []string
	for _, rule := range []string{"adamw", "adam", "ademamix", "lion"} {
		for _, prefix := range []string{"", "paged"} {
			names = append(names, prefix+rule, prefix+rule+"8bit", prefix+rule+"32bit")
		}
	}
	for _, rule := range []string{"sgd", "rmsprop", "adagrad", "lamb", "lars"} {
		names = append(names, rule, rule+"8bit", rule+"32bit")
	}
	return names
}

// fields returns the table, bound to c, in the order in which a configuration is printed.
func fields(c *Config) []field {
	rows := []field{
		{key: "model", value: (*textValue)(&c.Model), example: "./Llama-3.2-1B"},
		{key: "quantize.scheme", value: (*textValue)(&c.Quantize.Scheme), example: "nf4", enum: schemes},
		{key: "quantize.blocksize", value: (*intValue)(&c.Quantize.Blocksize), example: "64"},
		{key: "quantize.double", value: (*boolValue)(&c.Quantize.Double), example: "true"},
		{key: "quantize.compute", value: (*textValue)(&c.Quantize.Compute), example: "bf16", enum: computes},
		{key: "adapter.type", value: (*textValue)(&c.Adapter.Type), example: "lora", enum: adapters},
		{key: "adapter.r", value: (*intValue)(&c.Adapter.R), example: "16"},
		{key: "adapter.alpha", value: (*floatValue)(&c.Adapter.Alpha), example: "32"},
		{key: "adapter.dropout", value: (*floatValue)(&c.Adapter.Dropout), example: "0.05"},
		{key: "adapter.targets", value: (*targetsValue)(&c.Adapter.Targets), example: "[q_proj, v_proj]"},
		{key: "adapter.init", value: (*textValue)(&c.Adapter.Init), example: "runs/first/adapter"},
		{key: "data.path", value: (*sourcesValue)(&c.Data.Path), example: "rows.jsonl"},
		{key: "data.format", value: (*textValue)(&c.Data.Format), example: "messages", enum: formats},
		{key: "data.seq_len", value: (*intValue)(&c.Data.SeqLen), example: "2048"},
		{key: "data.pack", value: (*boolValue)(&c.Data.Pack), example: "true"},
		{key: "data.shuffle", value: (*boolValue)(&c.Data.Shuffle), example: "true"},
		{key: "data.mask", value: (*textValue)(&c.Data.Mask), example: "prompt", enum: masks},
		{key: "data.val", value: (*floatValue)(&c.Data.Val), example: "0.02"},
		{key: "data.template", value: (*textValue)(&c.Data.Template), example: "chat_template.jinja"},
	}
	rows = append(rows, trainFields(&c.Train)...)
	return append(rows,
		field{key: "eval.every", value: (*intValue)(&c.Eval.Every), example: "100", silent: true},
		field{key: "save.every", value: (*intValue)(&c.Save.Every), example: "100", silent: true},
		field{key: "save.keep", value: (*intValue)(&c.Save.Keep), example: "3", silent: true},
		field{key: "device", value: (*textValue)(&c.Device), example: "cuda:0", silent: true},
		field{key: "out", value: (*textValue)(&c.Out), example: "runs/first", silent: true},
		field{key: "resume", value: (*boolValue)(&c.Resume), example: "true", silent: true},
		field{key: "deterministic", value: (*boolValue)(&c.Deterministic), example: "true"},
	)
}

func trainFields(t *Train) []field {
	return []field{
		{key: "train.objective", value: (*textValue)(&t.Objective), example: "sft", enum: objectives},
		{key: "train.epochs", value: (*floatValue)(&t.Epochs), example: "1"},
		{key: "train.steps", value: (*intValue)(&t.Steps), example: "500"},
		{key: "train.batch", value: (*intValue)(&t.Batch), example: "16"},
		{key: "train.micro_batch", value: (*intValue)(&t.MicroBatch), example: "2"},
		{key: "train.lr", value: (*floatValue)(&t.LR), example: "2e-4"},
		{key: "train.schedule", value: (*textValue)(&t.Schedule), example: "cosine", enum: schedules},
		{key: "train.warmup", value: (*floatValue)(&t.Warmup), example: "0.03"},
		{key: "train.optimizer", value: (*textValue)(&t.Optimizer), example: "adamw8bit", enum: optimizers},
		{key: "train.min_8bit_size", value: (*intValue)(&t.Min8bitSize), example: "4096"},
		{key: "train.betas", value: (*floatsValue)(&t.Betas), example: "[0.9, 0.999]"},
		{key: "train.eps", value: (*floatValue)(&t.Eps), example: "1e-8"},
		{key: "train.weight_decay", value: (*floatValue)(&t.WeightDecay), example: "0.01"},
		{key: "train.clip", value: (*floatValue)(&t.Clip), example: "1.0"},
		{key: "train.dtype", value: (*textValue)(&t.DType), example: "bf16", enum: dtypes},
		{key: "train.param", value: (*textValue)(&t.Param), example: "f32", enum: params},
		{key: "train.seed", value: (*uintValue)(&t.Seed), example: "1"},
		{key: "train.checkpointing", value: (*switchValue)(&t.Checkpointing), example: "auto", enum: checkpoints},
		{key: "train.memory", value: (*textValue)(&t.Memory), example: "16GiB", silent: true},
		{key: "train.fit", value: (*boolValue)(&t.Fit), example: "true", silent: true},
	}
}

// shortForms are flags that stand for a key of another name.
var shortForms = map[string]string{"memory": "train.memory", "fit": "train.fit", "template": "data.template"}

// Keys lists every dotted key in the order of a printed configuration.
func Keys() []string {
	rows := fields(new(Config))
	keys := make([]string, len(rows))
	for i, f := range rows {
		keys[i] = f.key
	}
	return keys
}

// sectionOf returns "train" for "train.lr" and "" for "device".
func sectionOf(key string) string {
	section, _, found := strings.Cut(key, ".")
	if !found {
		return ""
	}
	return section
}

// isSection reports whether some key lies in the section name.
func isSection(rows []field, name string) bool {
	for _, f := range rows {
		if name != "" && sectionOf(f.key) == name {
			return true
		}
	}
	return false
}

// findField returns the row of a dotted key.
func findField(rows []field, key string) (field, bool) {
	for _, f := range rows {
		if f.key == key {
			return f, true
		}
	}
	return field{}, false
}
