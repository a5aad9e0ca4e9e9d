package config

import (
	"strings"

	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/optim"
)

// field is one key of the configuration: the row that reading, checking, writing and hashing share.
type field struct {
	key     string
	value   value
	example string   // a valid value as written in YAML
	enum    []string // allowed values of a string, nil when free
	silent  bool     // does not change what is computed: left out of Hash
	since   string   // default of a key that came later, as YAML; the hash of a run that keeps it is that of runs before
}

// Allowed values.
var (
	schemes     = []string{"none", "nf4", "fp4", "int8"}
	computes    = []string{"", "f32", "bf16", "f16"}
	adapters    = []string{"lora", "dora", "none"}
	formats     = []string{"auto", "text", "prompt_completion", "messages", "sharegpt", "alpaca", "preference", "tokens", "bin"}
	masks       = []string{"none", "prompt", "assistant", "last"}
	objectives  = []string{"sft", "dpo", "orpo", "simpo", "kto"}
	references  = []string{"", "auto", "live", "precompute"}
	schedules   = optim.ScheduleNames()
	shapes      = []string{"", "linear", "cosine", "sqrt"}
	decayed     = []string{"", "none", "vectors"}
	dtypes      = []string{"auto", "f32", "bf16", "f16"}
	params      = []string{"f32", "bf16", "bf16-kahan"}
	checkpoints = []string{"auto", "on", "off"}
	offloads    = []string{"auto", "off", "inputs", "all"}
	launchings  = plan.Launchings
	optimizers  = optim.Names()
)

// fields returns the table, bound to c, in the order in which a configuration is printed.
func fields(c *Config) []field {
	rows := []field{
		{key: "model", value: (*textValue)(&c.Model), example: "./Llama-3.2-1B"},
		{key: "quantize.scheme", value: (*textValue)(&c.Quantize.Scheme), example: "nf4", enum: schemes},
		{key: "quantize.blocksize", value: (*intValue)(&c.Quantize.Blocksize), example: "64"},
		{key: "quantize.double", value: (*boolValue)(&c.Quantize.Double), example: "true"},
		{key: "quantize.compute", value: (*textValue)(&c.Quantize.Compute), example: "bf16", enum: computes},
	}
	rows = append(rows, adapterFields(&c.Adapter)...)
	rows = append(rows, []field{
		{key: "data.path", value: (*sourcesValue)(&c.Data.Path), example: "rows.jsonl"},
		{key: "data.format", value: (*textValue)(&c.Data.Format), example: "messages", enum: formats},
		{key: "data.seq_len", value: (*intValue)(&c.Data.SeqLen), example: "2048"},
		{key: "data.pack", value: (*boolValue)(&c.Data.Pack), example: "true"},
		{key: "data.shuffle", value: (*boolValue)(&c.Data.Shuffle), example: "true"},
		{key: "data.mask", value: (*textValue)(&c.Data.Mask), example: "prompt", enum: masks},
		{key: "data.val", value: (*floatValue)(&c.Data.Val), example: "0.02"},
		{key: "data.val_path", value: (*sourcesValue)(&c.Data.ValPath), example: "held_out.jsonl"},
		{key: "data.template", value: (*textValue)(&c.Data.Template), example: "chat_template.jinja"},
		{key: "data.chat", value: (*boolValue)(&c.Data.Chat), example: "true"},
		{key: "data.roles", value: (*namesValue)(&c.Data.Roles), example: "[narrator]", silent: true},
		{key: "data.new_tokens", value: (*namesValue)(&c.Data.NewTokens), example: "[<tool>]"},
	}...)
	rows = append(rows, trainFields(&c.Train)...)
	return append(rows,
		field{key: "eval.every", value: (*intValue)(&c.Eval.Every), example: "100", silent: true},
		field{key: "eval.at_start", value: (*boolValue)(&c.Eval.AtStart), example: "true", silent: true},
		field{key: "eval.samples", value: (*intValue)(&c.Eval.Samples), example: "3", silent: true},
		field{key: "eval.sample_tokens", value: (*intValue)(&c.Eval.Tokens), example: "64", silent: true},
		field{key: "eval.patience", value: (*intValue)(&c.Eval.Patience), example: "3", silent: true},
		field{key: "eval.min_delta", value: (*floatValue)(&c.Eval.MinDelta), example: "0.001", silent: true},
		field{key: "save.every", value: (*intValue)(&c.Save.Every), example: "100", silent: true},
		field{key: "save.keep", value: (*intValue)(&c.Save.Keep), example: "3", silent: true},
		field{key: "save.best", value: (*boolValue)(&c.Save.Best), example: "true", silent: true},
		field{key: "device", value: (*textValue)(&c.Device), example: "cuda:0", silent: true},
		field{key: "out", value: (*textValue)(&c.Out), example: "runs/first", silent: true},
		field{key: "resume", value: (*boolValue)(&c.Resume), example: "true", silent: true},
		field{key: "deterministic", value: (*boolValue)(&c.Deterministic), example: "true"},
	)
}

