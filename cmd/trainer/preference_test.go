package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestGoldenKillResumePreferences kills runs that learn preferences, among them one whose reference is stored before the first step.
func TestGoldenKillResumePreferences(t *testing.T) {
	var b strings.Builder
	for i := range 24 {
		fmt.Fprintf(&b, `{"prompt": "Once there was a cat number %d.", "chosen": " It was happy.", "rejected": " No %d."}`+"\n", i, i)
	}
	path := filepath.Join(t.TempDir(), "pairs.jsonl")
	require.NoError(t, os.WriteFile(path, []byte(b.String()), 0o600))
	exe, err := binary()
	require.NoError(t, err)
	more := []string{"--data.path", path, "--data.format=preference", "--train.objective=dpo", "--train.lr=1e-3", "--eval.every=4", "--eval.samples=1",
		"--eval.sample_tokens=4", "--save.best"}
	for name, args := range map[string][]string{"every weight": {"--adapter.type=none"}, "qlora": {"--adapter.r=4", "--adapter.dropout=0.1"}} {
		t.Run(name, func(t *testing.T) {
			kills := killResume(t, exe, mode{name, append(args, more...)}, path, 2, true)
			t.Logf("%d kills", kills)
		})
	}
}
