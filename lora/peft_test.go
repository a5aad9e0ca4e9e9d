package lora_test

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/checkpoint"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/lora"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// savedNet saves an adapter of the small model and returns its folder.
func savedNet(t *testing.T, cfg lora.Config) string {
	t.Helper()
	m, store := newNet(t)
	a, err := lora.Attach(m, cfg)
	require.NoError(t, err)
	require.NoError(t, a.Init(store))
	scramble(t, a, store)
	dir := t.TempDir()
	require.NoError(t, a.Save(vfs.OS{}, dir, store, lora.SaveInfo{BaseModel: "bäse/\U0001F600 \"x\""}))
	return dir
}

// rewrite changes keys of the configuration; a nil value removes one.
func rewrite(t *testing.T, dir string, change map[string]any) {
	t.Helper()
	path := filepath.Join(dir, "adapter_config.json")
	c := readConfig(t, path)
	maps.Copy(c, change)
	for k, v := range change {
		if v == nil {
			delete(c, k)
		}
	}
	raw, err := json.Marshal(c)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, raw, 0o600))
}

func TestSaveLoad(t *testing.T) {
	for _, cfg := range []lora.Config{
		{},
		{Rank: 3, Alpha: 0.5, Dropout: 0.1, RSLoRA: true},
		{Rank: 2, Alpha: 1e-5, Dropout: 1e-5, Targets: lora.Targets{Names: []string{"up_proj", "lm_head"}}, Exclude: []string{"layers.0.up_proj"}},
		{Rank: 2, Targets: lora.Targets{Pattern: `layers\.\d+\.(up|down)_proj`}},
	} {
		dir := savedNet(t, cfg)
		saved, err := lora.Load(vfs.OS{}, dir)
		require.NoError(t, err)
		require.Equal(t, "bäse/\U0001F600 \"x\"", saved.BaseModel)
		require.Equal(t, cfg.Dropout, saved.Config.Dropout)
		require.Equal(t, cfg.RSLoRA, saved.Config.RSLoRA)
		if cfg.Alpha != 0 {
			require.Equal(t, cfg.Alpha, saved.Config.Alpha)
		}
		m, store := newNet(t)
		a, err := lora.AttachSaved(m, saved, store)
		require.NoError(t, err)
		require.Equal(t, a.Vars(), layers.Trainable(m))
		again := t.TempDir()
		require.NoError(t, a.Save(vfs.OS{}, again, store, lora.SaveInfo{}))
		sameFile(t, dir, again, "adapter_model.safetensors")
		sameFile(t, dir, again, "adapter_config.json")
		require.NoError(t, a.Save(vfs.OS{}, again, store, lora.SaveInfo{}), "saving over an adapter replaces it")
	}
}

func TestConfigText(t *testing.T) {
	dir := savedNet(t, lora.Config{Rank: 2, Alpha: 1e-5, Dropout: 0.1, Exclude: []string{"layers.0.up_proj"}})
	raw, err := os.ReadFile(filepath.Join(dir, "adapter_config.json"))
	require.NoError(t, err)
	text := string(raw)
	for _, line := range []string{
		"{\n  \"alora_invocation_tokens\": null,\n  \"alpha_pattern\": {},\n",
		"  \"base_model_name_or_path\": \"b\\u00e4se/\\ud83d\\ude00 \\\"x\\\"\",\n",
		"  \"lora_alpha\": 1e-05,\n", "  \"lora_dropout\": 0.1,\n", "  \"r\": 2,\n",
		"  \"exclude_modules\": [\n    \"layers.0.up_proj\"\n  ],\n",
		"  \"target_modules\": [\n    \"down_proj\",\n    \"layers.1.up_proj\"\n  ],\n",
	} {
		require.Contains(t, text, line)
	}
	require.Equal(t, "}", text[len(text)-1:], "no newline at the end")
	require.Len(t, readConfig(t, filepath.Join(dir, "adapter_config.json")), 41)
}

