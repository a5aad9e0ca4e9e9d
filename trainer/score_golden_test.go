package trainer_test

import (
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/checkpoint"
	"github.com/bitsandbyes/bitsandbyes/internal/golden"
	"github.com/bitsandbyes/bitsandbyes/trainer"
)

// TestGoldenHFScoreShort scores the beginning of a row, padded as it is, beside a longer row: where rotary positions depend on the length
// of a text, padding and neighbours must not count.
func TestGoldenHFScoreShort(t *testing.T) {
	paths, err := filepath.Glob(filepath.Join(golden.Dir(t), "hf", "*", "golden.safetensors"))
	require.NoError(t, err)
	ran := 0
	for _, path := range paths {
		g, err := checkpoint.OpenSafetensors(nil, path)
		require.NoError(t, err)
		short, err := g.Read("short_logits")
		if err != nil {
			require.NoError(t, g.Close())
			continue
		}
		ids, err := g.Read("input_ids")
		require.NoError(t, err)
		require.NoError(t, g.Close())
		ran++
		dir := t.TempDir()
		for _, name := range []string{"config.json", "model.safetensors"} {
			require.NoError(t, os.Symlink(filepath.Join(filepath.Dir(path), name), filepath.Join(dir, name)))
		}
		require.NoError(t, os.WriteFile(filepath.Join(dir, "tokenizer.json"), []byte(`{"model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}}`), 0o600))
		w, err := trainer.OpenWriter(trainer.GenerateOptions{Model: dir, Device: "cpu", Scheme: "none"})
		require.NoError(t, err)
		row := make([]int32, ids.Shape().Dim(1))
		for i := range row {
			row[i] = int32(ids.At(i))
		}
		n, vocab := short.Shape().Dim(-2), short.Shape().Dim(-1)
		out, err := w.Score(t.Context(), []trainer.Request{{IDs: row, From: 1}, {IDs: row[:n+1], From: 1}})
		require.NoError(t, err)
		for i := range n {
			sum := 0.0
			for v := range vocab {
				sum += math.Exp(short.At(i*vocab + v))
			}
			require.InDelta(t, short.At(i*vocab+int(row[i+1]))-math.Log(sum), out[1].LogProbs[i], 1e-4, "token %d", i+1)
		}
		require.NoError(t, w.Close())
	}
	t.Logf("%d families have results of a short text", ran)
}
