package vfs_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs/faultfs"
)

// both runs a test on the real file system and on the one in memory: they must behave alike.
func both(t *testing.T, f func(t *testing.T, fsys vfs.FS, dir string)) {
	t.Run("os", func(t *testing.T) { f(t, vfs.OS{}, t.TempDir()) })
	t.Run("mem", func(t *testing.T) {
		m := faultfs.New()
		require.NoError(t, m.MkdirAll("/top"))
		f(t, m, "/top")
	})
}

func TestBehaviour(t *testing.T) {
	both(t, func(t *testing.T, fsys vfs.FS, dir string) {
		name := filepath.Join(dir, "a")
		require.NoError(t, vfs.WriteFile(fsys, name, []byte("hello")))
		_, err := fsys.Create(name)
		require.ErrorIs(t, err, fs.ErrExist)
		_, err = fsys.Open(filepath.Join(dir, "none"))
		require.ErrorIs(t, err, fs.ErrNotExist)
		_, err = fsys.Open(dir)
		require.ErrorContains(t, err, "not a regular file")
		_, err = vfs.ReadFile(fsys, name, 4)
		require.ErrorContains(t, err, "5 bytes")
		data, err := vfs.ReadFile(fsys, name, 5)
		require.NoError(t, err)
		require.Equal(t, "hello", string(data))

		deep := filepath.Join(dir, "x", "y")
		require.NoError(t, vfs.MkdirDurable(fsys, deep))
		require.NoError(t, vfs.MkdirDurable(fsys, deep))
		require.Error(t, vfs.MkdirDurable(fsys, filepath.Join(name, "sub")))
		require.NoError(t, vfs.WriteFile(fsys, filepath.Join(deep, "f"), nil))
		require.Error(t, fsys.Remove(deep))
		moved := filepath.Join(dir, "z")
		require.NoError(t, fsys.Rename(filepath.Join(dir, "x"), moved))
		info, err := fsys.Stat(filepath.Join(moved, "y", "f"))
		require.NoError(t, err)
		require.Zero(t, info.Size())
		entries, err := fsys.ReadDir(dir)
		require.NoError(t, err)
		require.Len(t, entries, 2)
		require.Equal(t, "a", entries[0].Name())
		require.True(t, entries[1].IsDir())
		require.NoError(t, fsys.RemoveAll(moved))
		require.NoError(t, fsys.RemoveAll(moved))
		require.ErrorIs(t, fsys.Remove(moved), fs.ErrNotExist)
		require.NoError(t, fsys.SyncDir(dir))
	})
}

func TestReadAt(t *testing.T) {
	both(t, func(t *testing.T, fsys vfs.FS, dir string) {
		name := filepath.Join(dir, "a")
		require.NoError(t, vfs.WriteAtomic(fsys, name, []byte("0123456789")))
		require.NoError(t, vfs.WriteAtomic(fsys, name, []byte("abcdef")))
		r, err := fsys.Open(name)
		require.NoError(t, err)
		require.EqualValues(t, 6, r.Size())
		p := make([]byte, 3)
		n, err := r.ReadAt(p, 2)
		require.NoError(t, err)
		require.Equal(t, "cde", string(p[:n]))
		n, err = r.ReadAt(p, 5)
		require.Error(t, err)
		require.Equal(t, 1, n)
		require.NoError(t, r.Close())
		_, err = r.ReadAt(p, 0)
		require.ErrorIs(t, err, fs.ErrClosed)
		require.ErrorIs(t, r.Close(), fs.ErrClosed)
	})
}

func TestWriteAtomicEveryFault(t *testing.T) {
	base := faultfs.New()
	require.NoError(t, base.MkdirAll("/d"))
	require.NoError(t, base.SyncDir("/"))
	require.NoError(t, vfs.WriteAtomic(base, "/d/f", []byte("old")))
	count := base.Clone()
	count.Arm(faultfs.Fault{})
	require.NoError(t, vfs.WriteAtomic(count, "/d/f", []byte("newer")))
	ran := 0
	for at := 1; at <= count.Ops(); at++ {
		for kind := faultfs.Crash; kind <= faultfs.ShortWrite; kind++ {
			for seed := range uint64(6) {
				disk := min(faultfs.Disk(seed), faultfs.Torn)
				m := base.Clone()
				m.Arm(faultfs.Fault{At: at, Kind: kind})
				err := vfs.WriteAtomic(m, "/d/f", []byte("newer"))
				m.Restart(disk, seed)
				data, rerr := vfs.ReadFile(m, "/d/f", 100)
				require.NoError(t, rerr)
				require.Contains(t, []string{"old", "newer"}, string(data), "op %d %v %v", at, kind, disk)
				if err == nil {
					require.Equal(t, "newer", string(data), "op %d %v %v", at, kind, disk)
				}
				ran++
			}
		}
	}
	t.Logf("%d faults over %d operations", ran, count.Ops())
}

