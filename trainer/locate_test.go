package trainer_test

import (
	"context"
	"math"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/checkpoint"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/tensor"
	"github.com/bitsandbyes/bitsandbyes/trainer"
	"github.com/bitsandbyes/bitsandbyes/trainer/config"
)

// spoil changes one tensor of a model directory.
func spoil(t *testing.T, dir, name string, change func(x []float32)) {
	path := filepath.Join(dir, "model.safetensors")
	f, err := checkpoint.OpenSafetensors(vfs.OS{}, path)
	require.NoError(t, err)
	var all []checkpoint.Named
	for _, n := range f.Names() {
		x, err := f.Read(n)
		require.NoError(t, err)
		if n == name {
			change(tensor.Data[float32](x))
		}
		all = append(all, checkpoint.Named{Name: n, Tensor: x})
	}
	require.NoError(t, f.Close())
	require.NoError(t, checkpoint.WriteSafetensors(vfs.OS{}, path, all, nil))
}

// TestLocate spoils a weight of a frozen model: the error says where the numbers go wrong, and in which rows.
func TestLocate(t *testing.T) {
	inf := float32(math.Inf(1))
	for name, k := range map[string]struct {
		tensor string
		change func(x []float32)
		where  string
	}{
		"a block":         {"model.layers.1.mlp.down_proj.weight", func(x []float32) { x[0] = inf }, "what leaves the last of 2 blocks is not finite"},
		"the first block": {"model.layers.0.self_attn.o_proj.weight", func(x []float32) { x[0] = inf }, "what leaves block 0 (from 0) is not finite"},
		"a token":         {"model.embed_tokens.weight", func(x []float32) { x[5*16] = inf }, "the embeddings are not finite"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := model(t, small)
			spoil(t, dir, k.tensor, k.change)
			c := adapt(t, dir)
			c.Quantize.Scheme = "none"
			var bad *trainer.NonFiniteError
			require.ErrorAs(t, fails(t, context.Background(), c, trainer.Hooks{}, config.ExitNonFinite, k.where, "rows.jsonl:"), &bad)
			require.NotEmpty(t, bad.Rows)
			require.LessOrEqual(t, len(bad.Rows), 5)
		})
	}
}
