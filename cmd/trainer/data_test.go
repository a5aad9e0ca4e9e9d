package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/trainer/config"
	"github.com/bitsandbyes/bitsandbyes/trainer/preview"
)

func rowsFile(t *testing.T, name, rows string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	require.NoError(t, os.WriteFile(path, []byte(rows), 0o600))
	return path
}

// TestData: rows with their trained parts marked, counts, and control characters of the file shown instead of sent to the terminal.
func TestData(t *testing.T) {
	path := rowsFile(t, "rows.jsonl", `{"prompt":"one \u001b[31m","completion":" two"}`+"\n"+`{"prompt":"a","completion":"b"}`+"\n"+`{"prompt":"a","completion":"b"}`+"\n")
	code, out, msg := command(t, "data", "--model", "builtin:tiny", "--data.path", path, "--data.seq_len=64", "--rows=2")
	require.Zero(t, code, msg)
	for _, says := range []string{`one \x1b[31m⟦ two</s>⟧`, "row 2 (" + path + ":2)", "prompt_completion", "1 duplicate of earlier examples, such as " + path + ":3",
		"3 rows", "≤     16 tokens"} {
		require.Contains(t, out, says)
	}
	require.NotContains(t, out, "row 3")
	require.NotContains(t, out, "\x1b")
	code, out, msg = command(t, "data", "--model", "builtin:tiny", "--data.path", path, "--row=3", "--json", "--data.seq_len=64")
	require.Zero(t, code, msg)
	var r preview.Report
	require.NoError(t, json.Unmarshal([]byte(out), &r))
	require.Len(t, r.Shown, 1)
	require.Equal(t, 3, r.Shown[0].Number)
	require.Equal(t, r.Shown[0].Trained, 2, "the answer and the end of the text")
	require.Equal(t, 1, r.Duplicates)
}

// TestDataBuiltin: the built-in run without arguments.
func TestDataBuiltin(t *testing.T) {
	code, out, msg := command(t, "data", "--rows=1")
	require.Zero(t, code, msg)
	require.Contains(t, out, "held out")
}

// TestDataRefuses: rows that cannot be used are all named, and the exit code is that of bad input.
func TestDataRefuses(t *testing.T) {
	bad := rowsFile(t, "rows.jsonl", `{"input_ids":[1,2,3]}`+"\n"+`{"input_ids":[1,2],"labels":[-100,-100]}`+"\n"+`{"input_ids":[1,99999]}`+"\n")
	code, out, _ := command(t, "data", "--model", "builtin:tiny", "--data.path", bad)
	require.Equal(t, config.ExitInput, code)
	for _, says := range []string{bad + ":2: has no token to train on", bad + ":3: token 1: token id 99999 is beyond the vocabulary", "1 without a token to train on",
		"training would stop"} {
		require.Contains(t, out, says)
	}
	none := rowsFile(t, "rows.jsonl", `{"input_ids":[1,2],"labels":[-100,-100]}`+"\n")
	code, out, _ = command(t, "data", "--model", "builtin:tiny", "--data.path", none)
	require.Equal(t, config.ExitInput, code)
	require.Contains(t, out, "nothing is left to train on")
	for _, c := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"--row=9", "--data.path", rowsFile(t, "a.jsonl", `{"text":"a b c"}`), "--model", "builtin:tiny"}, config.ExitConfig, "row: is 9, the data has 1"},
		{[]string{"--rows=-1"}, config.ExitConfig, "--rows is from 0"},
		{[]string{"--row=0"}, config.ExitConfig, "--row from 1"},
		{[]string{"--data.path", "none.jsonl", "--model", "builtin:tiny"}, config.ExitInput, "cannot be opened"},
		{[]string{"--data.path", rowsFile(t, "b.jsonl", `{"foo":1}`), "--model", "builtin:tiny"}, config.ExitInput, `no format fits the keys "foo"`},
	} {
		code, _, msg := command(t, append([]string{"data"}, c.args...)...)
		require.Equal(t, c.code, code, msg)
		require.Contains(t, msg, c.says)
	}
}
