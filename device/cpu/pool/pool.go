// Package pool runs numbered tasks on a fixed set of worker goroutines.
//
// Kernels split their work into tasks by the shape of the data, never by the number of workers, so a result does not depend on
// how many threads computed it. Workers claim tasks from one atomic word, spin briefly between jobs and then park: the steps of
// a plan follow each other within microseconds, and waking a parked worker costs more than a small kernel. A parked worker uses no
// processor time.
package pool

import (
	"fmt"
	"math"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
)

// Pool is a set of workers. One job runs on the workers at a time; Run may be called from any goroutine, also from within a
// task, and a call that finds the workers busy does its tasks on the calling goroutine. A nil *Pool is valid and has one thread.
type Pool struct {
	threads int
	spin    spinner
	busy    sync.Mutex // held while a job owns the fields below
	tasks

	_ line
	// job packs a generation number (upper half) and the count of unclaimed tasks (lower half). Claiming a task is one
	// compare-and-swap on both, so a worker that wakes late can never claim from a job it did not look at.
	job atomic.Uint64
	_   line

	pending atomic.Int64 // tasks not yet finished
	_       line

	waiting atomic.Bool // the caller is parked, or about to be
	done    semaphore   // wakes the caller
	parked  atomic.Int64
	wake    semaphore // a token for each worker taken off parked
	closed  atomic.Bool
	exited  sync.WaitGroup
	meter   atomic.Pointer[Meter]

	failMu sync.Mutex
	fail   *PanicError // of the lowest task that panicked
}

// line keeps what different threads write in different cache lines, and in different pairs of them.
type line [128]byte

// tasks is what a job does: f(0) ... f(n-1), or g with the worker as well.
type tasks struct {
	n int
	f func(task int)
	g func(worker, task int)

	meter *Meter // nil: nobody wants to know
}

func (t *tasks) run(worker, task int) {
	if t.meter != nil && worker > 0 {
		t.measured(worker, task)
		return
	}
	t.call(worker, task)
}

// measured is call for a worker, by a meter.
func (t *tasks) measured(worker, task int) {
	began := time.Now()
	t.call(worker, task)
	t.meter.since(began, 1)
}

func (t *tasks) call(worker, task int) {
	if t.g != nil {
		t.g(worker, task)
	} else {
		t.f(task)
	}
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
	p := &Pool{threads: threads, spin: spinFor(threads)}
	p.done.init(1)
	p.wake.init(threads)
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
// others still run and the error is the *PanicError of the lowest one. f must not call runtime.Goexit. It does not allocate.
func (p *Pool) Run(n int, f func(task int)) error { return p.start(tasks{n: n, f: f}) }

// RunWorker is Run for tasks that need scratch memory of their own: worker is in [0, Threads()), and no two tasks of this call
// that run at the same time have the same worker.
func (p *Pool) RunWorker(n int, f func(worker, task int)) error { return p.start(tasks{n: n, g: f}) }

func (p *Pool) start(t tasks) error {
	if t.n > math.MaxInt32 {
		return fmt.Errorf("pool: %d tasks in one call, the limit is %d; use larger tasks", t.n, math.MaxInt32)
	}
	if p == nil || p.threads == 1 || t.n <= 1 || p.closed.Load() || !p.busy.TryLock() {
		return inline(t)
	}
	t.meter = p.meter.Load()
	p.tasks, p.fail = t, nil
	p.pending.Store(int64(t.n))
	p.job.Store((p.job.Load()>>32+1)<<32 | uint64(t.n))
	for range min(t.n, p.threads) - 1 {
		if !p.unpark() {
			break
		}
		p.wake.release()
	}
	p.drain(0)
	if t.meter != nil {
		began := time.Now()
		p.await()
		t.meter.since(began, -1)
	} else {
		p.await()
	}
	p.tasks = tasks{}
	fail := p.fail
	p.busy.Unlock()
	if fail != nil {
		return fail
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
	for range p.threads {
		p.wake.release()
	}
	p.exited.Wait()
}

// inline runs all tasks on the calling goroutine.
func inline(t tasks) error {
	var first *PanicError
	for next := 0; next < t.n; {
		e := t.runFrom(&next)
		if e != nil && first == nil {
			first = e
		}
	}
	if first != nil {
		return first
	}
	return nil
}

// runFrom runs the tasks from *next on until one panics. *next is left after the last that ran.
func (t *tasks) runFrom(next *int) (e *PanicError) {
	defer func() {
		if v := recover(); v != nil {
			e = &PanicError{Task: *next - 1, Value: v, Stack: debug.Stack()}
		}
	}()
	for *next < t.n {
		*next++
		t.run(0, *next-1)
	}
	return nil
}

// drain runs tasks of the present job until none is unclaimed.
func (p *Pool) drain(worker int) {
	for p.claim(worker) {
	}
}

// claim runs tasks until none is unclaimed, and returns false, or until one panics.
func (p *Pool) claim(worker int) (more bool) {
	task := -1
	defer func() {
		if task >= 0 {
			p.record(&PanicError{Task: task, Value: recover(), Stack: debug.Stack()})
			p.finish()
			more = true
		}
	}()
	for {
		w := p.job.Load()
		left := w & math.MaxUint32
		if left == 0 {
			return false
		}
		if !p.job.CompareAndSwap(w, w-1) {
			continue
		}
		// The tasks cannot change while a claimed one is unfinished.
		task = p.n - int(left)
		p.run(worker, task)
		task = -1
		p.finish()
	}
}

// finish counts a task as done and wakes the caller after the last.
func (p *Pool) finish() {
	if p.pending.Add(-1) == 0 && p.waiting.Swap(false) {
		p.done.release()
	}
}

func (p *Pool) record(e *PanicError) {
	p.failMu.Lock()
	defer p.failMu.Unlock()
	if p.fail == nil || e.Task < p.fail.Task {
		p.fail = e
	}
}

// await returns when no task is pending.
func (p *Pool) await() {
	finished := func() bool { return p.pending.Load() == 0 }
	if p.spin.until(finished) {
		return
	}
	// Whoever turns waiting back into false decides: the caller, or a worker, which then owes a token. That worker need not be the last of
	// this job: one that finished an earlier job, and was put aside before it looked at waiting, wakes the caller too early.
	for !finished() {
		p.waiting.Store(true)
		if finished() && p.waiting.Swap(false) {
			return
		}
		p.done.acquire()
	}
}

func (p *Pool) work(worker int) {
	defer p.exited.Done()
	ready := func() bool { return p.job.Load()&math.MaxUint32 != 0 || p.closed.Load() }
	for !p.closed.Load() {
		p.drain(worker)
		if p.spin.until(ready) {
			continue
		}
		p.parked.Add(1)
		// Work published before parked was raised brings no token; work published after it does.
		if ready() && p.unpark() {
			continue
		}
		p.wake.acquire()
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
