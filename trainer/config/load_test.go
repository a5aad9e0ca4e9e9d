package config

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const designYAML = `
model: ./some-model
quantize: {scheme: nf4, blocksize: 64, double: true, compute: ""}
adapter: {type: lora, r: 16, alpha: 32, dropout: 0, targets: all-linear, init: ""}
data: {path: rows.jsonl, format: auto, seq_len: 2048, pack: true, shuffle: true, mask: prompt, val: 0.02}
train: {objective: sft, epochs: 1, steps: 0, batch: 16, micro_batch: 2, lr: 2e-4, schedule: cosine, warmup: 0.03, optimizer: adamw, min_8bit_size: 4096,
        betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.01, clip: 1.0, dtype: auto, param: f32, seed: 1, checkpointing: auto, memory: ""}
eval: {every: 0}
save: {every: 100, keep: 3}
device: auto
out: ""
resume: false
deterministic: false
`

// laterYAML are keys that came after the first promise, with their defaults.
const laterYAML = `
train:
  schedule_args: {min_lr: 0, cycles: 1, cycle_mult: 1, power: 1, timescale: 0, decay: 0.1, decay_shape: linear, start_div: 25, end_div: 1e4,
                  factor: 0.1, patience: 10, cooldown: 0, threshold: 1e-4}
  optimizer_args: {momentum: 0, dampening: 0, nesterov: false, alpha: 0, t_alpha: 0, t_beta3: 0, max_unorm: 0, skip_zeros: false,
                   decay_rate: 0, eps2: 0, clip_threshold: 0, relative: false, absolute: false, newton_schulz: 0, spectral_scale: false}
  groups: []
  no_decay: none
  clip_value: 0
  percentile_clipping: 0
  adaptive_clip: 0
  preference_args: {beta: 0, label_smoothing: 0, gamma: 0, desired: 0, undesired: 0, reference: auto}
  label_smoothing: 0
  neftune: 0
  router_loss: 0
  ema: 0
  ema_every: 1
  ema_warmup: false
  loss_scale: 0
  loss_scale_interval: 2000
  tf32: false
  launch: captured
  offload: auto
  fit: false
data: {val_path: "", template: "", chat: false, roles: [], new_tokens: []}
adapter: {loftq_steps: 0, rslora: false, plus_ratio: 0, exclude: "", layers: [], layers_pattern: [], rank_pattern: {}, alpha_pattern: {},
          modules_to_save: [], embeddings: false, tokens: [], bias: none, lora_bias: false, fold: auto}
eval: {at_start: false, samples: 0, sample_tokens: 64, patience: 0, min_delta: 0}
save: {best: false}
`

func TestDefaultsArePromisedOnes(t *testing.T) {
	full, err := Loader{}.Parse("run.yaml", []byte(designYAML), nil)
	require.NoError(t, err)
	bare, err := Load("", []string{"--model", "./some-model"})
	require.NoError(t, err)
	require.Equal(t, bare, full)
	want := Default(Finetune)
	want.Model = "./some-model"
	require.Equal(t, want, full)
	for _, key := range Keys() {
		require.Contains(t, designYAML+laterYAML, key[strings.LastIndex(key, ".")+1:]+":")
	}
	later, err := Loader{}.Parse("run.yaml", []byte(designYAML+laterYAML), nil)
	require.ErrorContains(t, err, "given twice", "one file")
	require.Empty(t, later)
	train, rest, _ := strings.Cut(laterYAML, "data:")
	require.NotEmpty(t, rest)
	later, err = Loader{}.Parse("run.yaml", []byte("model: ./some-model\n"+train), nil)
	require.NoError(t, err)
	require.Equal(t, want, later)
}

