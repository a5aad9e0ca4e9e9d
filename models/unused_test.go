package models_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/internal/golden"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/models"
)

// TestGoldenHFUnused gives weights a configuration with one layer less: they are refused, not trained in part.
func TestGoldenHFUnused(t *testing.T) {
	from := filepath.Join(golden.Dir(t), "hf", "llama")
	dir := t.TempDir()
	for _, name := range []string{"config.json", "model.safetensors"} {
		raw, err := os.ReadFile(filepath.Join(from, name))
		if err != nil {
			t.Skipf("no llama in the reference data: %v", err)
		}
		raw = []byte(strings.Replace(string(raw), `"num_hidden_layers": 2`, `"num_hidden_layers": 1`, 1))
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), raw, 0o666))
	}
	r, c, err := models.OpenWeights(nil, dir)
	require.NoError(t, err)
	defer r.Close() //nolint:errcheck // read only
	src := layers.NewSource(layers.Options{Weights: r})
	m, err := models.New(c, src)
	require.NoError(t, err)
	require.ErrorContains(t, models.CheckUnused(r, src, m), "model.layers.1.")
}

// TestConfigBounds refuses a configuration that would fill the memory by itself.
func TestConfigBounds(t *testing.T) {
	_, err := models.ParseConfig([]byte(`{"model_type": "llama", "vocab_size": 8, "hidden_size": 8, "intermediate_size": 8,
		"num_hidden_layers": 16000000, "num_attention_heads": 2, "max_position_embeddings": 8}`))
	require.ErrorContains(t, err, "at most 4096")
	_, err = models.ParseConfig([]byte(`{"model_type": "llama", "hidden_size": "x"}`))
	require.ErrorContains(t, err, "hidden_size is a string")
}
