package plan

import (
	"sort"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Holding says what a piece of memory is for.
type Holding uint8

// The kinds. Away is host memory that a result of the forward phase waits in, Saved such results in the arena that a later phase reads, Temporary the
// other intermediates.
const (
	HoldsVar Holding = iota
	HoldsConst
	HoldsAway
	HoldsInput
	HoldsSaved
	HoldsTemporary
	HoldsScratch
)

// Lifetime is a piece of memory and when it is held, known before a plan runs.
type Lifetime struct {
	Holding Holding
	Var     *graph.Var  // of HoldsVar: the owner of the storage
	Node    *graph.Node // of the others: what computes it, or uses the scratch
	Type    tensor.Type // zero for scratch
	Bytes   int64       // what it takes
	Offset  int64       // in the arena, for intermediates, inputs and scratch; in the plan's host memory for Away
	// It is held from launch Birth to launch End inclusive; -1 is before the first launch, the number of launches after the last.
	Birth, End int
	Host       bool // it is in host memory beside that of the device
}

// InArena reports whether it is part of the arena.
func (l Lifetime) InArena() bool { return l.Holding >= HoldsInput }

// Lifetimes returns what the plan holds in memory. At each launch what is in the arena adds up to what is live there; at the fullest
// that is Report.Live. A value that takes over the bytes of another follows it.
func (p *Plan) Lifetimes() []Lifetime {
	var out []Lifetime
	_, apart := p.dev.(device.HostAllocator)
	phases := p.phases()
	heirs := p.heirs()
	for i := range p.roots {
		switch r := &p.roots[i]; {
		case r.kind == inVar:
			out = append(out, Lifetime{Holding: HoldsVar, Var: r.v, Type: r.v.Type, Bytes: r.bytes, Birth: -1, End: len(p.steps),
				Host: apart && r.v.Place == graph.InHost})
		case r.kind == inConst:
			out = append(out, Lifetime{Holding: HoldsConst, Node: r.node, Type: r.node.Out[0], Bytes: alignUp(r.bytes), Birth: -1, End: len(p.steps)})
		case r.kind == inHost:
			out = append(out, Lifetime{Holding: HoldsAway, Node: r.node, Type: r.node.Out[r.out], Bytes: r.bytes, Offset: r.offset, Birth: r.birth, End: r.end, Host: true})
		case r.joined == i:
			out = p.succession(out, r, heirs[i], phases)
		}
	}
	return out
}

// heirs lists by root the intermediates that live in its bytes one after the other, itself included.
func (p *Plan) heirs() map[int][]int {
	out := map[int][]int{}
	for i := range p.roots {
		if p.roots[i].kind != inArena {
			continue
		}
		at := i
		for p.roots[at].joined != at {
			at = p.roots[at].joined
		}
		out[at] = append(out[at], i)
	}
	for _, list := range out {
		sort.SliceStable(list, func(a, b int) bool { return p.roots[list[a]].birth < p.roots[list[b]].birth })
	}
	return out
}

// succession appends the values that live in the bytes of a root.
func (p *Plan) succession(out []Lifetime, owner *root, list []int, phases []graph.Phase) []Lifetime {
	for k, i := range list {
		r := &p.roots[i]
		l := Lifetime{Holding: HoldsTemporary, Node: r.node, Bytes: owner.bytes, Offset: owner.offset, Birth: r.birth, End: owner.end}
		if k+1 < len(list) {
			l.End = p.roots[list[k+1]].birth - 1
		}
		_, fed := r.node.Op.(graph.Input)
		switch {
		case r.scratch:
			l.Holding = HoldsScratch
		case fed:
			l.Holding = HoldsInput
		case phases[r.node.ID] == graph.Forward && l.End < len(p.steps) && phases[p.steps[l.End].node.ID] != graph.Forward:
			l.Holding = HoldsSaved
		}
		if !r.scratch {
			l.Type = r.node.Out[r.out]
		}
		out = append(out, l)
	}
	return out
}
