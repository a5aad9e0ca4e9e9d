package trainer_test

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/trainer"
	"github.com/bitsandbyes/bitsandbyes/trainer/config"
)

func exitCode(err error) int {
	var coded interface{ ExitCode() int }
	if errors.As(err, &coded) {
		return coded.ExitCode()
	}
	return 0
}

// cached puts copies of a folder's files into a cache of Hugging Face, as the repository a/b.
func cached(t *testing.T, from string, leave ...string) {
	t.Helper()
	const commit = "0123456789abcdef0123456789abcdef01234567"
	home := t.TempDir()
	t.Setenv("HF_HUB_CACHE", "")
	t.Setenv("HUGGINGFACE_HUB_CACHE", "")
	t.Setenv("HF_HOME", home)
	repo := filepath.Join(home, "hub", "models--a--b")
	for _, dir := range []string{"blobs", "refs", "snapshots/" + commit} {
		require.NoError(t, os.MkdirAll(filepath.Join(repo, dir), 0o700))
	}
	require.NoError(t, os.WriteFile(filepath.Join(repo, "refs/main"), []byte(commit), 0o600))
	for _, name := range leave {
		data, err := os.ReadFile(filepath.Join(from, name))
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(repo, "blobs", "of-"+name), data, 0o600))
		require.NoError(t, os.Symlink("../../blobs/of-"+name, filepath.Join(repo, "snapshots", commit, name)))
	}
}

func TestOpenModelFromCache(t *testing.T) {
	from := filepath.Join("..", "models", "testdata", "qwen3_moe")
	cached(t, from, "config.json", "model.safetensors")
	m, err := trainer.OpenModel("a/b", trainer.ModelOptions{})
	require.NoError(t, err)
	require.Equal(t, "qwen3_moe", m.Config().Type)
	require.NoError(t, m.Close())
	cached(t, from, "config.json")
	_, err = trainer.OpenModel("a/b", trainer.ModelOptions{})
	require.ErrorContains(t, err, "huggingface-cli download a/b")
	require.Equal(t, config.ExitInput, exitCode(err))
	_, err = trainer.OpenModel("a/none", trainer.ModelOptions{})
	require.ErrorContains(t, err, "no such model in the cache")
	require.Equal(t, config.ExitInput, exitCode(err))
}

// TestOpenModelOfOtherVocabulary: only tokens that a run adds make the tables of a file longer.
func TestOpenModelOfOtherVocabulary(t *testing.T) {
	from, dir := filepath.Join("..", "models", "testdata", "qwen3_moe"), t.TempDir()
	for _, name := range []string{"config.json", "model.safetensors"} {
		raw, err := os.ReadFile(filepath.Join(from, name))
		require.NoError(t, err)
		if name == "config.json" {
			raw = regexp.MustCompile(`"vocab_size": *[0-9]+`).ReplaceAll(raw, []byte(`"vocab_size": 16000000`))
		}
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), raw, 0o600))
	}
	_, err := trainer.OpenModel(dir, trainer.ModelOptions{})
	require.ErrorContains(t, err, "does config.json belong to these weights?")
	require.Equal(t, config.ExitInput, exitCode(err))
}

func TestOpenModelRefusesPickles(t *testing.T) {
	for _, name := range []string{"pytorch_model.bin", "consolidated.00.pth", "model.pt", "epoch.ckpt", "pytorch_model-00001-of-00002.bin"} {
		dir := t.TempDir()
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, []byte("PK\x03\x04 and so on, long enough for any header"), 0o600))
		for _, at := range []string{path, dir} {
			_, err := trainer.OpenModel(at, trainer.ModelOptions{})
			require.ErrorContains(t, err, "pickle can run code", "%s", at)
			require.Equal(t, config.ExitInput, exitCode(err))
		}
		require.NoError(t, os.WriteFile(filepath.Join(dir, "config.json"), []byte(`{"model_type": "llama"}`), 0o600))
		_, err := trainer.OpenModel(dir, trainer.ModelOptions{})
		require.ErrorContains(t, err, "pickle can run code", "%s beside a config.json", name)
	}
}
