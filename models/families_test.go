package models_test

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/checkpoint"
	"github.com/bitsandbyes/bitsandbyes/internal/golden"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/models"
)

// TestGoldenHFNames: every weight that a family declares is met by a walk over the model, under the name that the files have.
func TestGoldenHFNames(t *testing.T) {
	families(t, func(t *testing.T, dir string, _ *checkpoint.File) {
		weights, config, err := models.OpenWeights(nil, dir)
		require.NoError(t, err)
		defer func() { require.NoError(t, weights.Close()) }()
		src := layers.NewSource(layers.Options{Weights: weights})
		m, err := models.New(config, src)
		require.NoError(t, err)
		require.NoError(t, src.Check(m))
	})
}

// TestGoldenHFConfigs: the keys of transformers 4 and 5 give one configuration; written without the file that it was read from it is
// read back the same, and with it the file's keys stay.
func TestGoldenHFConfigs(t *testing.T) {
	dirs, err := filepath.Glob(filepath.Join(golden.Dir(t), "hf", "*", "config_v4.json"))
	require.NoError(t, err)
	ran := 0
	for _, path := range dirs {
		t.Run(filepath.Base(filepath.Dir(path)), func(t *testing.T) {
			want, file := configOf(t, filepath.Join(filepath.Dir(path), "config.json"))
			old, oldFile := configOf(t, path)
			require.Equal(t, plain(want), plain(old))
			for _, c := range []struct {
				config models.Config
				file   map[string]any
				key    string
			}{{want, file, "dtype"}, {old, oldFile, "torch_dtype"}} {
				require.Equal(t, plain(want), plain(written(t, plain(c.config))))
				kept := c.config
				kept.Vocab += 7
				var keys map[string]any
				require.NoError(t, json.Unmarshal(marshal(t, kept, "bfloat16"), &keys))
				changed := maps.Clone(c.file)
				changed["vocab_size"], changed[c.key] = float64(kept.Vocab), "bfloat16"
				require.Equal(t, changed, keys)
			}
			ran++
		})
	}
	t.Logf("%d of %d families ran", ran, len(dirs))
}

func configOf(t *testing.T, path string) (models.Config, map[string]any) {
	t.Helper()
	raw, err := os.ReadFile(path)
	require.NoError(t, err)
	var keys map[string]any
	require.NoError(t, json.Unmarshal(raw, &keys))
	if kind, _ := keys["model_type"].(string); !slices.Contains(models.Types(), kind) {
		t.Skipf("model_type %q is not supported", kind)
	}
	c, err := models.ParseConfig(raw)
	require.NoError(t, err)
	return c, keys
}

// plain is a configuration that comes from no file.
func plain(c models.Config) models.Config {
	c.File = nil
	if len(c.Mixture.Dense) == 0 {
		c.Mixture.Dense = nil
	}
	return c
}

func marshal(t *testing.T, c models.Config, dtype string) []byte {
	t.Helper()
	keys, err := c.HF(dtype)
	require.NoError(t, err)
	raw, err := json.Marshal(keys)
	require.NoError(t, err)
	return raw
}

// written is a configuration after it was written and read again.
func written(t *testing.T, c models.Config) models.Config {
	t.Helper()
	again, err := models.ParseConfig(marshal(t, c, "float32"))
	require.NoError(t, err)
	return again
}

