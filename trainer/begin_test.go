package trainer_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/models"
	"github.com/bitsandbyes/bitsandbyes/trainer"
)

// TestBegin: a text begins with BOS where the tokenizer puts it there, not wherever a tokenizer names one.
func TestBegin(t *testing.T) {
	m, err := trainer.OpenModel("builtin:tiny", trainer.ModelOptions{})
	require.NoError(t, err)
	bos, ok := m.BOS()
	require.True(t, ok)
	require.Equal(t, []int32{bos}, m.Begin())
	dir := model(t, small)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "tokenizer.json"), []byte(`{"added_tokens":[{"id":0,"content":"<s>","special":true}],
		"model":{"type":"BPE","vocab":{"<s>":0,"a":1,"b":2},"merges":[]}}`), 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "tokenizer_config.json"), []byte(`{"bos_token":"<s>"}`), 0o644))
	require.NoError(t, m.Close())
	m, err = trainer.OpenModel(dir, trainer.ModelOptions{FS: vfs.OS{}})
	require.NoError(t, err)
	defer func() { require.NoError(t, m.Close()) }()
	bos, ok = m.BOS()
	require.True(t, ok)
	require.Zero(t, bos)
	require.Empty(t, m.Begin())
}

// TestSentencePieceBesideModel: a tokenizer.model is read where there is no tokenizer.json, and written as one for readers of the result.
func TestSentencePieceBesideModel(t *testing.T) {
	raw := []byte{2<<3 | 2, 2, 3 << 3, 2} // TrainerSpec: BPE
	for _, p := range []struct {
		text string
		kind byte
	}{{"<unk>", 2}, {"<s>", 3}, {"▁", 1}, {"a", 1}, {"▁a", 1}} {
		piece := append([]byte{1<<3 | 2, byte(len(p.text))}, p.text...)
		piece = append(piece, 3<<3, p.kind)
		raw = append(append(raw, 1<<3|2, byte(len(piece))), piece...)
	}
	dir := model(t, small)
	require.NoError(t, os.RemoveAll(filepath.Join(dir, "tokenizer.json")))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "tokenizer.model"), raw, 0o644))
	m, err := trainer.OpenModel(dir, trainer.ModelOptions{FS: vfs.OS{}})
	require.NoError(t, err)
	defer func() { require.NoError(t, m.Close()) }()
	require.NotNil(t, m.Tokenizer)
	ids, err := m.Tokenizer.Encode("a")
	require.NoError(t, err)
	require.Equal(t, []int32{1, 4}, ids)
	require.Equal(t, raw, m.TokFiles["tokenizer.model"])
	require.Contains(t, string(m.TokFiles["tokenizer.json"]), `"▁a"`)
}

// TestNothingGiven: what is missing is named.
func TestNothingGiven(t *testing.T) {
	_, err := trainer.OpenModel("", trainer.ModelOptions{})
	require.ErrorContains(t, err, "model: is not given: a Hugging Face directory")
	_, err = trainer.NewGenerator(nil, nil, 1, 1)
	require.ErrorContains(t, err, "a model and a session with a store are needed")
	_, err = trainer.NewGenerator(&models.Model{}, plan.NewSession(nil), 1, 1)
	require.ErrorContains(t, err, "a model and a session with a store are needed")
	require.ErrorContains(t, trainer.SaveModel(nil, t.TempDir(), nil, plan.NewStore(nil), trainer.SaveOptions{}), "a model and the plan.Store")
	require.ErrorContains(t, trainer.SaveModel(nil, t.TempDir(), &models.Model{}, nil, trainer.SaveOptions{}), "a model and the plan.Store")
	require.NoError(t, trainer.Generate(context.Background(), trainer.GenerateOptions{Model: "builtin:tiny", Prompt: "a", MaxTokens: 1, Device: "cpu"}, nil))
}
