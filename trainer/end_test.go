package trainer

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
)

// watched calls removing before it removes a file.
type watched struct {
	vfs.OS
	removing func()
}

func (w watched) Remove(path string) error {
	w.removing()
	return w.OS.Remove(path)
}

// TestEndHoldsLock: what a refused run takes out again, it takes out while the directory is its own: another that begins there may use the files.
func TestEndHoldsLock(t *testing.T) {
	if runtime.GOOS != "linux" && runtime.GOOS != "darwin" {
		t.Skip("folders are not locked here")
	}
	dir := t.TempDir()
	unlock, err := vfs.Lock(dir)
	require.NoError(t, err)
	rows := filepath.Join(dir, builtinTrain)
	require.NoError(t, os.WriteFile(rows, nil, 0o666))
	removed := 0
	j := &job{unlock: unlock, made: []string{rows}, fs: watched{removing: func() {
		removed++
		_, err := vfs.Lock(dir)
		require.ErrorIs(t, err, vfs.ErrLocked)
	}}}
	j.cfg.Out = dir
	refused := errors.New("refused")
	require.ErrorIs(t, j.end(refused), refused)
	require.Equal(t, 1, removed)
	require.NoFileExists(t, rows)
	unlock, err = vfs.Lock(dir)
	require.NoError(t, err)
	require.NoError(t, unlock())
}
