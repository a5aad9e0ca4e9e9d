package cpu

import (
	"math"
	"os"
	"runtime"
)

// defaultThreads is how many workers a device has unasked: GOMAXPROCS, which counts the processors that this process may run on, but
// no more than its control groups allow. Go itself rounds their limit up and never below two, and two workers that share the time
// of one processor wait for each other. A GOMAXPROCS in the environment is taken at its word.
func defaultThreads() int {
	n := runtime.GOMAXPROCS(0)
	if os.Getenv("GOMAXPROCS") != "" {
		return n
	}
	return threadsUnder(n, cpuLimit("/"))
}

// threadsUnder is the number of workers for n processors and a limit on their time. It is rounded to the nearest: at 1.25 processors a
// second worker would mostly be held back, at 1.5 it pays.
func threadsUnder(n int, limit float64) int {
	return max(min(n, int(math.Round(min(limit, math.MaxInt32)))), 1)
}