func TestUnknownKeysAreKept(t *testing.T) {
	dir := savedNet(t, lora.Config{Rank: 2})
	extra := map[string]any{"b": []any{"ü", 1.5}, "a": map[string]any{}}
	rewrite(t, dir, map[string]any{"zeta_new": extra, "peft_version": "9.9", "lora_dropout": nil, "bias": nil, "some_config": nil, "use_new": false})
	saved, err := lora.Load(vfs.OS{}, dir)
	require.NoError(t, err)
	saved.Config.Dropout = 0.25
	m, store := newNet(t)
	a, err := lora.AttachSaved(m, saved, store)
	require.NoError(t, err)
	out := t.TempDir()
	require.NoError(t, a.Save(vfs.OS{}, out, store, lora.SaveInfo{BaseModel: "other"}))
	c := readConfig(t, filepath.Join(out, "adapter_config.json"))
	require.Equal(t, extra, c["zeta_new"])
	require.Equal(t, "9.9", c["peft_version"])
	require.Equal(t, 0.25, c["lora_dropout"])
	require.Equal(t, "none", c["bias"])
	require.Equal(t, "other", c["base_model_name_or_path"])
}

func TestLoadRefuses(t *testing.T) {
	for _, c := range []struct {
		key   string
		value any
		err   string
	}{
		{"peft_type", "VERA", `peft_type is "VERA"`},
		{"peft_type", nil, "peft_type is missing"},
		{"use_dora", true, "use_dora"},
		{"lora_bias", true, "lora_bias"},
		{"bias", "some", `bias "some" is not known`},
		{"modules_to_save", 7, "modules_to_save: expected"}, {"layers_to_transform", "x", "layers_to_transform: expected"},
		{"layers_pattern", "layers", "numbers of layers"},
		{"ensure_weight_tying", true, "tied weights"}, {"arrow_config", map[string]int{"top_k": 2}, "Arrow"},
		{"layer_replication", [][]int{{0, 2}}, "layer replication"},
		{"alora_invocation_tokens", []int{1}, "aLoRA"},
		{"megatron_config", map[string]int{"a": 1}, "Megatron"},
		{"use_qalora", true, "QALoRA"},
		{"eva_config", map[string]int{"rho": 2}, "eva_config"},
		{"nova_config", map[string]int{"a": 2}, "nova_config"},
		{"use_magic", true, "use_magic is true"},
		{"init_lora_weights", "pissa_niter_4", "pissa_niter_4"},
		{"target_parameters", []string{"x"}, "target_parameters"},
		{"trainable_token_indices", "x", "trainable_token_indices: expected"}, {"rank_pattern", map[string]any{"x": 2.5}, "whole number"},
		{"r", 0, "r is 0"}, {"r", 2.5, "r is 2.5"}, {"r", "x", `r: cannot read "x"`}, {"r", 3, "its rank is 2, adapter_config.json says 3"},
		{"lora_alpha", -1, "lora_alpha is -1"}, {"lora_dropout", 1, "lora_dropout is 1"},
		{"rank_pattern", map[string]any{"up_proj": 4}, "its rank is 2, adapter_config.json says 4"},
		{"rank_pattern", map[string]any{"(": 4}, `pattern "("`}, {"alpha_pattern", map[string]any{"x": "y"}, "positive number"},
		{"alpha_pattern", []int{1}, "expected an object of numbers"}, {"target_modules", 7, "target_modules: expected"},
	} {
		t.Run(c.key+" "+c.err, func(t *testing.T) {
			dir := savedNet(t, lora.Config{Rank: 2})
			rewrite(t, dir, map[string]any{c.key: c.value})
			_, err := lora.Load(vfs.OS{}, dir)
			require.ErrorIs(t, err, checkpoint.ErrFormat)
			require.ErrorContains(t, err, c.err)
			require.ErrorContains(t, err, dir, "names the file")
		})
	}
}

func TestPatterns(t *testing.T) {
	dir := savedNet(t, lora.Config{Rank: 2, Alpha: 4})
	rewrite(t, dir, map[string]any{"alpha_pattern": map[string]any{`layers\.0\.up_proj`: 10, "down_proj": 3, "proj": 99}, "r": 7,
		"rank_pattern": map[string]any{".*": 2}})
	saved, err := lora.Load(vfs.OS{}, dir)
	require.NoError(t, err)
	m, store := newNet(t)
	a, err := lora.AttachSaved(m, saved, store)
	require.NoError(t, err)
	var scales []float64
	for _, m := range a.Modules {
		scales = append(scales, m.Scale)
	}
	require.Equal(t, []float64{5, 1.5, 2, 1.5}, scales, "a pattern matches whole parts of a path, from its end")
}

