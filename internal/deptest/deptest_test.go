package deptest

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
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

// TestDependenciesHaveReasons wants a mention in docs/design/001-dependencies.md of every module that a go.mod asks for directly.
func TestDependenciesHaveReasons(t *testing.T) {
	root := golden.Root(t)
	page, err := os.ReadFile(filepath.Join(root, "docs", "design", "001-dependencies.md"))
	require.NoError(t, err)
	for _, name := range []string{"go.mod", "benchmarks/peers/go.mod", "tools/go.mod"} {
		mod, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(name)))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		require.NoError(t, err)
		for i, line := range strings.Split(string(mod), "\n") {
			path, direct := requirement(line)
			if direct && !strings.Contains(string(page), path) {
				t.Errorf("%s:%d: %s has no line in docs/design/001-dependencies.md: say what it is for, or do without it", name, i+1, path)
			}
		}
	}
}

func TestRequirement(t *testing.T) {
	for line, want := range map[string]string{
		"\tgithub.com/a/b v1.2.3":              "github.com/a/b",
		"require github.com/a/b v1.2.3":        "github.com/a/b",
		"\tgithub.com/a/b v1.2.3 // indirect":  "",
		"\tgithub.com/a/b v1.2.3 // for words": "github.com/a/b",
		"replace a.b/c => ../..":               "",
		"module github.com/a/b":                "",
		"go 1.26.0":                            "",
		")":                                    "",
	} {
		path, direct := requirement(line)
		require.Equal(t, want, path, line)
		require.Equal(t, want != "", direct, line)
	}
}

// requirement reads a line of a go.mod inside or outside a require block. The module of this repository is no dependency.
func requirement(line string) (path string, direct bool) {
	fields := strings.Fields(strings.TrimPrefix(strings.TrimSpace(line), "require "))
	if len(fields) < 2 || !strings.Contains(fields[0], ".") || !strings.HasPrefix(fields[1], "v") || strings.Contains(line, "// indirect") {
		return "", false
	}
	return fields[0], fields[1] != "v0.0.0"
}
