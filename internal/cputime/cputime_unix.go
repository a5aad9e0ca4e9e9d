//go:build unix && !linux

package cputime

import (
	"time"

	"golang.org/x/sys/unix"
)

func process() (time.Duration, bool) {
	var u unix.Rusage
	err := unix.Getrusage(unix.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), err == nil
}

func thread() (time.Duration, bool) { return 0, false }
