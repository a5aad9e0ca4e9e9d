package trainer_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/checkpoint"
	"github.com/bitsandbyes/bitsandbyes/checkpoint/gguf"
	"github.com/bitsandbyes/bitsandbyes/internal/golden"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/tensor"
	"github.com/bitsandbyes/bitsandbyes/trainer"
)

// ggufScript reads files with the Python package gguf and prints what they hold, tensors decoded by it.
const ggufScript = `
import sys
try:
    import hashlib, json, numpy as np
    from gguf import GGUFReader, quants
except Exception as e:
    print(e)
    sys.exit(42)
out = []
for path in json.loads(sys.argv[1]):
    r = GGUFReader(path)
    tensors = {}
    for t in r.tensors:
        x = quants.dequantize(t.data, t.tensor_type).astype(np.float32)
        tensors[t.name] = [t.tensor_type.name, [int(d) for d in reversed(t.shape)], hashlib.sha256(x.tobytes()).hexdigest()]
    out.append({"keys": [k for k in r.fields if not k.startswith("GGUF.")], "tensors": tensors,
        "general.architecture": r.fields["general.architecture"].contents(), "general.file_type": r.fields["general.file_type"].contents()})
print(json.dumps(out))
`

// TestPythonReads lets the Python package gguf read models and adapters that were exported: names, shapes, types and every value.
func TestPythonReads(t *testing.T) {
	root := filepath.Join(golden.Dir(t), "hf")
	dir := t.TempDir()
	var files []string
	export := func(o trainer.ExportOptions) {
		o.Out = filepath.Join(dir, fmt.Sprintf("%d.gguf", len(files)))
		_, err := trainer.Export(t.Context(), o)
		require.NoError(t, err)
		files = append(files, o.Out)
	}
	for _, typ := range []string{"f32", "f16", "bf16", "q8_0", "q4_0", "q4_1"} {
		export(trainer.ExportOptions{Model: "builtin:tiny", Type: typ})
	}
	families, err := filepath.Glob(filepath.Join(root, "*", "adapter_lora_final"))
	require.NoError(t, err)
	for _, adapter := range families {
		export(trainer.ExportOptions{Model: filepath.Dir(adapter), Type: "q8_0"})
		export(trainer.ExportOptions{Model: filepath.Dir(adapter), Adapter: adapter, LoRA: true})
	}
	list, err := json.Marshal(files)
	require.NoError(t, err)
	var got []struct {
		Keys    []string
		Tensors map[string][3]any
	}
	require.NoError(t, json.Unmarshal(golden.Python(t, ggufScript, string(list)), &got))
	require.Len(t, got, len(files))
	for i, path := range files {
		f, err := gguf.Open(vfs.OS{}, path)
		require.NoError(t, err)
		var keys []string
		for _, kv := range f.Metadata() {
			keys = append(keys, kv.Key)
		}
		require.Equal(t, keys, got[i].Keys)
		require.Len(t, got[i].Tensors, len(f.Tensors()))
		for _, info := range f.Tensors() {
			x := make([]float32, info.Shape.Size())
			require.NoError(t, f.Decode(info.Name, x, 0))
			h := sha256.Sum256(tensor.AsBytes(x))
			var dims []any
			for _, d := range info.Shape.Dims() {
				dims = append(dims, float64(d))
			}
			require.Equal(t, [3]any{info.Type.String(), dims, hex.EncodeToString(h[:])}, got[i].Tensors[info.Name], info.Name)
		}
		require.NoError(t, f.Close())
	}
}

// llamaScript runs models in llama.cpp itself, by the Python package xllamacpp, and prints the likeliest tokens after a prompt with their
// log-probabilities. A row is a model, an adapter or "", and ids.
const llamaScript = `
import sys
try:
    import json, xllamacpp as x
except Exception as e:
    print(e)
    sys.exit(42)
out = []
for model, adapter, ids in json.loads(sys.argv[1]):
    p = x.CommonParams()
    p.model.path, p.n_ctx, p.n_parallel, p.warmup, p.cpuparams.n_threads = model, 64, 1, False, 1
    p.cache_type_k = p.cache_type_v = x.ggml_type.GGML_TYPE_F32
    if adapter:
        a = x.CommonAdapterLoraInfo()
        a.path, a.scale = adapter, 1.0
        p.lora_adapters = [a]
    s = x.Server(p)
    r = s.handle_completions({"prompt": ids, "n_predict": 1, "temperature": 0.0, "n_probs": 5, "cache_prompt": False})
    out.append([[c["id"], c["logprob"]] for c in r["choices"][0]["logprobs"]["content"][0]["top_logprobs"]])
print()
print(json.dumps(out))
`

