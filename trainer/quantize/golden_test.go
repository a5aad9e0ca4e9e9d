package quantize_test

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/checkpoint"
	"github.com/bitsandbyes/bitsandbyes/internal/golden/bnb"
	"github.com/bitsandbyes/bitsandbyes/tensor"
	"github.com/bitsandbyes/bitsandbyes/trainer/quantize"
)

// TestGoldenBNBLlamaQuantize quantizes the reference's base model as each quantized folder beside it says: files and tensors equal what
// transformers and bitsandbytes saved byte for byte, but for the mean of nested scales, whose sum has another order on a GPU.
func TestGoldenBNBLlamaQuantize(t *testing.T) {
	for _, f := range bnb.Folders(t) {
		t.Run(filepath.Base(f.Dir), func(t *testing.T) {
			out, q := filepath.Join(t.TempDir(), "out"), f.Quantization
			r, err := quantize.Run(context.Background(), quantize.Options{In: filepath.Join(f.Dir, "..", "base"), Out: out, Scheme: q.Scheme,
				Double: q.Double, Storage: q.Storage})
			require.NoError(t, err)
			sameFolder(t, f.Dir, out)
			t.Logf("%.3f bits a weight, relative error %.3f", r.Total.Bits, r.Total.RelError)
		})
	}
}

func sameFolder(t *testing.T, want, got string) {
	t.Helper()
	entries, err := os.ReadDir(want)
	require.NoError(t, err)
	have, err := os.ReadDir(got)
	require.NoError(t, err)
	require.Len(t, have, len(entries))
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".safetensors") {
			continue
		}
		a, err := os.ReadFile(filepath.Join(want, e.Name()))
		require.NoError(t, err)
		b, err := os.ReadFile(filepath.Join(got, e.Name()))
		require.NoError(t, err)
		require.Equal(t, strings.TrimSpace(string(a)), strings.TrimSpace(string(b)), e.Name())
	}
	a, err := checkpoint.OpenDir(nil, want)
	require.NoError(t, err)
	b, err := checkpoint.OpenDir(nil, got)
	require.NoError(t, err)
	require.ElementsMatch(t, a.Names(), b.Names())
	equal, close := 0, 0
	for _, name := range a.Names() {
		x, err := a.Read(name)
		require.NoError(t, err)
		y, err := b.Read(name)
		require.NoError(t, err)
		if nestedPart(name, a) {
			sameNested(t, name, x, y)
			close++
			continue
		}
		require.Equal(t, x.Type(), y.Type(), name)
		require.True(t, bytes.Equal(x.Bytes(), y.Bytes()), name)
		equal++
	}
	require.NoError(t, a.Close())
	require.NoError(t, b.Close())
	t.Logf("%d tensors equal byte for byte, %d that follow the mean of nested scales within 1e-6", equal, close)
}

// nestedPart tells what depends on the mean of the scales of a weight.
func nestedPart(name string, r checkpoint.Reader) bool {
	base, part, ok := strings.Cut(name, ".weight.")
	if _, nested := r.Type(base + ".weight.nested_absmax"); !ok || !nested {
		return false
	}
	return part == "nested_absmax" || strings.HasPrefix(part, "quant_state.")
}

// sameNested compares descriptions but for their offset, which may differ by 1e-6 of it, and second-level scales likewise. The codes of
// scales are equal.
func sameNested(t *testing.T, name string, want, got *tensor.Tensor) {
	t.Helper()
	switch {
	case strings.Contains(name, ".quant_state."):
		var a, b map[string]any
		require.NoError(t, json.Unmarshal(want.Bytes(), &a))
		require.NoError(t, json.Unmarshal(got.Bytes(), &b))
		x, y := a["nested_offset"], b["nested_offset"]
		require.InEpsilon(t, x, y, 1e-6, name)
		b["nested_offset"] = x
		require.Equal(t, a, b, name)
		cut := func(s []byte) string { text, _, _ := strings.Cut(string(s), `"nested_offset"`); return text }
		require.Equal(t, cut(want.Bytes()), cut(got.Bytes()), name)
	default:
		require.Equal(t, want.Type(), got.Type(), name)
		for i := range want.Shape().Size() {
			require.InEpsilon(t, want.At(i), got.At(i), 1e-6, name)
		}
	}
}
