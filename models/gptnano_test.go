package models_test

import (
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/checkpoint"
	"github.com/bitsandbyes/bitsandbyes/internal/golden"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/models"
)

// TestGoldenGPTNanoSorts gives every gpt-nano file of the test data all rows of six letters: the model writes them sorted.
func TestGoldenGPTNanoSorts(t *testing.T) {
	paths, err := filepath.Glob(filepath.Join(golden.Dir(t), "models", "*", "*.json"))
	require.NoError(t, err)
	ran := 0
	for _, path := range paths {
		if !checkpoint.IsGPTNano(vfs.OS{}, path) {
			continue
		}
		t.Run(filepath.Base(path), func(t *testing.T) {
			for _, at := range []string{path, filepath.Dir(path)} { // the file, and the folder that holds it
				w, c, err := models.OpenWeights(nil, at)
				require.NoError(t, err)
				f := load(t, path, c, w, layers.Options{})
				checkSorts(t, f)
				require.NoError(t, w.Close())
			}
			ran++
		})
	}
	t.Logf("%d files ran", ran)
}

func checkSorts(t *testing.T, f *fixture) {
	t.Helper()
	n := (f.cfg.MaxPositions + 1) / 2
	wrong := 0
	for seed := range 60 {
		letters := make([]int32, n)
		for i, x := 0, seed*12345+7; i < n; i, x = i+1, x/f.cfg.Vocab {
			letters[i] = int32(x % f.cfg.Vocab)
		}
		want := slices.Sorted(slices.Values(letters))
		if !slices.Equal(want, f.greedyCached(letters, n)) {
			wrong++
		}
	}
	require.Zero(t, wrong, "of 60 rows")
}
