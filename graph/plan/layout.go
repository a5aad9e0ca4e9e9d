package plan

import (
	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph"
)

// layout orders the graph, gives every value a place, and packs the arena.
func (p *Plan) layout() error {
	s := newStorage(p.g)
	order, err := s.schedule(p.outs, p.opts.rank)
	if err != nil {
		return err
	}
	if err := p.settle(order); err != nil {
		return err
	}
	if err := p.emit(s, order); err != nil {
		return err
	}
	p.endOfStep(s)
	if err := p.moves(s); err != nil {
		return err
	}
	liveness(p, s)
	for _, v := range p.outs {
		p.outAt = append(p.outAt, s.at[v])
	}
	p.size, p.hostSize = packArena(s.roots, inArena), packArena(s.roots, inHost)
	p.roots = s.roots
	p.waits()
	return nil
}

// emit assigns places in order and lists the launches.
func (p *Plan) emit(s *storage, order []*graph.Node) error {
	for _, n := range order {
		switch {
		case isLeaf(n):
			p.emitLeaf(s, n)
			continue
		case s.isView(n):
			in := s.at[n.In[0]]
			s.at[n.Output(0)] = place{in.root, in.off + s.views[n.ID].off}
			continue
		}
		k, err := p.kernelFor(n)
		if err != nil {
			return err
		}
		st := step{node: n, kernel: k, scratch: nowhere, lane: laneOf(n)}
		for _, v := range n.In {
			at := nowhere
			if v.Valid() {
				at = s.at[v]
			}
			st.in = append(st.in, at)
		}
		for i, t := range n.Out {
			at := place{-1, 0}
			if byOut := s.placed[n]; byOut != nil && byOut[i] >= 0 {
				at = s.varPlace(p.g.Writes()[byOut[i]].Var)
			} else {
				at.root = s.newRoot(root{kind: inArena, bytes: t.Bytes(), node: n, out: i, birth: len(p.steps), end: len(p.steps)})
			}
			s.at[n.Output(i)] = at
			st.out = append(st.out, at)
		}
		if k == nil {
			st.bytes = n.Out[0].Bytes()
		} else if b := k.Scratch(); b > 0 {
			st.scratch = place{s.newRoot(root{kind: inArena, bytes: b, node: n, birth: len(p.steps), end: len(p.steps), scratch: true}), 0}
		}
		p.steps = append(p.steps, st)
	}
	return nil
}

func (p *Plan) emitLeaf(s *storage, n *graph.Node) {
	switch op := n.Op.(type) {
	case graph.Input:
		at := place{s.newRoot(root{kind: inArena, bytes: op.Type.Bytes(), node: n, birth: -1, end: -1}), 0}
		s.at[n.Output(0)] = at
		p.inputs = append(p.inputs, inputSlot{op: op, value: n.Output(0), where: at})
	case graph.Read:
		s.at[n.Output(0)] = s.varPlace(op.Var)
	case graph.Constant:
		s.at[n.Output(0)] = place{s.newRoot(root{kind: inConst, bytes: op.Data.Type().Bytes(), node: n}), 0}
	}
}

// endOfStep appends the copies of writes that could not be placed.
func (p *Plan) endOfStep(s *storage) {
	for _, i := range s.copies {
		w := p.g.Writes()[i]
		p.steps = append(p.steps, step{node: w.Value.Node(), in: []place{s.at[w.Value]}, out: []place{s.varPlace(w.Var)},
			scratch: nowhere, bytes: w.Var.Type.Bytes()})
	}
}

// liveness extends each interval to its last use and lets outputs take over the bytes of inputs that die at the same step.
func liveness(p *Plan, s *storage) {
	for i, st := range p.steps {
		for _, at := range st.in {
			touch(s, at, i)
		}
	}
	for _, v := range p.outs {
		touch(s, s.at[v], len(p.steps))
	}
	holdLanes(p, s)
	for i, st := range p.steps {
		if a, ok := st.node.Op.(graph.Aliaser); ok && st.kernel != nil {
			for _, pair := range a.Alias() {
				if pair.In < len(st.in) && pair.Out < len(st.out) {
					takeOver(s, st, i, pair)
				}
			}
		}
	}
}

func touch(s *storage, at place, i int) {
	if at.root >= 0 && s.roots[at.root].kind == inArena {
		s.roots[at.root].end = max(s.roots[at.root].end, i)
	}
}

// holdLanes keeps what another lane touches until a compute step has waited for it.
func holdLanes(p *Plan, s *storage) {
	for i, st := range p.steps {
		if st.lane == graph.Compute {
			continue
		}
		if st.move == toHost {
			touch(s, st.in[0], st.hold)
			continue
		}
		until := len(p.steps)
		for j := i + 1; j < len(p.steps) && until == len(p.steps); j++ {
			if p.steps[j].lane == graph.Compute && consumes(p.steps[j], st) {
				until = j
			}
		}
		for _, at := range append(append([]place{st.scratch}, st.in...), st.out...) {
			touch(s, at, until)
		}
	}
}

func consumes(later, earlier step) bool {
	for _, in := range later.in {
		for _, out := range earlier.out {
			if in.root == out.root {
				return true
			}
		}
	}
	return false
}

// takeOver lets output pair.Out live in the bytes of input pair.In when the input dies here, is as large, and no other input
// of the step sees the same bytes in another way.
func takeOver(s *storage, st step, i int, pair graph.AliasPair) {
	in, out := st.in[pair.In], st.out[pair.Out]
	if in.root < 0 || out.root < 0 || in.off != 0 || out.off != 0 {
		return
	}
	from, to := s.find(in.root), out.root
	r, o := &s.roots[from], &s.roots[to]
	if r.kind != inArena || o.kind != inArena || o.joined != to || r.end != i || r.bytes != o.bytes || r.scratch {
		return
	}
	size := st.node.In[pair.In].Type()
	if size.Bytes() != o.bytes || size.Shape != st.node.Out[pair.Out].Shape {
		return
	}
	for j, at := range st.in {
		if at.root < 0 || s.find(at.root) != from || j == pair.In {
			continue
		}
		if at.off != 0 || st.node.In[j].Type() != size || !aliases(st.node.Op, pair.Out, j) {
			return
		}
	}
	for k, at := range st.out {
		if k != pair.Out && at.root >= 0 && s.find(at.root) == from {
			return
		}
	}
	o.joined = from
	r.end = max(r.end, o.end)
}

// find returns the root whose bytes root i lives in.
func (s *storage) find(i int) int {
	for s.roots[i].joined != i {
		i = s.roots[i].joined
	}
	return i
}

// owner returns the root whose bytes root i lives in, once lifetimes are known.
func (p *Plan) owner(i int) int {
	for p.roots[i].joined != i {
		i = p.roots[i].joined
	}
	return i
}

// address turns a place into a device address.
func (p *Plan) address(at place, arena memory) (device.Ptr, error) {
	if at.root < 0 {
		return device.Ptr{}, nil
	}
	r := &p.roots[p.owner(at.root)]
	switch r.kind {
	case inVar:
		base, err := p.store.ptr(r.v)
		return base.Add(at.off), err
	case inConst:
		return device.Ptr{Buf: p.consts, Off: r.offset + at.off}, nil
	case inHost:
		return device.Ptr{Buf: arena.host, Off: r.offset + at.off}, nil
	}
	return device.Ptr{Buf: arena.device, Off: r.offset + at.off}, nil
}
