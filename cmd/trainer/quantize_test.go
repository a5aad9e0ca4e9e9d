package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/checkpoint"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/trainer/config"
	"github.com/bitsandbyes/bitsandbyes/trainer/quantize"
)

// sample is text of the built-in model's kind.
func sample(t *testing.T) string {
	path := filepath.Join(t.TempDir(), "sample.txt")
	require.NoError(t, os.WriteFile(path, []byte(strings.Repeat("Story: It was the birthday of Anna, and Max had a new kite.\n", 4)), 0o600))
	return path
}

func quantizeTiny(t *testing.T, scheme string, more ...string) (dir string, r quantize.Report) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "out")
	code, out, msg := command(t, append([]string{"quantize", "builtin:tiny", dir, "--scheme", scheme, "--json"}, more...)...)
	require.Zero(t, code, msg)
	require.NoError(t, json.Unmarshal([]byte(out), &r))
	return dir, r
}

// TestQuantizeTiny quantizes the built-in model in many ways, as a user would: each folder generates, trains, shows itself and comes back.
func TestQuantizeTiny(t *testing.T) {
	data := sample(t)
	for scheme, want := range map[string]struct{ bits, rel, ppl float64 }{ // at most
		"nf4": {4.5, 0.1, 1.3}, "fp4:block=128,double": {4.1, 0.15, 1.5}, "int4:group=64,asym": {4.7, 0.1, 1.3}, "fp8_e4m3": {8.3, 0.03, 1.1},
		"cb3:block=32": {4.1, 0.2, 2}, "cb6:fit,double": {6.2, 0.025, 1.1}, "blockwise8": {8.2, 0.015, 1.05}, "int8:channel": {8.3, 0.015, 1.05},
	} {
		t.Run(scheme, func(t *testing.T) {
			dir, r := quantizeTiny(t, scheme, "--data", data)
			require.Len(t, r.Layers, 28)
			require.LessOrEqual(t, r.Total.Bits, want.bits)
			require.Greater(t, r.Total.Bits, want.bits*0.8)
			require.LessOrEqual(t, r.Total.RelError, want.rel)
			require.Greater(t, r.Total.Cosine, 1-want.rel)
			require.LessOrEqual(t, r.After.Perplexity, want.ppl*r.Before.Perplexity)
			code, text, msg := command(t, "generate", "--model", dir, "--prompt", "Story:", "--max-tokens", "8")
			require.Zero(t, code, msg)
			require.NotEmpty(t, strings.TrimSpace(text))
			code, text, msg = command(t, "inspect", dir)
			require.Zero(t, code, msg)
			require.Contains(t, text, "bits per weight")

			full := filepath.Join(t.TempDir(), "full")
			code, text, msg = command(t, "dequantize", dir, full)
			require.Zero(t, code, msg)
			require.Contains(t, text, "28 weights")
			sameNames(t, full)
		})
	}
}

// sameNames checks that a dequantized folder has the tensors of the built-in model, and loads.
func sameNames(t *testing.T, dir string) {
	t.Helper()
	in, err := checkpoint.OpenSafetensors(nil, filepath.Join("..", "..", "builtin", "tiny", "model.safetensors"))
	require.NoError(t, err)
	out, err := checkpoint.OpenSafetensors(nil, filepath.Join(dir, "model.safetensors"))
	require.NoError(t, err)
	require.Equal(t, in.Names(), out.Names())
	for _, name := range in.Names() {
		a, _ := in.Type(name)
		b, _ := out.Type(name)
		require.Equal(t, a, b, name)
	}
	require.NoError(t, in.Close())
	require.NoError(t, out.Close())
	code, _, msg := command(t, "generate", "--model", dir, "--prompt", "Story:", "--max-tokens", "2")
	require.Zero(t, code, msg)
}

// TestQuantizeThenFinetune trains an adapter on folders that this program quantized.
func TestQuantizeThenFinetune(t *testing.T) {
	rows := tokenRows(t, 256)
	for _, scheme := range []string{"nf4", "int4:group=128"} {
		dir, _ := quantizeTiny(t, scheme)
		out := filepath.Join(t.TempDir(), "run")
		code, _, msg := command(t, "finetune", "--model", dir, "--data.path", rows, "--data.format=tokens", "--data.seq_len=32", "--train.batch=2",
			"--train.steps=2", "--data.val=0", "--out", out)
		require.Zero(t, code, msg)
	}
}

