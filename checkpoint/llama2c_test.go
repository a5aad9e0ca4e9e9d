package checkpoint

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// llamaFile makes a file whose floats count up from 0.
func llamaFile(floats int, header ...int32) string {
	b := make([]byte, 0, 4*(floats+7))
	for _, h := range header {
		b = binary.LittleEndian.AppendUint32(b, uint32(h))
	}
	vals := make([]float32, floats)
	for i := range vals {
		vals[i] = float32(i)
	}
	return string(append(b, tensor.AsBytes(vals)...))
}

func TestLlama2CLayout(t *testing.T) {
	// dim 4, hidden 3, 2 layers, 2 heads, 1 kv head (kv dim 2), vocab 5 untied, 6 positions.
	const floats = 5*4 + 2*4 + 2*16 + 2*8 + 2*8 + 2*16 + 2*4 + 2*12 + 2*12 + 2*12 + 4 + 6*2 + 5*4
	m := memory(t, map[string]string{"m.bin": llamaFile(floats, 4, 3, 2, 2, 1, -5, 6)})
	l, err := OpenLlama2C(m, "/d/m.bin")
	require.NoError(t, err)
	require.Equal(t, Llama2CHeader{4, 3, 2, 2, 1, 5, 6, false}, l.Header())
	for _, c := range []struct {
		name  string
		first float64
		dims  []int
	}{
		{"model.embed_tokens.weight", 0, []int{5, 4}},
		{"model.layers.1.input_layernorm.weight", 24, []int{4}},
		{"model.layers.0.self_attn.q_proj.weight", 28, []int{4, 4}},
		{"model.layers.1.self_attn.k_proj.weight", 68, []int{2, 4}},
		{"model.layers.0.self_attn.v_proj.weight", 76, []int{2, 4}},
		{"model.layers.0.self_attn.o_proj.weight", 92, []int{4, 4}},
		{"model.layers.0.post_attention_layernorm.weight", 124, []int{4}},
		{"model.layers.0.mlp.gate_proj.weight", 132, []int{3, 4}},
		{"model.layers.0.mlp.down_proj.weight", 156, []int{4, 3}},
		{"model.layers.0.mlp.up_proj.weight", 180, []int{3, 4}},
		{"model.norm.weight", 204, []int{4}},
		{"lm_head.weight", 208 + 12, []int{5, 4}},
	} {
		x, err := l.Read(c.name)
		require.NoError(t, err, c.name)
		require.Equal(t, tensor.T(tensor.F32, c.dims...), x.Type(), c.name)
		require.Equal(t, c.first, x.At(0), c.name)
	}
	require.Len(t, l.Names(), 2*9+3)
	p := make([]byte, 4)
	require.NoError(t, l.ReadInto("model.norm.weight", 4, p))
	require.Equal(t, float32(205), tensor.View[float32](p)[0])
	require.NoError(t, l.Close())
}

func TestLlama2CRefuses(t *testing.T) {
	for _, c := range []struct{ name, data, want string }{
		{"empty", "", "too short"},
		{"27 bytes", llamaFile(0, 4, 3, 2, 2, 1, 5, 6)[:27], "too short"},
		{"later version", "24ka" + llamaFile(0, 1, 4, 3, 2, 2, 1, 5), "later version"},
		{"zero dim", llamaFile(0, 0, 3, 2, 2, 1, 5, 6), "dim = 0"},
		{"negative layers", llamaFile(0, 4, 3, -2, 2, 1, 5, 6), "n_layers = -2"},
		{"no vocabulary", llamaFile(0, 4, 3, 2, 2, 1, 0, 6), "vocab_size = 0"},
		{"heads", llamaFile(0, 4, 3, 2, 3, 1, 5, 6), "not a multiple of n_heads"},
		{"kv heads", llamaFile(0, 12, 3, 2, 3, 2, 5, 6), "not a multiple of n_kv_heads"},
		{"odd heads", llamaFile(0, 6, 3, 2, 2, 2, 5, 6), "odd width"},
		{"cut short", llamaFile(9, 4, 3, 2, 2, 1, 5, 6), "the file has 64"},
		{"huge", llamaFile(9, 1<<30, 1<<30, 1<<30, 1, 1, 1<<30, 1<<30), "more than 2^64"},
		{"many layers", llamaFile(9, 2, 1, 1<<30, 1, 1, 1, 1), "needs"},
		{"pickle", "\x80\x02}q\x00", "pickle"},
		{"zip", "PK\x03\x04....", "zip archive"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := memory(t, map[string]string{"m.bin": c.data})
			_, err := OpenLlama2C(m, "/d/m.bin")
			require.ErrorIs(t, err, ErrFormat)
			require.ErrorContains(t, err, c.want)
			_, err = Inspect(m, "/d/m.bin")
			require.ErrorContains(t, err, c.want)
		})
	}
	_, err := OpenLlama2C(memory(t, nil), "/d/none")
	require.Error(t, err)
}

