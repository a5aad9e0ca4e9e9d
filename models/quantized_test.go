package models_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/checkpoint"
	"github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/models"
	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// smallQuantized writes a model folder of one layer whose linear weights are quantized, and returns its tensors and configuration for a
// test to change.
func smallQuantized(t *testing.T, cfg quant.Config, storage tensor.DType) (tensors map[string]*tensor.Tensor, config map[string]any) {
	t.Helper()
	c := models.Config{Vocab: 32, Hidden: 64, Intermediate: 96, Layers: 1, Heads: 4, KVHeads: 2, HeadDim: 16, MaxPositions: 32, Eps: 1e-5,
		Rope: models.Rope{Theta: 10000}, InitStd: 0.05, Pad: -1}
	keys, err := c.HF("float32")
	require.NoError(t, err)
	raw, err := json.Marshal(keys)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(raw, &config))
	f := load(t, "", c, nil, layers.Options{Seed: 3})
	tensors = map[string]*tensor.Tensor{}
	for _, p := range layers.Params(f.model) {
		w, err := f.store.Get(p.Var)
		require.NoError(t, err)
		if p.Type.Rank() != 2 || strings.Contains(p.Name, "embed") || p.Name == "lm_head.weight" {
			tensors[p.Name] = w
			continue
		}
		st, err := quant.Quantize(w, cfg)
		require.NoError(t, err)
		st.Storage = storage
		dict, err := st.StateDict(p.Name)
		require.NoError(t, err)
		for name, x := range dict {
			tensors[name] = x
		}
	}
	config["quantization_config"] = &checkpoint.Quantization{Method: checkpoint.MethodBNB, Scheme: cfg.Scheme.String(), Double: cfg.Double,
		Storage: storage, Compute: tensor.F32}
	return tensors, config
}

func writeFolder(t *testing.T, tensors map[string]*tensor.Tensor, config map[string]any) string {
	t.Helper()
	dir := t.TempDir()
	raw, err := json.Marshal(config)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "config.json"), raw, 0o600))
	var named []checkpoint.Named
	for name, x := range tensors {
		named = append(named, checkpoint.Named{Name: name, Tensor: x})
	}
	require.NoError(t, checkpoint.WriteSafetensors(nil, filepath.Join(dir, "model.safetensors"), named, nil))
	return dir
}

func loadFolder(dir string) (*models.Model, *plan.Store, error) {
	weights, cfg, err := models.OpenWeights(vfs.OS{}, dir)
	if err != nil {
		return nil, nil, err
	}
	defer weights.Close() //nolint:errcheck // read only
	src := layers.NewSource(layers.Options{Weights: weights})
	m, err := models.New(cfg, src)
	if err != nil {
		return nil, nil, err
	}
	if err := models.CheckUnused(weights, src, m); err != nil {
		return nil, nil, err
	}
	store := plan.NewStore(cpu.New(cpu.Options{Threads: 1}))
	return m, store, src.Load(store)
}

// TestQuantizedFolders loads folders in every form of 4-bit weights: the codes in memory are those of the file.
func TestQuantizedFolders(t *testing.T) {
	for _, scheme := range []quant.Scheme{quant.NF4, quant.FP4} {
		for _, double := range []bool{false, true} {
			for _, storage := range []tensor.DType{tensor.U8, tensor.BF16, tensor.F16, tensor.F32} {
				t.Run(fmt.Sprintf("%v/double=%v/%v", scheme, double, storage), func(t *testing.T) {
					tensors, config := smallQuantized(t, quant.Config{Scheme: scheme, Double: double, Blocksize: 128}, storage)
					m, store, err := loadFolder(writeFolder(t, tensors, config))
					require.NoError(t, err)
					n := 0
					for _, p := range layers.Params(m) {
						if p.Quantized == nil {
							continue
						}
						n++
						st, err := p.Quantized.State(store)
						require.NoError(t, err)
						require.True(t, bytes.Equal(tensors[p.Name].Bytes(), st.Codes), p.Name)
						require.Equal(t, double, st.Nested())
						require.Equal(t, 128, st.Blocksize)
					}
					require.Equal(t, 7, n)
				})
			}
		}
	}
}

// TestForeignSecondLevel keeps the values of scales whose second level is not the library's usual one.
func TestForeignSecondLevel(t *testing.T) {
	tensors, config := smallQuantized(t, quant.Config{Double: true}, tensor.U8)
	const name = "model.layers.0.mlp.up_proj.weight"
	table := tensors[name+".nested_quant_map"]
	table.Set(255, 0.998)
	want, err := quant.FromStateDict(name, func(n string) (*tensor.Tensor, bool, error) { x, ok := tensors[n]; return x, ok, nil })
	require.NoError(t, err)
	m, store, err := loadFolder(writeFolder(t, tensors, config))
	require.NoError(t, err)
	for _, p := range layers.Params(m) {
		if p.Name != name {
			continue
		}
		st, err := p.Quantized.State(store)
		require.NoError(t, err)
		a, err := want.Dequantize(tensor.F32)
		require.NoError(t, err)
		b, err := st.Dequantize(tensor.F32)
		require.NoError(t, err)
		require.True(t, bytes.Equal(a.Bytes(), b.Bytes()))
	}
}

