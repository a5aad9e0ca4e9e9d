package trainer_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/lora"
	"github.com/bitsandbyes/bitsandbyes/trainer"
	"github.com/bitsandbyes/bitsandbyes/trainer/config"
)

// TestNewTokens: tokens that the built-in model lacks get rows near the mean of the others; an adapter holds what they learn, and with its
// tokenizer opens the model as wide as it was trained.
func TestNewTokens(t *testing.T) {
	m, err := trainer.OpenModel("builtin:tiny", trainer.ModelOptions{})
	require.NoError(t, err)
	vocab := m.Config().Vocab
	require.NoError(t, m.Close())
	m, err = trainer.OpenModel("builtin:tiny", trainer.ModelOptions{NewTokens: []string{"<tool>", "</tool>"}})
	require.NoError(t, err)
	require.Equal(t, []int{vocab, vocab + 1}, m.New)
	require.Equal(t, vocab+2, m.Config().Vocab)
	session := plan.NewSession(plan.NewStore(threads(t, 1)))
	require.NoError(t, m.Source.Load(session.Store()))
	table, err := session.Store().Get(m.Body.Table())
	require.NoError(t, err)
	dim := table.Shape().Dim(1)
	for c := range dim {
		mean := 0.0
		for r := range vocab {
			mean += table.At(r*dim+c) / float64(vocab)
		}
		require.InDelta(t, mean, table.At(vocab*dim+c), 1e-3)
	}
	require.NoError(t, session.Close())
	require.NoError(t, m.Close())

	data := filepath.Join(t.TempDir(), "rows.jsonl")
	require.NoError(t, os.WriteFile(data, []byte(`{"prompt":"call ","completion":"<tool>the fox</tool>"}`+"\n"), 0o600))
	c := config.Default(config.Finetune)
	c.Model, c.Out, c.Device = "builtin:tiny", filepath.Join(t.TempDir(), "run"), "cpu"
	c.Data.Path, c.Data.SeqLen, c.Data.Val, c.Data.NewTokens = []config.Source{{Path: data, Weight: 1}}, 32, 0, []string{"<tool>", "</tool>"}
	c.Train.Batch, c.Train.MicroBatch, c.Train.Steps, c.Train.LR = 1, 1, 30, 5e-3
	require.Less(t, run(t, c, trainer.Hooks{}).Loss, 0.1)
	saved, err := lora.Load(nil, filepath.Join(c.Out, "adapter"))
	require.NoError(t, err)
	require.Equal(t, map[string][]int{"": {vocab, vocab + 1}}, saved.Config.Tokens)

	again, err := trainer.OpenModel("builtin:tiny", trainer.ModelOptions{Beside: filepath.Join(c.Out, "adapter")})
	require.NoError(t, err)
	require.Equal(t, vocab+2, again.Config().Vocab)
	_, err = lora.AttachSaved(again.Model, saved, nil)
	require.NoError(t, err)
	require.NoError(t, again.Close())

	// An adapter of PEFT comes with a tokenizer, but without the settings of generation: they stay the model's.
	model := t.TempDir()
	files, err := filepath.Glob(filepath.Join(c.Out, "adapter", "tok*"))
	require.NoError(t, err)
	for _, path := range append(files, architecture(t, small)) {
		raw, err := os.ReadFile(path)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(model, filepath.Base(path)), raw, 0o600))
	}
	require.NoError(t, os.WriteFile(filepath.Join(model, "generation_config.json"), []byte(`{"eos_token_id": [0, 7]}`), 0o600))
	again, err = trainer.OpenModel(filepath.Join(model, "config.json"), trainer.ModelOptions{Beside: filepath.Join(c.Out, "adapter")})
	require.NoError(t, err)
	require.Contains(t, again.EOS(), int32(7))
	require.NoError(t, again.Close())

	_, err = trainer.OpenModel(architecture(t, small), trainer.ModelOptions{NewTokens: []string{"<x>"}})
	require.ErrorContains(t, err, "data.new_tokens")
}
