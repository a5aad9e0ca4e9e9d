package plan

import (
	"fmt"
	"slices"
	"sort"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Saved is an intermediate of the forward phase that a later phase reads, which may wait in host memory in between.
type Saved struct {
	Node   *graph.Node // what computes it, as compiled
	Output int         // which of the node's
	Type   tensor.Type
	Phase  graph.Phase // of the launch that reads it first after the forward phase: Recompute where it is the input of a recomputed region
}

// Bytes is its size.
func (s Saved) Bytes() int64 { return s.Type.Bytes() }

// MoveInputs chooses the inputs of recomputed regions.
func MoveInputs(saved []Saved) []bool {
	return chooseLarge(saved, func(s Saved) bool { return s.Phase == graph.Recompute })
}

// MoveSaved chooses all that the backward sweep needs.
func MoveSaved(saved []Saved) []bool { return chooseLarge(saved, func(Saved) bool { return true }) }

// smallMove is the part of the largest value that is moved below which another is not worth its two launches.
const smallMove = 16

func chooseLarge(saved []Saved, wanted func(Saved) bool) []bool {
	out := make([]bool, len(saved))
	var largest int64
	for _, s := range saved {
		if wanted(s) {
			largest = max(largest, s.Bytes())
		}
	}
	for i, s := range saved {
		out[i] = wanted(s) && smallMove*s.Bytes() >= largest
	}
	return out
}

// moveKind says what a launch of the copy lane is.
type moveKind uint8

const (
	noMove moveKind = iota
	toHost
	fromHost
)

// moved is an intermediate that waits in host memory. Steps are counted without moves until they are inserted.
type moved struct {
	root  int
	bytes int64
	born  int // step that computes it
	last  int // last step that reads it before it waits
	next  int // first that reads it afterwards
	hold  int // its first bytes are its own until this step, so that the copy to the host is done when they are used again
	fetch int // the copy back starts before this step
}

// Estimates of the time of a step, in bytes of device memory that could be moved meanwhile. GPUs read their memory 40 to 80 times faster than they
// copy over their bus, and do 150 to 300 operations on 16-bit operands for each byte. They decide when a copy begins, never whether
// its result is right.
const (
	busCost  = 64
	flopCost = 256
)

// moves lets the intermediates that the options choose wait in host memory: a copy after the step that computes one, and a copy back, to other bytes
// of the arena, before it is needed again. At most about the largest of them is on its way in each direction at a time, so that
// copies run beside the arithmetic of the value before.
func (p *Plan) moves(s *storage) error {
	if p.opts.Move == nil {
		return nil
	}
	if _, apart := p.dev.(device.HostAllocator); !apart {
		return fmt.Errorf("plan: Options.Move: device %s computes in host memory, so nothing can wait there to make room", p.dev.Info().Kind)
	}
	list, about := p.movable(s)
	if len(list) == 0 {
		return nil
	}
	chosen := p.opts.Move(about)
	if len(chosen) != len(list) {
		return fmt.Errorf("plan: Options.Move chose among %d values of %d", len(chosen), len(list))
	}
	var away []*moved
	for i := range list {
		if chosen[i] {
			away = append(away, &list[i])
		}
	}
	times := p.times()
	holdMoves(away, times)
	fetchMoves(away, times)
	away = slices.DeleteFunc(away, func(m *moved) bool { return m.fetch <= m.hold+1 }) // it would never be away
	p.insertMoves(s, away)
	return nil
}

// movable lists the intermediates that wait between the forward phase and a later one.
func (p *Plan) movable(s *storage) (list []moved, about []Saved) {
	phases := p.phases()
	uses := make([][]int, len(s.roots))
	for i := range p.steps {
		for _, at := range p.steps[i].in {
			if at.root >= 0 {
				uses[at.root] = append(uses[at.root], i)
			}
		}
	}
	stays := map[int]bool{}
	for _, v := range p.outs {
		stays[s.at[v].root] = true
	}
	for i := range s.roots {
		r := &s.roots[i]
		if r.kind != inArena || r.scratch || r.birth < 0 || r.bytes == 0 || stays[i] || phases[r.node.ID] != graph.Forward || p.steps[r.birth].lane != graph.Compute {
			continue
		}
		m := moved{root: i, bytes: r.bytes, born: r.birth, last: r.birth, next: -1}
		for _, u := range uses[i] {
			if phases[p.steps[u].node.ID] != graph.Forward && p.steps[u].lane == graph.Compute {
				m.next = u
				break
			}
			m.last = u
		}
		if m.next > m.last {
			list = append(list, m)
			about = append(about, Saved{r.node, r.out, r.node.Out[r.out], phases[p.steps[m.next].node.ID]})
		}
	}
	return list, about
}

// times estimates when each step begins.
func (p *Plan) times() []int64 {
	out := make([]int64, len(p.steps)+1)
	for i := range p.steps {
		flops, bytes := int64(0), 2*p.steps[i].bytes
		if p.steps[i].kernel != nil {
			flops, bytes, _ = cost(p.steps[i].node)
		}
		out[i+1] = out[i] + max(bytes, flops/flopCost, 1)
	}
	return out
}

// holdMoves says how long each value keeps its bytes for the copy to the host: for twice the time that the copies take by the estimate, at most until so
// many others are read for the last time that those which only wait are larger together than the largest.
func holdMoves(away []*moved, times []int64) {
	slices.SortStableFunc(away, func(a, b *moved) int { return a.born - b.born })
	var done, window int64
	for _, m := range away {
		done = max(done, times[m.born+1]) + 2*busCost*m.bytes
		m.hold = max(sort.Search(len(times)-1, func(i int) bool { return times[i] >= done }), m.last+1)
		window = max(window, m.bytes)
	}
	slices.SortStableFunc(away, func(a, b *moved) int { return a.last - b.last })
	first, waiting := 0, int64(0)
	for _, m := range away {
		for waiting += m.bytes; waiting > window; first++ {
			waiting -= away[first].bytes
			away[first].hold = max(min(away[first].hold, m.last), away[first].last+1)
		}
	}
}

// fetchMoves says when each value is copied back: as late as the estimate allows in twice its time, and not while those that are on their way and not
// yet read are larger together than the largest.
func fetchMoves(away []*moved, times []int64) {
	slices.SortStableFunc(away, func(a, b *moved) int { return a.next - b.next })
	var window int64
	for _, m := range away {
		window = max(window, m.bytes)
	}
	first, waiting := 0, int64(0)
	for k, m := range away {
		for waiting += m.bytes; waiting > window; first++ {
			waiting -= away[first].bytes
		}
		if first > 0 {
			away[k].fetch = away[first-1].next
		}
	}
	start := times[len(times)-1]
	for _, m := range slices.Backward(away) {
		start = min(start, times[m.next]) - 2*busCost*m.bytes
		late := sort.Search(m.next, func(i int) bool { return times[i+1] > start })
		m.fetch = max(m.fetch, min(late, m.next), m.last+1)
	}
}

// insertMoves puts the copies among the steps. What is read after a copy back is read from where that puts it.
func (p *Plan) insertMoves(s *storage, away []*moved) {
	before := map[int][]step{} // by step: the copies to launch before it
	for _, m := range away {
		r := s.roots[m.root]
		host := s.newRoot(root{kind: inHost, bytes: m.bytes, node: r.node, out: r.out})
		back := s.newRoot(root{kind: inArena, bytes: m.bytes, node: r.node, out: r.out})
		for i := m.next; i < len(p.steps); i++ {
			for j := range p.steps[i].in {
				if at := &p.steps[i].in[j]; at.root == m.root {
					at.root = back
				}
			}
		}
		move := step{node: r.node, scratch: nowhere, lane: graph.Copy, bytes: m.bytes, in: []place{{m.root, 0}}, out: []place{{host, 0}}, move: toHost, hold: m.hold}
		before[m.born+1] = append(before[m.born+1], move)
		move.in, move.out, move.move = []place{{host, 0}}, []place{{back, 0}}, fromHost
		before[m.fetch] = append(before[m.fetch], move)
		p.movedBytes += 2 * m.bytes
	}
	var steps []step
	at := make([]int, len(p.steps)+1) // where each step has gone
	for i := range p.steps {
		steps = append(steps, before[i]...)
		at[i] = len(steps)
		steps = append(steps, p.steps[i])
	}
	at[len(p.steps)] = len(steps)
	for i := range s.roots {
		if r := &s.roots[i]; r.birth >= 0 {
			r.birth, r.end = at[r.birth], at[r.end]
		}
	}
	for i := range steps {
		switch st := &steps[i]; st.move {
		case toHost:
			st.hold = at[st.hold]
			s.roots[st.out[0].root].birth = i
		case fromHost:
			s.roots[st.in[0].root].end = i
			r := &s.roots[st.out[0].root]
			r.birth, r.end = i, i
		}
	}
	p.steps = steps
}
