package plan

import (
	"fmt"
	"slices"
	"strings"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph"
)

// Side says which launches leave the main lane on devices with lanes for them, so that they fill what it leaves idle. The results have the same bits, and
// an arena grows by less than a hundredth for it.
type Side uint8

// The choices. SideDecode is the first part of kernels that can be divided (device.Divided) and read variables only, as the decoding of a weight in 4 bits:
// it runs beside the launches before. SideGradients is launches of the backward sweep that are bound by memory and whose results are not needed soon: the gradients of adapters.
const (
	SideAuto Side = iota
	SideOff
	SideDecode
	SideGradients
	SideAll
)

// Sides are the names by which configurations call the choices.
var Sides = []string{"auto", "off", "decode", "gradients", "all"}

// ParseSide finds the choice of a name; the empty name is SideAuto.
func ParseSide(name string) (Side, error) {
	i := slices.Index(Sides, name)
	if name != "" && i < 0 {
		return SideAuto, fmt.Errorf("%q is not known; %s are", name, strings.Join(Sides, ", "))
	}
	return Side(max(i, 0)), nil
}

// sideAuto is what SideAuto stands for.
const sideAuto = SideOff

// part says what a step launches of its node's kernel.
type part uint8

const (
	wholeKernel part = iota
	firstPart
	secondPart
)

const (
	// sideShare is how much slower work is thought to be beside that of the main lane than alone. It decides how far ahead it begins and how long what it
	// reads is kept.
	sideShare = 4
	// sideLeast is how many bytes a launch moves at least that may be worth the events around it.
	sideLeast = 1 << 17
	// sideSlack is the part of the arena that it may grow by at most, where addresses leave more holes than before.
	sideSlack = 128
	// sideFar is how many steps ahead a part may be launched at most.
	sideFar = 64
)

// side is the choice for this plan, on this device.
func (p *Plan) side() Side {
	side := p.opts.Side
	if side == SideAuto {
		side = p.session.side
	}
	if side == SideAuto {
		side = sideAuto
	}
	if par, ok := p.dev.(device.Parallel); !ok || par.Lanes() < numLanes || p.opts.Check || p.opts.Probe != nil {
		return SideOff // checks look at whole launches in their order
	}
	return side
}

// sideways moves launches to the side lanes where that takes no more memory. before is the roots without lifetimes.
func (p *Plan) sideways(s *storage, before []root) {
	side := p.side()
	if side == SideOff {
		return
	}
	steps, roots, size, hostSize := p.steps, s.roots, p.size, p.hostSize
	live := liveBytes(roots, len(steps))
	if len(live) == 0 {
		return
	}
	most := slices.Max(live)
	for _, limit := range []int64{most, most / 16 * 15, most / 4 * 3, most / 2} { // lifetimes that fit may still pack worse than those before
		p.steps, s.roots = slices.Clone(steps), slices.Clone(before)
		b := newBeside(p, s, roots, slices.Clone(live), limit)
		if side != SideGradients {
			b.ahead()
		}
		if side != SideDecode {
			b.aside()
		}
		if b.found == 0 {
			break
		}
		b.apply()
		p.place(s)
		if p.size <= size || p.size <= size+size/sideSlack && p.checkBudget() == nil {
			return
		}
	}
	p.steps, s.roots, p.roots, p.size, p.hostSize = steps, roots, roots, size, hostSize
}

// liveBytes is what is held of the arena at each step.
func liveBytes(roots []root, steps int) []int64 {
	live := make([]int64, steps+1)
	for i := range roots {
		if r := &roots[i]; r.kind == inArena && r.joined == i && r.birth < steps {
			live[max(r.birth, 0)] += alignUp(r.bytes)
			live[min(r.end+1, steps)] -= alignUp(r.bytes)
		}
	}
	for i := range steps {
		live[i+1] += live[i]
	}
	return live[:steps]
}

// beside chooses launches for the side lanes. Steps are counted without what it adds.
type beside struct {
	p       *Plan
	s       *storage
	times   []int64 // estimates of when each step begins
	live    []int64 // bytes held of the arena at each step, with what has been chosen so far
	limit   int64   // of live
	least   int64   // bytes that a launch moves at least
	last    []int   // by root: the last step that it is held for
	family  []int   // by root: in how many others' bytes it lives, or they in its
	written map[int]bool
	before  map[int][]step
	found   int
}

func newBeside(p *Plan, s *storage, packed []root, live []int64, limit int64) *beside {
	b := &beside{p: p, s: s, times: p.times(), live: live, limit: limit, last: make([]int, len(packed)), family: make([]int, len(packed)),
		least: sideLeast, written: map[int]bool{}, before: map[int][]step{}}
	if p.opts.least > 0 {
		b.least = p.opts.least
	}
	for i := range packed {
		at := i
		for packed[at].joined != at {
			at = packed[at].joined
		}
		if at != i {
			b.family[at]++
			b.family[i]++
		}
		b.last[i] = s.roots[i].end
	}
	for i := range p.steps {
		st := &p.steps[i]
		for _, at := range st.in {
			if at.root >= 0 {
				b.last[at.root] = max(b.last[at.root], i, st.hold)
			}
		}
		for _, at := range st.out {
			if at.root >= 0 && s.roots[at.root].kind == inVar {
				b.written[at.root] = true
			}
		}
	}
	for _, v := range p.outs {
		if at := s.at[v]; at.root >= 0 {
			b.last[at.root] = len(p.steps)
		}
	}
	return b
}

