package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/trainer/config"
)

// TestRole: conversations of a run with data.roles can be measured and answered too.
func TestRole(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
		return path
	}
	ask := []string{"generate", "--model", "builtin:tiny", "--template", "chatml", "--max-tokens", "1", "--messages", file("ask.jsonl", `{"messages":[{"role":"buyer","content":"a"}]}`)}
	code, _, msg := command(t, ask...)
	require.Equal(t, config.ExitInput, code)
	require.Contains(t, msg, `message 1 has the role "buyer"; did you mean "user"? Else say --role buyer`)
	code, _, msg = command(t, append(ask, "--role", "seller", "--role", "buyer")...)
	require.Zero(t, code, msg)

	measure := []string{"eval", "--model", "builtin:tiny", "--template", "chatml", "--messages",
		file("rows.jsonl", `{"messages":[{"role":"buyer","content":"a"},{"role":"seller","content":"b"},{"role":"assistant","content":"c"}]}`)}
	code, _, msg = command(t, append(measure, "--role", "buyer")...)
	require.Equal(t, config.ExitInput, code)
	require.Contains(t, msg, `the role "seller", which is not known`)
	require.Contains(t, msg, "trainer eval: --role")
	code, _, msg = command(t, append(measure, "--role", "buyer", "--role", "seller")...)
	require.Zero(t, code, msg)
}
