package models_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/internal/golden"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/models"
	"github.com/bitsandbyes/bitsandbyes/tensor"
	"github.com/bitsandbyes/bitsandbyes/tokenizer"
)

func baseConfig() map[string]any {
	return map[string]any{"model_type": "llama", "vocab_size": 11, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1,
		"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 32, "rms_norm_eps": 1e-5}
}

func parse(t *testing.T, change map[string]any) (models.Config, error) {
	t.Helper()
	c := baseConfig()
	for k, v := range change {
		c[k] = v
	}
	raw, err := json.Marshal(c)
	require.NoError(t, err)
	return models.ParseConfig(raw)
}

func TestParseConfigDefaults(t *testing.T) {
	c, err := parse(t, nil)
	require.NoError(t, err)
	c.File = nil
	require.Equal(t, models.Config{Type: "llama", Vocab: 11, Hidden: 8, Intermediate: 12, Layers: 1, Heads: 2, KVHeads: 1, HeadDim: 4, MaxPositions: 32,
		Eps: 1e-5, Rope: models.Rope{Theta: 10000}, InitStd: 0.02, Pad: -1}, c)
	c, err = parse(t, map[string]any{"eos_token_id": []int{2, 3}, "bos_token_id": 1, "pad_token_id": 0, "head_dim": 6, "tie_word_embeddings": true,
		"rope_parameters": map[string]any{"rope_type": "default", "rope_theta": 5e5}})
	require.NoError(t, err)
	require.Equal(t, []int32{2, 3}, c.EOS)
	require.Equal(t, []int32{1}, c.BOS)
	require.Equal(t, int32(0), c.Pad)
	require.Equal(t, 6, c.HeadDim)
	require.Equal(t, 5e5, c.Rope.Theta)
	require.True(t, c.Tied)
}

func TestParseConfigRefuses(t *testing.T) {
	for _, c := range []struct {
		key   string
		value any
		err   string
	}{
		{"model_type", "mamba", `model_type "mamba" is not supported`},
		{"vocab_size", 0, "vocab_size is 0"}, {"hidden_size", -1, "hidden_size"}, {"num_hidden_layers", 1 << 40, "num_hidden_layers"},
		{"num_key_value_heads", 0, "num_key_value_heads is 0"}, {"num_key_value_heads", 3, "not a multiple"}, {"head_dim", 5, "odd"},
		{"rms_norm_eps", 0, "positive"}, {"rope_theta", -1, "rope_theta"}, {"hidden_act", "sine", "hidden_act"},
		{"attention_dropout", 0.1, "attention_dropout"}, {"pretraining_tp", 2, "pretraining_tp"},
		{"quantization_config", map[string]any{"quant_method": "gptq"}, `quant_method "gptq"`},
		{"rope_scaling", map[string]any{"type": "axial", "factor": 2}, `rope_type "axial"`},
		{"rope_scaling", map[string]any{"rope_type": "llama3", "factor": 0}, "llama3 rope scaling"},
		{"eos_token_id", "x", "token id"}, {"vocab_size", "x", "config.json"},
	} {
		_, err := parse(t, map[string]any{c.key: c.value})
		require.ErrorContains(t, err, c.err, c.key)
	}
	_, err := models.ParseConfig([]byte("{"))
	require.Error(t, err)
}

func FuzzParseConfig(f *testing.F) {
	raw, err := json.Marshal(baseConfig())
	require.NoError(f, err)
	f.Add(raw)
	f.Add([]byte(`{"model_type": "llama", "vocab_size": 1e99}`))
	f.Add([]byte(`{"model_type": "llama", "rope_scaling": {"type": "llama3"}, "eos_token_id": [1, 2]}`))
	f.Add([]byte(`null`))
	for _, model := range models.Types() {
		f.Add(sizes(model, nil))
		f.Add(sizes(model, map[string]any{"layer_types": []string{"full_attention"}, "sliding_window": -1, "rope_scaling": map[string]any{"type": "longrope"}}))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := models.ParseConfig(data)
		if err == nil {
			require.NoError(t, c.Validate())
		}
	})
}