// TestQuantizeFile quantizes a single file and takes it back; the storage of codes is any that holds them.
func TestQuantizeFile(t *testing.T) {
	in := filepath.Join("..", "..", "builtin", "tiny", "model.safetensors")
	for _, storage := range []string{"u8", "bf16", "f32"} {
		out := filepath.Join(t.TempDir(), "q.safetensors")
		code, text, msg := command(t, "quantize", in, out, "--scheme", "nf4", "--blocksize", "128", "--storage", storage, "--report")
		require.Zero(t, code, msg)
		require.Contains(t, text, "all quantized")
		code, text, msg = command(t, "inspect", out)
		require.Zero(t, code, msg)
		require.Contains(t, text, "blocks of 128")
		full := filepath.Join(t.TempDir(), "full.safetensors")
		code, _, msg = command(t, "dequantize", out, full, "--dtype", "f32")
		require.Zero(t, code, msg)
		left, err := os.ReadDir(filepath.Dir(out))
		require.NoError(t, err)
		require.Len(t, left, 1, "nothing temporary is left")
	}
}

// TestQuantizeExclude keeps modules in full precision, and the folder says so.
func TestQuantizeExclude(t *testing.T) {
	dir, r := quantizeTiny(t, "nf4", "--exclude", "o_proj", "--exclude", "model.layers.0")
	require.Len(t, r.Layers, 18)
	raw, err := os.ReadFile(filepath.Join(dir, "config.json"))
	require.NoError(t, err)
	var c struct {
		Q struct {
			Skip []string `json:"llm_int8_skip_modules"`
		} `json:"quantization_config"`
	}
	require.NoError(t, json.Unmarshal(raw, &c))
	require.Equal(t, []string{"lm_head", "o_proj", "model.layers.0"}, c.Q.Skip)
	code, _, msg := command(t, "generate", "--model", dir, "--prompt", "Story:", "--max-tokens", "4")
	require.Zero(t, code, msg)
}

// TestQuantizedDisagrees says that a folder contradicts itself where it does, and not that a setting does that nobody gave.
func TestQuantizedDisagrees(t *testing.T) {
	dir, _ := quantizeTiny(t, "nf4")
	path := filepath.Join(dir, "config.json")
	raw, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, []byte(strings.Replace(string(raw), `"nf4"`, `"fp4"`, 1)), 0o600))
	code, _, msg := command(t, "plan", "--model", dir)
	require.Equal(t, config.ExitInput, code, msg)
	require.Contains(t, msg, "stored in nf4, quantization_config says fp4")
}

// TestQuantizedMixed opens a folder whose weights are in blocks of several sizes, without a setting that would speak of one of them.
func TestQuantizedMixed(t *testing.T) {
	const other = "model.layers.1.mlp.up_proj.weight"
	dir, _ := quantizeTiny(t, "nf4")
	wide, _ := quantizeTiny(t, "nf4", "--blocksize=128")
	var all []checkpoint.Named
	for _, from := range []string{dir, wide} {
		f, err := checkpoint.OpenSafetensors(vfs.OS{}, filepath.Join(from, "model.safetensors"))
		require.NoError(t, err)
		for _, name := range f.Names() {
			if strings.HasPrefix(name, other) == (from == wide) {
				x, err := f.Read(name)
				require.NoError(t, err)
				all = append(all, checkpoint.Named{Name: name, Tensor: x})
			}
		}
		require.NoError(t, f.Close())
	}
	require.NoError(t, checkpoint.WriteSafetensors(vfs.OS{}, filepath.Join(dir, "model.safetensors"), all, map[string]string{"format": "pt"}))
	code, text, msg := command(t, "generate", "--model", dir, "--max-tokens=3")
	require.Zero(t, code, msg)
	require.NotEmpty(t, text)
	code, _, msg = command(t, "finetune", "--model", dir, "--data.path=builtin", "--train.steps=1", "--quantize.blocksize=256", "--out", filepath.Join(dir, "run"))
	require.Equal(t, config.ExitConfig, code, msg)
	require.Contains(t, msg, "stored in blocks of")
}

// TestQuantizeThreshold writes the threshold of outlier columns that the flag, else the scheme, else transformers gives.
func TestQuantizeThreshold(t *testing.T) {
	for scheme, flags := range map[string]map[string]string{
		"int8": {"": "6.0", "--threshold=4.5": "4.5", "--threshold=0": "0.0"}, "int8:threshold=4": {"": "4.0", "--threshold=3": "3.0"},
	} {
		for flag, want := range flags {
			var more []string
			if flag != "" {
				more = append(more, flag)
			}
			dir, _ := quantizeTiny(t, scheme, more...)
			raw, err := os.ReadFile(filepath.Join(dir, "config.json"))
			require.NoError(t, err)
			require.Contains(t, string(raw), `"llm_int8_threshold": `+want, "%s %s", scheme, flag)
		}
	}
}