// TestFollowers: some settings follow the optimizer and the schedule unless they are given.
func TestFollowers(t *testing.T) {
	for _, k := range []struct {
		args  []string
		betas []float64
		eps   float64
		warm  float64
	}{
		{nil, []float64{0.9, 0.999}, 1e-8, 0.03},
		{[]string{"--train.optimizer=lion8bit"}, []float64{0.9, 0.99}, 1e-8, 0.03},
		{[]string{"--train.optimizer=lion", "--train.betas=[0.8,0.9]"}, []float64{0.8, 0.9}, 1e-8, 0.03},
		{[]string{"--train.optimizer=ademamix"}, []float64{0.9, 0.999, 0.9999}, 1e-8, 0.03},
		{[]string{"--train.optimizer=adagrad"}, []float64{0.9, 0.999}, 1e-10, 0.03},
		{[]string{"--train.optimizer=adagrad", "--train.eps=1e-6"}, []float64{0.9, 0.999}, 1e-6, 0.03},
		{[]string{"--train.schedule=onecycle"}, []float64{0.9, 0.999}, 1e-8, 0.3},
		{[]string{"--train.schedule=onecycle", "--train.warmup=5"}, []float64{0.9, 0.999}, 1e-8, 5},
	} {
		c, err := Load("", append(k.args, "--model=m"))
		require.NoError(t, err, k.args)
		require.Equal(t, k.betas, c.Train.Betas, k.args)
		require.Equal(t, k.eps, c.Train.Eps, k.args)
		require.Equal(t, k.warm, c.Train.Warmup, k.args)
	}
}

func TestPretrainDefaults(t *testing.T) {
	c, err := Loader{Command: Pretrain}.Load("", []string{"--model=arch/config.json"})
	require.NoError(t, err)
	require.Equal(t, "none", c.Quantize.Scheme)
	require.Equal(t, "none", c.Adapter.Type)
	path, ok := c.Architecture()
	require.True(t, ok)
	require.Equal(t, "arch/config.json", path)

	_, err = Load("", []string{"--model=arch/config.json"})
	require.ErrorContains(t, err, "without weights")
	_, err = Loader{Command: Pretrain}.Load("", []string{"--model=arch/config.json", "--adapter.type=lora"})
	require.ErrorContains(t, err, "--adapter.type: ")
}

func TestBuiltinPresetWithoutModel(t *testing.T) {
	c, err := Load("", nil)
	require.NoError(t, err)
	require.Equal(t, "builtin:tiny", c.Model)
	require.Equal(t, Quantize{Scheme: "nf4", Blocksize: 64, Double: true}, c.Quantize)
	require.Equal(t, 8, c.Adapter.R)
	require.Equal(t, 16.0, c.Adapter.Alpha)
	require.True(t, c.Adapter.Targets.All())
	require.Equal(t, "adamw8bit", c.Train.Optimizer)
	require.Zero(t, c.Train.Min8bitSize)
	require.Equal(t, []Source{{BuiltinData, 1}}, c.Data.Path)

	c, err = Loader{}.Parse("x.yaml", []byte("model: ''\ntrain: {lr: 1}"), []string{"--seed-typo"})
	require.Error(t, err)
	require.Zero(t, c)
	c, err = Loader{}.Parse("x.yaml", []byte("model: ''\ntrain: {lr: 1}"), nil)
	require.NoError(t, err)
	require.Equal(t, "builtin:tiny", c.Model)
	require.Equal(t, 1.0, c.Train.LR)

	c, err = Loader{Command: Pretrain}.Load("", nil)
	require.NoError(t, err)
	require.Equal(t, "none", c.Adapter.Type)
}

func TestPresets(t *testing.T) {
	require.GreaterOrEqual(t, len(Presets()), 5)
	for _, p := range Presets() {
		t.Run(p.Name, func(t *testing.T) {
			require.NotEmpty(t, p.Summary)
			require.True(t, strings.HasPrefix(string(p.YAML), "# "))
			_, err := Loader{Command: p.Command}.Load("preset:"+p.Name, nil)
			require.NoError(t, err)
		})
	}
	_, err := Load("preset:qlroa", nil)
	require.ErrorContains(t, err, "did you mean qlora?")
}

