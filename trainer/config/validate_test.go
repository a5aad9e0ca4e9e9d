package config

import (
	"errors"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestValidate(t *testing.T) {
	valid := Default(Finetune)
	valid.Model = "m"
	require.NoError(t, valid.Validate())
	cases := []struct {
		change func(c *Config)
		want   string
	}{
		{func(c *Config) { c.Model = "" }, "model: is empty"},
		{func(c *Config) { c.Adapter.R = 0 }, "adapter.r: is 0"},
		{func(c *Config) { c.Adapter.Alpha = math.NaN() }, "adapter.alpha"},
		{func(c *Config) { c.Adapter.Dropout = 1 }, "adapter.dropout"},
		{func(c *Config) { c.Adapter.Targets = Targets{} }, "adapter.targets: is empty"},
		{func(c *Config) { c.Adapter.Targets = Targets{Names: []string{}} }, "the list is empty"},
		{func(c *Config) { c.Adapter.Targets = Targets{Pattern: "all_linear"} }, "did you mean all-linear?"},
		{func(c *Config) { c.Adapter.Targets = Targets{Pattern: "("} }, "no regular expression"},
		{func(c *Config) { c.Adapter.Targets = Targets{Pattern: "q_proj,v_proj"} }, "[q_proj,v_proj]"},
		{func(c *Config) { c.Adapter.Type = "none" }, "weights are frozen"},
		{func(c *Config) { c.Adapter.Type, c.Quantize.Scheme, c.Adapter.Init = "none", "none", "x" }, "adapter.init"},
		{func(c *Config) { c.Data.Path = nil }, "data.path: is empty"},
		{func(c *Config) { c.Data.Path = []Source{{"a", -1}} }, "weight -1"},
		{func(c *Config) { c.Data.SeqLen = 1 }, "data.seq_len"},
		{func(c *Config) { c.Data.Val = 1 }, "data.val"},
		{func(c *Config) { c.Data.Mask = "assistent" }, "did you mean assistant?"},
		{func(c *Config) { c.Train.DType = "float16" }, "did you mean f16?"},
		{func(c *Config) { c.Train.Optimizer = "paged_adamw_8bit" }, "did you mean pagedadamw8bit?"},
		{func(c *Config) { c.Train.Objective = "zzzzzzzzzzz" }, "one of sft"},
		{func(c *Config) { c.Train.Epochs = 0 }, "nothing would be trained"},
		{func(c *Config) { c.Train.MicroBatch = 32 }, "above train.batch 16"},
		{func(c *Config) { c.Train.Batch = 0 }, "train.batch"},
		{func(c *Config) { c.Train.LR = math.Inf(1) }, "train.lr"},
		{func(c *Config) { c.Train.Warmup = 1.5 }, "whole number of steps"},
		{func(c *Config) { c.Train.Betas = []float64{0.9} }, "has 1 values"},
		{func(c *Config) { c.Train.Betas = []float64{0.9, 0.9, 0.9} }, "has 3 values"},
		{func(c *Config) { c.Train.Betas = []float64{0.9, 1} }, "train.betas: is 1"},
		{func(c *Config) { c.Train.Eps = 0 }, "train.eps"},
		{func(c *Config) { c.Train.Schedule = "cosin" }, "did you mean cosine?"},
		{func(c *Config) { c.Train.Schedule = "plateau" }, "eval.every and data.val"},
		{func(c *Config) { c.Train.ScheduleArgs.MinLR = 0.1 }, "schedule_args.min_lr: is 0.1, above train.lr"},
		{func(c *Config) { c.Train.ScheduleArgs.DecayShape = "sqr" }, "did you mean sqrt?"},
		{func(c *Config) { c.Train.ScheduleArgs.StartDiv = 0.5 }, "schedule_args.start_div"},
		{func(c *Config) { c.Train.ScheduleArgs.Factor = 1 }, "schedule_args.factor"},
		{func(c *Config) { c.Train.OptimizerArgs.Momentum = -1 }, "optimizer_args.momentum"},
		{func(c *Config) { c.Train.Percentile = 100 }, "percentile_clipping: is 100, expected 0 to 99"},
		{func(c *Config) { c.Train.ClipValue = -1 }, "clip_value"},
		{func(c *Config) { c.Train.EMA = 1 }, "train.ema: is 1"},
		{func(c *Config) { c.Train.NoDecay = "norms" }, "train.no_decay"},
		{func(c *Config) { c.Train.Param = "bf16_kahan" }, "did you mean bf16-kahan?"},
		{func(c *Config) { c.Train.Groups = []ParamGroup{{Match: "(", Bits: 8}} }, "no regular expression"},
		{func(c *Config) { c.Train.Groups = []ParamGroup{{Match: "a", Bits: 4}} }, "bits is 4"},
		{func(c *Config) { c.Train.Groups = []ParamGroup{{Match: "a"}} }, "sets nothing"},
		{func(c *Config) { v := math.NaN(); c.Train.Groups = []ParamGroup{{Match: "a", LRScale: &v}} }, "lr_scale is NaN"},
		{func(c *Config) { c.Train.Memory = "much" }, "is not a size"},
		{func(c *Config) { c.Device = "gpu" }, "did you mean cuda?"},
		{func(c *Config) { c.Device = "cuda:x" }, `"cuda:x" is not a device (after the kind comes`},
		{func(c *Config) { c.Device = "cuda:0,1" }, "the number of one device"},
		{func(c *Config) { c.Train.LossScale = 3000 }, "must be a power of two"},
		{func(c *Config) { c.Train.LossScale = 1 << 25 }, "train.loss_scale"},
		{func(c *Config) { c.Train.LossScale = math.NaN() }, "train.loss_scale"},
		{func(c *Config) { c.Train.ScaleInterval = 0 }, "train.loss_scale_interval"},
		{func(c *Config) { c.Train.Memory = "16" }, "write for example 16GiB"},
		{func(c *Config) { c.Resume = true }, "resume: needs out"},
		{func(c *Config) { c.Save.Keep = -1 }, "save.keep"},
	}
	for _, tc := range cases {
		c := valid
		tc.change(&c)
		require.ErrorContains(t, c.Validate(), tc.want)
	}
	var zero Config
	joined, ok := zero.Validate().(interface{ Unwrap() []error })
	require.True(t, ok)
	require.Greater(t, len(joined.Unwrap()), 10)
	for _, err := range joined.Unwrap() {
		var bad *ErrConfig
		require.True(t, errors.As(err, &bad))
		require.NotEmpty(t, bad.Key)
	}
}

// TestValidatePreferences tries settings of preferences and of evaluation.
func TestValidatePreferences(t *testing.T) {
	for _, tc := range []struct {
		change func(c *Config)
		want   string
	}{
		{func(c *Config) { c.Train.Preference.Beta = 0.2 }, "is not read by the objective sft"},
		{func(c *Config) { c.Train.Objective, c.Train.Preference.Smoothing = "dpo", 0.5 }, "label_smoothing"},
		{func(c *Config) { c.Train.Objective, c.Train.Preference.Gamma = "dpo", 1 }, "only by simpo"},
		{func(c *Config) { c.Train.Objective, c.Train.Preference.Reference = "dpo", "liv" }, "did you mean live?"},
		{func(c *Config) {
			c.Train.Objective, c.Train.Preference.Reference, c.Adapter.Type, c.Quantize.Scheme = "dpo", "live", "none", "none"
		}, "set it to precompute"},
		{func(c *Config) { c.Train.Objective, c.Train.Preference.Reference, c.Adapter.Init = "dpo", "live", "a" }, "set it to precompute"},
		{func(c *Config) { c.Train.Objective, c.Adapter.Type, c.Quantize.Scheme = "kto", "none", "none" }, "fresh adapter"},
		{func(c *Config) { c.Train.Objective, c.Data.Format = "dpo", "text" }, "data.format: is text"},
		{func(c *Config) { c.Train.NEFTune = -1 }, "train.neftune"},
		{func(c *Config) { c.Train.Offload, c.Train.Checkpointing = "inputs", "off" }, "recomputes none"},
		{func(c *Config) { c.Train.Offload = "input" }, "did you mean inputs?"},
		{func(c *Config) { c.Eval.Patience = 1 }, "eval.patience: waits"},
		{func(c *Config) { c.Eval.Samples = -1 }, "eval.samples"},
		{func(c *Config) { c.Eval.MinDelta = -1 }, "eval.min_delta"},
		{func(c *Config) { c.Save.Best, c.Data.Val = true, 0 }, "save.best"},
	} {
		c := Default(Finetune)
		c.Model = "m"
		tc.change(&c)
		require.ErrorContains(t, c.Validate(), tc.want)
	}
}

func TestParseBytes(t *testing.T) {
	for text, want := range map[string]int64{"1b": 1, "65536": 1 << 16, "16GiB": 16 << 30, "16g": 16 << 30, "16GB": 16e9, "1.5 kib": 1536, " 2 MB ": 2e6} {
		got, err := ParseBytes(text)
		require.NoError(t, err, text)
		require.Equal(t, want, got, text)
	}
	for _, text := range []string{"", "GiB", "-1", "1x", "0", "1e5", "9999999TB", "1", "16", "65535", "1.2.3", "nan", "50%"} {
		_, err := ParseBytes(text)
		require.Error(t, err, text)
	}
}

func TestRunDir(t *testing.T) {
	at := time.Date(2025, 1, 2, 3, 4, 5, 0, time.FixedZone("x", 3600))
	for model, want := range map[string]string{
		"builtin:tiny": "tiny", "/a/Llama-3.2-1B/": "Llama-3.2-1B", "x/q4.gguf": "q4", "a/b/config.json": "b", "config.json": "config",
		"..": "model", "we ird": "we-ird", "": "model",
	} {
		c := Config{Model: model}
		require.Equal(t, "runs/"+want+"-20250102T020405Z", c.RunDir(at), model)
	}
	require.Equal(t, "o", Config{Out: "o"}.RunDir(at))
}
