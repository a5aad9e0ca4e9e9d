package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/trainer/config"
)

// TestExport: a model goes out as GGUF and comes back as a model that writes the same text; what cannot be is refused.
func TestExport(t *testing.T) {
	dir := t.TempDir()
	out := filepath.Join(dir, "tiny.gguf")
	code, text, msg := command(t, "export", "--model", "builtin:tiny", "--out", out, "--type", "f32", "--json")
	require.Zero(t, code, msg)
	var report struct {
		Architecture string
		Tensors      int
		ByType       map[string]int64 `json:"bytes_by_type"`
	}
	require.NoError(t, json.Unmarshal([]byte(text), &report))
	require.Equal(t, "llama", report.Architecture)
	require.Contains(t, report.ByType, "F32")

	code, text, msg = command(t, "inspect", out)
	require.Zero(t, code, msg)
	require.Contains(t, text, `"general.architecture": "llama"`)
	require.Contains(t, text, "blk.0.attn_q.weight")
	say := func(model string) string {
		code, text, msg := command(t, "generate", "--model", model, "--prompt", "the fox", "--max-tokens", "24")
		require.Zero(t, code, msg)
		return text
	}
	require.Equal(t, say("builtin:tiny"), say(out))

	again := filepath.Join(dir, "again.gguf")
	code, _, msg = command(t, "export", "--model", out, "--out", again, "--type", "q8_0")
	require.Zero(t, code, msg)
	code, text, msg = command(t, "inspect", again, "--json")
	require.Zero(t, code, msg)
	require.Contains(t, text, `"kind": "gguf"`)

	bad := filepath.Join(dir, "bad.gguf")
	raw, err := os.ReadFile(out)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(bad, raw[:len(raw)/2], 0o600))
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"export", "--model", "builtin:tiny", "--out", out}, config.ExitConfig, "exists already"},
		{[]string{"export", "--model", "builtin:tiny", "--out", filepath.Join(dir, "x"), "--type", "q9"}, config.ExitConfig, `not written in "q9", but in f32`},
		{[]string{"export", "--model", "builtin:tiny", "--out", filepath.Join(dir, "x"), "--type", "q6_k"}, config.ExitConfig, `not written in "q6_k"`},
		{[]string{"export", "--model", "builtin:tiny", "--out", filepath.Join(dir, "x"), "--lora"}, config.ExitConfig, "--adapter"},
		{[]string{"export", "--model", "builtin:tiny", "--out", filepath.Join(dir, "x"), "--adapter", dir}, config.ExitInput, dir},
		{[]string{"export", "--out", "x"}, config.ExitConfig, "required"},
		{[]string{"export", "--model", bad, "--out", filepath.Join(dir, "x")}, config.ExitInput, "cut short"},
		{[]string{"generate", "--model", bad, "--prompt", "a"}, config.ExitInput, "cut short"},
		{[]string{"inspect", bad}, config.ExitInput, "cut short"},
	} {
		code, _, msg := command(t, c.args...)
		require.Equal(t, c.code, code, "%v: %s", c.args, msg)
		require.Contains(t, msg, c.want)
	}
	_, err = os.Stat(filepath.Join(dir, "x"))
	require.ErrorIs(t, err, os.ErrNotExist)
}