// sizes are the keys that every family but GPT-2 needs.
func sizes(model string, change map[string]any) []byte {
	keys := map[string]any{"model_type": model, "vocab_size": 11, "hidden_size": 64, "intermediate_size": 12, "num_hidden_layers": 6,
		"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 32}
	if model == "gpt2" {
		keys = map[string]any{"model_type": model, "vocab_size": 11, "n_embd": 64, "n_layer": 6, "n_head": 4, "n_positions": 32}
	}
	maps.Copy(keys, change)
	for k, v := range change {
		if v == "absent" {
			delete(keys, k)
		}
	}
	raw, err := json.Marshal(keys)
	if err != nil {
		return nil
	}
	return raw
}

// TestFamilies: every registered type has defaults that make a model, and writes what it reads.
func TestFamilies(t *testing.T) {
	for _, model := range models.Types() {
		c, err := models.ParseConfig(sizes(model, nil))
		require.NoError(t, err, model)
		require.Equal(t, model, c.Type)
		require.Equal(t, plain(c), plain(written(t, plain(c))), model)
	}
}

// TestFamilyDefaults: what transformers' classes do with keys that are left out, null, or odd.
func TestFamilyDefaults(t *testing.T) {
	parse := func(model string, change map[string]any) models.Config {
		t.Helper()
		c, err := models.ParseConfig(sizes(model, change))
		require.NoError(t, err)
		return c
	}
	full := []int32(nil)
	every := func(w int32) []int32 { return []int32{w, w, w, w, w, w} }
	for _, k := range []struct {
		model  string
		change map[string]any
		want   []int32
	}{
		{"llama", nil, full}, {"mistral", nil, every(4096)}, {"mistral", map[string]any{"sliding_window": nil}, full},
		{"mistral", map[string]any{"sliding_window": 5}, every(5)}, {"phi3", nil, full}, {"phi3", map[string]any{"sliding_window": 2047}, every(2047)},
		{"qwen2", map[string]any{"sliding_window": 5}, full},
		{"qwen2", map[string]any{"use_sliding_window": true, "sliding_window": 5, "max_window_layers": 4}, []int32{0, 0, 0, 0, 5, 5}},
		{"qwen3", map[string]any{"use_sliding_window": true, "max_window_layers": 5}, []int32{0, 0, 0, 0, 0, 4096}},
		{"gemma2", nil, []int32{4096, 0, 4096, 0, 4096, 0}},
		{"gemma3_text", map[string]any{"sliding_window": 9}, []int32{9, 9, 9, 9, 9, 0}},
		{"gemma3_text", map[string]any{"sliding_window": 9, "sliding_window_pattern": 2}, []int32{9, 0, 9, 0, 9, 0}},
	} {
		require.Equal(t, k.want, parse(k.model, k.change).Windows, "%s %v", k.model, k.change)
	}
	require.Equal(t, 8, parse("mistral", map[string]any{"num_key_value_heads": "absent", "num_attention_heads": 16}).KVHeads)
	require.Equal(t, 4, parse("phi3", map[string]any{"num_key_value_heads": "absent"}).KVHeads)
	require.Equal(t, 128, parse("qwen3", map[string]any{"head_dim": "absent"}).HeadDim)
	g := parse("gemma2", map[string]any{"hidden_act": "gelu", "attn_logit_softcapping": nil})
	require.Equal(t, "gelu_pytorch_tanh", g.Act, "hidden_activation counts, not hidden_act")
	require.Zero(t, g.AttentionCap)
	require.Equal(t, 30.0, g.LogitCap)
	require.True(t, g.Tied)
	require.InDelta(t, 1.0/16, g.QueryScale, 1e-12)
	g = parse("gemma3_text", nil)
	require.Equal(t, []float64{1e6, 1e4}, []float64{g.Rope.Theta, g.LocalRope.Theta})
	p := parse("phi3", map[string]any{"rope_scaling": map[string]any{"type": "su", "short_factor": []float64{1, 1, 1, 1, 1, 1, 1, 1}, "long_factor": []float64{2, 2, 2, 2, 2, 2, 2, 2}},
		"max_position_embeddings": 16384})
	require.Equal(t, models.LongRope, p.Rope.Scaling)
	require.Equal(t, 4096, p.Rope.Original)
	yarn := map[string]any{"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
	require.Equal(t, 128, parse("qwen2", map[string]any{"rope_scaling": yarn}).MaxPositions, "files of Qwen give the context before scaling")
	require.Equal(t, 500, parse("qwen2", map[string]any{"rope_scaling": yarn, "max_position_embeddings": 500}).MaxPositions)
	require.Equal(t, 64, parse("llama", map[string]any{"rope_scaling": map[string]any{"type": "dynamic", "factor": 2.0}}).MaxPositions)
	two := parse("gpt2", map[string]any{"scale_attn_weights": false, "attn_pdrop": 0.1})
	require.Equal(t, 256, two.Intermediate)
	require.Equal(t, "gelu_new", two.Act)
	require.Equal(t, 1.0, two.QueryScale)
	require.Len(t, two.Notes, 1)
}

// TestFamiliesRefuse: what would change the numbers and is not implemented is named.
func TestFamiliesRefuse(t *testing.T) {
	nested := map[string]any{"full_attention": map[string]any{"rope_type": "default"}}
	for _, k := range []struct {
		model, key string
		value      any
		want       string
	}{
		{"gemma3", "hidden_size", 64, `model_type "gemma3" is not supported; supported: llama, `},
		{"mistral", "layer_types", []string{"full_attention", "full_attention"}, "layer_types[0]"},
		{"qwen2", "layer_types", []string{"full_attention"}, "layer_types lists 1 layers"},
		{"qwen2", "layer_types", []string{"full_attention", "full_attention", "full_attention", "chunked_attention", "full_attention", "full_attention"}, `layer_types[3] "chunked_attention"`},
		{"qwen3", "layer_types", []string{"full_attention", "full_attention", "full_attention", "sliding_attention", "full_attention", "full_attention"}, "gives no size"},
		{"mistral", "sliding_window", -4, "out of range"},
		{"gemma2", "use_bidirectional_attention", true, "use_bidirectional_attention"},
		{"gemma2", "query_pre_attn_scalar", 0, "query_pre_attn_scalar"},
		{"gemma3_text", "sliding_window_pattern", 0, "sliding_window_pattern"},
		{"llama", "rope_parameters", nested, "differ by the kind of layer"},
		{"llama", "partial_rotary_factor", 0.5, "partial_rotary_factor"},
		{"phi3", "rope_scaling", map[string]any{"type": "linear", "factor": 2}, `rope_type "linear"`},
		{"phi3", "resid_pdrop", 0.1, "resid_pdrop"},
		{"gpt2", "scale_attn_by_inverse_layer_idx", true, "scale_attn_by_inverse_layer_idx"},
		{"gpt2", "add_cross_attention", true, "add_cross_attention"},
		{"gpt2", "n_head", 5, "not a multiple of n_head"},
		{"gpt2", "activation_function", "gelu_nova", "gelu_nova"},
	} {
		_, err := models.ParseConfig(sizes(k.model, map[string]any{k.key: k.value}))
		require.ErrorContains(t, err, k.want, "%s %s", k.model, k.key)
	}
}
