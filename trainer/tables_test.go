package trainer_test

import (
	"context"
	"encoding/binary"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/internal/golden"
	"github.com/bitsandbyes/bitsandbyes/trainer"
)

// TestGenerateTables: tables in 16 bits move the text of a model that is quantized anyway little, are refused by a wrong name, and a model that is
// not quantized keeps its own.
func TestGenerateTables(t *testing.T) {
	text := func(scheme, tables string) (string, error) {
		w, err := trainer.OpenWriter(trainer.GenerateOptions{Model: filepath.Join(golden.Dir(t), "models", "stories260K"), Device: "cpu", MaxTokens: 40,
			Scheme: scheme, Tables: tables})
		if err != nil {
			return "", err
		}
		a, err := w.Continue(context.Background(), "Once upon a time", func(string) error { return nil })
		require.NoError(t, err)
		require.NoError(t, w.Close())
		return a.Text, nil
	}
	same := func(a, b string) float64 {
		n := 0
		for n < min(len(a), len(b)) && a[n] == b[n] {
			n++
		}
		return float64(n) / math.Max(float64(len(a)), 1)
	}
	stored, err := text("nf4", "stored")
	require.NoError(t, err)
	auto, err := text("nf4", "")
	require.NoError(t, err)
	named, err := text("nf4", "f16")
	require.NoError(t, err)
	require.Equal(t, named, auto, "what auto takes where activations are float32")
	require.Greater(t, same(stored, auto), 0.5, "%q, %q", stored, auto)
	plain, err := text("none", "")
	require.NoError(t, err)
	as, err := text("none", "stored")
	require.NoError(t, err)
	require.Equal(t, as, plain)
	_, err = text("none", "f64")
	require.ErrorContains(t, err, "auto, stored, f16 and bf16")
}

// TestGenerateTablesRefused: a table that float16 cannot hold is refused with the flag that helps, which does.
func TestGenerateTablesRefused(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.CopyFS(dir, os.DirFS(filepath.Join(golden.Dir(t), "models", "stories260K"))))
	file := filepath.Join(dir, "stories260K.bin")
	b, err := os.ReadFile(file)
	require.NoError(t, err)
	const header = 7 * 4
	binary.LittleEndian.PutUint32(b[header:], math.Float32bits(1e5))
	require.NoError(t, os.WriteFile(file, b, 0o666))
	open := func(tables string) error {
		w, err := trainer.OpenWriter(trainer.GenerateOptions{Model: dir, Device: "cpu", Scheme: "nf4", Tables: tables})
		if err == nil {
			err = w.Close()
		}
		return err
	}
	require.ErrorContains(t, open("auto"), "holds 100000, more than its narrower type can: f16")
	require.ErrorContains(t, open("auto"), "--tables stored")
	require.NoError(t, open("stored"))
	require.NoError(t, open("bf16"))
}
