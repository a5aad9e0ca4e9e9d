package pool

import (
	"runtime"
	"sync"
	"time"
)

const (
	// spinTime is how long a thread polls before it parks. A parked thread starts 30 µs or more after it is woken (measured on a
	// virtual machine), and the kernels of a step that run on one core alone take tens of microseconds.
	spinTime = 100 * time.Microsecond

	// pauses is how many pauses make a round; after a round the scheduler may run other goroutines.
	pauses = 64
)

// spinner is how a thread waits before it parks: so many rounds of so many pauses.
type spinner struct{ rounds, pauses int }

// spinFor returns how the threads of a pool wait. With fewer processors than threads, what one waits for may need the processor that it
// has, so it lets others run a few times and then parks.
func spinFor(threads int) spinner {
	if runtime.GOMAXPROCS(0) < threads {
		return spinner{4, 1}
	}
	return spinner{max(int(spinTime/(pauses*pauseTime())), 1), pauses}
}

// pauseTime is the length of one pause: from 4 ns on some processors to 50 on others. The shortest of a few measurements counts, as
// the system may take the processor away during one.
var pauseTime = sync.OnceValue(func() time.Duration {
	least := time.Hour
	for range 5 {
		start := time.Now()
		for range pauses {
			pause()
		}
		least = min(least, time.Since(start))
	}
	return max(least/pauses, 1)
})

// until polls ready for a short while and reports whether it came true.
func (s spinner) until(ready func() bool) bool {
	for range s.rounds {
		for range s.pauses {
			if ready() {
				return true
			}
			pause()
		}
		runtime.Gosched()
	}
	return false
}
