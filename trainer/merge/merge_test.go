package merge

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	_ "github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/internal/golden"
	"github.com/bitsandbyes/bitsandbyes/tensor"
	"github.com/bitsandbyes/bitsandbyes/trainer"
	"github.com/bitsandbyes/bitsandbyes/trainer/config"
)

// scores are the log-probabilities of a few tokens under a model. The reference models have no tokenizer, so one is put beside them.
func scores(t *testing.T, model, adapter string) []float64 {
	t.Helper()
	dir := t.TempDir()
	entries, err := os.ReadDir(model)
	require.NoError(t, err)
	for _, e := range entries {
		if !e.IsDir() {
			raw, err := os.ReadFile(filepath.Join(model, e.Name()))
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(filepath.Join(dir, e.Name()), raw, 0o644))
		}
	}
	require.NoError(t, os.WriteFile(filepath.Join(dir, "tokenizer.json"), []byte(`{"model":{"type":"BPE","vocab":{"a":0,"b":1},"merges":[]}}`), 0o644))
	w, err := trainer.OpenWriter(trainer.GenerateOptions{Model: dir, Adapter: adapter, Device: "cpu"})
	require.NoError(t, err)
	defer func() { require.NoError(t, w.Close()) }()
	s, err := w.Score(context.Background(), []trainer.Request{{IDs: []int32{1, 17, 5, 60, 33, 8, 2, 71, 40}, From: 1}})
	require.NoError(t, err)
	return s[0].LogProbs
}

// TestGoldenHFMerge: a merged model computes what base and adapter compute, for every adapter of every family; some cannot be merged, and
// say why.
func TestGoldenHFMerge(t *testing.T) {
	dirs, err := filepath.Glob(filepath.Join(golden.Dir(t), "hf", "*", "adapter_*_final"))
	require.NoError(t, err)
	if len(dirs) == 0 {
		t.Skip("no adapters in the reference data")
	}
	for _, dir := range dirs {
		model := filepath.Dir(dir)
		t.Run(filepath.Base(model)+"/"+filepath.Base(dir), func(t *testing.T) {
			out := filepath.Join(t.TempDir(), "merged")
			r, err := Run(context.Background(), Options{Model: model, Adapter: dir, Out: out, ShardSize: 40_000})
			if err != nil {
				require.ErrorContains(t, err, "lora_bias")
				t.Skip(err)
			}
			require.NotEmpty(t, r.Layers)
			for _, l := range r.Layers {
				require.Zero(t, l.Loss, "float32 is not rounded")
			}
			require.InDeltaSlice(t, scores(t, model, dir), scores(t, out, ""), 1e-4)
			require.FileExists(t, filepath.Join(out, "model.safetensors.index.json"))
			entries, err := os.ReadDir(filepath.Dir(out))
			require.NoError(t, err)
			require.Len(t, entries, 1, "nothing temporary is left")
		})
	}
}

// trained makes an adapter of the built-in model.
func trained(t *testing.T) string {
	t.Helper()
	c, err := config.Loader{Command: config.Finetune}.Load("", nil)
	require.NoError(t, err)
	c.Train.Steps, c.Out = 2, filepath.Join(t.TempDir(), "run")
	_, err = trainer.Run(context.Background(), c, trainer.Hooks{})
	require.NoError(t, err)
	return filepath.Join(c.Out, "adapter")
}

// TestMergeRounds: the report tells what rounding loses, and quantizing again gives a folder that opens.
func TestMergeRounds(t *testing.T) {
	adapter := trained(t)
	out := filepath.Join(t.TempDir(), "m")
	r, err := Run(context.Background(), Options{Model: "builtin:tiny", Adapter: adapter, Out: out, DType: tensor.BF16})
	require.NoError(t, err)
	require.Equal(t, "bf16", r.DType)
	require.NotEmpty(t, r.Layers)
	for _, l := range r.Layers {
		require.Positive(t, l.Change, l.Name)
		require.Positive(t, l.Loss, l.Name)
		require.Positive(t, l.MaxAbs, l.Name)
	}
	require.FileExists(t, filepath.Join(out, "tokenizer.json"))
	raw, err := os.ReadFile(filepath.Join(out, "config.json"))
	require.NoError(t, err)
	var c map[string]any
	require.NoError(t, json.Unmarshal(raw, &c))
	require.Equal(t, "bfloat16", fmt.Sprint(c["dtype"], c["torch_dtype"])[:8])

	four := filepath.Join(t.TempDir(), "four")
	o := Options{Model: "builtin:tiny", Adapter: adapter, Out: four}
	o.Quantize.Scheme = "nf4"
	r, err = Run(context.Background(), o)
	require.NoError(t, err)
	require.NotEmpty(t, r.Quantized.Layers)
	w, err := trainer.OpenWriter(trainer.GenerateOptions{Model: four, Device: "cpu"})
	require.NoError(t, err)
	require.NoError(t, w.Close())

	// A quantized base is dequantized first, and the report says what it was.
	again := filepath.Join(t.TempDir(), "again")
	r, err = Run(context.Background(), Options{Model: four, Adapter: adapter, Out: again})
	require.NoError(t, err)
	require.Equal(t, "nf4", r.Base)
	w, err = trainer.OpenWriter(trainer.GenerateOptions{Model: again, Device: "cpu"})
	require.NoError(t, err)
	require.NoError(t, w.Close())
}

