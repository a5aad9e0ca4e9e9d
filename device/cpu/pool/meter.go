package pool

import (
	"sync/atomic"
	"time"
)

// Meter measures how much the workers of a pool have to do. It takes two readings of the clock a task.
type Meter struct{ extra atomic.Int64 }

// Extra is the time that workers have worked beside the callers of Run, less what callers have waited for them. Added to the time that
// passed for a caller it is the time that threads worked for it.
func (m *Meter) Extra() time.Duration { return time.Duration(m.extra.Load()) }

func (m *Meter) since(began time.Time, sign time.Duration) {
	m.extra.Add(int64(sign * time.Since(began)))
}

// Measure has later jobs counted by a meter, by none if it is nil.
func (p *Pool) Measure(m *Meter) {
	if p != nil {
		p.meter.Store(m)
	}
}
