package deptest

import (
	"os"
	"testing"

	"github.com/bitsandbyes/bitsandbyes/internal/golden"
	"github.com/stretchr/testify/require"
)

// TestTree holds the whole module to the rules.
func TestTree(t *testing.T) {
	tree, err := Load(os.DirFS(golden.Root(t)))
	require.NoError(t, err)
	require.Positive(t, tree.Files())
	for _, p := range tree.Check() {
		t.Error(p)
	}
	files, functions := tree.Shares()
	t.Logf("%d files; %.1f%% of files have at most %d lines, %.1f%% of functions at most %d",
		tree.Files(), 100*files, usualFileLines, 100*functions, usualFuncLines)
}
