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

// TestGoldenBNBFinetune trains an adapter on a folder that is quantized already, and refuses settings that contradict it.
func TestGoldenBNBFinetune(t *testing.T) {
	rows := tokenRows(t, 256)
	dir := filepath.Join(bnbLlama(t), "nf4")
	args := func(more ...string) []string {
		return append([]string{"finetune", "--model", dir, "--data.path", rows, "--data.format=tokens", "--data.seq_len=32", "--train.batch=2",
			"--train.steps=3", "--data.val=0"}, more...)
	}
	out := filepath.Join(t.TempDir(), "run")
	code, _, msg := command(t, args("--out", out)...)
	require.Zero(t, code, msg)
	raw, err := os.ReadFile(filepath.Join(out, "config.yaml"))
	require.NoError(t, err)
	require.Contains(t, string(raw), "scheme: nf4\n  blocksize: 64\n  double: true")
	code, text, msg := command(t, append([]string{"plan"}, args()...)...)
	require.Zero(t, code, msg)
	require.Contains(t, text, "frozen weights")
	for flag, says := range map[string]string{"--quantize.scheme=fp4": "stored in nf4", "--quantize.scheme=none": "stored in nf4",
		"--quantize.blocksize=128": "blocks of 64", "--quantize.double=false": "quantize.double", "--adapter.type=none": "frozen"} {
		code, _, msg = command(t, args(flag, "--out", filepath.Join(t.TempDir(), "x"))...)
		require.Equal(t, config.ExitConfig, code, "%s: %s", flag, msg)
		require.Contains(t, msg, says)
	}
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
			if kind == "int8" {
				t.Skip("no layer computes with weights stored in int8")
			}
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
