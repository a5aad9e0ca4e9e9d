package trainer_test

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	_ "github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/internal/golden"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/trainer"
	"github.com/bitsandbyes/bitsandbyes/trainer/config"
)

// opened loads a model and returns a generator of one row.
func opened(t testing.TB, path string, capacity int) (*trainer.Generator, *trainer.Model, *plan.Store) {
	t.Helper()
	m, err := trainer.OpenModel(path, trainer.ModelOptions{Seed: 3})
	require.NoError(t, err)
	store := plan.NewStore(threads(t, 1))
	session := plan.NewSession(store)
	require.NoError(t, m.Source.Load(store))
	gen, err := trainer.NewGenerator(m.Model, session, 1, capacity)
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, gen.Close())
		require.NoError(t, session.Close())
		require.NoError(t, m.Close())
	})
	return gen, m, store
}

func sample(t testing.TB, gen *trainer.Generator, s trainer.Sampling) (ids []int32) {
	t.Helper()
	require.NoError(t, gen.Generate(context.Background(), [][]int32{{1, 5}}, 20, s, func(_ int, id int32) bool {
		ids = append(ids, id)
		return true
	}))
	return ids
}

func TestSampling(t *testing.T) {
	gen, _, _ := opened(t, architecture(t, small), 1000)
	require.Equal(t, small.context, gen.Capacity())
	greedy := sample(t, gen, trainer.Sampling{})
	require.Len(t, greedy, 20)
	require.Equal(t, greedy, sample(t, gen, trainer.Sampling{Temperature: 1, TopK: 1}), "top-k 1")
	require.Equal(t, greedy, sample(t, gen, trainer.Sampling{Temperature: 1, TopP: 1e-9}), "top-p 0+")
	require.Equal(t, greedy, sample(t, gen, trainer.Sampling{Temperature: 1e-6}), "cold")
	hot := trainer.Sampling{Temperature: 5, Seed: 7}
	require.Equal(t, sample(t, gen, hot), sample(t, gen, hot), "same seed")
	all := hot
	all.TopK, all.TopP = small.vocab, 1
	require.Equal(t, sample(t, gen, hot), sample(t, gen, all), "no restriction")
	other := hot
	other.Seed++
	require.NotEqual(t, sample(t, gen, hot), sample(t, gen, other), "other seed")
	gen.NoCache = true
	require.Equal(t, greedy, sample(t, gen, trainer.Sampling{}), "no cache")
}

func TestGenerateRefuses(t *testing.T) {
	gen, _, _ := opened(t, architecture(t, small), 1000)
	keep := func(int, int32) bool { return true }
	for name, c := range map[string]struct {
		prompt []int32
		s      trainer.Sampling
		says   string
	}{
		"longer than the context": {slices.Repeat([]int32{1}, small.context), trainer.Sampling{}, "context"},
		"empty":                   {nil, trainer.Sampling{}, "empty"},
		"foreign token":           {[]int32{int32(small.vocab)}, trainer.Sampling{}, "vocabulary"},
		"temperature":             {[]int32{1}, trainer.Sampling{Temperature: -1}, "temperature"},
		"top-k":                   {[]int32{1}, trainer.Sampling{TopK: -1}, "top-k"},
		"top-p":                   {[]int32{1}, trainer.Sampling{TopP: 1.5}, "top-p"},
	} {
		require.ErrorContains(t, gen.Generate(context.Background(), [][]int32{c.prompt}, 4, c.s, keep), c.says, name)
	}
	n := 0
	require.NoError(t, gen.Generate(context.Background(), [][]int32{slices.Repeat([]int32{1}, small.context-1)}, 99, trainer.Sampling{},
		func(int, int32) bool { n++; return true }))
	require.Equal(t, 1, n, "a full context ends the text")

	err := trainer.Generate(context.Background(), trainer.GenerateOptions{Model: model(t, small), Prompt: "x", MaxTokens: 1}, func(string) error { return nil })
	require.ErrorContains(t, err, "no tokenizer")
	require.Equal(t, config.ExitInput, config.ExitCode(err))
}

// TestAdapterAgain starts a run from the adapter of another one.
func TestAdapterAgain(t *testing.T) {
	dir := model(t, small)
	c := adapt(t, dir)
	a := run(t, c, trainer.Hooks{})
	first := filepath.Join(c.Out, "adapter")
	c.Out, c.Adapter.Init, c.Train.LR = filepath.Join(t.TempDir(), "run"), first, 0
	b := run(t, c, trainer.Hooks{})
	require.Equal(t, a.WeightsDigest, b.WeightsDigest, "a learning rate of 0 changes nothing")
	for _, name := range []string{"config.yaml", "metrics.jsonl", "loss.png", "manifest.json", "tensorboard", "checkpoints", "adapter/adapter_config.json",
		"adapter/adapter_model.safetensors"} {
		_, err := os.Stat(filepath.Join(c.Out, filepath.FromSlash(name)))
		require.NoError(t, err)
	}
}

// TestGoldenSaveModel writes llama2.c models as Hugging Face directories: the texts stay the same.
func TestGoldenSaveModel(t *testing.T) {
	dirs, err := filepath.Glob(filepath.Join(golden.Dir(t), "models", "stories*"))
	require.NoError(t, err)
	for _, dir := range dirs {
		gen, m, store := opened(t, dir, 64)
		out := t.TempDir()
		require.NoError(t, trainer.SaveModel(vfs.OS{}, out, m.Model, store, trainer.SaveOptions{ShardSize: 50_000}))
		again, _, _ := opened(t, out, 64)
		require.Equal(t, sample(t, gen, trainer.Sampling{}), sample(t, again, trainer.Sampling{}))
		hot := trainer.Sampling{Temperature: 1, Seed: 3}
		require.Equal(t, sample(t, gen, hot), sample(t, again, hot))
	}
	t.Logf("%d models", len(dirs))
}

// TestKeepPrefix: turns of a conversation that reuse the cache give what a fresh start gives, in rows of different lengths too.
func TestKeepPrefix(t *testing.T) {
	_, m, store := opened(t, architecture(t, small), 1000)
	session := plan.NewSession(store)
	defer func() { require.NoError(t, session.Close()) }()
	gen, err := trainer.NewGenerator(m.Model, session, 3, small.context)
	require.NoError(t, err)
	defer func() { require.NoError(t, gen.Close()) }()
	talk := func(keep bool) (texts [3][]int32) {
		gen.KeepPrefix = keep
		prompts := [][]int32{{1, 5, 6}, {1}, {1, 9, 9, 9, 9, 2}}
		for turn := range 4 {
			var out [3][]int32
			require.NoError(t, gen.Generate(context.Background(), prompts, 3+turn, trainer.Sampling{}, func(row int, id int32) bool {
				out[row] = append(out[row], id)
				return row != 1 || len(out[1]) < 2 // one row ends early
			}))
			for i := range prompts {
				texts[i] = append(texts[i], out[i]...)
				prompts[i] = append(slices.Concat(prompts[i], out[i]), int32(3+i))
			}
			prompts[1] = slices.Concat([]int32{1, 7}, prompts[1][1:]) // parts from what the cache holds
		}
		return texts
	}
	require.Equal(t, talk(false), talk(true))
}