// TestQuantizeRefuses gives the exit code of every kind of mistake, and leaves nothing behind.
func TestQuantizeRefuses(t *testing.T) {
	dir := t.TempDir()
	quantized, _ := quantizeTiny(t, "nf4")
	notes := filepath.Join(dir, "notes.txt")
	require.NoError(t, os.WriteFile(notes, []byte("hello, this is no model"), 0o600))
	out := filepath.Join(dir, "out")
	full := filepath.Join("..", "..", "builtin", "tiny", "model.safetensors")
	missing := filepath.Join(dir, "missing.txt")
	for _, c := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"quantize", "builtin:tiny", out}, config.ExitConfig, "scheme"},
		{[]string{"quantize", "builtin:tiny"}, config.ExitConfig, "arguments needed besides flags: 2, given: 1; usage: trainer quantize IN OUT"},
		{[]string{"quantize", "builtin:tiny", out, "--scheme=nf5"}, config.ExitConfig, "nf5"},
		{[]string{"quantize", "builtin:tiny", out, "--scheme=nf4", "--blocksize=33"}, config.ExitConfig, "33"},
		{[]string{"quantize", "builtin:tiny", out, "--scheme=int4:group=64", "--double"}, config.ExitConfig, "double"},
		{[]string{"quantize", "builtin:tiny", out, "--scheme=int4:group=64", "--storage=bf16"}, config.ExitConfig, "storage"},
		{[]string{"quantize", "builtin:tiny", out, "--scheme=nf4", "--storage=i64"}, config.ExitConfig, "storage"},
		{[]string{"quantize", "builtin:tiny", out, "--scheme=nf4", "--exclude=nothing_like_it"}, config.ExitConfig, "nothing_like_it"},
		{[]string{"quantize", "builtin:tiny", notes, "--scheme=nf4"}, config.ExitConfig, "exists"},
		{[]string{"quantize", "builtin:huge", out, "--scheme=nf4"}, config.ExitConfig, "huge"},
		{[]string{"quantize", filepath.Join(dir, "none"), out, "--scheme=nf4"}, config.ExitInput, "none"},
		{[]string{"quantize", notes, out, "--scheme=nf4"}, config.ExitInput, "notes.txt"},
		{[]string{"inspect", notes}, config.ExitInput, "no file of a known kind"},
		{[]string{"quantize", quantized, out, "--scheme=fp4"}, config.ExitInput, "quantized already"},
		{[]string{"dequantize", filepath.Join("..", "..", "builtin", "tiny"), out}, config.ExitInput, "full precision"},
		{[]string{"dequantize", quantized, out, "--dtype=u8"}, config.ExitConfig, "dtype"},
		{[]string{"dequantize", quantized, notes}, config.ExitConfig, "exists"},
		{[]string{"dequantize", full, out}, config.ExitInput, "no quantized weight"},
		{[]string{"quantize", "builtin:tiny", out, "--scheme=int8", "--threshold=Inf"}, config.ExitConfig, "threshold"},
		{[]string{"quantize", "builtin:tiny", out, "--scheme=int8", "--threshold=1e300"}, config.ExitConfig, "threshold"},
		{[]string{"quantize", "builtin:tiny", out, "--scheme=nf4", "--threshold=0"}, config.ExitConfig, "threshold"},
		{[]string{"quantize", "builtin:tiny", out, "--scheme=int8", "--compute=f32"}, config.ExitConfig, "compute"},
		{[]string{"quantize", "builtin:tiny", notes, "--scheme=nf4", "--data", missing}, config.ExitConfig, "exists"}, // before data is looked at
		{[]string{"quantize", "builtin:tiny", out, "--scheme=nf4", "--data", missing, "--calibrate", missing, "--method=magic"}, config.ExitConfig, "magic"},
		{[]string{"quantize", full, out, "--scheme=nf4", "--data", notes}, config.ExitConfig, "folder"},
	} {
		code, _, msg := command(t, c.args...)
		require.Equal(t, c.code, code, "%v: %s", c.args, msg)
		require.Contains(t, msg, c.says)
	}
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, left, 1, "only notes.txt is there")
}
