//go:build linux || darwin

package vfs_test

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
)

// TestLock: a folder is taken once at a time, and nothing is written to it.
func TestLock(t *testing.T) {
	dir := t.TempDir()
	unlock, err := vfs.Lock(dir)
	require.NoError(t, err)
	_, err = vfs.Lock(dir)
	require.ErrorIs(t, err, vfs.ErrLocked)
	require.ErrorContains(t, err, dir)
	entries, err := vfs.OS{}.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, entries)
	require.NoError(t, unlock())
	unlock, err = vfs.Lock(dir)
	require.NoError(t, err)
	require.NoError(t, unlock())
	_, err = vfs.Lock(filepath.Join(dir, "none"))
	require.Error(t, err)
}