func TestImplied(t *testing.T) {
	load := func(args ...string) (Config, error) { return Load("", append([]string{"--model", "m"}, args...)) }
	c, err := load("--adapter.type", "none")
	require.NoError(t, err)
	require.Equal(t, "none", c.Quantize.Scheme)
	_, err = load("--adapter.type", "none", "--quantize.scheme", "int8")
	require.ErrorContains(t, err, "--quantize.scheme: int8 weights are frozen")
	for batch, micro := range map[string]int{"1": 1, "3": 1, "4": 2, "16": 2} {
		c, err = load("--train.batch", batch)
		require.NoError(t, err)
		require.Equal(t, micro, c.Train.MicroBatch)
	}
	c, err = load("--train.batch=6", "--train.micro_batch=4")
	require.NoError(t, err)
	require.Equal(t, 2, c.Train.Accumulation())
	c, err = load("--model=builtin:tiny")
	require.NoError(t, err)
	require.Equal(t, BuiltinData, c.Data.Path[0].Path)
	require.Equal(t, 16, c.Adapter.R)
}

func TestFileForms(t *testing.T) {
	cases := []struct {
		yaml  string
		check func(t *testing.T, c Config)
	}{
		{"adapter: {targets: [q_proj, v_proj]}", func(t *testing.T, c Config) {
			require.Equal(t, Targets{Names: []string{"q_proj", "v_proj"}}, c.Adapter.Targets)
		}},
		{`adapter: {targets: '.*\.(q|v)_proj'}`, func(t *testing.T, c Config) {
			require.Equal(t, Targets{Pattern: `.*\.(q|v)_proj`}, c.Adapter.Targets)
		}},
		{"data:\n  path:\n    - {path: a.jsonl, weight: 2}\n    - b/*.jsonl", func(t *testing.T, c Config) {
			require.Equal(t, []Source{{"a.jsonl", 2}, {"b/*.jsonl", 1}}, c.Data.Path)
		}},
		{"train: {betas: [0.9, 0.95], steps: 1e3, checkpointing: true}", func(t *testing.T, c Config) {
			require.Equal(t, []float64{0.9, 0.95}, c.Train.Betas)
			require.Equal(t, 1000, c.Train.Steps)
			require.Equal(t, "on", c.Train.Checkpointing)
		}},
		{"train:\n  # nothing\nout: 2024", func(t *testing.T, c Config) { require.Equal(t, "2024", c.Out) }},
		{"out: &o here\nadapter: {init: *o}", func(t *testing.T, c Config) { require.Equal(t, "here", c.Adapter.Init) }},
		{"train: {memory: 1.5 GiB, fit: true, seed: 18446744073709551615}", func(t *testing.T, c Config) {
			n, err := c.Train.MemoryBytes()
			require.NoError(t, err)
			require.EqualValues(t, 3<<29, n)
			require.True(t, c.Train.Fit)
			require.EqualValues(t, uint64(1<<64-1), c.Train.Seed)
		}},
		{"# only a comment\n", func(t *testing.T, c Config) { require.Equal(t, "builtin:tiny", c.Model) }},
	}
	for _, tc := range cases {
		c, err := Loader{}.Parse("run.yaml", []byte(tc.yaml), nil)
		require.NoError(t, err, tc.yaml)
		tc.check(t, c)
	}
}