// TestMergeNewTokens: tokens that an adapter was trained with are in the merged vocabulary and tokenizer, and their rows in the weights.
func TestMergeNewTokens(t *testing.T) {
	rows := filepath.Join(t.TempDir(), "rows.jsonl")
	require.NoError(t, os.WriteFile(rows, []byte(`{"prompt":"call ","completion":"<tool>the fox</tool>"}`+"\n"), 0o600))
	c := config.Default(config.Finetune)
	c.Model, c.Out, c.Device = "builtin:tiny", filepath.Join(t.TempDir(), "run"), "cpu"
	c.Data.Path, c.Data.SeqLen, c.Data.Val, c.Data.NewTokens = []config.Source{{Path: rows, Weight: 1}}, 32, 0, []string{"<tool>", "</tool>"}
	c.Train.Batch, c.Train.MicroBatch, c.Train.Steps, c.Train.LR = 1, 1, 5, 5e-3
	_, err := trainer.Run(context.Background(), c, trainer.Hooks{})
	require.NoError(t, err)
	adapter, out := filepath.Join(c.Out, "adapter"), filepath.Join(t.TempDir(), "merged")
	_, err = Run(context.Background(), Options{Model: c.Model, Adapter: adapter, Out: out, DType: tensor.F32})
	require.NoError(t, err)
	var ids [2][]int32
	var logps [2][]float64
	for i, o := range []trainer.GenerateOptions{{Model: c.Model, Adapter: adapter, Device: "cpu", DType: "f32"}, {Model: out, Device: "cpu", DType: "f32"}} {
		w, err := trainer.OpenWriter(o)
		require.NoError(t, err)
		ids[i], _, err = w.Tokens("call <tool>the fox</tool>")
		require.NoError(t, err)
		s, err := w.Score(context.Background(), []trainer.Request{{IDs: ids[i], From: 1}})
		require.NoError(t, err)
		logps[i] = s[0].LogProbs
		require.NoError(t, w.Close())
	}
	require.Equal(t, ids[0], ids[1])
	require.InDeltaSlice(t, logps[0], logps[1], 2e-3, "beside a bfloat16 table trained rows are rounded to it, as in PEFT")
}

func TestMergeRefuses(t *testing.T) {
	dir := t.TempDir()
	for name, c := range map[string]struct {
		o    Options
		says string
		code int
	}{
		"nothing":    {Options{}, "are needed", config.ExitConfig},
		"out exists": {Options{Model: "builtin:tiny", Adapter: dir, Out: dir}, "exists already", config.ExitConfig},
		"dtype":      {Options{Model: "builtin:tiny", Adapter: dir, Out: filepath.Join(dir, "x"), DType: tensor.I8}, "dtype", config.ExitConfig},
		"no adapter": {Options{Model: "builtin:tiny", Adapter: filepath.Join(dir, "none"), Out: filepath.Join(dir, "x")}, "none", config.ExitInput},
		"no model":   {Options{Model: filepath.Join(dir, "none"), Adapter: dir, Out: filepath.Join(dir, "x")}, "none", config.ExitInput},
	} {
		_, err := Run(context.Background(), c.o)
		require.ErrorContains(t, err, c.says, name)
		require.Equal(t, c.code, config.ExitCode(err), name)
	}
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, entries)
}

// TestMergeTokenizer: a merged model has the tokens and the chat template that its adapter was trained with.
func TestMergeTokenizer(t *testing.T) {
	rows := filepath.Join(t.TempDir(), "rows.jsonl")
	require.NoError(t, os.WriteFile(rows, []byte(`{"messages":[{"role":"user","content":"call"},{"role":"assistant","content":"<tool>the fox</tool>"}]}`+"\n"), 0o600))
	c := config.Default(config.Finetune)
	c.Model, c.Out, c.Quantize.Scheme = "builtin:tiny", filepath.Join(t.TempDir(), "run"), "none"
	c.Data.Path, c.Data.SeqLen, c.Data.Val = []config.Source{{Path: rows, Weight: 1}}, 64, 0
	c.Data.Template, c.Data.NewTokens = "plain", []string{"<tool>", "</tool>"}
	c.Train.Batch, c.Train.MicroBatch, c.Train.Steps, c.Train.LR = 1, 1, 30, 5e-3
	_, err := trainer.Run(context.Background(), c, trainer.Hooks{})
	require.NoError(t, err)
	adapter, out := filepath.Join(c.Out, "adapter"), filepath.Join(t.TempDir(), "merged")
	_, err = Run(context.Background(), Options{Model: "builtin:tiny", Adapter: adapter, Out: out})
	require.NoError(t, err)
	answer := func(model, adapter string) string {
		w, err := trainer.OpenWriter(trainer.GenerateOptions{Model: model, Adapter: adapter, Device: "cpu", MaxTokens: 16})
		require.NoError(t, err)
		defer func() { require.NoError(t, w.Close()) }()
		chat, err := w.NewChat("")
		require.NoError(t, err)
		a, err := chat.Say(context.Background(), "call", func(string) error { return nil })
		require.NoError(t, err)
		return a.Text
	}
	want := answer("builtin:tiny", adapter)
	require.Contains(t, want, "the fox")
	require.Equal(t, want, answer(out, ""))
	m, err := trainer.OpenModel(out, trainer.ModelOptions{})
	require.NoError(t, err)
	ids, err := m.Tokenizer.Encode("<tool>")
	require.NoError(t, err)
	require.Contains(t, ids, int32(m.Config().Vocab-2))
	require.NoError(t, m.Close())
}
