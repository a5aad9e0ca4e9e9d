package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/builtin/corpus"
	"github.com/bitsandbyes/bitsandbyes/checkpoint"
	"github.com/bitsandbyes/bitsandbyes/trainer/config"
)

// documents writes text of the built-in model's language as rows.
func documents(t *testing.T, seed uint64, n int) string {
	t.Helper()
	var b strings.Builder
	for doc := range corpus.Generate(seed, n) {
		raw, err := json.Marshal(map[string]string{"text": doc})
		require.NoError(t, err)
		b.Write(append(raw, '\n'))
	}
	path := filepath.Join(t.TempDir(), "rows.jsonl")
	require.NoError(t, os.WriteFile(path, []byte(b.String()), 0o600))
	return path
}

// TestQuantizeCalibrated quantizes to three bits with the help of data: each method beats rounding to nearest on other text, and what it
// writes generates.
func TestQuantizeCalibrated(t *testing.T) {
	if testing.Short() {
		t.Skip("runs the model on text several times")
	}
	data, judge := documents(t, 99, 24), documents(t, 7, 16)
	_, plain := quantizeTiny(t, "int3:group=64,asym", "--data", judge)
	for _, method := range []string{"gptq", "awq", "smoothquant"} {
		dir, r := quantizeTiny(t, "int3:group=64,asym", "--calibrate", data, "--method", method, "--data", judge)
		t.Logf("%s: perplexity %.4f, %.4f rounded to nearest, %.4f in full", method, r.After.Perplexity, plain.After.Perplexity, r.Before.Perplexity)
		require.Less(t, r.After.Perplexity, plain.After.Perplexity, method)
		require.Equal(t, method, r.Method)
		require.Len(t, r.Layers, 28)
		require.Positive(t, r.Layers[0].OutputError)
		code, text, msg := command(t, "generate", "--model", dir, "--prompt", "Story:", "--max-tokens", "4")
		require.Zero(t, code, msg)
		require.NotEmpty(t, text)
	}
}

// TestQuantizeObserved reports the range of each layer's inputs, and the grid over it, for the methods that observe them.
func TestQuantizeObserved(t *testing.T) {
	data := documents(t, 99, 4)
	_, wide := quantizeTiny(t, "int8:channel", "--calibrate", data, "--method", "minmax")
	_, narrow := quantizeTiny(t, "int8:channel", "--calibrate", data, "--method", "percentile")
	_, none := quantizeTiny(t, "int8:channel", "--calibrate", data, "--method", "rtn")
	for i, l := range wide.Layers {
		require.Nil(t, none.Layers[i].Input)
		require.NotNil(t, l.Input, l.Name)
		require.Less(t, l.Input.Lo, float32(0))
		require.InEpsilon(t, (l.Input.Hi-l.Input.Lo)/255, l.Input.Step, 1e-5)
		require.LessOrEqual(t, narrow.Layers[i].Input.Hi, l.Input.Hi)
	}
	require.Less(t, narrow.Layers[0].Input.Hi, wide.Layers[0].Input.Hi)
}

// TestQuantizePruned sets part of each weight to zero, and the zeros stay.
func TestQuantizePruned(t *testing.T) {
	for prune, c := range map[string]struct {
		group, zeros int // at least so many zeros in each group; a group of 0 is the whole weight, in halves
		calibrated   bool
	}{"2:4": {4, 2, false}, "row:0.5": {128, 64, false}, "magnitude:0.5": {0, 0, false}, "1:4": {4, 3, true}} {
		flags := []string{"--prune", prune}
		if c.calibrated { // GPTQ moves its errors past the zeros
			flags = append(flags, "--calibrate", documents(t, 4, 2))
		}
		dir, _ := quantizeTiny(t, "nf4", flags...)
		full := filepath.Join(t.TempDir(), "full")
		code, _, msg := command(t, "dequantize", dir, full)
		require.Zero(t, code, msg)
		f, err := checkpoint.OpenSafetensors(nil, filepath.Join(full, "model.safetensors"))
		require.NoError(t, err)
		w, err := f.Read("model.layers.0.self_attn.q_proj.weight")
		require.NoError(t, err)
		require.NoError(t, f.Close())
		x := w.Float32s()
		if c.group == 0 {
			c.group, c.zeros = len(x), len(x)/2
		}
		for lo := 0; lo < len(x); lo += c.group {
			zeros := 0
			for _, v := range x[lo : lo+c.group] {
				if v == 0 {
					zeros++
				}
			}
			require.GreaterOrEqual(t, zeros, c.zeros, prune)
		}
	}
}

// TestQuantizePrunedErrors compares what is stored with the weights before pruning, whatever the method: half of a weight's elements are
// gone, and with them about a third of its norm.
func TestQuantizePrunedErrors(t *testing.T) {
	data := documents(t, 4, 2)
	_, plain := quantizeTiny(t, "int8:channel", "--prune", "2:4")
	require.Greater(t, plain.Total.RelError, 0.3)
	for _, method := range []string{"gptq", "awq", "smoothquant", "mse"} {
		_, r := quantizeTiny(t, "int8:channel", "--prune", "2:4", "--calibrate", data, "--method", method)
		require.InDelta(t, plain.Total.RelError, r.Total.RelError, 2e-3, method)
		require.InDelta(t, plain.Total.Cosine, r.Total.Cosine, 2e-3, method)
		for i, l := range r.Layers {
			require.InDelta(t, plain.Layers[i].RelError, l.RelError, 1e-2, "%s %s", method, l.Name)
			require.InDelta(t, plain.Layers[i].MaxAbs, l.MaxAbs, 0.05, "%s %s", method, l.Name)
		}
	}
}

func TestCalibrateRefuses(t *testing.T) {
	data := documents(t, 3, 2)
	file := filepath.Join("..", "..", "builtin", "tiny", "model.safetensors")
	out := filepath.Join(t.TempDir(), "out")
	for _, c := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"builtin:tiny", out, "--method=awq"}, config.ExitConfig, "--calibrate"},
		{[]string{"builtin:tiny", out, "--calibrate", data, "--method=magic"}, config.ExitConfig, "magic"},
		{[]string{file, out, "--calibrate", data}, config.ExitConfig, "folder"},
		{[]string{"builtin:tiny", out, "--calibrate", data + "x"}, config.ExitInput, "rows.jsonlx"},
		{[]string{"builtin:tiny", out, "--prune=4:2"}, config.ExitConfig, "4:2"},
		{[]string{"builtin:tiny", out, "--prune=magnitude:1.5"}, config.ExitConfig, "1.5"},
	} {
		code, _, msg := command(t, append([]string{"quantize", "--scheme=nf4"}, c.args...)...)
		require.Equal(t, c.code, code, "%v: %s", c.args, msg)
		require.Contains(t, msg, c.says)
	}
}
