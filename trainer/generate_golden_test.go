package trainer_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/internal/golden"
	"github.com/bitsandbyes/bitsandbyes/models"
	"github.com/bitsandbyes/bitsandbyes/trainer"
)

// TestGoldenHFGenerate continues the reference's prompt with every family, beside a second, shorter row: with the cache, without it,
// and in a second turn that keeps what the cache holds.
func TestGoldenHFGenerate(t *testing.T) {
	dirs, err := filepath.Glob(filepath.Join(golden.Dir(t), "hf", "*", "golden.json"))
	require.NoError(t, err)
	ran := 0
	for _, path := range dirs {
		t.Run(filepath.Base(filepath.Dir(path)), func(t *testing.T) {
			var want struct {
				Greedy struct{ Prompt, Tokens []int32 }
			}
			raw, err := os.ReadFile(path)
			require.NoError(t, err)
			require.NoError(t, json.Unmarshal(raw, &want))
			config, err := os.ReadFile(filepath.Join(filepath.Dir(path), "config.json"))
			require.NoError(t, err)
			if _, err := models.ParseConfig(config); err != nil {
				t.Skipf("refused: %v", err)
			}
			ran++
			prompt, n := want.Greedy.Prompt, len(want.Greedy.Tokens)
			prompts := [][]int32{prompt, prompt[:2]}
			gen := generatorOf(t, filepath.Dir(path), 2, 60)
			first := continued(t, gen, prompts, n)
			require.Equal(t, want.Greedy.Tokens, first[0])
			gen.KeepPrefix = true
			again := continued(t, gen, [][]int32{append(append([]int32{}, prompt...), want.Greedy.Tokens[:10]...), prompt[:2]}, n-10)
			require.Equal(t, want.Greedy.Tokens[10:], again[0])
			require.Equal(t, first[1][:n-10], again[1])
			gen.NoCache = true
			require.Equal(t, first, continued(t, gen, prompts, n))
		})
	}
	t.Logf("%d of %d families ran", ran, len(dirs))
}

// TestDynamicRope: where rotary positions depend on the length of the text, the cache gives what the whole text does.
func TestDynamicRope(t *testing.T) {
	path := architecture(t, small)
	var keys map[string]any
	raw, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(raw, &keys))
	keys["rope_scaling"] = map[string]any{"rope_type": "dynamic", "factor": 4.0}
	keys["max_position_embeddings"], keys["initializer_range"] = 8, 0.5
	raw, err = json.Marshal(keys)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, raw, 0o600))
	gen := generatorOf(t, path, 2, 100)
	require.Equal(t, 32, gen.Capacity())
	prompts := [][]int32{{1, 5, 7, 2}, {1, 9}}
	with := continued(t, gen, prompts, 20)
	require.Len(t, with[0], 20)
	gen.NoCache = true
	require.Equal(t, with, continued(t, gen, prompts, 20))
}

// generatorOf loads a model and returns a generator of some rows.
func generatorOf(t *testing.T, path string, rows, capacity int) *trainer.Generator {
	t.Helper()
	m, err := trainer.OpenModel(path, trainer.ModelOptions{Seed: 3})
	require.NoError(t, err)
	session := plan.NewSession(plan.NewStore(threads(t, 1)))
	require.NoError(t, m.Source.Load(session.Store()))
	gen, err := trainer.NewGenerator(m.Model, session, rows, capacity)
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, gen.Close())
		require.NoError(t, session.Close())
		require.NoError(t, m.Close())
	})
	return gen
}

// continued is the greedy continuation of each prompt by n tokens.
func continued(t *testing.T, gen *trainer.Generator, prompts [][]int32, n int) [][]int32 {
	t.Helper()
	out := make([][]int32, len(prompts))
	require.NoError(t, gen.Generate(t.Context(), prompts, n, trainer.Sampling{}, func(row int, id int32) bool {
		out[row] = append(out[row], id)
		return true
	}))
	return out
}
