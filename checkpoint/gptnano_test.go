package checkpoint

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/internal/golden"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// nano is a file of two tensors: a vector (1, 2) and a matrix (out 2, in 3) of 0 to 5.
const nano = `{"config": {"model_type": "gpt-nano", "n_layer": 1, "n_head": 2, "n_embd": 4, "vocab_size": 3, "block_size": 5, "embd_pdrop": 0.1},
 "transformer.ln_f.weight": {"shape": [2], "dtype": "torch.float32", "data": "AACAPwAAAEA="},
 "transformer.h.0.attn.bias": {"shape": [1, 1, 1, 1], "dtype": "torch.float32", "data": "AACAPw=="},
 "transformer.h.0.mlp.c_fc.weight": {"shape": [2, 3], "dtype": "torch.float32", "data": "AAAAAAAAgD8AAABAAABAQAAAgEAAAKBA"}}`

func writeNano(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "m.json")
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

func TestGPTNano(t *testing.T) {
	path := writeNano(t, nano)
	require.True(t, IsGPTNano(vfs.OS{}, path))
	m, err := OpenGPTNano(vfs.OS{}, path)
	require.NoError(t, err)
	require.Equal(t, GPTNanoConfig{Layers: 1, Heads: 2, Embd: 4, Vocab: 3, Block: 5}, m.Config())
	require.Equal(t, []string{"transformer.ln_f.weight", "transformer.h.0.mlp.c_fc.weight"}, m.Names(), "without the mask")
	w, err := m.Read("transformer.h.0.mlp.c_fc.weight")
	require.NoError(t, err)
	require.Equal(t, tensor.T(tensor.F32, 3, 2), w.Type())
	require.Equal(t, []float32{0, 3, 1, 4, 2, 5}, tensor.Data[float32](w))
	p := make([]byte, 4)
	require.NoError(t, m.ReadInto("transformer.ln_f.weight", 4, p))
	require.Equal(t, []byte{0, 0, 0, 0x40}, p)
	require.ErrorContains(t, m.ReadInto("transformer.ln_f.weight", 5, p), "outside")
	_, err = m.Read("x")
	require.ErrorContains(t, err, "no tensor")
	found, err := FindGPTNano(vfs.OS{}, filepath.Dir(path))
	require.NoError(t, err)
	require.Equal(t, path, found)
	require.NoError(t, m.Close())
	for _, at := range []string{path, filepath.Dir(path)} {
		in, err := Inspect(vfs.OS{}, at)
		require.NoError(t, err)
		require.Equal(t, KindGPTNano, in.Kind)
		require.EqualValues(t, 8, in.Elements)
	}
}

func TestGPTNanoRefusals(t *testing.T) {
	for _, c := range []struct{ old, new, want string }{
		{`"n_layer": 1`, `"n_layer": 0`, "n_layer is 0"},
		{`"n_layer": 1`, `"n_layers": 1`, "n_layer is missing"},
		{`"n_head": 2`, `"n_head": 3`, "not a multiple"},
		{`[2], "dtype": "torch.float32"`, `[2], "dtype": "torch.float16"`, "float16"},
		{`"shape": [2, 3]`, `"shape": [1, 3]`, "needs 12 bytes"},
		{`"shape": [2, 3]`, `"shape": [9223372036854775807, 3]`, "does not fit"},
		{`"shape": [2, 3]`, `"shape": [1,1,1,1,1,1,1,1,1,1,1]`, "axes"},
		{`"AACAPwAAAEA="`, `"AACA*wAAAEA="`, "illegal base64"},
		{`"transformer.ln_f.weight"`, `"config"`, "occurs twice"},
		{`"dtype": "torch.float32", "data": "AACAPw=="`, `"data": "AACAPw=="`, "needs shape, dtype and data"},
		{`}}`, `}} x`, "expected the end"},
	} {
		require.Contains(t, nano, c.old)
		_, err := OpenGPTNano(vfs.OS{}, writeNano(t, strings.Replace(nano, c.old, c.new, 1)))
		require.ErrorIs(t, err, ErrFormat)
		require.ErrorContains(t, err, c.want)
	}
	for _, text := range []string{"", "{", "[]", `{"model_type": "llama"}`, `{"config"`} {
		require.False(t, IsGPTNano(vfs.OS{}, writeNano(t, text)), text)
	}
}

func FuzzGPTNano(f *testing.F) {
	f.Add([]byte(nano))
	f.Add([]byte(`{"config": {}, "a": {"shape": [0, 9], "dtype": "torch.float32", "data": ""}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		m := &GPTNano{values: map[string]*tensor.Tensor{}}
		if m.parse(data) != nil {
			return
		}
		for _, name := range m.Names() {
			if _, err := m.Read(name); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// TestGoldenGPTNano reads every such file of the test data.
func TestGoldenGPTNano(t *testing.T) {
	paths, err := filepath.Glob(filepath.Join(golden.Dir(t), "models", "*", "*.json"))
	require.NoError(t, err)
	n := 0
	for _, path := range paths {
		if !IsGPTNano(vfs.OS{}, path) {
			continue
		}
		m, err := OpenGPTNano(vfs.OS{}, path)
		require.NoError(t, err)
		require.NotEmpty(t, m.Names())
		n++
	}
	t.Logf("%d files ran", n)
}