func trainFields(t *Train) []field {
	rows := []field{
		{key: "train.objective", value: (*textValue)(&t.Objective), example: "sft", enum: objectives},
		{key: "train.preference_args.beta", value: (*floatValue)(&t.Preference.Beta), example: "0.1"},
		{key: "train.preference_args.label_smoothing", value: (*floatValue)(&t.Preference.Smoothing), example: "0.1"},
		{key: "train.preference_args.gamma", value: (*floatValue)(&t.Preference.Gamma), example: "1"},
		{key: "train.preference_args.desired", value: (*floatValue)(&t.Preference.Desired), example: "1.33"},
		{key: "train.preference_args.undesired", value: (*floatValue)(&t.Preference.Undesired), example: "0.75"},
		{key: "train.preference_args.reference", value: (*textValue)(&t.Preference.Reference), example: "precompute", enum: references, since: "auto"},
		{key: "train.epochs", value: (*floatValue)(&t.Epochs), example: "1"},
		{key: "train.steps", value: (*intValue)(&t.Steps), example: "500"},
		{key: "train.batch", value: (*intValue)(&t.Batch), example: "16"},
		{key: "train.micro_batch", value: (*intValue)(&t.MicroBatch), example: "2"},
		{key: "train.lr", value: (*floatValue)(&t.LR), example: "2e-4"},
		{key: "train.schedule", value: (*textValue)(&t.Schedule), example: "cosine", enum: schedules},
		{key: "train.warmup", value: (*floatValue)(&t.Warmup), example: "0.03"},
	}
	rows = append(rows, scheduleFields(&t.ScheduleArgs)...)
	rows = append(rows, []field{
		{key: "train.optimizer", value: (*textValue)(&t.Optimizer), example: "adamw8bit", enum: optimizers},
		{key: "train.min_8bit_size", value: (*intValue)(&t.Min8bitSize), example: "4096"},
		{key: "train.betas", value: (*floatsValue)(&t.Betas), example: "[0.9, 0.999]"},
		{key: "train.eps", value: (*floatValue)(&t.Eps), example: "1e-8"},
		{key: "train.weight_decay", value: (*floatValue)(&t.WeightDecay), example: "0.01"},
		{key: "train.no_decay", value: (*textValue)(&t.NoDecay), example: "vectors", enum: decayed, since: "none"},
	}...)
	rows = append(rows, optimizerFields(&t.OptimizerArgs)...)
	return append(rows, []field{
		{key: "train.groups", value: (*groupsValue)(&t.Groups), example: "[{match: embed, lr_scale: 0.1}]"},
		{key: "train.clip", value: (*floatValue)(&t.Clip), example: "1.0"},
		{key: "train.clip_value", value: (*floatValue)(&t.ClipValue), example: "0.5"},
		{key: "train.percentile_clipping", value: (*intValue)(&t.Percentile), example: "95"},
		{key: "train.adaptive_clip", value: (*floatValue)(&t.AdaptiveClip), example: "0.01"},
		{key: "train.router_loss", value: (*floatValue)(&t.RouterLoss), example: "0.01"},
		{key: "train.label_smoothing", value: (*floatValue)(&t.Smoothing), example: "0.1"},
		{key: "train.neftune", value: (*floatValue)(&t.NEFTune), example: "5"},
		{key: "train.ema", value: (*floatValue)(&t.EMA), example: "0.999"},
		{key: "train.ema_every", value: (*intValue)(&t.EMAEvery), example: "1", since: "1"},
		{key: "train.ema_warmup", value: (*boolValue)(&t.EMAWarmup), example: "true"},
		{key: "train.dtype", value: (*textValue)(&t.DType), example: "bf16", enum: dtypes},
		{key: "train.loss_scale", value: (*floatValue)(&t.LossScale), example: "65536"},
		{key: "train.loss_scale_interval", value: (*intValue)(&t.ScaleInterval), example: "1000", since: "2000"},
		{key: "train.param", value: (*textValue)(&t.Param), example: "f32", enum: params},
		{key: "train.seed", value: (*uintValue)(&t.Seed), example: "1"},
		{key: "train.checkpointing", value: (*switchValue)(&t.Checkpointing), example: "auto", enum: checkpoints},
		{key: "train.offload", value: (*textValue)(&t.Offload), example: "inputs", enum: offloads, silent: true},
		{key: "train.tf32", value: (*boolValue)(&t.TF32), example: "true"},
		{key: "train.launch", value: (*textValue)(&t.Launch), example: "synced", enum: launchings, silent: true},
		{key: "train.memory", value: (*textValue)(&t.Memory), example: "16GiB", silent: true},
		{key: "train.fit", value: (*boolValue)(&t.Fit), example: "true", silent: true},
	}...)
}