func TestInspect(t *testing.T) {
	m := memory(t, map[string]string{"adapter_config.json": `{"r": 4}`})
	require.NoError(t, WriteSafetensors(m, "/d/adapter_model.safetensors", []Named{{"a\x1b[2J", f32s(t, []float32{1, 2}, 2)}, {"b", tensor.Scalar(int8(1))}}, map[string]string{"format": "pt"}))
	in, err := Inspect(m, "/d")
	require.NoError(t, err)
	require.Equal(t, KindAdapter, in.Kind)
	b, err := json.Marshal(in)
	require.NoError(t, err)
	require.JSONEq(t, `{"path":"/d","kind":"adapter","metadata":{"format":"pt"},"config":{"r":4},
		"files":[{"name":"adapter_model.safetensors","bytes":169}],"elements":3,"bytes":9,"bytes_by_dtype":{"f32":8,"i8":1},
		"tensors":[{"name":"a\u001b[2J","dtype":"f32","shape":[2],"bytes":8},{"name":"b","dtype":"i8","shape":[],"bytes":1}]}`, string(b))
	var text bytes.Buffer
	require.NoError(t, in.WriteText(&text))
	require.NotContains(t, text.String(), "\x1b", "names cannot act on the terminal")
	require.Contains(t, text.String(), "adapter, 2 tensors, 3 elements, 9 bytes")
	require.Contains(t, text.String(), "\n  r: 4\n")
	in.Config = json.RawMessage(`{"target_modules": ["q_\u001b[2J", "` + "\u009b\u202e" + `"], "use_dora": false, "revision": null, "bias": "` + strings.Repeat("x", 999) + `", "unknown": 1}`)
	text.Reset()
	require.NoError(t, in.WriteText(&text))
	for _, hidden := range []string{"\x1b", "\u009b", "\u202e", "use_dora", "revision", "unknown", strings.Repeat("x", 300)} {
		require.NotContains(t, text.String(), hidden)
	}
	require.Contains(t, text.String(), "target_modules")

	require.NoError(t, save(t, m, 4, 0))
	in, err = Inspect(m, "/d/run/checkpoints/step-00000004")
	require.NoError(t, err)
	require.Equal(t, KindCheckpoint, in.Kind)
	require.True(t, in.Checkpoints[0].Intact)
	require.NoError(t, m.MkdirAll("/d/l"))
	require.NoError(t, vfs.WriteFile(m, "/d/l/m.bin", []byte(llamaFile(5*4+4+4*16+4+36+4+13, 4, 3, 1, 2, 2, 5, 6))))
	_, err = Inspect(m, "/d/l")
	require.Error(t, err, "a size that is off")
	require.NoError(t, vfs.WriteFile(m, "/d/l/n.bin", []byte(llamaFile(5*4+4+4*16+4+36+4+12, 4, 3, 1, 2, 2, 5, 6))))
	in, err = Inspect(m, "/d/l")
	require.NoError(t, err)
	require.Equal(t, KindLlama2C, in.Kind)
	require.JSONEq(t, `{"dim":4,"hidden_dim":3,"n_layers":1,"n_heads":2,"n_kv_heads":2,"vocab_size":5,"seq_len":6,"tied":true}`, string(in.Config))
	_, err = Inspect(m, "/d/none")
	require.Error(t, err)
}
