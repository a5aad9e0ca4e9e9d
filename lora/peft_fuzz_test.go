package lora

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/checkpoint"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// FuzzConfig feeds configurations to the parser. What it accepts must be written, read again and written the same.
func FuzzConfig(f *testing.F) {
	for _, s := range []string{
		`{"peft_type": "LORA"}`,
		`{"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["b", "a"], "rank_pattern": {"x": 2, ".*y": 3}, "new": {"a": [1, "\u00fc"]}}`,
		`{"peft_type": "LORA", "target_modules": ".*\\.q_proj", "use_rslora": true, "lora_dropout": 0.05}`,
		`{"peft_type": "LORA", "use_dora": true}`,
		`{"peft_type": "LORA", "target_modules": [], "target_parameters": ["experts.down_proj", "a.gate.weight"], "rank_pattern": {".*\\.gate_up_proj": 2}}`,
		`{"peft_type": "LORA", "init_lora_weights": "pissa"}`,
		`{"peft_type": "LORA", "lora_bias": true, "bias": "all", "layers_to_transform": 3, "layers_pattern": ["h", "layers"], "exclude_modules": ".*x"}`,
		`{"peft_type": "LORA", "trainable_token_indices": {"embed_tokens": [1, 2]}, "modules_to_save": "lm_head", "alpha_pattern": {"a|b": 0.5}}`,
		`{"peft_type": 1}`, `[]`, `null`, ``,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := parseConfig(data)
		if err != nil || s.Config.Init.moves() { // which is written as what it is converted to
			return
		}
		a := &Adapter{Config: s.Config, saved: s}
		once, err := a.peftConfig(SaveInfo{})
		require.NoError(t, err)
		again, err := parseConfig(once)
		require.NoError(t, err, "%s", once)
		require.Equal(t, s.Config, again.Config)
		b := &Adapter{Config: again.Config, saved: again}
		twice, err := b.peftConfig(SaveInfo{})
		require.NoError(t, err)
		require.True(t, bytes.Equal(once, twice), "%s\n%s", once, twice)
	})
}

func TestPythonFloats(t *testing.T) {
	for _, c := range []struct {
		x    float64
		bits int
		want string
	}{
		{0, 32, "0.0"}, {float64(float32(0.1)), 32, "0.1"}, {0.05, 64, "0.05"}, {1, 64, "1.0"}, {1e-4, 64, "0.0001"}, {1e-5, 64, "1e-05"},
		{1.5e-7, 64, "1.5e-07"}, {1e15, 64, "1000000000000000.0"}, {1e16, 64, "1e+16"}, {2.5, 64, "2.5"},
	} {
		require.Equal(t, c.want, pyFloat(c.x, c.bits))
	}
}

// FuzzLoad feeds adapter folders to the loader, their tensors given as lines of a name and its sizes, and puts what it accepts on a model. Nothing
// may panic, and a model that an adapter does not fit stays as it was.
func FuzzLoad(f *testing.F) {
	const plain = "up_proj.lora_A.weight 2 4\nup_proj.lora_B.weight 3 2\n"
	for _, s := range [][2]string{
		{`{"peft_type": "LORA", "r": 2}`, plain},
		{`{"peft_type": "LORA", "r": 2, "use_dora": true}`, plain + "up_proj.lora_magnitude_vector 3"},
		{`{"peft_type": "LORA", "r": 2, "lora_bias": true}`, plain + "up_proj.lora_B.bias 3"},
		{`{"peft_type": "LORA", "r": 2, "modules_to_save": ["norm"]}`, plain + "norm.weight 4"},
		{`{"peft_type": "LORA", "r": 2, "bias": "lora_only"}`, plain + "up_proj.base_layer.bias 3"},
		{`{"peft_type": "LORA", "r": 2, "trainable_token_indices": [1]}`, plain + "embed_tokens.token_adapter.trainable_tokens_delta 1 4"},
		{`{"peft_type": "LORA", "r": 2}`, "embed_tokens.lora_embedding_A 2 5\nembed_tokens.lora_embedding_B 4 2\nembed_tokens.base_layer.weight 5 4"},
		{`{"peft_type": "LORA", "r": 2, "target_parameters": ["gate_up_proj"]}`, "mlp.experts.lora_A.weight 4 4\nmlp.experts.lora_B.weight 3 4"},
		{`{"peft_type": "LORA", "r": 2, "rank_pattern": {"up.*": 1}}`, "up_proj.lora_A.weight\nup_proj.lora_B.weight 0 0 1"},
	} {
		f.Add(s[0], s[1])
	}
	f.Fuzz(func(t *testing.T, config, keys string) {
		dir := t.TempDir()
		var list []checkpoint.Named
		seen := map[string]bool{}
		for line := range strings.Lines(keys) {
			parts := strings.Fields(line)
			if len(parts) == 0 || len(parts) > 5 || len(list) == 16 || seen[parts[0]] || !utf8.ValidString(parts[0]) {
				continue
			}
			seen[parts[0]] = true
			var dims []int
			for _, p := range parts[1:] {
				n, _ := strconv.Atoi(p)
				dims = append(dims, min(max(n, 0), 8))
			}
			list = append(list, checkpoint.Named{Name: keyPrefix + parts[0], Tensor: tensor.New(tensor.T(tensor.F32, dims...))})
		}
		if err := checkpoint.WriteSafetensors(vfs.OS{}, filepath.Join(dir, weightsFile), list, nil); err != nil {
			return
		}
		require.NoError(t, os.WriteFile(filepath.Join(dir, configFile), []byte(config), 0o600))
		s, err := Load(vfs.OS{}, dir)
		if err != nil {
			return
		}
		src := layers.NewSource(layers.Options{})
		model := &struct {
			Embed *layers.Embedding `name:"embed_tokens"`
			Up    layers.Projection `name:"up_proj"`
			Norm  *layers.RMSNorm   `name:"norm"`
		}{layers.NewEmbedding(src.Sub("embed_tokens"), 5, 4, layers.Zeros()), src.Linear("up_proj", 4, 3, true), layers.NewRMSNorm(src.Sub("norm"), 4, 1e-5)}
		before := layers.Params(model)
		a, err := AttachSaved(model, s, nil)
		if err != nil {
			require.Equal(t, before, layers.Params(model))
			return
		}
		require.NotEmpty(t, a.Vars())
	})
}
