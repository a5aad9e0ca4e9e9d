package gemm

import (
	"fmt"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/bitsandbyes/bitsandbyes/device/cpu/pool"
)

// The threads of a team share a queue of tasks: for each block of the team's resident lanes, for each phase of K, the units of the other
// operand. Nobody waits between phases: a thread that finds a unit's earlier task unfinished, which is the last that another thread took, waits for
// that one. So there is one barrier a region: all of C, unless sums of a narrower C are kept in scratch. A thread whose own queue is empty takes from the others.

// worthwhile is how many tasks a queue has at least that a thread of another team takes from: it packs its resident operand first.
const worthwhile = 2

// spot is a block of resident lanes and some steps. Its epoch is that of the region and not zero.
type spot struct {
	epoch, lane, lanes, k0, kp int
}

// queue is the tasks of a team.
type queue struct {
	lo, hi int // its resident lanes
	taken  atomic.Int64
	tasks  int64
	_      [128]byte // what different threads write is in different lines
}

// run multiplies region by region.
func (j *blocks) run(p *pool.Pool) error {
	if j.m*j.n*j.k < inline {
		p = nil
	}
	for j.n0 = 0; j.n0 < j.n; j.n0 += j.regionN {
		j.nb = min(j.regionN, j.n-j.n0)
		for j.m0 = 0; j.m0 < j.m; j.m0 += j.regionM {
			j.mb = min(j.regionM, j.m-j.m0)
			if err := j.region(p); err != nil {
				return fmt.Errorf("gemm: reading an operand: %w", err)
			}
		}
	}
	return nil
}

func (j *blocks) region(p *pool.Pool) error {
	j.epoch++
	j.fill()
	if j.shared {
		return j.together(p)
	}
	j.failed.Store(false)
	return p.RunWorker(j.threads, j.loopFn)
}

// fill makes the queues of the present region.
func (j *blocks) fill() {
	lo, lanes, of := j.m0, j.mb, 1
	if !j.streamB {
		lo, lanes, of = j.n0, j.nb, j.nr
	}
	units := j.units()
	if len(j.queues) < j.teams {
		j.queues = make([]queue, j.teams)
	}
	if len(j.done) < j.teams*units {
		j.done = make([]atomic.Int32, j.teams*units)
	}
	for i := range j.teams * units {
		j.done[i].Store(0)
	}
	for t := range j.teams {
		q := &j.queues[t]
		q.lo, q.hi = lo+min(roundUp(lanes*t/j.teams, of), lanes), lo+min(roundUp(lanes*(t+1)/j.teams, of), lanes)
		q.taken.Store(0)
		q.tasks = int64(units * ceil(q.hi-q.lo, j.lanes) * ceil(j.k, j.phase))
	}
}

// units is how many parts the streaming lanes of the region have.
func (j *blocks) units() int {
	if j.streamB {
		return ceil(j.nb, j.unit)
	}
	return ceil(j.mb, j.unit)
}

// spotOf is where piece i of a queue is: its blocks follow each other, each with all phases of K.
func (j *blocks) spotOf(q *queue, i int) spot {
	phases := ceil(j.k, j.phase)
	lane, k := q.lo+i/phases*j.lanes, i%phases*j.phase
	return spot{j.epoch, lane, min(j.lanes, q.hi-lane), k, min(j.phase, j.k-k)}
}

// loop takes tasks until there are none.
func (j *blocks) loop(worker, task int) {
	home := task * j.teams / j.threads
	for j.take(worker, home) {
	}
	for i := 1; i < j.teams; i++ {
		away := (home + i) % j.teams
		if q := &j.queues[away]; q.tasks-q.taken.Load() >= worthwhile {
			for j.take(worker, away) {
			}
		}
	}
}

// take does a task of a queue, or reports that there is none.
func (j *blocks) take(worker, from int) bool {
	q := &j.queues[from]
	t := int(q.taken.Add(1)) - 1
	if t >= int(q.tasks) {
		return false
	}
	units := j.units()
	piece, unit := t/units, t%units
	done := &j.done[from*units+unit]
	if !j.await(done, piece) {
		return false
	}
	j.careful(worker, j.spotOf(q, piece), unit)
	done.Store(int32(piece + 1))
	return true
}

// careful is part, after whose panic nobody waits for what it would have done.
func (j *blocks) careful(worker int, s spot, unit int) {
	whole := false
	defer func() {
		if !whole {
			j.failed.Store(true)
		}
	}()
	j.part(worker, &s, unit)
	whole = true
}

// await returns once so many pieces of a unit are done. It reports false if one panicked.
func (j *blocks) await(done *atomic.Int32, pieces int) bool {
	for n := 0; int(done.Load()) < pieces; n++ {
		if j.failed.Load() {
			return false
		}
		if n < 1000 {
			runtime.Gosched()
		} else {
			time.Sleep(20 * time.Microsecond)
		}
	}
	return !j.failed.Load()
}

// together multiplies the region with a resident operand that all threads pack and share.
func (j *blocks) together(p *pool.Pool) error {
	for i := range int(j.queues[0].tasks) / j.units() {
		j.now = j.spotOf(&j.queues[0], i)
		if err := p.RunWorker(j.shares(), j.packFn); err != nil {
			return err
		}
		if err := p.RunWorker(j.units(), j.blockFn); err != nil {
			return err
		}
	}
	return nil
}

// shares is how many tasks pack the shared operand: some four strips each.
func (j *blocks) shares() int {
	if j.streamB {
		return ceil(ceil(j.now.lanes, j.mr), 4)
	}
	return ceil(j.now.lanes, group)
}

// packShare packs a part of the shared operand.
func (j *blocks) packShare(worker, task int) {
	lo, hi := task*group, min((task+1)*group, j.now.lanes)
	if j.streamB {
		lo, hi = j.stripAt(4*task), j.stripAt(4*task+4)
	}
	j.packResident(j.mem[j.resAt:], &j.now, lo, hi, j.temp(worker))
}

// stripAt is the first row of strip s of the block, or its end.
func (j *blocks) stripAt(s int) int {
	at := 0
	for ; s > 0 && at < j.now.lanes; s-- {
		at += j.rows(j.now.lanes - at)
	}
	return at
}

// partShared is part of the shared block.
func (j *blocks) partShared(worker, task int) { j.part(worker, &j.now, task) }
