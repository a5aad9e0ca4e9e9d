package probe

import (
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// together runs f on so many threads at once and returns the time from the first start to the last end.
func together(threads int, f func(t int)) time.Duration {
	var ready atomic.Int64
	var wait sync.WaitGroup
	began, ended := make([]time.Time, threads), make([]time.Time, threads)
	run := func(t int) {
		ready.Add(1)
		for ready.Load() < int64(threads) {
			runtime.Gosched()
		}
		began[t] = time.Now()
		f(t)
		ended[t] = time.Now()
	}
	for t := 1; t < threads; t++ {
		wait.Add(1)
		go func() {
			defer wait.Done()
			run(t)
		}()
	}
	run(0)
	wait.Wait()
	first, last := began[0], ended[0]
	for t := range began {
		if began[t].Before(first) {
			first = began[t]
		}
		if ended[t].After(last) {
			last = ended[t]
		}
	}
	return last.Sub(first)
}
