package report

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestSamples cuts a file back to a step, and a torn line off its end.
func TestSamples(t *testing.T) {
	path := filepath.Join(t.TempDir(), "samples.jsonl")
	require.NoError(t, CutSamples(path, 5), "no file")
	for step := int64(10); step <= 30; step += 10 {
		require.NoError(t, AppendSamples(path, []Sample{{Step: step, Prompt: "a <b>", Got: "c"}, {Step: step, Row: 1, GotIDs: []int32{1}}}))
	}
	raw, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Contains(t, string(raw), `"prompt":"a <b>"`)
	require.NoError(t, CutSamples(path, 20))
	cut, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, 4, strings.Count(string(cut), "\n"))
	require.True(t, strings.HasPrefix(string(raw), string(cut)))
	require.NoError(t, os.WriteFile(path, append(cut, `{"step":20,"pro`...), 0o600))
	require.NoError(t, CutSamples(path, 20))
	again, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, cut, again)
}
