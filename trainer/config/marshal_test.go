package config

import (
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// anyConfig draws a valid configuration.
func anyConfig(t *rapid.T) Config {
	text := rapid.OneOf(rapid.StringMatching(`[ -~]{1,12}`), rapid.StringN(1, 12, -1).Filter(validText), rapid.SampledFrom([]string{
		"null", "true", "~", "12", "0x1", "1e3", "on", "a: b", " x ", "# c", "- d", "[e]", "'q'", "\"", "\\", "%", "@", "`", "a\nb", "\t", "2001-01-01", "=", "<<", "\u0085", "\ufeff", "!x"}))
	free := func(name string) string { return rapid.OneOf(rapid.Just(""), text).Draw(t, name) }
	of := func(name string, set []string) string { return rapid.SampledFrom(set).Draw(t, name) }
	share := rapid.Float64Range(0, math.Nextafter(1, 0))
	size := rapid.IntRange(0, 1<<20)
	c := Default(of("command", []string{Finetune, Pretrain}))
	c.Model = text.Draw(t, "model")
	c.Quantize = Quantize{of("scheme", schemes), 32 << rapid.IntRange(0, 7).Draw(t, "block"), rapid.Bool().Draw(t, "double"), of("compute", computes)}
	c.Adapter = Adapter{Type: "lora", R: 1 + size.Draw(t, "r")%maxRank, Alpha: rapid.Float64Range(1e-300, 1e300).Draw(t, "alpha"),
		Dropout: share.Draw(t, "dropout"), Init: free("init"), Targets: Targets{Pattern: AllLinear}, Fold: of("fold", folds)}
	if rapid.Bool().Draw(t, "list") {
		c.Adapter.Targets = Targets{Names: rapid.SliceOfN(text, 1, 3).Draw(t, "names")}
	}
	c.Data = Data{Format: of("format", formats), SeqLen: 2 + size.Draw(t, "seq"), Pack: rapid.Bool().Draw(t, "pack"),
		Shuffle: rapid.Bool().Draw(t, "shuffle"), Mask: of("mask", masks), Val: share.Draw(t, "val"), Template: free("template"),
		Chat: rapid.Bool().Draw(t, "chat")}
	if rapid.Bool().Draw(t, "roles") {
		c.Data.Roles = rapid.SliceOfN(text, 1, 2).Draw(t, "names of roles")
	}
	if rapid.Bool().Draw(t, "held") {
		c.Data.ValPath = []Source{{text.Draw(t, "held path"), 1}}
	}
	for range rapid.IntRange(1, 3).Draw(t, "sources") {
		c.Data.Path = append(c.Data.Path, Source{text.Draw(t, "path"), rapid.OneOf(rapid.Just(1.0), rapid.Float64Range(0.1, 1e17)).Draw(t, "weight")})
	}
	tr := &c.Train
	tr.Epochs, tr.Steps = rapid.Float64Range(0.1, 9).Draw(t, "epochs"), size.Draw(t, "steps")
	tr.Batch = 1 + size.Draw(t, "batch")
	tr.MicroBatch = 1 + size.Draw(t, "micro")%tr.Batch
	tr.LR, tr.Warmup = rapid.Float64Range(0, 10).Draw(t, "lr"), share.Draw(t, "warmup")
	tr.Schedule, tr.Optimizer = of("schedule", schedules), of("optimizer", optimizers)
	tr.Betas = rapid.SliceOfN(share, 2, 2).Draw(t, "betas")
	tr.NoDecay = of("no_decay", decayed)
	if tr.Schedule == "wsd" {
		tr.ScheduleArgs.MinLR, tr.ScheduleArgs.Decay = tr.LR*share.Draw(t, "floor"), rapid.Float64Range(0, 100).Draw(t, "decay")
		tr.ScheduleArgs.DecayShape = of("shape", shapes)
	}
	if familyOf(tr.Optimizer) == "sgd" {
		tr.OptimizerArgs.Momentum, tr.OptimizerArgs.SkipZeros = share.Draw(t, "momentum"), rapid.Bool().Draw(t, "skip")
	}
	for range rapid.IntRange(0, 2).Draw(t, "groups") {
		scale, decay := rapid.Float64Range(0, 10).Draw(t, "scale"), rapid.Float64Range(0, 1).Draw(t, "wd")
		g := ParamGroup{Match: rapid.StringMatching(`[a-z.]{1,9}`).Draw(t, "match"), Bits: rapid.SampledFrom([]int{0, 8, 32}).Draw(t, "bits"), LRScale: &scale}
		if rapid.Bool().Draw(t, "decays") {
			g.WeightDecay = &decay
		}
		tr.Groups = append(tr.Groups, g)
	}
	tr.EMA, tr.Percentile = share.Draw(t, "ema"), rapid.IntRange(0, 99).Draw(t, "percentile")
	tr.Eps = rapid.Float64Range(1e-300, 1).Draw(t, "eps")
	tr.DType, tr.Param, tr.Checkpointing = of("dtype", dtypes), of("param", params), of("ckpt", checkpoints)
	tr.Offload = of("offload", offloads)
	if tr.Offload == "inputs" {
		tr.Checkpointing = "on"
	}
	tr.LossScale, tr.ScaleInterval = float64(uint64(1)<<rapid.IntRange(0, 24).Draw(t, "scale")), rapid.IntRange(1, 9).Draw(t, "interval")
	tr.TF32, tr.Launch = rapid.Bool().Draw(t, "tf32"), of("launch", launchings)
	tr.Seed = rapid.Uint64().Draw(t, "seed")
	tr.Memory, tr.Fit = of("memory", []string{"", "16GiB", "1 MB"}), rapid.Bool().Draw(t, "fit")
	c.Eval.Every, c.Save.Every, c.Save.Keep = size.Draw(t, "eval"), size.Draw(t, "save"), size.Draw(t, "keep")
	if tr.Schedule == "plateau" {
		c.Eval.Every, c.Data.Val = 1+c.Eval.Every, 0.1
	}
	c.Device = of("device", []string{"auto", "cpu", "cpu:threads=2", "cuda:0", "cuda:1:sync=on", "opencl"})
	c.Out = text.Draw(t, "out")
	c.Resume, c.Deterministic = rapid.Bool().Draw(t, "resume"), rapid.Bool().Draw(t, "det")
	return c
}

func validText(s string) bool { return !strings.ContainsRune(s, 0) }

func TestLoadOfMarshalIsIdentity(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := anyConfig(t)
		data, err := c.Marshal()
		require.NoError(t, err)
		// A model that ends in .json is an architecture, which only some commands and adapters take.
		if _, arch := c.Architecture(); arch {
			t.Skip("architecture")
		}
		back, err := Loader{}.Parse("printed.yaml", data, nil)
		require.NoError(t, err, string(data))
		require.Equal(t, c, back, string(data))
		again, err := back.Marshal()
		require.NoError(t, err)
		require.Equal(t, string(data), string(again))
		h1, err := c.Hash()
		require.NoError(t, err)
		h2, err := back.Hash()
		require.NoError(t, err)
		require.Equal(t, h1, h2)
	})
}