func optimizerFields(o *OptimizerArgs) []field {
	const p = "train.optimizer_args."
	return []field{
		{key: p + "momentum", value: (*floatValue)(&o.Momentum), example: "0.9"},
		{key: p + "dampening", value: (*floatValue)(&o.Dampening), example: "0.1"},
		{key: p + "nesterov", value: (*boolValue)(&o.Nesterov), example: "true"},
		{key: p + "alpha", value: (*floatValue)(&o.Alpha), example: "5"},
		{key: p + "t_alpha", value: (*floatValue)(&o.TAlpha), example: "1000"},
		{key: p + "t_beta3", value: (*floatValue)(&o.TBeta3), example: "1000"},
		{key: p + "max_unorm", value: (*floatValue)(&o.MaxUnorm), example: "0.02"},
		{key: p + "skip_zeros", value: (*boolValue)(&o.SkipZeros), example: "true"},
		{key: p + "decay_rate", value: (*floatValue)(&o.DecayRate), example: "0.8"},
		{key: p + "eps2", value: (*floatValue)(&o.Eps2), example: "1e-3"},
		{key: p + "clip_threshold", value: (*floatValue)(&o.ClipThreshold), example: "1"},
		{key: p + "relative", value: (*boolValue)(&o.Relative), example: "true"},
		{key: p + "absolute", value: (*boolValue)(&o.Absolute), example: "true"},
		{key: p + "newton_schulz", value: (*intValue)(&o.NewtonSchulz), example: "5"},
		{key: p + "spectral_scale", value: (*boolValue)(&o.SpectralScale), example: "true"},
	}
}

func scheduleFields(s *ScheduleArgs) []field {
	const p = "train.schedule_args."
	return []field{
		{key: p + "min_lr", value: (*floatValue)(&s.MinLR), example: "2e-5"},
		{key: p + "cycles", value: (*intValue)(&s.Cycles), example: "3", since: "1"},
		{key: p + "cycle_mult", value: (*floatValue)(&s.CycleMult), example: "2", since: "1"},
		{key: p + "power", value: (*floatValue)(&s.Power), example: "2", since: "1"},
		{key: p + "timescale", value: (*floatValue)(&s.Timescale), example: "1000"},
		{key: p + "decay", value: (*floatValue)(&s.Decay), example: "0.2", since: "0.1"},
		{key: p + "decay_shape", value: (*textValue)(&s.DecayShape), example: "sqrt", enum: shapes, since: "linear"},
		{key: p + "start_div", value: (*floatValue)(&s.StartDiv), example: "25", since: "25"},
		{key: p + "end_div", value: (*floatValue)(&s.EndDiv), example: "1e4", since: "10000"},
		{key: p + "factor", value: (*floatValue)(&s.Factor), example: "0.5", since: "0.1"},
		{key: p + "patience", value: (*intValue)(&s.Patience), example: "3", since: "10"},
		{key: p + "cooldown", value: (*intValue)(&s.Cooldown), example: "1"},
		{key: p + "threshold", value: (*floatValue)(&s.Threshold), example: "1e-3", since: "1e-04"},
	}
}

// shortForms are flags that stand for a key of another name.
var shortForms = map[string]string{"memory": "train.memory", "fit": "train.fit", "template": "data.template", "launch": "train.launch", "tf32": "train.tf32"}

// Keys lists every dotted key in the order of a printed configuration.
func Keys() []string {
	rows := fields(new(Config))
	keys := make([]string, len(rows))
	for i, f := range rows {
		keys[i] = f.key
	}
	return keys
}

// sectionOf returns "train" for "train.lr", "train.schedule_args" for "train.schedule_args.power" and "" for "device".
func sectionOf(key string) string { return key[:max(strings.LastIndex(key, "."), 0)] }

// isSection reports whether some key lies in the section name.
func isSection(rows []field, name string) bool {
	for _, f := range rows {
		if name != "" && strings.HasPrefix(f.key, name+".") {
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
