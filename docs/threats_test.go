package docs_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/internal/golden"
)

var (
	fuzzTarget = regexp.MustCompile(`(?m)^func (Fuzz\w+)\(\w+ \*testing\.F\)`)
	fuzzNamed  = regexp.MustCompile("`([a-z0-9/]+\\.Fuzz\\w+)`")
)

// TestThreats: the page of threats names every fuzz target of the module, and none that is not there.
func TestThreats(t *testing.T) {
	root := golden.Root(t)
	var have []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			_, nested := os.Stat(filepath.Join(path, "go.mod"))
			if path != root && nested == nil || d.Name() == ".git" || d.Name() == "testdata" {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(path, "_test.go") {
			return nil
		}
		src, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		dir, err := filepath.Rel(root, filepath.Dir(path))
		for _, m := range fuzzTarget.FindAllSubmatch(src, -1) {
			have = append(have, filepath.ToSlash(dir)+"."+string(m[1]))
		}
		return err
	})
	require.NoError(t, err)
	var named []string
	for _, m := range fuzzNamed.FindAllStringSubmatch(read(t, "docs/design/038-threats.md"), -1) {
		named = append(named, m[1])
	}
	require.NotEmpty(t, have)
	require.ElementsMatch(t, have, named, "docs/design/038-threats.md (right) and the fuzz targets of the module (left) differ")
}