func TestFileErrors(t *testing.T) {
	cases := []struct{ yaml, want string }{
		{"model: m\nadapter:\n  rnk: 8", "run.yaml:3: adapter.rnk: unknown key; did you mean adapter.r?"},
		{"adaptr: {r: 8}", "run.yaml:1: adaptr: unknown key; did you mean adapter"},
		{"learning_rate: 1", "did you mean train.lr?"},
		{"train: {warmup_ratio: 0.1}", "did you mean train.warmup?"},
		{"lr: 1", "run.yaml:1: lr: unknown key; did you mean train.lr?"},
		{"save: {zzzzzzzzzz: 1}", "the keys of save are every, keep"},
		{"train.lr: 1", "write train: {lr: …}"},
		{"adapter: {r: sixteen}", `run.yaml:1: adapter.r: expected a whole number, got the text "sixteen"; for example r: 16`},
		{"adapter: {r: \"16\"}", `got the text "16"`},
		{"adapter: {r: 1.5}", "got 1.5"},
		{"adapter: 3", "adapter: expected a section with keys such as adapter.type"},
		{"resume: yes", "expected true or false"},
		{"data: {mask: true}", "expected a text, got true"},
		{"train: {lr: .nan}", "expected a finite number"},
		{"train: {lr: }", "got nothing"},
		{"train: {betas: 0.9}", "expected a list of numbers, got 0.9"},
		{"train: {betas: [a, b]}", "in the list: expected a finite number"},
		{"train: {lr: 1}\ntrain: {lr: 2}", "run.yaml:2: train: given twice, first on line 1"},
		{"train: {lr: 1, lr: 2}", "train.lr: given twice"},
		{"data: {path: [{weight: 1}]}", "entry 1: path is missing"},
		{"data: {path: [{path: a, wight: 1}]}", `unknown key "wight"`},
		{"- a\n- b", "expected keys and values"},
		{"a: [", "run.yaml:1: not valid YAML"},
		{"train:\n\tlr: 1e-4", "with spaces, not with tabs"},
		{"model: m\n---\nmodel: n", "one YAML document"},
		{"? [a]\n: 1", "unknown key"},
		{"<<: {resume: true}", "<<: unknown key"},
		{"quantize: {scheme: nf5}", `run.yaml:1: quantize.scheme: "nf5" is not a known value; did you mean nf4?`},
		{"model: m\nquantize: {blocksize: 48}", "run.yaml:2: quantize.blocksize: is 48, expected a power of two"},
	}
	for _, tc := range cases {
		_, err := Loader{}.Parse("run.yaml", []byte(tc.yaml), nil)
		require.ErrorContains(t, err, tc.want, tc.yaml)
		var bad *ErrConfig
		require.ErrorAs(t, err, &bad)
		require.Equal(t, ExitConfig, ExitCode(err))
	}
}

func TestEveryProblemIsReported(t *testing.T) {
	_, err := Loader{}.Parse("run.yaml", []byte("nope: 1\nadapter: {r: x}"), []string{"--bad.key=1"})
	require.ErrorContains(t, err, "nope")
	require.ErrorContains(t, err, "--bad.key")
	_, err = Loader{}.Parse("run.yaml", []byte("adapter: {r: x}\ntrain: {lr: y}"), nil)
	require.ErrorContains(t, err, "adapter.r")
	require.ErrorContains(t, err, "train.lr")
}

func TestLoadFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "run.yaml")
	require.NoError(t, os.WriteFile(path, []byte("model: m\ntrain: {lr: 1e-5}"), 0o644))
	c, err := Load(path, []string{"--train.lr=2e-5", "--out", "o"})
	require.NoError(t, err)
	require.Equal(t, 2e-5, c.Train.LR)
	require.Equal(t, "o", c.Out)
	_, err = Load(filepath.Join(dir, "none.yaml"), nil)
	require.ErrorIs(t, err, os.ErrNotExist)
	require.Equal(t, ExitConfig, ExitCode(err))
	require.NoError(t, os.WriteFile(path, make([]byte, maxFile+1), 0o644))
	_, err = Load(path, nil)
	require.ErrorContains(t, err, "1 MiB")
}

type codedError struct{ error }

func (codedError) ExitCode() int { return ExitDisk }

func TestExitCode(t *testing.T) {
	require.Equal(t, ExitOK, ExitCode(nil))
	require.Equal(t, ExitFailure, ExitCode(errors.New("x")))
	require.Equal(t, ExitDisk, ExitCode(errors.Join(errors.New("x"), codedError{errors.New("y")})))
}

// TestFolds: adapters may be folded into weights unless the run says no, or has none.
func TestFolds(t *testing.T) {
	for _, c := range []struct {
		a    Adapter
		want bool
	}{{Adapter{Type: "lora"}, true}, {Default(Finetune).Adapter, true}, {Adapter{Type: "dora", Fold: "auto"}, true},
		{Adapter{Type: "lora", Fold: "off"}, false}, {Adapter{Type: "none", Fold: "auto"}, false}} {
		require.Equal(t, c.want, c.a.Folds(), "%+v", c.a)
	}
}
