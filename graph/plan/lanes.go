package plan

import (
	"errors"
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph"
)

// numLanes is how many lanes there are. A lane's number is that of its stream.
const numLanes = int(graph.Copy) + 1

// access is bytes that a step reads or writes.
type access struct {
	in     int // which memory: spaceArena, spaceHost, or a root
	lo, hi int64
	writes bool
}

const (
	spaceArena = -1
	spaceHost  = -2
)

// waits finds out which steps of other lanes each step must wait for: the last one of each lane before it that touches the same bytes, if
// one of the two writes them. It looks at addresses, so that it holds whatever lifetimes the layout was made for. The steps of a lane
// run in order, and what a lane has waited for once it need not wait for again.
func (p *Plan) waits() {
	var byLane [numLanes][]int
	for i := range p.steps {
		byLane[p.steps[i].lane] = append(byLane[p.steps[i].lane], i)
	}
	if len(byLane[graph.Compute]) == len(p.steps) {
		return
	}
	p.apart = true
	touched := make([][]access, len(p.steps))
	for i := range p.steps {
		touched[i] = p.touches(&p.steps[i])
	}
	var known [numLanes][numLanes]int // by waiting lane and lane: steps before this one are done
	var next [numLanes]int            // by lane: how many of its steps stand before the present one
	for i := range p.steps {
		lane := p.steps[i].lane
		for other, list := range byLane {
			if graph.Lane(other) == lane {
				continue
			}
			for k := next[other] - 1; k >= 0 && list[k] >= known[lane][other]; k-- {
				if conflict(touched[i], touched[list[k]]) {
					p.wait(i, list[k])
					known[lane][other] = list[k] + 1
					break
				}
			}
		}
		next[lane]++
	}
	for other, list := range byLane {
		if n := len(list); graph.Lane(other) != graph.Compute && n > 0 && list[n-1] >= known[graph.Compute][other] {
			p.last = append(p.last, list[n-1])
			p.steps[list[n-1]].awaited = true
		}
	}
}

func (p *Plan) wait(later, earlier int) {
	p.steps[later].waits = append(p.steps[later].waits, earlier)
	p.steps[earlier].awaited = true
}

// touches lists what a step reads and writes.
func (p *Plan) touches(st *step) (out []access) {
	add := func(at place, n int64, writes bool) {
		if at.root < 0 || n == 0 {
			return
		}
		i := p.owner(at.root)
		r := &p.roots[i]
		a := access{i, at.off, at.off + n, writes}
		switch r.kind {
		case inConst:
			return
		case inArena:
			a = access{spaceArena, r.offset + at.off, r.offset + at.off + n, writes}
		case inHost:
			a = access{spaceHost, r.offset + at.off, r.offset + at.off + n, writes}
		}
		out = append(out, a)
	}
	if st.kernel == nil {
		add(st.in[0], st.bytes, false)
		add(st.out[0], st.bytes, true)
		return out
	}
	for j, at := range st.in {
		add(at, st.node.In[j].Type().Bytes(), false)
	}
	for j, at := range st.out {
		add(at, st.node.Out[j].Bytes(), true)
	}
	add(st.scratch, st.kernel.Scratch(), true)
	return out
}

func conflict(a, b []access) bool {
	for _, x := range a {
		for _, y := range b {
			if x.in == y.in && (x.writes || y.writes) && x.lo < y.hi && y.lo < x.hi {
				return true
			}
		}
	}
	return false
}

// queues are the streams that a run is enqueued on.
type queues struct {
	p       *Plan
	main    device.Stream
	streams [numLanes]device.Stream // nil: everything is done in order on main
	events  []device.Event          // by step
}

// fork begins a run on main. Where steps are looked at or waited for one by one, and where the device has one lane, all of it runs on main, in the order of
// the steps.
func (p *Plan) fork(main device.Stream, way Launching) (*queues, error) {
	q := &queues{p: p, main: main}
	par, ok := p.dev.(device.Parallel)
	if !p.apart || !ok || par.Lanes() < 2 || way == Synced || p.opts.Check || p.opts.Probe != nil {
		return q, nil
	}
	q.events = make([]device.Event, len(p.steps))
	q.streams[graph.Compute] = main
	begin := main.Record()
	for i := range p.steps {
		lane := p.steps[i].lane
		if q.streams[lane] != nil {
			continue
		}
		if q.streams[lane] = main; int(lane) < par.Lanes() {
			q.streams[lane] = p.dev.Stream(int(lane))
			if err := q.streams[lane].Wait(begin); err != nil {
				return nil, fmt.Errorf("plan %q: the queue for %s: %w", p.g.Name(), laneNames[lane], err)
			}
		}
	}
	return q, nil
}

var laneNames = [numLanes]string{"arithmetic", "collectives", "copies"}

// enter returns the stream of step i, which has been told to wait for what must come before.
func (q *queues) enter(i int) (device.Stream, error) {
	if q.events == nil {
		return q.main, nil
	}
	st := &q.p.steps[i]
	s := q.streams[st.lane]
	for _, w := range st.waits {
		if q.streams[q.p.steps[w].lane] == s {
			continue
		}
		if err := s.Wait(q.events[w]); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// leave marks the end of step i for those that wait for it.
func (q *queues) leave(i int) {
	if q.events != nil && q.p.steps[i].awaited {
		q.events[i] = q.streams[q.p.steps[i].lane].Record()
	}
}

// join makes main wait for what the other lanes still do. After a failed launch that is all they were given.
func (q *queues) join(failed bool) error {
	if q.events == nil {
		return nil
	}
	var errs []error
	if failed {
		for lane, s := range q.streams {
			if s != nil && graph.Lane(lane) != graph.Compute {
				errs = append(errs, q.main.Wait(s.Record()))
			}
		}
		return errors.Join(errs...)
	}
	for _, i := range q.p.last {
		errs = append(errs, q.main.Wait(q.events[i]))
	}
	return errors.Join(errs...)
}