// TestNestedKeys reads keys two sections deep, from files and from flags, and says what is wrong with them.
func TestNestedKeys(t *testing.T) {
	file := "model: m\ntrain:\n  schedule: wsd\n  schedule_args: {decay: 0.2, decay_shape: sqrt}\n  groups:\n    - {match: norm, weight_decay: 0, bits: 32}\n"
	c, err := Loader{}.Parse("run.yaml", []byte(file), []string{"--train.schedule_args.min_lr=1e-5", "--train.optimizer_args.nesterov",
		"--train.optimizer_args.momentum", "0.9", "--train.optimizer=sgd8bit"})
	require.NoError(t, err)
	zero := 0.0
	require.Equal(t, []ParamGroup{{Match: "norm", WeightDecay: &zero, Bits: 32}}, c.Train.Groups)
	require.Equal(t, OptimizerArgs{Momentum: 0.9, Nesterov: true}, c.Train.OptimizerArgs)
	s := c.Train.ScheduleArgs
	require.Equal(t, []any{0.2, "sqrt", 1e-5, 1.0}, []any{s.Decay, s.DecayShape, s.MinLR, s.Power})
	c, err = Loader{}.Parse("run.yaml", []byte("model: m\n"), []string{"--train.groups=[{match: a, lr_scale: 2}]"})
	require.NoError(t, err)
	require.Len(t, c.Train.Groups, 1)
	for text, want := range map[string]string{
		"train: {schedule_args: {powr: 2}}":             "run.yaml:1: train.schedule_args.powr: unknown key; did you mean train.schedule_args.power?",
		"train: {min_lr: 2}":                            "did you mean train.schedule_args.min_lr?",
		"train: {zzzzzzzzzz: 2}":                        "schedule_args, optimizer_args",
		"train: {schedule_args: {qqqqqqqqqqqqq: 2}}":    "the keys of train.schedule_args are min_lr, cycles",
		"train: {schedule_args: cosine}":                "expected a section",
		"train: {schedule_args.power: 2}":               "write schedule_args: {power: …}",
		"train.schedule_args.power: 2":                  "write train: {schedule_args: {power: …}}",
		"train: {schedule_args: {power: 1, power: 2}}":  "twice",
		"train: {schedule_arg: {power: 1}}":             "did you mean train.schedule_args?",
		"train: {groups: [{match: a, lr: 2}]}":          "entry 1: unknown key \"lr\"",
		"train: {groups: [{lr_scale: 2}]}":              "match is missing",
		"train: {groups: [a]}":                          "expected {match",
		"train: {groups: {match: a}}":                   "expected a list of {match",
		"train: {groups: [{match: a, match: b}]}":       "given twice",
		"train: {groups: [{match: a, lr_scale: fast}]}": "expected a finite number",
		"train: {optimizer_args: {nesterov: 1}}":        "true or false",
		"train: {schedule_args: {min_lr: 1}}":           "train.schedule_args.min_lr: is 1, above train.lr",
	} {
		_, err := Loader{}.Parse("run.yaml", []byte("model: m\n"+text+"\n"), nil)
		if strings.HasPrefix(want, "run.yaml:1") {
			want = strings.Replace(want, ":1", ":2", 1)
		}
		require.ErrorContains(t, err, want, text)
	}
	_, err = Load("", []string{"--train.schedule_args", "x"})
	require.ErrorContains(t, err, "is a section")
}

