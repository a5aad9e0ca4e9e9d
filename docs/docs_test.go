package docs_test

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/internal/golden"
	"github.com/bitsandbyes/bitsandbyes/trainer/config"
)

func read(t *testing.T, name string) string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(golden.Root(t), filepath.FromSlash(name)))
	require.NoError(t, err)
	return string(raw)
}

// TestReadmeLoop: the README shows the function train of this package, and it learns.
func TestReadmeLoop(t *testing.T) {
	src := read(t, "docs/readme_test.go")
	from := strings.Index(src, "func train(")
	to := strings.Index(src[from:], "\n}\n")
	require.Positive(t, to)
	require.Contains(t, read(t, "README.md"), "```go\n"+src[from:from+to+3]+"```\n", "README.md and docs/readme_test.go differ")

	text := []byte(strings.Repeat("the fox eats grapes. the owl eats mice. the bear eats honey. ", 4))
	last, err := train(context.Background(), text, 60)
	require.NoError(t, err)
	require.Less(t, last, 2.0, "a uniform guess costs ln 256 = 5.5")
}

// TestFinetuneDefaults: the guide shows the defaults of the program and explains every key.
func TestFinetuneDefaults(t *testing.T) {
	guide := read(t, "docs/guides/finetune.md")
	c := config.Default(config.Finetune)
	c.Model = "./model"
	yaml, err := c.Marshal()
	require.NoError(t, err)
	require.Contains(t, guide, "```yaml\n"+string(yaml)+"```\n")
	for _, key := range config.Keys() {
		require.Contains(t, guide, "`"+key+"`", "docs/guides/finetune.md does not explain this key")
	}
}

var (
	link = regexp.MustCompile(`\]\(([^)#\s]+)(#[^)]*)?\)`)
	code = regexp.MustCompile("(?s)```.*?```|`[^`]*`")
)

var (
	addCommand = regexp.MustCompile(`root\.AddCommand\((.*)\)`)
	command    = regexp.MustCompile(`p\.(\w+)\(\)`)
)

// TestCommands: the README lists every command of the program.
func TestCommands(t *testing.T) {
	readme := read(t, "README.md")
	m := addCommand.FindStringSubmatch(read(t, "cmd/trainer/main.go"))
	require.NotNil(t, m, "cmd/trainer/main.go adds its commands in another way: change this test")
	for _, c := range command.FindAllStringSubmatch(m[1], -1) {
		require.True(t, strings.Contains(readme, "| `trainer "+c[1]+" "), "the README's table has no row for trainer %s", c[1])
	}
}

// TestLinks: links inside the repository lead to files that are there.
func TestLinks(t *testing.T) {
	root := golden.Root(t)
	count := 0
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == ".git" || d.Name() == "testdata" || d.Name() == "runs") {
			return filepath.SkipDir
		}
		if d.IsDir() || filepath.Ext(path) != ".md" {
			return nil
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, m := range link.FindAllStringSubmatch(code.ReplaceAllString(string(raw), ""), -1) {
			if strings.Contains(m[1], "://") || strings.HasPrefix(m[1], "mailto:") {
				continue
			}
			count++
			if _, err := os.Stat(filepath.Join(filepath.Dir(path), filepath.FromSlash(m[1]))); err != nil {
				t.Errorf("%s: link to %s: %v", path, m[1], err)
			}
		}
		return nil
	})
	require.NoError(t, err)
	t.Logf("%d links", count)
}

// TestIndex: every design page has a number of its own and stands in the index once, in order.
func TestIndex(t *testing.T) {
	paths, err := filepath.Glob(filepath.Join(golden.Root(t), "docs", "design", "*.md"))
	require.NoError(t, err)
	var pages, listed []string
	numbers := map[string]string{}
	for _, p := range paths { // which Glob sorts
		name := strings.TrimSuffix(filepath.Base(p), ".md")
		number, _, _ := strings.Cut(name, "-")
		require.Empty(t, numbers[number], "the number of %s is taken", name)
		numbers[number] = name
		if name != "000-index" {
			pages = append(pages, name)
		}
	}
	for _, m := range regexp.MustCompile(`(?m)^\| \[(.*?)\]\((.*?)\.md\)`).FindAllStringSubmatch(read(t, "docs/design/000-index.md"), -1) {
		require.Equal(t, m[1], m[2])
		listed = append(listed, m[1])
	}
	require.Equal(t, pages, listed)
}