// ahead divides kernels whose first part reads variables that the plan does not write, and launches that part as long before the second as it may take
// beside other work, as far as there is room for what it leaves.
func (b *beside) ahead() {
	for i := range b.p.steps {
		st := &b.p.steps[i]
		d, ok := st.kernel.(device.Divided)
		if !ok || st.lane != graph.Compute || st.scratch.root < 0 {
			continue
		}
		first, second, of := d.Divide()
		if first == nil || first.Scratch() < b.least || second.Scratch() != st.kernel.Scratch() || !b.constant(st, of) {
			continue
		}
		took, held := first.Scratch(), alignUp(second.Scratch())
		for _, k := range of {
			took += st.node.In[k].Type().Bytes()
		}
		j := i
		for j > 0 && i-j < sideFar && b.times[i]-b.times[j] < sideShare*took && b.live[j-1]+held <= b.limit {
			j--
		}
		if b.times[i]-b.times[j] < took {
			continue
		}
		for k := j; k < i; k++ {
			b.live[k] += held
		}
		in := make([]place, len(st.in))
		for k := range in {
			in[k] = nowhere
			if slices.Contains(of, k) {
				in[k] = st.in[k]
			}
		}
		b.before[j] = append(b.before[j], step{node: st.node, kernel: first, in: in, scratch: st.scratch, lane: graph.Ahead, part: firstPart})
		st.kernel, st.part = second, secondPart
		b.found++
	}
}

// constant reports whether inputs of a step are the same in all of the run.
func (b *beside) constant(st *step, of []int) bool {
	for _, k := range of {
		at := st.in[k]
		if at.root < 0 {
			continue
		}
		if r := &b.s.roots[at.root]; r.kind != inConst && (r.kind != inVar || b.written[at.root]) {
			return false
		}
	}
	return true
}

// aside moves launches of the backward sweep that are bound by memory and whose results nothing reads until they are surely done. What they touch is kept until then.
func (b *beside) aside() {
	done, phases := int64(0), b.p.phases()
	for i := range b.p.steps {
		st := &b.p.steps[i]
		if st.kernel == nil || st.lane != graph.Compute || st.part != wholeKernel || phases[st.node.ID] != graph.Backward || b.takesOver(st) {
			continue
		}
		flops, bytes, told := cost(st.node)
		if !told || bytes < b.least || flops >= flopCost*bytes {
			continue
		}
		until := max(done, b.times[i+1]) + sideShare*bytes
		h := b.hold(i, until)
		if h < 0 || b.times[h+1]-b.times[i+1] < bytes {
			continue
		}
		b.keep(i, h)
		st.lane, st.hold, done = graph.Aside, h, until
		b.found++
	}
}

// takesOver reports whether an output lives in the bytes of an input, or the other way round.
func (b *beside) takesOver(st *step) bool {
	for _, at := range st.out {
		if at.root >= 0 && b.s.roots[at.root].kind == inArena && b.family[at.root] > 0 {
			return true
		}
	}
	return false
}

// hold returns the last step that what step i touches can be kept for, at most the one that is under way at a time; -1 where a step until then needs what
// it writes or changes what it reads.
func (b *beside) hold(i int, until int64) int {
	h, room := i, true
	for k := i + 1; k < len(b.p.steps) && b.times[k] < until; k++ {
		if b.meets(k, i) {
			return -1
		}
		if room = room && b.live[k]+b.more(i, k) <= b.limit; room {
			h = k
		}
	}
	return h
}

// more is how much of what step i touches is not held at step k anyway.
func (b *beside) more(i, k int) (bytes int64) {
	b.touched(i, func(root int) {
		if b.last[root] < k || b.last[root] == k && b.family[root] > 0 {
			bytes += alignUp(b.s.roots[root].bytes)
		}
	})
	return bytes
}

// keep holds what step i touches until step h.
func (b *beside) keep(i, h int) {
	for k := i + 1; k <= h; k++ {
		b.live[k] += b.more(i, k)
	}
	b.touched(i, func(root int) { b.last[root] = max(b.last[root], h) })
}

// touched lists the roots in the arena that step i reads and writes, each once.
func (b *beside) touched(i int, each func(root int)) {
	st := &b.p.steps[i]
	var seen []int
	for _, list := range [][]place{st.in, st.out, {st.scratch}} {
		for _, at := range list {
			if at.root >= 0 && b.s.roots[at.root].kind == inArena && !slices.Contains(seen, at.root) {
				seen = append(seen, at.root)
				each(at.root)
			}
		}
	}
}

// meets reports whether one of two steps writes what the other touches.
func (b *beside) meets(k, i int) bool {
	return conflict(b.accesses(k), b.accesses(i))
}

// accesses lists what a step reads and writes, by roots.
func (b *beside) accesses(i int) (out []access) {
	b.p.steps[i].operands(func(at place, n int64, writes bool) {
		if at.root >= 0 && n > 0 {
			out = append(out, access{at.root, at.off, at.off + n, writes})
		}
	})
	return out
}

// apply puts what was chosen among the steps.
func (b *beside) apply() {
	b.p.insert(b.s, b.before)
	for i := range b.p.steps {
		if st := &b.p.steps[i]; st.part == firstPart {
			b.s.roots[st.scratch.root].birth = i
		}
	}
}
