package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/internal/golden"
	"github.com/bitsandbyes/bitsandbyes/models"
	"github.com/bitsandbyes/bitsandbyes/trainer/config"
)

// families calls f for each Hugging Face directory of the reference data that is of a supported type.
func families(t *testing.T, f func(t *testing.T, dir string)) {
	configs, err := filepath.Glob(filepath.Join(golden.Dir(t), "hf", "*", "config.json"))
	require.NoError(t, err)
	ran := 0
	for _, path := range configs {
		raw, err := os.ReadFile(path)
		require.NoError(t, err)
		if _, err := models.ParseConfig(raw); err != nil {
			t.Logf("%s left out: %v", filepath.Dir(path), err)
			continue
		}
		ran++
		t.Run(filepath.Base(filepath.Dir(path)), func(t *testing.T) { f(t, filepath.Dir(path)) })
	}
	t.Logf("%d of %d families", ran, len(configs))
}

// TestGoldenHFVerify compares every supported family with its stored numbers, and sees impossible limits fail.
func TestGoldenHFVerify(t *testing.T) {
	families(t, func(t *testing.T, dir string) {
		args := []string{"verify", "--model", dir, "--against", filepath.Join(dir, "golden.safetensors"), "--device", "cpu"}
		code, out, msg := command(t, append(args, "--json")...)
		require.Zero(t, code, "%s%s", out, msg)
		var r struct {
			Tensors []struct {
				Name, Status, Reason string
				MaxAbs               *float64 `json:"max_abs"`
				MaxRel               *float64 `json:"max_rel"`
				Limit                *float64 `json:"limit"`
			} `json:"tensors"`
			ParamsWithoutGrad []string `json:"params_without_grad"`
		}
		require.NoError(t, json.Unmarshal([]byte(out), &r))
		require.NotNil(t, r.ParamsWithoutGrad)
		status := map[string]string{}
		for _, x := range r.Tensors {
			status[x.Name] = x.Status
			require.Contains(t, []string{"checked", "skipped"}, x.Status, x.Name)
			if x.Status == "checked" {
				require.NotNil(t, x.MaxAbs, x.Name)
				require.NotNil(t, x.MaxRel, x.Name)
				require.NotNil(t, x.Limit, x.Name)
				require.LessOrEqual(t, *x.MaxAbs, *x.Limit, x.Name)
			}
		}
		require.Equal(t, "checked", status["logits"])
		require.Equal(t, "checked", status["loss"])

		code, out, msg = command(t, append(args, "--tol", "1e-6")...)
		require.Equal(t, config.ExitFailure, code, msg)
		require.Contains(t, out, "failed")
	})
}

func TestGoldenHFInspect(t *testing.T) {
	families(t, func(t *testing.T, dir string) {
		code, out, msg := command(t, "inspect", dir, "--json")
		require.Zero(t, code, msg)
		var info struct {
			Kind     string
			Tensors  []any
			Elements int64
			Config   map[string]any
		}
		require.NoError(t, json.Unmarshal([]byte(out), &info))
		require.Equal(t, "model", info.Kind)
		require.NotEmpty(t, info.Tensors)
		require.Positive(t, info.Elements)
		require.NotEmpty(t, info.Config["model_type"])
		code, out, msg = command(t, "inspect", dir)
		require.Zero(t, code, msg)
		require.NotEmpty(t, out)
	})
}

// TestPlanCommand tells what a run takes, of either command, and refuses what does not fit.
func TestPlanCommand(t *testing.T) {
	code, out, msg := command(t, "plan")
	require.Zero(t, code, msg)
	require.Contains(t, out, "total on the device")
	dir := t.TempDir()
	arch, rows := filepath.Join(dir, "config.json"), filepath.Join(dir, "rows.jsonl")
	require.NoError(t, os.WriteFile(arch, []byte(`{"model_type": "llama", "vocab_size": 32, "hidden_size": 16, "intermediate_size": 32,
		"num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 32, "rms_norm_eps": 1e-5, "hidden_act": "silu"}`), 0o600))
	require.NoError(t, os.WriteFile(rows, []byte(`{"input_ids": [1, 2, 3]}`+"\n"), 0o600))
	code, out, msg = command(t, "plan", "pretrain", "--model", arch, "--data.path", rows)
	require.Zero(t, code, msg)
	require.Contains(t, out, "(100.00%)")
	code, _, msg = command(t, "plan", "--memory", "1MiB")
	require.Equal(t, config.ExitMemory, code, msg)
}

// TestPlanJSON: what the text says stands under keys that scripts read, also where the run does not fit.
func TestPlanJSON(t *testing.T) {
	read := func(want int, args ...string) map[string]any {
		code, out, msg := command(t, append([]string{"plan", "--json"}, args...)...)
		require.Equal(t, want, code, msg)
		var got map[string]any
		require.NoError(t, json.Unmarshal([]byte(out), &got), out)
		return got
	}
	got := read(config.ExitOK, "--memory=1GiB")
	guide, err := os.ReadFile(filepath.Join("..", "..", "docs", "guides", "finetune.md"))
	require.NoError(t, err)
	for key := range got {
		require.Contains(t, string(guide), "`"+key+"`", "the guide tells what it is")
	}
	require.Equal(t, true, got["fits"])
	require.Equal(t, "builtin:tiny", got["model"])
	require.GreaterOrEqual(t, got["total_bytes"], got["train_bytes"].(float64)+got["weight_bytes"].(float64)+got["arena_bytes"].(float64))
	require.Equal(t, 200.0, got["steps"])
	require.InDelta(t, 0.95, got["packing_efficiency"], 0.05)
	require.Equal(t, true, got["settings"].([]any)[0].(map[string]any)["fits"])
	require.Equal(t, 128.0, got["rows"].([]any)[0].(map[string]any)["tokens"])

	got = read(config.ExitMemory, "--memory=1MiB")
	require.Equal(t, false, got["fits"])
	require.Equal(t, float64(1<<20), got["budget_bytes"])
	for _, with := range []string{"--train.checkpointing=auto", "--train.checkpointing=off", "--fit"} {
		needs := int64(read(config.ExitMemory, "--device=cpu", "--memory=1MiB", with)["needs_bytes"].(float64))
		read(config.ExitOK, "--device=cpu", fmt.Sprintf("--memory=%d", needs), with)
		read(config.ExitMemory, "--device=cpu", fmt.Sprintf("--memory=%d", needs-1), with)
	}
	require.Len(t, got["settings"].([]any)[0], 5)

	code, out, _ := command(t, "plan", "--json=perhaps")
	require.Equal(t, config.ExitConfig, code)
	require.Empty(t, out)
}

// TestGenerateFlags refuses settings out of range.
func TestGenerateFlags(t *testing.T) {
	for _, flag := range []string{"--temperature=-1", "--top-p=2", "--top-k=-3", "--max-tokens=-1", "--device=abacus", "--dtype=f99", "--quantize=int3"} {
		code, out, msg := command(t, "generate", "--model", "builtin:tiny", "--prompt", "x", flag)
		require.Equal(t, config.ExitConfig, code, "%s: %s", flag, msg)
		require.Empty(t, out)
	}
	code, _, msg := command(t, "generate", "--model", "builtin:tiny", "--adapter", t.TempDir())
	require.Equal(t, config.ExitInput, code, msg)
}
