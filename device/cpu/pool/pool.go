// Package pool runs numbered tasks on a fixed set of worker goroutines.
//
// Kernels split their work into tasks by the shape of the data, never by the number of workers, so a result does not depend on
// how many threads computed it. Workers claim tasks from one atomic word, spin briefly between jobs and then park: the steps of
// a plan follow each other within microseconds, and waking a parked goroutine costs more than a small kernel.
package pool

import (
	"fmt"
	"math"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
)

// Spinning is counted in rounds of a short busy loop; between rounds the scheduler may run other goroutines. The totals are
// some 20 µs on a 3 GHz core.
const (
	spinRounds = 40
	spinLoads  = 250
)

// Pool is a set of workers. One job runs on the workers at a time; Run may be called from any goroutine, also from within a
// task, and a call that finds the workers busy does its tasks on the calling goroutine. A nil *Pool is valid and has one thread.
type Pool struct {
	threads int
	busy    sync.Mutex // held while a job owns the fields below

	// job packs a generation number (upper half) and the count of unclaimed tasks (lower half). Claiming a task is one
	// compare-and-swap on both, so a worker that wakes late can never claim from a job it did not look at.
	job     atomic.Uint64
	n       int
	f       func(worker, task int)
	pending atomic.Int64 // tasks not yet finished

	waiting atomic.Bool   // the caller is parked, or about to be
	done    chan struct{} // wakes the caller
	parked  atomic.Int64  // workers that need a token from wake
	wake    chan struct{}
	closed  atomic.Bool
	exited  sync.WaitGroup

	failMu sync.Mutex
	fail   *PanicError // of the lowest task that panicked
}

// PanicError is what Run returns when a task panicked.
type PanicError struct {
	Task  int    // the lowest task that panicked
	Value any    // what it panicked with
	Stack []byte // where
}

// Error names the task and the panic's value; the stack is in Stack.
func (e *PanicError) Error() string { return fmt.Sprintf("task %d panicked: %v", e.Task, e.Value) }

// Unwrap returns the panic's value if it was an error.
func (e *PanicError) Unwrap() error {
	err, _ := e.Value.(error)
	return err
}

// New starts a pool of the given number of threads, counting the goroutine that calls Run; zero or less means GOMAXPROCS. Close
// ends the workers.
func New(threads int) *Pool {
	if threads <= 0 {
		threads = runtime.GOMAXPROCS(0)
	}
	p := &Pool{threads: threads, done: make(chan struct{}, 1), wake: make(chan struct{}, threads)}
	for w := 1; w < threads; w++ {
		p.exited.Add(1)
		go p.work(w)
	}
	return p
}

// Threads is how many goroutines may run tasks at once.
func (p *Pool) Threads() int {
	if p == nil {
		return 1
	}
	return p.threads
}

// Run calls f(0) ... f(n-1), each once, in any order and in parallel, and returns when all have returned. If tasks panic, the
// others still run and the error is the *PanicError of the lowest one. f must not call runtime.Goexit.
func (p *Pool) Run(n int, f func(task int)) error {
	return p.RunWorker(n, func(_, task int) { f(task) })
}

// RunWorker is Run for tasks that need scratch memory of their own: worker is in [0, Threads()), and no two tasks of this call
// that run at the same time have the same worker. It does not allocate.
func (p *Pool) RunWorker(n int, f func(worker, task int)) error {
	if n > math.MaxInt32 {
		return fmt.Errorf("pool: %d tasks in one call, the limit is %d; use larger tasks", n, math.MaxInt32)
	}
	if p == nil || p.threads == 1 || n <= 1 || p.closed.Load() || !p.busy.TryLock() {
		return inline(n, f)
	}
	defer p.busy.Unlock()
	p.n, p.f, p.fail = n, f, nil
	p.pending.Store(int64(n))
	p.job.Store((p.job.Load()>>32+1)<<32 | uint64(n))
	for range min(n-1, p.threads-1) {
		if !p.unpark() {
			break
		}
		p.wake <- struct{}{}
	}
	p.drain(0)
	p.await()
	p.f = nil
	if p.fail != nil {
		return p.fail
	}
	return nil
}

// Close ends the workers once a running job is over. Later calls of Run use the calling goroutine alone. It must not be called
// from within a task.
func (p *Pool) Close() {
	if p == nil || p.closed.Swap(true) {
		return
	}
	p.busy.Lock()
	defer p.busy.Unlock()
	close(p.wake)
	p.exited.Wait()
}

func inline(n int, f func(worker, task int)) error {
	var first *PanicError
	for task := range n {
		if e := protect(f, 0, task); e != nil && first == nil {
			first = e
		}
	}
	if first != nil {
		return first
	}
	return nil
}

// protect calls f and turns a panic into an error.
func protect(f func(worker, task int), worker, task int) (e *PanicError) {
	defer func() {
		if v := recover(); v != nil {
			e = &PanicError{Task: task, Value: v, Stack: debug.Stack()}
		}
	}()
	f(worker, task)
	return nil
}

// drain runs tasks of the present job until none is unclaimed.
func (p *Pool) drain(worker int) {
	for {
		w := p.job.Load()
		left := w & math.MaxUint32
		if left == 0 {
			return
		}
		if !p.job.CompareAndSwap(w, w-1) {
			continue
		}
		// n and f cannot change while a claimed task is unfinished.
		task := p.n - int(left)
		if e := protect(p.f, worker, task); e != nil {
			p.record(e)
		}
		if p.pending.Add(-1) == 0 && p.waiting.Swap(false) {
			select {
			case p.done <- struct{}{}:
			default:
			}
		}
	}
}

func (p *Pool) record(e *PanicError) {
	p.failMu.Lock()
	defer p.failMu.Unlock()
	if p.fail == nil || e.Task < p.fail.Task {
		p.fail = e
	}
}

// await returns when no task is pending. A token in done may be left over from an earlier job, hence the loop.
func (p *Pool) await() {
	if p.spin(func() bool { return p.pending.Load() == 0 }) {
		return
	}
	for {
		p.waiting.Store(true)
		if p.pending.Load() == 0 {
			p.waiting.Store(false)
			return
		}
		<-p.done
	}
}

func (p *Pool) work(worker int) {
	defer p.exited.Done()
	ready := func() bool { return p.job.Load()&math.MaxUint32 != 0 || p.closed.Load() }
	for {
		p.drain(worker)
		if p.spin(ready) && !p.closed.Load() {
			continue
		}
		p.parked.Add(1)
		// Work published before parked was raised brings no token; work published after it does.
		if ready() && p.unpark() {
			if p.closed.Load() {
				return
			}
			continue
		}
		if _, open := <-p.wake; !open {
			return
		}
	}
}

// unpark takes one worker off the parked count; whoever does so owes that worker a token, or is that worker.
func (p *Pool) unpark() bool {
	for {
		k := p.parked.Load()
		if k == 0 {
			return false
		}
		if p.parked.CompareAndSwap(k, k-1) {
			return true
		}
	}
}

// spin polls ready for a short while and reports whether it came true.
func (p *Pool) spin(ready func() bool) bool {
	for range spinRounds {
		for range spinLoads {
			if ready() {
				return true
			}
		}
		runtime.Gosched()
	}
	return false
}
