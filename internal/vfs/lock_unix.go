//go:build linux || darwin

package vfs

import (
	"errors"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

func lock(dir string) (unlock func() error, err error) {
	for {
		f, err := os.Open(dir)
		if err != nil {
			return nil, err
		}
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, errors.Join(&fs.PathError{Op: "lock", Path: dir, Err: ErrLocked}, f.Close())
		}
		// Any other error: there is no lock to take here.
		if stands(f, dir) {
			return f.Close, nil
		}
		if err := f.Close(); err != nil {
			return nil, err
		}
	}
}

// stands reports whether a folder has not been removed, and perhaps made anew, since it was opened: the lock of one that was is nobody else's.
func stands(f *os.File, dir string) bool {
	opened, err := f.Stat()
	if err != nil {
		return true
	}
	now, err := os.Stat(dir)
	return err == nil && os.SameFile(opened, now)
}
