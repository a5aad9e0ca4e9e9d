package models_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/checkpoint"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/models"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// TestGPT2WithoutPrefix opens a checkpoint that was saved without its head, as the original ones are: names without "transformer." and the
// causal masks beside the weights.
func TestGPT2WithoutPrefix(t *testing.T) {
	raw := sizes("gpt2", nil)
	c, err := models.ParseConfig(raw)
	require.NoError(t, err)
	full := load(t, "", c, nil, layers.Options{Seed: 2})
	var out []checkpoint.Named
	for _, p := range layers.Params(full.model) {
		w, err := full.store.Get(p.Var)
		require.NoError(t, err)
		require.True(t, strings.HasPrefix(p.Name, "transformer."), p.Name)
		out = append(out, checkpoint.Named{Name: strings.TrimPrefix(p.Name, "transformer."), Tensor: w})
	}
	mask := tensor.New(tensor.T(tensor.F32, 1, 1, 32, 32))
	out = append(out, checkpoint.Named{Name: "h.0.attn.bias", Tensor: mask}, checkpoint.Named{Name: "h.5.attn.masked_bias", Tensor: tensor.Scalar[float32](-1e4)})
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "config.json"), raw, 0o600))
	require.NoError(t, checkpoint.WriteSafetensors(nil, filepath.Join(dir, "model.safetensors"), out, nil))
	r, c, err := models.OpenWeights(nil, dir)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, r.Close()) })
	src := layers.NewSource(layers.Options{Weights: r})
	m, err := models.New(c, src)
	require.NoError(t, err)
	require.NoError(t, models.CheckUnused(r, src, m))
	require.Equal(t, "h.0.attn.c_attn.weight", src.File("transformer.h.0.attn.c_attn.weight"))
	require.True(t, src.StoredInOut("h.0.attn.c_attn.weight"))
	require.False(t, src.StoredInOut("wte.weight"))
}