// TestQuantizedFolderErrors names what is wrong in a damaged or contradictory folder.
func TestQuantizedFolderErrors(t *testing.T) {
	const name = "model.layers.0.self_attn.q_proj.weight"
	const state = name + ".quant_state.bitsandbytes__nf4"
	set := func(key string, v any) func(map[string]*tensor.Tensor, map[string]any) {
		return func(_ map[string]*tensor.Tensor, c map[string]any) {
			raw, err := json.Marshal(c["quantization_config"])
			require.NoError(t, err)
			var q map[string]any
			require.NoError(t, json.Unmarshal(raw, &q))
			q[key] = v
			c["quantization_config"] = q
		}
	}
	drop := func(names ...string) func(map[string]*tensor.Tensor, map[string]any) {
		return func(ts map[string]*tensor.Tensor, _ map[string]any) {
			for _, n := range names {
				delete(ts, n)
			}
		}
	}
	full := func(ts map[string]*tensor.Tensor, c map[string]any) {
		for _, n := range quant.StateDictNames(name) {
			delete(ts, n)
		}
		ts[name] = tensor.New(tensor.T(tensor.F32, 64, 64))
	}
	cases := []struct {
		name   string
		change func(map[string]*tensor.Tensor, map[string]any)
		says   []string
	}{
		{"no description", drop(state), []string{name, "description", "missing"}},
		{"no scales", drop(name + ".absmax"), []string{name, "absmax is missing"}},
		{"no table", drop(name + ".quant_map"), []string{name, "quant_map is missing"}},
		{"full precision", full, []string{name, "full precision", "llm_int8_skip_modules"}},
		{"other scheme", set("bnb_4bit_quant_type", "fp4"), []string{name, "nf4", "fp4"}},
		{"other method", set("quant_method", "gptq"), []string{"gptq", "bitsandbytes"}},
		{"unknown key", set("bnb_3bit_fancy", 3), []string{"bnb_3bit_fancy", "newer"}},
		{"both widths", set("load_in_8bit", true), []string{"load_in_4bit", "load_in_8bit"}},
		{"unknown type", set("bnb_4bit_quant_type", "af4"), []string{"af4", "nf4"}},
		{"unknown storage", set("bnb_4bit_quant_storage", "int3"), []string{"int3", "uint8"}},
		{"unknown compute", set("bnb_4bit_compute_dtype", "float8"), []string{"float8", "bfloat16"}},
		{"no config", func(_ map[string]*tensor.Tensor, c map[string]any) { delete(c, "quantization_config") },
			[]string{"quantized", "quantization_config"}},
		{"new state", func(ts map[string]*tensor.Tensor, _ map[string]any) {
			ts[name+".quant_state.bitsandbytes__zf4"] = ts[state]
			delete(ts, state)
		}, []string{name, "bitsandbytes__zf4", "newer"}},
		{"short codes", func(ts map[string]*tensor.Tensor, _ map[string]any) {
			ts[name] = tensor.New(tensor.T(tensor.U8, 100, 1))
		},
			[]string{name, "2048 bytes"}},
		{"other shape", func(ts map[string]*tensor.Tensor, c map[string]any) { c["head_dim"] = 8 }, []string{"q_proj.weight", "shape"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			tensors, config := smallQuantized(t, quant.Config{}, tensor.U8)
			c.change(tensors, config)
			_, _, err := loadFolder(writeFolder(t, tensors, config))
			require.Error(t, err)
			t.Log(err)
			for _, s := range c.says {
				require.ErrorContains(t, err, s)
			}
		})
	}
}

// TestSkippedModules loads what quantization_config keeps in full precision, and quantized heads.
func TestSkippedModules(t *testing.T) {
	const name = "model.layers.0.self_attn.q_proj.weight"
	tensors, config := smallQuantized(t, quant.Config{}, tensor.U8)
	for _, n := range quant.StateDictNames(name) {
		delete(tensors, n)
	}
	tensors[name] = tensor.New(tensor.T(tensor.F32, 64, 64))
	q, ok := config["quantization_config"].(*checkpoint.Quantization)
	require.True(t, ok)
	q.Skip = []string{"q_proj"} // replaces the default: the head is quantized then
	_, _, err := loadFolder(writeFolder(t, tensors, config))
	require.ErrorContains(t, err, "lm_head.weight")
	st, err := quant.Quantize(tensors["lm_head.weight"], quant.Config{})
	require.NoError(t, err)
	dict, err := st.StateDict("lm_head.weight")
	require.NoError(t, err)
	for n, x := range dict {
		tensors[n] = x
	}
	m, _, err := loadFolder(writeFolder(t, tensors, config))
	require.NoError(t, err)
	kinds := map[string]string{}
	layers.Modules(m, func(path string, p layers.Projection, _ func(layers.Projection)) { kinds[path] = fmt.Sprintf("%T", p) })
	require.Equal(t, "*layers.Linear", kinds["model.layers.0.self_attn.q_proj"])
	require.Equal(t, "*layers.Linear4bit", kinds["lm_head"])
	require.Len(t, slices.DeleteFunc(sortedNames(kinds), func(k string) bool { return kinds[k] != "*layers.Linear4bit" }), 7)
}
