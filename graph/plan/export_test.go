package plan

import (
	"errors"
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/graph"
)

// WithRank breaks ties of the scheduler by f of the node's ID.
func WithRank(o Options, f func(id int) int) Options {
	o.rank = f
	return o
}

// PassOrder checks that every pass stands after those it needs.
func PassOrder() error {
	seen := map[string]bool{}
	for _, ps := range passes {
		for _, need := range ps.after {
			if !seen[need] {
				return fmt.Errorf("pass %s must run after %s", ps.name, need)
			}
		}
		seen[ps.name] = true
	}
	return nil
}

// InPlace counts outputs that took over the bytes of an input or stand in a variable, and copies launched.
func (p *Plan) InPlace() (reused, inVars, copies int) {
	for _, st := range p.steps {
		if st.kernel == nil {
			copies++
			continue
		}
		for _, at := range st.out {
			switch r := p.roots[at.root]; {
			case r.kind == inVar:
				inVars++
			case r.joined != at.root:
				reused++
			}
		}
	}
	return reused, inVars, copies
}

// EarlyWaits counts launches that wait for a copy to host memory which may still be under way: they use its bytes again before it is over by the
// estimate.
func (p *Plan) EarlyWaits() (n int) {
	for i := range p.steps {
		for _, w := range p.steps[i].waits {
			if st := &p.steps[w]; st.move == toHost && i <= st.hold {
				n++
			}
		}
	}
	return n
}

// CheckArena replays the plan on a shadow of the arena in which each 256-byte block remembers which value was last written
// there: every operand must still be what its producer left. It also checks that intervals live together are disjoint and lie
// inside the arena.
func (p *Plan) CheckArena() error {
	if err := p.checkIntervals(); err != nil {
		return err
	}
	sh := &shadow{p: p, tags: map[int64]string{}, host: map[int64]string{}, staged: map[*graph.Node]bool{}}
	for _, in := range p.inputs {
		sh.write(in.where, in.op.Type.Bytes(), in.value.String())
	}
	for i := range p.steps {
		st := &p.steps[i]
		switch {
		case st.move != noMove:
			sh.move(st)
			continue
		case st.kernel == nil:
			sh.copy(st)
			continue
		}
		for j, v := range st.node.In {
			if v.Valid() {
				sh.read(st.in[j], v)
			}
		}
		if st.kernel.Scratch() > 0 {
			sh.write(st.scratch, st.kernel.Scratch(), "scratch")
		}
		for j, t := range st.node.Out {
			sh.write(st.out[j], t.Bytes(), st.node.Output(j).String())
		}
	}
	for i, v := range p.outs {
		sh.read(p.outAt[i], v)
	}
	return sh.err
}

type shadow struct {
	p      *Plan
	tags   map[int64]string
	host   map[int64]string
	staged map[*graph.Node]bool
	err    error
}

// copy is a staged old value when its node is met first, and otherwise the end of a write.
func (s *shadow) copy(st *step) {
	if _, ok := st.node.Op.(stageCopy); ok && !s.staged[st.node] {
		s.staged[st.node] = true
		s.read(st.in[0], st.node.In[0])
		s.write(st.out[0], st.bytes, st.node.Output(0).String())
		return
	}
	for i, t := range st.node.Out {
		if len(st.node.Out) == 1 && t.Bytes() == st.bytes {
			s.read(st.in[0], st.node.Output(i))
		}
	}
}

// move carries a value to host memory or back.
func (s *shadow) move(st *step) {
	r := s.p.roots[st.in[0].root]
	v := r.node.Output(r.out)
	if at := s.p.roots[st.out[0].root]; st.move == toHost {
		s.read(st.in[0], v)
		for b := at.offset / align; b < (at.offset+st.bytes+align-1)/align; b++ {
			s.host[b] = v.String()
		}
		return
	}
	for b := r.offset / align; b < (r.offset+st.bytes+align-1)/align; b++ {
		if s.host[b] != v.String() {
			s.err = errors.Join(s.err, fmt.Errorf("%v comes back from where %v waits", v, s.host[b]))
		}
	}
	s.write(st.out[0], st.bytes, v.String())
}

// blocks are the arena blocks of a place, nil for variables and constants.
func (s *shadow) blocks(at place, n int64) (lo, hi int64) {
	i := at.root
	for s.p.roots[i].joined != i {
		i = s.p.roots[i].joined
	}
	if s.p.roots[i].kind != inArena || n == 0 {
		return 0, 0
	}
	from := s.p.roots[i].offset + at.off
	return from / align, (from + n + align - 1) / align
}

func (s *shadow) write(at place, n int64, tag string) {
	for lo, hi := s.blocks(at, n); lo < hi; lo++ {
		s.tags[lo] = tag
	}
}

func (s *shadow) read(at place, v graph.Value) {
	base := v
	for isView(base.Node()) {
		base = base.Node().In[0]
	}
	for lo, hi := s.blocks(at, v.Type().Bytes()); lo < hi; lo++ {
		if s.tags[lo] != base.String() {
			s.err = errors.Join(s.err, fmt.Errorf("%v is read where %v stands", base, s.tags[lo]))
			return
		}
	}
}

func (p *Plan) checkIntervals() error {
	var live []root
	for i := range p.roots {
		if r := p.roots[i]; r.kind == inArena && r.joined == i {
			if r.offset%align != 0 || r.offset < 0 || r.offset+r.bytes > p.size {
				return fmt.Errorf("interval at %d of %d bytes in an arena of %d", r.offset, r.bytes, p.size)
			}
			live = append(live, r)
		}
	}
	for i, a := range live {
		for _, b := range live[:i] {
			if a.birth <= b.end && b.birth <= a.end && overlaps(a.offset, a.bytes, b.offset, b.bytes) {
				return fmt.Errorf("two intervals live at once overlap: [%d,+%d) steps %d..%d, [%d,+%d) steps %d..%d",
					a.offset, a.bytes, a.birth, a.end, b.offset, b.bytes, b.birth, b.end)
			}
		}
	}
	return nil
}
