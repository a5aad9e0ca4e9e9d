package peers

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestCarriedParts: the parts of a packed folder, taken in the order of their names, are the archive, however many there are.
func TestCarriedParts(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("there is no python3")
	}
	site, out := filepath.Join(t.TempDir(), "a site"), t.TempDir()
	require.NoError(t, os.Mkdir(site, 0o777))
	require.NoError(t, os.WriteFile(filepath.Join(site, "module.py"), []byte(strings.Repeat("x = 1\n", 100)), 0o666))
	run := func(args ...string) (string, error) {
		cmd := exec.Command(python, args...)
		cmd.Dir = "python"
		cmd.Env = append(os.Environ(), "PYTHONDONTWRITEBYTECODE=1")
		text, err := cmd.CombinedOutput()
		return string(text), err
	}
	text, err := run("-c", "import sys, carry; carry.pack(*sys.argv[1:], part=1)", site, out)
	require.NoError(t, err, text)
	parts, err := filepath.Glob(filepath.Join(out, "site.tar.xz.*")) // sorted
	require.NoError(t, err)
	require.Greater(t, len(parts), 100)
	var whole []byte
	for _, p := range parts {
		piece, err := os.ReadFile(p)
		require.NoError(t, err)
		whole = append(whole, piece...)
	}
	require.NoError(t, os.WriteFile(filepath.Join(out, "whole"), whole, 0o666))
	text, err = run("-c", "import sys, tarfile; print(tarfile.open(sys.argv[1]).getnames())", filepath.Join(out, "whole"))
	require.NoError(t, err, text)
	require.Contains(t, text, "module.py")
	text, err = run("carry.py", filepath.Join(out, "none"), "--part", "0")
	require.Error(t, err)
	require.Contains(t, text, "at least 1 megabyte")
}