// A tied model with biases has the names of its checkpoint, and needs no weights to be described.
func TestSymbolsOnly(t *testing.T) {
	c, err := parse(t, map[string]any{"tie_word_embeddings": true, "attention_bias": true, "mlp_bias": true})
	require.NoError(t, err)
	m, err := models.New(c, layers.NewSource(layers.Options{Policy: layers.Policy{Compute: tensor.BF16}}))
	require.NoError(t, err)
	var names []string
	for _, p := range layers.Params(m) {
		names = append(names, strings.TrimPrefix(p.Name, "model."))
	}
	require.Contains(t, names, "layers.0.self_attn.o_proj.bias")
	require.Contains(t, names, "layers.0.mlp.down_proj.bias")
	require.NotContains(t, names, "lm_head.weight")
	_, err = models.New(models.Config{}, layers.NewSource(layers.Options{}))
	require.Error(t, err)
}

// TestGoldenLlama2C opens models of llama2.c by their folder and by their file, and continues from BOS as their reference does.
func TestGoldenLlama2C(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(golden.Dir(t), "models", "*", "*.bin"))
	require.NoError(t, err)
	ran := 0
	for _, path := range files {
		if strings.HasPrefix(filepath.Base(path), "tok") {
			continue
		}
		t.Run(filepath.Base(filepath.Dir(path)), func(t *testing.T) {
			weights, cfg, err := models.OpenWeights(vfs.OS{}, path)
			if err != nil {
				t.Skipf("refused: %v", err)
			}
			defer func() { require.NoError(t, weights.Close()) }()
			folder, same, err := models.OpenWeights(vfs.OS{}, filepath.Dir(path))
			require.NoError(t, err)
			require.Equal(t, cfg, same)
			require.NoError(t, folder.Close())
			f := load(t, path, cfg, weights, layers.Options{})
			require.Equal(t, f.greedyWhole(cfg.BOS, 12), f.greedyCached(cfg.BOS, 12))
			ran++
		})
	}
	t.Logf("%d of %d files ran", ran, len(files))
}

func TestOpenWeightsErrors(t *testing.T) {
	dir := t.TempDir()
	_, _, err := models.OpenWeights(vfs.OS{}, filepath.Join(dir, "nowhere"))
	require.ErrorIs(t, err, os.ErrNotExist)
	_, _, err = models.OpenWeights(vfs.OS{}, dir)
	require.ErrorContains(t, err, "model.safetensors")
	require.NoError(t, os.WriteFile(filepath.Join(dir, "x.bin"), []byte("no model"), 0o600))
	_, _, err = models.OpenWeights(vfs.OS{}, filepath.Join(dir, "x.bin"))
	require.Error(t, err)
}

// TestGoldenLlama2CText compares the text of a greedy continuation from BOS with what llama2.c prints: expected_greedy_STEPS.txt.
func TestGoldenLlama2CText(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(golden.Dir(t), "models", "*", "expected_greedy_*.txt"))
	require.NoError(t, err)
	for _, path := range files {
		dir := filepath.Dir(path)
		t.Run(filepath.Base(dir), func(t *testing.T) {
			steps, err := strconv.Atoi(strings.TrimSuffix(strings.TrimPrefix(filepath.Base(path), "expected_greedy_"), ".txt"))
			require.NoError(t, err)
			want, err := os.ReadFile(path)
			require.NoError(t, err)
			weights, cfg, err := models.OpenWeights(vfs.OS{}, dir)
			require.NoError(t, err)
			defer func() { require.NoError(t, weights.Close()) }()
			vocabularies, err := filepath.Glob(filepath.Join(dir, "tok*.bin"))
			require.NoError(t, err)
			require.Len(t, vocabularies, 1)
			raw, err := os.ReadFile(vocabularies[0])
			require.NoError(t, err)
			tok, err := tokenizer.ParseLlama2C(raw, cfg.Vocab)
			require.NoError(t, err)
			out := append(slices.Clone(cfg.BOS), load(t, dir, cfg, weights, layers.Options{}).greedyCached(cfg.BOS, steps)...)
			if end := slices.Index(out[1:], cfg.BOS[0]); end >= 0 {
				out = out[:1+end]
			}
			require.Equal(t, string(want), tok.DecodeWith(out, tokenizer.DecodeOptions{SkipSpecial: true}))
		})
	}
	t.Logf("%d texts ran", len(files))
}