// weights replaces the weights file.
func weights(t *testing.T, dir string, w map[string]*tensor.Tensor) {
	t.Helper()
	var named []checkpoint.Named
	for k, v := range w {
		named = append(named, checkpoint.Named{Name: k, Tensor: v})
	}
	require.NoError(t, checkpoint.WriteSafetensors(vfs.OS{}, filepath.Join(dir, "adapter_model.safetensors"), named, nil))
}

// A file says by its weights which modules are adapted; patterns that only Python has do no harm, and stay as they are.
func TestLoadForeignPattern(t *testing.T) {
	const lookahead = `^(?!.*vision).*\.(up|down)_proj$`
	dir := savedNet(t, lora.Config{Rank: 2})
	rewrite(t, dir, map[string]any{"target_modules": lookahead, "exclude_modules": `(?<!x)y`})
	saved, err := lora.Load(vfs.OS{}, dir)
	require.NoError(t, err)
	m, store := newNet(t)
	a, err := lora.AttachSaved(m, saved, store)
	require.NoError(t, err)
	out := t.TempDir()
	require.NoError(t, a.Save(vfs.OS{}, out, store, lora.SaveInfo{}))
	require.Equal(t, lookahead, readConfig(t, filepath.Join(out, "adapter_config.json"))["target_modules"])
	m, _ = newNet(t)
	_, err = lora.Attach(m, lora.Config{Targets: lora.Targets{Pattern: lookahead}})
	require.ErrorContains(t, err, "looking around")
	require.Equal(t, 4, len(a.Modules))
}

func TestLoadWeightsRefuses(t *testing.T) {
	mat := func(dims ...int) *tensor.Tensor { return tensor.New(tensor.T(tensor.F32, dims...)) }
	const p = "base_model.model.layers.0.up_proj"
	for _, c := range []struct {
		name string
		w    map[string]*tensor.Tensor
		err  string
	}{
		{"nothing", nil, "no adapter weights"},
		{"A alone", map[string]*tensor.Tensor{p + ".lora_A.weight": mat(2, netDim)}, "there is no lora_B"},
		{"B alone", map[string]*tensor.Tensor{p + ".lora_B.weight": mat(netHidden, 2)}, "there is no lora_A"},
		{"ranks", map[string]*tensor.Tensor{p + ".lora_A.weight": mat(2, netDim), p + ".lora_B.weight": mat(netHidden, 3)}, "its rank is 3, that of lora_A is 2"},
		{"vector", map[string]*tensor.Tensor{p + ".lora_A.weight": mat(2)}, "has 2 axes"},
		{"ints", map[string]*tensor.Tensor{p + ".lora_A.weight": tensor.New(tensor.T(tensor.I32, 2, 2))}, "floating-point numbers"},
		{"prefix", map[string]*tensor.Tensor{"layers.0.up_proj.lora_A.weight": mat(2, 2)}, "does not begin with"},
		{"dora", map[string]*tensor.Tensor{p + ".lora_A.weight": mat(2, netDim), p + ".lora_B.weight": mat(netHidden, 2), p + ".lora_magnitude_vector": mat(netHidden)}, "use_dora"},
		{"embedding", map[string]*tensor.Tensor{p + ".lora_embedding_A": mat(2, 2)}, "there is no lora_B"},
		{"bias", map[string]*tensor.Tensor{p + ".lora_A.weight": mat(2, netDim), p + ".lora_B.weight": mat(netHidden, 2), p + ".lora_B.bias": mat(2)}, "lora_bias"},
		{"whole", map[string]*tensor.Tensor{"base_model.model.lm_head.weight": mat(2)}, "modules_to_save"},
		{"other", map[string]*tensor.Tensor{p + ".lora_Q.weight": mat(2)}, "not a weight of a LoRA"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := savedNet(t, lora.Config{Rank: 2})
			weights(t, dir, c.w)
			_, err := lora.Load(vfs.OS{}, dir)
			require.ErrorIs(t, err, checkpoint.ErrFormat)
			require.ErrorContains(t, err, c.err)
		})
	}
}

