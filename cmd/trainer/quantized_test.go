package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/checkpoint"
	"github.com/bitsandbyes/bitsandbyes/internal/golden"
	"github.com/bitsandbyes/bitsandbyes/tensor"
	"github.com/bitsandbyes/bitsandbyes/trainer/config"
)

// bnbLlama is the folder of models that transformers and bitsandbytes saved.
func bnbLlama(t *testing.T) string { return filepath.Join(golden.Dir(t), "bnb", "llama") }

// tokenRows writes rows of token ids for models without a tokenizer.
func tokenRows(t *testing.T, vocab int) string {
	var b strings.Builder
	for r := range 12 {
		ids := make([]int, 24)
		for i := range ids {
			ids[i] = (r*7 + i*i) % vocab
		}
		raw, err := json.Marshal(map[string]any{"input_ids": ids, "labels": ids})
		require.NoError(t, err)
		b.Write(append(raw, '\n'))
	}
	path := filepath.Join(t.TempDir(), "rows.jsonl")
	require.NoError(t, os.WriteFile(path, []byte(b.String()), 0o600))
	return path
}

// TestGoldenBNBFinetune trains an adapter on folders that are quantized already, and refuses settings that contradict them.
func TestGoldenBNBFinetune(t *testing.T) {
	rows := tokenRows(t, 256)
	args := func(kind string, more ...string) []string {
		return append([]string{"finetune", "--model", filepath.Join(bnbLlama(t), kind), "--data.path", rows, "--data.format=tokens",
			"--data.seq_len=32", "--train.batch=2", "--train.steps=3", "--data.val=0"}, more...)
	}
	for kind, want := range map[string]string{"nf4": "scheme: nf4\n  blocksize: 64\n  double: true\n  compute: bf16", "int8": "scheme: int8"} {
		out := filepath.Join(t.TempDir(), "run")
		code, _, msg := command(t, args(kind, "--out", out)...)
		require.Zero(t, code, msg)
		raw, err := os.ReadFile(filepath.Join(out, "config.yaml"))
		require.NoError(t, err)
		require.Contains(t, string(raw), want)
		code, text, msg := command(t, append([]string{"plan"}, args(kind)...)...)
		require.Zero(t, code, msg)
		require.Contains(t, text, "frozen weights")
		code, text, msg = command(t, "inspect", filepath.Join(bnbLlama(t), kind))
		require.Zero(t, code, msg)
		require.Contains(t, text, "quantized: 14 weights of 86016 elements in "+kind)
	}
	for kind, flags := range map[string]map[string]string{
		"nf4": {"--quantize.scheme=fp4": "stored in nf4", "--quantize.scheme=none": "stored in nf4", "--quantize.blocksize=128": "blocks of 64",
			"--quantize.double=false": "quantize.double", "--adapter.type=none": "frozen"},
		"int8": {"--quantize.scheme=nf4": "stored in int8", "--adapter.type=none": "frozen"},
	} {
		for flag, says := range flags {
			code, _, msg := command(t, args(kind, flag, "--out", filepath.Join(t.TempDir(), "x"))...)
			require.Equal(t, config.ExitConfig, code, "%s: %s", flag, msg)
			require.Contains(t, msg, says)
		}
	}
}

// TestInt8Base trains an adapter on a full-precision model that is quantized to int8 as it is loaded.
func TestInt8Base(t *testing.T) {
	out := filepath.Join(t.TempDir(), "run")
	code, stdout, msg := command(t, "finetune", "--train.steps=3", "--quantize.scheme=int8", "--out", out)
	require.Zero(t, code, msg)
	require.Contains(t, stdout, "3 steps")
	dir := filepath.Join(t.TempDir(), "int8")
	code, _, msg = command(t, "quantize", "builtin:tiny", dir, "--scheme=int8")
	require.Zero(t, code, msg)
	code, while, msg := command(t, "generate", "--model=builtin:tiny", "--quantize=int8", "--prompt=Story:", "--max-tokens=16")
	require.Zero(t, code, msg)
	code, stored, msg := command(t, "generate", "--model", dir, "--prompt=Story:", "--max-tokens=16")
	require.Zero(t, code, msg)
	require.Equal(t, while, stored, "a model quantized while it is loaded is the one that was written")
}

// TestGoldenBNBVerify compares quantized folders with the logits that the library gave.
func TestGoldenBNBVerify(t *testing.T) {
	ref, err := checkpoint.OpenSafetensors(nil, filepath.Join(bnbLlama(t), "ref.safetensors"))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, ref.Close()) })
	for _, name := range ref.Names() {
		kind, ok := strings.CutSuffix(name, ".f32.logits")
		if !ok {
			continue
		}
		t.Run(kind, func(t *testing.T) {
			var file []checkpoint.Named
			for own, key := range map[string]string{"input_ids": "input_ids", "logits": name} {
				x, err := ref.Read(key)
				require.NoError(t, err)
				file = append(file, checkpoint.Named{Name: own, Tensor: x})
			}
			path := filepath.Join(t.TempDir(), "golden.safetensors")
			require.NoError(t, checkpoint.WriteSafetensors(nil, path, file, nil))
			code, out, msg := command(t, "verify", "--model", filepath.Join(bnbLlama(t), kind), "--against", path, "--device=cpu")
			require.Zero(t, code, "%s%s", out, msg)
			require.Contains(t, out, "1 checked")

			file = append(file, checkpoint.Named{Name: "labels", Tensor: file[0].Tensor}, checkpoint.Named{
				Name: "grad.model.layers.0.mlp.up_proj.weight", Tensor: tensor.New(tensor.T(tensor.F32, 160, 64))})
			if file[0].Name != "input_ids" {
				file[2].Tensor = file[1].Tensor
			}
			require.NoError(t, checkpoint.WriteSafetensors(nil, path, file, nil))
			code, out, _ = command(t, "verify", "--model", filepath.Join(bnbLlama(t), kind), "--against", path, "--device=cpu")
			require.Equal(t, config.ExitFailure, code)
			require.Contains(t, out, fmt.Sprintf("stored in %s and frozen", kind))
		})
	}
}
