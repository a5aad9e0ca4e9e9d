package cputime

import (
	"time"

	"golang.org/x/sys/unix"
)

func process() (time.Duration, bool) { return of(unix.CLOCK_PROCESS_CPUTIME_ID) }

func thread() (time.Duration, bool) { return of(unix.CLOCK_THREAD_CPUTIME_ID) }

func of(clock int32) (time.Duration, bool) {
	var t unix.Timespec
	err := unix.ClockGettime(clock, &t)
	return time.Duration(t.Nano()), err == nil
}