func TestFaultfsDurability(t *testing.T) {
	for _, c := range []struct {
		disk faultfs.Disk
		want string
	}{{faultfs.Kept, "unsynced"}, {faultfs.Dropped, ""}} {
		m := faultfs.New()
		require.NoError(t, m.MkdirAll("/d"))
		f, err := m.Create("/d/f")
		require.NoError(t, err)
		_, err = f.Write([]byte("unsynced"))
		require.NoError(t, err)
		require.NoError(t, m.SyncDir("/"))
		require.NoError(t, m.SyncDir("/d"))
		m.Restart(c.disk, 0)
		data, err := vfs.ReadFile(m, "/d/f", 100)
		require.NoError(t, err)
		require.Equal(t, c.want, string(data))
	}
	m := faultfs.New()
	require.NoError(t, vfs.WriteFile(m, "/f", []byte("synced, but its entry is not")))
	m.Restart(faultfs.Dropped, 0)
	_, err := m.Stat("/f")
	require.ErrorIs(t, err, fs.ErrNotExist)
}

func TestFaultfsFailedSyncLosesData(t *testing.T) {
	m := faultfs.New()
	f, err := m.Create("/f")
	require.NoError(t, err)
	_, err = f.Write([]byte("x"))
	require.NoError(t, err)
	m.Arm(faultfs.Fault{At: 1, Kind: faultfs.IOError})
	require.Error(t, f.Sync())
	require.NoError(t, f.Sync())
	require.NoError(t, m.SyncDir("/"))
	m.Restart(faultfs.Dropped, 0)
	data, err := vfs.ReadFile(m, "/f", 10)
	require.NoError(t, err)
	require.Empty(t, data)
}

func TestFaultfsCrashAndSticky(t *testing.T) {
	m := faultfs.New()
	m.Arm(faultfs.Fault{At: 2, Kind: faultfs.NoSpace, Sticky: true})
	require.NoError(t, m.MkdirAll("/a"))
	require.Error(t, m.MkdirAll("/b"))
	require.Error(t, m.MkdirAll("/c"))
	require.Equal(t, []string{"mkdir /a", "mkdir /b", "mkdir /c"}, m.Log())
	m.Arm(faultfs.Fault{At: 1, Kind: faultfs.Crash})
	require.ErrorIs(t, m.MkdirAll("/b"), faultfs.ErrCrashed)
	require.True(t, m.Crashed())
	_, err := m.Stat("/a")
	require.ErrorIs(t, err, faultfs.ErrCrashed)
	m.Restart(faultfs.Kept, 0)
	_, err = m.Stat("/a")
	require.NoError(t, err)
	require.NotEmpty(t, fmt.Sprint(faultfs.Crash, faultfs.Torn))
}

func TestOSSpecials(t *testing.T) {
	dir := t.TempDir()
	n, err := vfs.OS{}.Free(dir)
	if !errors.Is(err, errors.ErrUnsupported) {
		require.NoError(t, err)
		require.Positive(t, n)
	}
	if runtime.GOOS == "windows" {
		t.Skip("symbolic links need a privilege on windows")
	}
	target := filepath.Join(dir, "target")
	require.NoError(t, vfs.WriteFile(vfs.OS{}, target, []byte("x")))
	require.NoError(t, os.Symlink(target, filepath.Join(dir, "link")))
	got, err := vfs.OS{}.Resolve(filepath.Join(dir, "link"))
	require.NoError(t, err)
	want, err := filepath.EvalSymlinks(target)
	require.NoError(t, err)
	require.Equal(t, want, got)
	_, err = vfs.OS{}.Open("/dev/null")
	require.ErrorContains(t, err, "not a regular file")
}
