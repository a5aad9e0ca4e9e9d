package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/trainer/evaluate"
)

// TestEval measures an adapter against its base in one call and writes every row.
func TestEval(t *testing.T) {
	dir := t.TempDir()
	rows := filepath.Join(dir, "rows.jsonl")
	require.NoError(t, os.WriteFile(rows, []byte(`{"messages":[{"role":"user","content":"Who?"},{"role":"assistant","content":"Tom."}]}
{"messages":[{"role":"user","content":"Why?"},{"role":"assistant","content":"The wind was strong."}]}
`), 0o644))
	run, found := filepath.Join(dir, "run"), filepath.Join(dir, "found.jsonl")
	code, _, msg := command(t, "finetune", "--train.steps=2", "--out", run)
	require.Zero(t, code, msg)
	args := []string{"eval", "--model", "builtin:tiny", "--adapter", filepath.Join(run, "adapter"), "--messages", rows, "--template", "plain", "--rows-out", found}
	code, out, msg := command(t, append(args, "--compare-base", "--json")...)
	require.Zero(t, code, msg)
	var c evaluate.Comparison
	require.NoError(t, json.Unmarshal([]byte(out), &c))
	require.Equal(t, "run", c.Adapter)
	require.InDelta(t, c.With.Conversations.NLL-c.Base.Conversations.NLL, c.Differences[0].Difference, 1e-9)
	raw, err := os.ReadFile(found)
	require.NoError(t, err)
	require.Equal(t, 4, strings.Count(string(raw), `"task":"messages"`))
	code, out, msg = command(t, args...)
	require.Zero(t, code, msg)
	require.Contains(t, out, "conversations: 2")
	code, _, msg = command(t, "eval", "--model", "builtin:tiny", "--messages", rows, "--template", "plain", "--compare-base")
	require.Equal(t, 2, code)
	require.Contains(t, msg, "--adapter")
	code, _, msg = command(t, "eval", "--model", "builtin:tiny", "--messages", rows)
	require.Equal(t, 3, code, "no template")
	require.Contains(t, msg, "template")
	code, _, msg = command(t, append(args[:len(args)-1], filepath.Join(dir, "absent", "found.jsonl"))...)
	require.Equal(t, 6, code, msg)
}
