package cputime

import (
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestClock: work counts, sleep does not.
func TestClock(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for name, used := range map[string]func() (time.Duration, bool){"process": Process, "thread": Thread} {
		if _, ok := used(); !ok {
			t.Logf("the system does not tell the time of a %s", name)
			continue
		}
		asleep := time.Hour
		for range 3 { // the process has threads of its own
			now := Clock(used)
			time.Sleep(50 * time.Millisecond)
			asleep = min(asleep, now())
		}
		require.Less(t, asleep, 40*time.Millisecond, name)
		for began, now := time.Now(), Clock(used); now() < 10*time.Millisecond; {
			require.Less(t, time.Since(began), time.Minute, "%s: work is counted", name)
		}
	}
	began := time.Now()
	now := Clock(func() (time.Duration, bool) { return 0, false })
	time.Sleep(time.Millisecond)
	require.LessOrEqual(t, now(), time.Since(began))
	require.GreaterOrEqual(t, now(), time.Millisecond)
}
