package pool

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestMeter: two tasks that sleep side by side keep two threads busy, one task one thread; without a meter nothing is counted.
func TestMeter(t *testing.T) {
	p := New(2)
	defer p.Close()
	var m Meter
	const long = 20 * time.Millisecond
	job := func(tasks int) (passed, busy time.Duration) {
		began, extra := time.Now(), m.Extra()
		require.NoError(t, p.Run(tasks, func(int) { time.Sleep(long) }))
		passed = time.Since(began)
		return passed, passed + m.Extra() - extra
	}
	passed, busy := job(2)
	require.Equal(t, passed, busy, "nobody measures")
	p.Measure(&m)
	passed, busy = job(2)
	require.GreaterOrEqual(t, busy, 2*long)
	require.LessOrEqual(t, busy, 2*passed)
	passed, busy = job(1)
	require.Equal(t, passed, busy)
	passed, busy = job(3)
	require.GreaterOrEqual(t, busy, 3*long)
	require.LessOrEqual(t, busy, 2*passed, "the caller waits for the third task, or a worker for the caller")
	p.Measure(nil)
	passed, busy = job(2)
	require.Equal(t, passed, busy)
	require.Zero(t, testing.AllocsPerRun(10, func() { _ = p.Run(4, func(int) {}) }))
	(*Pool)(nil).Measure(&m)
}
