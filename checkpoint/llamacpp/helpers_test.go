package llamacpp

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/checkpoint/gguf"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs/faultfs"
	"github.com/bitsandbyes/bitsandbyes/quant/ggml"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// memory is a reader of tensors that are made up.
type memory map[string]*tensor.Tensor

func (m memory) Names() []string { return slices.Sorted(maps.Keys(m)) }

func (m memory) Type(name string) (tensor.Type, bool) {
	t, ok := m[name]
	if !ok {
		return tensor.Type{}, false
	}
	return t.Type(), true
}

func (m memory) Read(name string) (*tensor.Tensor, error) {
	t, ok := m[name]
	if !ok {
		return nil, fmt.Errorf("no %s", name)
	}
	return t, nil
}

func (m memory) ReadInto(name string, offset int64, p []byte) error {
	copy(p, m[name].Bytes()[offset:])
	return nil
}

func (m memory) Close() error { return nil }

// add makes a tensor of normal elements.
func (m memory) add(name string, dims ...int) {
	rng := rand.New(rand.NewPCG(uint64(len(m)), 7))
	t := tensor.New(tensor.T(tensor.F32, dims...))
	for i := range tensor.Data[float32](t) {
		tensor.Data[float32](t)[i] = float32(rng.NormFloat64())
	}
	m[name] = t
}

const (
	vocab, hidden, inner, heads, kvHeads, layers = 40, 64, 96, 4, 2, 2
	headDim                                      = hidden / heads
)

// tinyLlama is a model of the family llama, and its configuration with some keys changed.
func tinyLlama(t testing.TB, keys map[string]any) (memory, []byte) {
	m := memory{}
	m.add("model.embed_tokens.weight", vocab, hidden)
	m.add("model.norm.weight", hidden)
	m.add("lm_head.weight", vocab, hidden)
	for i := range layers {
		p := fmt.Sprintf("model.layers.%d.", i)
		m.add(p+"self_attn.q_proj.weight", hidden, hidden)
		m.add(p+"self_attn.k_proj.weight", kvHeads*headDim, hidden)
		m.add(p+"self_attn.v_proj.weight", kvHeads*headDim, hidden)
		m.add(p+"self_attn.o_proj.weight", hidden, hidden)
		m.add(p+"mlp.gate_proj.weight", inner, hidden)
		m.add(p+"mlp.up_proj.weight", inner, hidden)
		m.add(p+"mlp.down_proj.weight", hidden, inner)
		m.add(p+"input_layernorm.weight", hidden)
		m.add(p+"post_attention_layernorm.weight", hidden)
	}
	c := map[string]any{"model_type": "llama", "vocab_size": vocab, "hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers,
		"num_attention_heads": heads, "num_key_value_heads": kvHeads, "head_dim": headDim, "max_position_embeddings": 128, "rms_norm_eps": 1e-5,
		"hidden_act": "silu", "tie_word_embeddings": false, "rope_parameters": map[string]any{"rope_type": "default", "rope_theta": 5e5}}
	maps.Copy(c, keys)
	raw, err := json.Marshal(c)
	require.NoError(t, err)
	return m, raw
}

// exportTiny writes a tiny model and opens it again.
func exportTiny(t testing.TB, keys map[string]any, o ExportOptions) (*Model, *Report) {
	t.Helper()
	m, config := tinyLlama(t, keys)
	fsys := faultfs.New()
	r, err := Export(fsys, "/m.gguf", m, config, o)
	require.NoError(t, err)
	model, err := Open(fsys, "/m.gguf")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, model.Close()) })
	return model, r
}

// keysOf is the configuration that a file gives.
func keysOf(t testing.TB, m *Model) map[string]any {
	t.Helper()
	var out map[string]any
	require.NoError(t, json.Unmarshal(m.Config(), &out))
	return out
}

// edited writes a tiny model again with other metadata and tensors.
func edited(t testing.TB, change func(kvs []kv, specs []gguf.Spec) ([]kv, []gguf.Spec)) (*Model, error) {
	t.Helper()
	m, _ := exportTiny(t, nil, ExportOptions{Type: ggml.F32})
	f := m.File()
	var specs []gguf.Spec
	for _, i := range f.Tensors() {
		specs = append(specs, gguf.Spec{Name: i.Name, Type: i.Type, Shape: i.Shape})
	}
	kvs, specs := change(f.Metadata(), specs)
	fsys := faultfs.New()
	w, err := gguf.NewWriter(fsys, "/e.gguf", kvs, specs)
	require.NoError(t, err)
	for _, s := range specs {
		n, _ := s.Type.Size(s.Shape.Size())
		_, err := w.Write(make([]byte, n))
		require.NoError(t, err)
	}
	require.NoError(t, w.Commit())
	return Open(vfs.FS(fsys), "/e.gguf")
}
