package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/trainer"
)

// TestGeneratePrompts: a file of prompts gives what each prompt gives alone, side by side or one after another.
func TestGeneratePrompts(t *testing.T) {
	file := filepath.Join(t.TempDir(), "prompts.txt")
	require.NoError(t, os.WriteFile(file, []byte("Where is Tom?\r\n\n{\"prompt\": \"Go to the\\nriver\"}\nOnce\n"), 0o644))
	prompts := []string{"Where is Tom?", "Go to the\nriver", "Once"}
	for _, rows := range []string{"1", "2", "8"} {
		code, out, msg := command(t, "generate", "--model", "builtin:tiny", "--prompts", file, "--rows", rows, "--max-tokens", "16", "--ignore-end")
		require.Zero(t, code, msg)
		lines := strings.Split(strings.TrimSpace(out), "\n")
		require.Len(t, lines, len(prompts))
		for i, line := range lines {
			var a trainer.Answer
			require.NoError(t, json.Unmarshal([]byte(line), &a))
			require.Equal(t, prompts[i], a.Prompt)
			require.Equal(t, 16, a.Tokens)
			require.Equal(t, trainer.FinishLength, a.Finish)
			_, alone, _ := command(t, "generate", "--model", "builtin:tiny", "--prompt", prompts[i], "--max-tokens", "16", "--ignore-end")
			require.Equal(t, alone, a.Text, "rows %s, prompt %d", rows, i)
		}
	}
}

func TestGenerateStops(t *testing.T) {
	args := []string{"generate", "--model", "builtin:tiny", "--prompt", "Where is Tom?", "--max-tokens", "40", "--ignore-end"}
	_, whole, _ := command(t, args...)
	words := strings.Fields(whole)
	require.Greater(t, len(words), 4)
	stop := words[3]
	code, cut, msg := command(t, append(args, "--stop", stop, "--stop", "\x00never")...)
	require.Zero(t, code, msg)
	before, _, _ := strings.Cut(whole, stop)
	require.Equal(t, before, cut)
}

func TestGenerateRefuses(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty")
	require.NoError(t, os.WriteFile(empty, []byte("\n"), 0o644))
	odd := filepath.Join(t.TempDir(), "odd")
	require.NoError(t, os.WriteFile(odd, []byte("fine\n{\"text\": \"x\"}\n"), 0o644))
	for _, c := range []struct {
		code int
		says string
		args []string
	}{
		{2, "stop", []string{"--prompt", "x", "--stop", ""}},
		{2, "min-p", []string{"--prompt", "x", "--min-p", "2"}},
		{2, "rows", []string{"--prompt", "x", "--rows", "-1"}},
		{3, "holds no prompt", []string{"--prompts", empty}},
		{3, odd + ":2: ", []string{"--prompts", odd}},
		{3, "absent", []string{"--prompts", "absent"}},
		{2, "none of the others can be", []string{"--prompt", "x", "--prompts", odd}},
	} {
		code, out, msg := command(t, append([]string{"generate", "--model", "builtin:tiny"}, c.args...)...)
		require.Equal(t, c.code, code, "%v: %s", c.args, msg)
		require.Contains(t, msg, c.says)
		require.Empty(t, out)
	}
}

// TestGenerateStopped: a signal has its exit code, and what was written until then is there.
func TestGenerateStopped(t *testing.T) {
	ctx, stop := context.WithCancel(context.Background())
	var out, msg bytes.Buffer
	code := run(ctx, []string{"generate", "--model", "builtin:tiny", "--prompt", "Tom", "--ignore-end"}, stopAfter{&out, stop}, &msg)
	require.Equal(t, 143, code)
	require.Contains(t, msg.String(), "stopped by a signal")
	require.NotEmpty(t, out.String())
}

// stopAfter calls stop when it is written to.
type stopAfter struct {
	io.Writer
	stop func()
}

func (w stopAfter) Write(b []byte) (int, error) {
	w.stop()
	return w.Writer.Write(b)
}
