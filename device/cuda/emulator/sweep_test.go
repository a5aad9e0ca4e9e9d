package emulator

import (
	"os"
	"path/filepath"
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
	require.NoError(t, sweep(dir))
	require.NoDirExists(t, filepath.Join(dir, "old"))
	require.DirExists(t, filepath.Join(dir, "new"))
}
