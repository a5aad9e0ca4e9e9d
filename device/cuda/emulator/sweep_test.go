package emulator

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestSweepKeepsWhatIsUsed(t *testing.T) {
	dir := t.TempDir()
	for name, age := range map[string]time.Duration{"old": unused + time.Hour, "new": unused - time.Hour} {
		require.NoError(t, os.MkdirAll(filepath.Join(dir, name, "programs"), 0o755))
		then := time.Now().Add(-age)
		require.NoError(t, os.Chtimes(filepath.Join(dir, name), then, then))
	}
	sweep(dir)
	require.NoDirExists(t, filepath.Join(dir, "old"))
	require.DirExists(t, filepath.Join(dir, "new"))
}

// TestHome: where the cache folder cannot be written, as that of a user without a home, there is another.
func TestHome(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the emulator runs on Linux")
	}
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	dir, err := home()
	require.NoError(t, err)
	require.Equal(t, filepath.Join(os.Getenv("XDG_CACHE_HOME"), "bitsandbyes", "emulator"), dir)
	require.DirExists(t, dir)

	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	t.Setenv("XDG_CACHE_HOME", file)
	t.Setenv("TMPDIR", t.TempDir())
	dir, err = home()
	require.NoError(t, err)
	require.True(t, strings.HasPrefix(dir, os.TempDir()), dir)

	t.Setenv("TMPDIR", file)
	_, err = home()
	require.ErrorContains(t, err, "not a directory")
}

// TestPlace: a build takes the place of the rest of another, not of a whole one.
func TestPlace(t *testing.T) {
	for _, c := range []struct{ there, want string }{{"", "new"}, {"half", "new"}, {"libcuda.so.1", "old"}} {
		tmp, dir := filepath.Join(t.TempDir(), "build"), filepath.Join(t.TempDir(), "key")
		if c.there != "" {
			require.NoError(t, os.Mkdir(dir, 0o700))
			require.NoError(t, os.WriteFile(filepath.Join(dir, c.there), []byte("old"), 0o600))
		}
		require.NoError(t, os.Mkdir(tmp, 0o700))
		require.NoError(t, os.WriteFile(filepath.Join(tmp, "libcuda.so.1"), []byte("new"), 0o600))
		require.NoError(t, place(tmp, dir))
		got, err := os.ReadFile(filepath.Join(dir, "libcuda.so.1"))
		require.NoError(t, err)
		require.Equal(t, c.want, string(got))
		require.NoFileExists(t, filepath.Join(dir, "half"))
	}
}
