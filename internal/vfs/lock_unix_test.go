//go:build linux || darwin

package vfs_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
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

// TestLockRemoved: a folder that its owner removes is not locked by who had opened it before, but stays free for who makes it anew.
func TestLockRemoved(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 500 {
				if err := os.Mkdir(dir, 0o777); err != nil && !assert.ErrorIs(t, err, fs.ErrExist) {
					return
				}
				unlock, err := vfs.Lock(dir)
				if err != nil { // another has it, or just removed it
					continue
				}
				_, err = os.Stat(dir)
				if !assert.NoError(t, errors.Join(err, os.Remove(dir), unlock()), "only its owner removes it") {
					return
				}
			}
		})
	}
	all.Wait()
}
