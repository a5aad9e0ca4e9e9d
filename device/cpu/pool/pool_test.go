package pool

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
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

func TestRefusesTooManyTasks(t *testing.T) {
	var p *Pool
	require.ErrorContains(t, p.Run(1<<40, func(int) {}), "limit")
}

func TestRunWorkerDoesNotAllocate(t *testing.T) {
	p := New(2)
	defer p.Close()
	f := func(int, int) {}
	require.Zero(t, testing.AllocsPerRun(100, func() { _ = p.RunWorker(4, f) }))
}

func BenchmarkRun(b *testing.B) {
	p := New(2)
	defer p.Close()
	f := func(int, int) {}
	for b.Loop() {
		_ = p.RunWorker(2, f)
	}
}
