// Package cputime tells how much time on a processor was used. Limits and ratios that are stated in it hold on a machine that others use too:
// waiting for one's turn does not count.
package cputime

import "time"

// Process is what the process has used so far, all threads together, in its own code and in the system's. ok is false where the
// system does not tell.
func Process() (used time.Duration, ok bool) { return process() }

// Thread is what the calling thread has used so far: the goroutine must be locked to it. ok is false where the system does not tell.
func Thread() (used time.Duration, ok bool) { return thread() }

// Clock returns what tells the time that Process or Thread has counted since the call of Clock; the time that passed, where the system
// does not tell.
func Clock(used func() (time.Duration, bool)) func() time.Duration {
	if began, ok := used(); ok {
		return func() time.Duration {
			now, _ := used()
			return now - began
		}
	}
	began := time.Now()
	return func() time.Duration { return time.Since(began) }
}
