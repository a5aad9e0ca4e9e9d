//go:build linux || darwin

package vfs

import (
	"io/fs"
	"math"

	"golang.org/x/sys/unix"
)

func freeSpace(name string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(name, &st); err != nil {
		return 0, &fs.PathError{Op: "statfs", Path: name, Err: err}
	}
	return int64(min(uint64(st.Bavail)*uint64(st.Bsize), math.MaxInt64)), nil
}