func TestMarshalForm(t *testing.T) {
	c := Default(Finetune)
	c.Model = "m"
	data, err := c.Marshal()
	require.NoError(t, err)
	text := string(data)
	require.True(t, strings.HasPrefix(text, "model: m\nquantize:\n  scheme: nf4\n  blocksize: 64\n  double: true\n  compute: \"\"\n"), text)
	require.Contains(t, text, "  betas: [0.9, 0.999]\n")
	require.Contains(t, text, "  path: rows.jsonl\n")
	require.NotContains(t, text, "#")

	c.Train.LR = math.NaN()
	_, err = c.Marshal()
	require.ErrorContains(t, err, "train.lr")
	c.Train.LR, c.Out = 1, "\xff"
	_, err = c.Marshal()
	require.ErrorContains(t, err, "out: ")
}

func TestHash(t *testing.T) {
	c := Default(Finetune)
	c.Model = "m"
	base, err := c.Hash()
	require.NoError(t, err)
	// The literal keeps later versions from changing the hash of old runs.
	require.Equal(t, hashOfDefault, base)
	same, differs := c, c
	same.Out, same.Resume, same.Device, same.Save.Every, same.Train.Fit = "x", true, "cpu", 7, true
	got, err := same.Hash()
	require.NoError(t, err)
	require.Equal(t, base, got)
	same = c // keys that came later, given or zero
	same.Train.ScheduleArgs, same.Train.EMAEvery, same.Train.NoDecay = ScheduleArgs{}, 0, ""
	got, err = same.Hash()
	require.NoError(t, err)
	require.Equal(t, base, got)
	same.Train.Schedule, same.Eval.Every = "plateau", 5
	got, err = same.Hash()
	require.NoError(t, err)
	same.Eval.Every = 6
	other, err := same.Hash()
	require.NoError(t, err)
	require.NotEqual(t, got, other, "plateau follows the evaluations")
	differs.Train.Seed = 2
	got, err = differs.Hash()
	require.NoError(t, err)
	require.NotEqual(t, base, got)
}

const hashOfDefault = "e46bcefdcf228c7ba11ff3c439b2cb054be41161fae1d712cfb6e31cfb6e43f5"
