package checkpoint_test

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/checkpoint"
	"github.com/bitsandbyes/bitsandbyes/internal/golden/bnb"
)

// TestGoldenBNBConfig reads and writes the quantization_config of every quantized folder: the same keys, values and order.
func TestGoldenBNBConfig(t *testing.T) {
	for _, f := range bnb.Folders(t) {
		var want bytes.Buffer
		require.NoError(t, json.Compact(&want, f.Raw))
		got, err := json.Marshal(f.Quantization)
		require.NoError(t, err)
		require.Equal(t, want.String(), string(got))
	}
}

func TestParseQuantization(t *testing.T) {
	for _, none := range []string{"", "null"} {
		q, err := checkpoint.ParseQuantization([]byte(none))
		require.NoError(t, err)
		require.Nil(t, q)
	}
	q, err := checkpoint.ParseQuantization([]byte(`{"load_in_4bit": true, "some_later_switch": false, "other": null}`))
	require.NoError(t, err, "files older than quant_method; keys that say nothing")
	require.Equal(t, "fp4", q.Scheme, "the library's default")
	for text, says := range map[string]string{
		`[]`:                               "object",
		`{}`:                               "quant_method",
		`{"quant_method": 3}`:              "quant_method",
		`{"quant_method": "awq"}`:          "awq",
		`{"quant_method": "bitsandbytes"}`: "load_in_4bit",
		`{"load_in_8bit": true, "llm_int8_threshold": -1}`:                                 "negative",
		`{"load_in_8bit": true, "llm_int8_has_fp16_weight": true}`:                         "llm_int8_has_fp16_weight",
		`{"load_in_8bit": true, "llm_int8_skip_modules": "lm_head"}`:                       "llm_int8_skip_modules",
		`{"quant_method": "bitsandbyes", "format_version": 9, "scheme": "int4:group=128"}`: "format_version 9",
		`{"quant_method": "bitsandbyes", "format_version": 1}`:                             "scheme",
	} {
		_, err := checkpoint.ParseQuantization([]byte(text))
		require.ErrorContains(t, err, says, text)
	}
}

// TestSkips follows should_convert_module of transformers.
func TestSkips(t *testing.T) {
	skips := func(module string, patterns ...string) bool {
		raw, err := json.Marshal(map[string]any{"load_in_8bit": true, "llm_int8_skip_modules": patterns})
		require.NoError(t, err)
		q, err := checkpoint.ParseQuantization(raw)
		require.NoError(t, err)
		return q.Skips(module)
	}
	q := &checkpoint.Quantization{}
	require.True(t, q.Skips("lm_head"))
	require.False(t, q.Skips("model.layers.0.mlp.up_proj"))
	require.False(t, skips("lm_head", "q_proj"), "a list replaces the default")
	require.True(t, skips("model.layers.1.mlp.up_proj", "model.layers.1"))
	require.False(t, skips("model.layers.11.mlp.up_proj", "model.layers.1"))
	require.True(t, skips("model.layers.11.mlp.up_proj", `model\.layers\.1.*`))
	require.True(t, skips("model.layers.11.mlp.up_proj", "up_proj"))
	require.False(t, skips("model.layers.11.mlp.gate_proj", "model.layers.11.mlp.gate"))
	require.True(t, skips("a.b(c", "b(c"), "no expression: a plain ending")
}

func FuzzParseQuantization(f *testing.F) {
	f.Add([]byte(`{"quant_method": "bitsandbytes", "load_in_4bit": true, "bnb_4bit_quant_type": "nf4", "llm_int8_skip_modules": ["lm_head", "a.*"]}`))
	f.Add([]byte(`{"quant_method": "bitsandbytes", "load_in_8bit": true, "llm_int8_threshold": 6.0}`))
	f.Add([]byte(`{"quant_method": "bitsandbyes", "format_version": 1, "scheme": "int4:group=128"}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		q, err := checkpoint.ParseQuantization(raw)
		if err != nil || q == nil {
			return
		}
		q.Skips("model.layers.0.mlp.up_proj")
		text, err := json.Marshal(q)
		require.NoError(t, err)
		again, err := checkpoint.ParseQuantization(text)
		require.NoError(t, err, string(text))
		second, err := json.Marshal(again)
		require.NoError(t, err)
		require.Equal(t, string(text), string(second))
	})
}