// TestLlamaCpp holds llama.cpp's own scores for exported models and adapters to the reference: the log-probabilities of the likeliest tokens
// after a prompt. It needs a Python with the package xllamacpp.
func TestLlamaCpp(t *testing.T) {
	dirs, err := filepath.Glob(filepath.Join(golden.Dir(t), "hf", "*", "golden.safetensors"))
	require.NoError(t, err)
	var rows [][3]any
	var want [][]float64
	dir := t.TempDir()
	for _, against := range dirs {
		model, ids, base, merged := llamaCase(t, against)
		adapter := filepath.Join(model, "adapter_lora_final")
		out := filepath.Join(dir, filepath.Base(model)+".gguf")
		_, err := trainer.Export(t.Context(), trainer.ExportOptions{Model: model, Out: out, Type: "f32", Name: "tiny"})
		require.NoError(t, err)
		_, err = trainer.Export(t.Context(), trainer.ExportOptions{Model: model, Adapter: adapter, Out: out + ".lora", LoRA: true})
		require.NoError(t, err)
		rows = append(rows, [3]any{out, "", ids}, [3]any{out, out + ".lora", ids})
		want = append(want, base, merged)
	}
	list, err := json.Marshal(rows)
	require.NoError(t, err)
	raw := golden.Python(t, llamaScript, string(list))
	lines := strings.Split(strings.TrimSpace(string(raw)), "\n") // llama.cpp may print too
	var got [][][2]float64
	require.NoError(t, json.Unmarshal([]byte(lines[len(lines)-1]), &got))
	require.Len(t, got, len(want))
	for i, top := range got {
		require.Len(t, top, 5)
		for _, x := range top {
			require.InDelta(t, want[i][int(x[0])], x[1], llamaLimit, "%v", rows[i][:2])
		}
	}
}

// llamaLimit is on log-probabilities: llama.cpp looks its activations of the MLP up in tables of float16.
const llamaLimit = 5e-3

// llamaCase is a copy of a family's model with a tokenizer that llama.cpp loads, a prompt shorter than any window, and the log-probabilities
// that follow it without and with the adapter.
func llamaCase(t *testing.T, against string) (dir string, ids []int32, base, merged []float64) {
	t.Helper()
	from := filepath.Dir(against)
	dir = filepath.Join(t.TempDir(), filepath.Base(from))
	require.NoError(t, os.CopyFS(dir, os.DirFS(from)))
	f, err := checkpoint.OpenSafetensors(vfs.OS{}, against)
	require.NoError(t, err)
	defer func() { require.NoError(t, f.Close()) }()
	const n = 7
	all, err := f.Read("input_ids")
	require.NoError(t, err)
	for i := range n {
		ids = append(ids, int32(all.At(i)))
	}
	last := func(name string) []float64 {
		x, err := f.Read(name)
		require.NoError(t, err)
		v := x.Shape().Dim(2)
		out, sum := make([]float64, v), 0.0
		for i := range out {
			out[i] = x.At((n-1)*v + i)
			sum += math.Exp(out[i])
		}
		for i := range out {
			out[i] -= math.Log(sum)
		}
		return out
	}
	base, merged = last("logits"), last("merged_lora_logits")
	vocab := map[string]int{}
	for i := range base {
		vocab[fmt.Sprintf("t%d", i)] = i
	}
	level := map[string]any{"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}
	raw, err := json.Marshal(map[string]any{"version": "1.0", "pre_tokenizer": level, "decoder": level, "added_tokens": []any{},
		"model": map[string]any{"type": "BPE", "vocab": vocab, "merges": []any{}}})
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "tokenizer.json"), raw, 0o600))
	return dir, ids, base, merged
}