func TestAttachSavedOtherModel(t *testing.T) {
	mat := func(dims ...int) *tensor.Tensor { return tensor.New(tensor.T(tensor.F32, dims...)) }
	const up = "base_model.model.layers.0.up_proj"
	for _, c := range []struct {
		name, err string
		w         map[string]*tensor.Tensor
	}{
		{"missing layer", "no linear layer layers.7.up_proj", map[string]*tensor.Tensor{
			"base_model.model.layers.7.up_proj.lora_A.weight": mat(2, netDim), "base_model.model.layers.7.up_proj.lora_B.weight": mat(netHidden, 2)}},
		{"in", "takes 9 features, the model's layers.0.up_proj takes 8", map[string]*tensor.Tensor{
			up + ".lora_A.weight": mat(2, 9), up + ".lora_B.weight": mat(netHidden, 2)}},
		{"out", "gives 9 features", map[string]*tensor.Tensor{up + ".lora_A.weight": mat(2, netDim), up + ".lora_B.weight": mat(9, 2)}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := savedNet(t, lora.Config{Rank: 2})
			weights(t, dir, c.w)
			saved, err := lora.Load(vfs.OS{}, dir)
			require.NoError(t, err)
			m, store := newNet(t)
			plain := forward(t, m, store)
			_, err = lora.AttachSaved(m, saved, store)
			require.ErrorIs(t, err, checkpoint.ErrFormat)
			require.ErrorContains(t, err, "this adapter is for another model")
			require.ErrorContains(t, err, c.err)
			require.Equal(t, plain, forward(t, m, store), "the model is as it was")
		})
	}
}

func TestLoadHalfPrecision(t *testing.T) {
	dir := savedNet(t, lora.Config{Rank: 2})
	half := func(dims ...int) *tensor.Tensor {
		x := tensor.New(tensor.T(tensor.BF16, dims...))
		x.Set(0, 1.5)
		return x
	}
	weights(t, dir, map[string]*tensor.Tensor{"base_model.model.lm_head.lora_A.weight": half(2, netDim), "base_model.model.lm_head.lora_B.weight": half(5, 2)})
	saved, err := lora.Load(vfs.OS{}, dir)
	require.NoError(t, err)
	m, store := newNet(t)
	a, err := lora.AttachSaved(m, saved, store)
	require.NoError(t, err)
	x, err := store.Get(a.Modules[0].A)
	require.NoError(t, err)
	require.Equal(t, tensor.F32, x.DType())
	require.Equal(t, 1.5, x.At(0))
}

func TestLoadMissingFiles(t *testing.T) {
	for _, c := range []struct {
		name string
		keep []string
		err  string
	}{
		{"nothing", nil, "no such file"},
		{"no config", []string{"adapter_model.safetensors"}, "adapter_config.json is missing"},
		{"no weights", []string{"adapter_config.json"}, "adapter_model.safetensors is missing"},
		{"pickle", []string{"adapter_config.json", "adapter_model.bin"}, "pickle"},
		{"a model", []string{"config.json"}, "holds a model, not an adapter"},
	} {
		t.Run(c.name, func(t *testing.T) {
			from, dir := savedNet(t, lora.Config{Rank: 2}), t.TempDir()
			for _, name := range c.keep {
				raw, err := os.ReadFile(filepath.Join(from, name))
				if err != nil {
					raw = []byte("{}")
				}
				require.NoError(t, os.WriteFile(filepath.Join(dir, name), raw, 0o600))
			}
			_, err := lora.Load(vfs.OS{}, dir)
			require.ErrorContains(t, err, c.err)
		})
	}
}

// TestLoadRun: the folder of a run is told from its adapter's.
func TestLoadRun(t *testing.T) {
	run := t.TempDir()
	require.NoError(t, os.Rename(savedNet(t, lora.Config{Rank: 2}), filepath.Join(run, "adapter")))
	_, err := lora.Load(nil, run)
	require.ErrorIs(t, err, checkpoint.ErrFormat)
	require.ErrorContains(t, err, "give "+filepath.Join(run, "adapter"))
	_, err = lora.Load(nil, filepath.Join(run, "adapter"))
	require.NoError(t, err)
	_, err = lora.AttachSaved(nil, nil, nil)
	require.ErrorContains(t, err, "the saved adapter is nil")
}

// TestNoLayers: a model in which adapters find no place is told why.
func TestNoLayers(t *testing.T) {
	src := layers.NewSource(layers.Options{})
	l := src.Linear("a", 4, 4, false)
	for _, model := range []any{
		nil,
		struct {
			A layers.Projection `name:"a"`
		}{l},
		&struct {
			A *layers.Linear `name:"a"`
		}{l.(*layers.Linear)},
		&struct{ A layers.Projection }{l},
	} {
		_, err := lora.Attach(model, lora.Config{})
		require.ErrorContains(t, err, "exported fields of the type layers.Projection", "%T", model)
	}
}
