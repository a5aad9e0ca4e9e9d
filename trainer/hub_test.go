package trainer_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/trainer"
	"github.com/bitsandbyes/bitsandbyes/trainer/config"
	"github.com/bitsandbyes/bitsandbyes/trainer/report"
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
	require.ErrorContains(t, err, "hf download a/b")
	require.Equal(t, config.ExitInput, exitCode(err))
	_, err = trainer.OpenModel("builtin:tiny", trainer.ModelOptions{Beside: "a/none"})
	require.ErrorContains(t, err, "no such model in the cache")
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

// TestExpertsFromCache fine-tunes experts in 4 bits of a model in the cache: the steps do not depend on micro-batches, and a run that was
// stopped goes on with the same bits.
func TestExpertsFromCache(t *testing.T) {
	cached(t, filepath.Join("..", "models", "testdata", "qwen3_moe"), "config.json", "model.safetensors")
	c := onExperts(t)
	first := run(t, c, trainer.Hooks{})
	raw, err := os.ReadFile(filepath.Join(c.Out, "adapter", "adapter_config.json"))
	require.NoError(t, err)
	for _, want := range []string{`"base_model_name_or_path": "a/b"`, `"gate_up_proj"`, `"gate.weight"`} {
		require.Contains(t, string(raw), want)
	}
	other := onExperts(t)
	other.Train.MicroBatch = 1
	run(t, other, trainer.Hooks{})
	a, b := metrics(t, c), metrics(t, other)
	for i := range a {
		require.InDelta(t, a[i].Loss, b[i].Loss, 1e-4, "step %d", i+1)
	}
	stopped := onExperts(t)
	ctx, cancel := context.WithCancel(t.Context())
	fails(t, ctx, stopped, trainer.Hooks{OnStep: func(r report.Row) error {
		if r.Step == 3 {
			cancel()
		}
		return nil
	}}, config.ExitStopped)
	stopped.Resume = true
	again := run(t, stopped, trainer.Hooks{})
	require.Equal(t, first.WeightsDigest, again.WeightsDigest)
}

// onExperts is QLoRA on the model of the cache.
func onExperts(t *testing.T) config.Config {
	t.Helper()
	c := adapt(t, "a/b@main")
	c.Train.Optimizer, c.Train.Steps = "adamw", 6
	return c
}
