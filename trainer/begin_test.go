package trainer_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
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
