package pool

import (
	"errors"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/internal/cputime"
)

func TestRunsEachTaskOnce(t *testing.T) {
	for _, threads := range []int{0, 1, 2, 3, 8} {
		p := New(threads)
		for _, n := range []int{-1, 0, 1, 2, 3, 17, 1000} {
			counts := make([]atomic.Int32, max(n, 0))
			require.NoError(t, p.Run(n, func(i int) { counts[i].Add(1) }))
			for i := range counts {
				require.EqualValues(t, 1, counts[i].Load(), "threads %d n %d task %d", threads, n, i)
			}
		}
		p.Close()
		p.Close()
	}
}

func TestNilAndClosedRunInline(t *testing.T) {
	var none *Pool
	require.Equal(t, 1, none.Threads())
	none.Close()
	closed := New(2)
	closed.Close()
	for _, p := range []*Pool{none, closed} {
		sum := 0
		require.NoError(t, p.Run(5, func(i int) { sum += i }))
		require.Equal(t, 10, sum)
	}
}

func TestWorkersAreDistinct(t *testing.T) {
	p := New(4)
	defer p.Close()
	var in [4]atomic.Int32
	for range 200 {
		require.NoError(t, p.RunWorker(16, func(w, _ int) {
			if in[w].Add(1) != 1 {
				panic("two tasks share a worker")
			}
			in[w].Add(-1)
		}))
	}
}

func TestNested(t *testing.T) {
	p := New(3)
	defer p.Close()
	var total atomic.Int64
	require.NoError(t, p.Run(8, func(int) {
		if err := p.Run(8, func(int) { total.Add(1) }); err != nil {
			panic(err)
		}
	}))
	require.EqualValues(t, 64, total.Load())
}

func TestPanicBecomesError(t *testing.T) {
	cause := errors.New("cause")
	for _, threads := range []int{1, 4} {
		p := New(threads)
		var ran atomic.Int32
		err := p.Run(20, func(i int) {
			ran.Add(1)
			if i >= 7 {
				panic(cause)
			}
		})
		var pe *PanicError
		require.ErrorAs(t, err, &pe)
		require.Equal(t, 7, pe.Task)
		require.Contains(t, string(pe.Stack), "pool_test")
		require.ErrorIs(t, err, cause)
		require.EqualError(t, err, "task 7 panicked: cause")
		require.EqualValues(t, 20, ran.Load())
		require.NoError(t, p.Run(20, func(int) {}))
		p.Close()
	}
}

func TestConcurrentCallers(t *testing.T) {
	p := New(3)
	defer p.Close()
	var total atomic.Int64
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 200 {
				if err := p.Run(5, func(int) { total.Add(1) }); err != nil {
					panic(err)
				}
			}
		})
	}
	wg.Wait()
	require.EqualValues(t, 4*200*5, total.Load())
}

// TestParkedWorkersWake leaves the workers time to park between jobs, and the caller time to park within one.
func TestParkedWorkersWake(t *testing.T) {
	p := New(2)
	defer p.Close()
	for range 5 {
		time.Sleep(2 * time.Millisecond)
		var both sync.WaitGroup
		both.Add(2)
		require.NoError(t, p.Run(2, func(i int) {
			both.Done()
			both.Wait() // returns only if two goroutines take part
			time.Sleep(time.Duration(i) * time.Millisecond)
		}))
	}
}

// TestLateFinisher: a worker that ended an earlier job, and was put aside before it looked whether the caller sleeps, does not end the
// present job early.
func TestLateFinisher(t *testing.T) {
	p := New(2)
	defer p.Close()
	var ended atomic.Int32
	hold, claimed := make(chan struct{}), make(chan struct{})
	returned := make(chan error)
	go func() {
		caller := false
		returned <- p.RunWorker(2, func(worker, _ int) {
			if worker == 0 && !caller {
				caller = true
				<-claimed // the worker has the other task
				return
			}
			close(claimed)
			<-hold
			ended.Add(1)
		})
	}()
	<-claimed
	for !p.waiting.Load() {
		runtime.Gosched()
	}
	if p.waiting.Swap(false) { // what finish does after the last task of its job
		p.done.release()
	}
	select {
	case <-returned:
		close(hold)
		t.Fatal("Run returned while a task was running")
	case <-time.After(50 * time.Millisecond):
		close(hold)
	}
	require.NoError(t, <-returned)
	require.EqualValues(t, 1, ended.Load())
}

func TestRefusesTooManyTasks(t *testing.T) {
	var p *Pool
	require.ErrorContains(t, p.Run(1<<40, func(int) {}), "limit")
}

func TestRunDoesNotAllocate(t *testing.T) {
	for _, threads := range []int{1, 2} {
		p := New(threads)
		defer p.Close()
		f, g := func(int) {}, func(int, int) {}
		require.Zero(t, testing.AllocsPerRun(100, func() { _, _ = p.Run(4, f), p.RunWorker(4, g) }))
	}
}

// TestMoreThreadsThanProcessors holds when workers must take turns, as in a process that is confined to one core.
func TestMoreThreadsThanProcessors(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	p := New(3)
	defer p.Close()
	require.Equal(t, 1, p.spin.pauses, "a thread that polls would keep the others from the processor")
	for range 20 {
		var all sync.WaitGroup
		all.Add(3)
		require.NoError(t, p.Run(3, func(int) {
			all.Done()
			all.Wait()
		}))
	}
}

// TestIdleWorkersUseNoTime: after a job workers poll for a moment, then they sleep.
func TestIdleWorkersUseNoTime(t *testing.T) {
	if _, ok := cputime.Process(); !ok {
		t.Skip("the system does not tell processor time")
	}
	p := New(4)
	defer p.Close()
	least := time.Hour
	for range 3 { // the test binary has goroutines of its own
		require.NoError(t, p.Run(8, func(int) {}))
		time.Sleep(5 * time.Millisecond)
		used := cputime.Clock(cputime.Process)
		time.Sleep(100 * time.Millisecond)
		least = min(least, used())
	}
	t.Logf("%v of processor time in 100 ms", least)
	require.Less(t, least, 5*time.Millisecond)
}

// BenchmarkRun is a job of two empty tasks, with workers that poll.
func BenchmarkRun(b *testing.B) {
	p := New(2)
	defer p.Close()
	f := func(int, int) {}
	for b.Loop() {
		_ = p.RunWorker(2, f)
	}
}

// BenchmarkWake is the time until a worker takes part in a job, by the time that the caller worked alone before: the worker still
// polls, or has parked.
func BenchmarkWake(b *testing.B) {
	for _, alone := range []time.Duration{20 * time.Microsecond, time.Millisecond} {
		b.Run(alone.String(), func(b *testing.B) {
			p := New(2)
			defer p.Close()
			var took []time.Duration
			for b.Loop() {
				for start := time.Now(); time.Since(start) < alone; {
				}
				start := time.Now()
				var joined atomic.Int64
				_ = p.RunWorker(2, func(worker, _ int) {
					if worker == 1 {
						joined.Store(int64(time.Since(start)))
					}
					for joined.Load() == 0 && time.Since(start) < time.Millisecond {
					}
				})
				if at := joined.Load(); at > 0 {
					took = append(took, time.Duration(at))
				}
			}
			if len(took) > 0 {
				slices.Sort(took)
				b.ReportMetric(float64(took[len(took)/2].Nanoseconds()), "median-ns")
			}
		})
	}
}
