package plan

import (
	"slices"

	"github.com/bitsandbyes/bitsandbyes/graph"
)

// maxResults bounds the results of one fused kernel.
const maxResults = 4

// pair lets groups that read the same values become one kernel with several results, as the gradients of both factors of a gated layer: what
// they share is read once. A group may also read the other's result, as an activation does the sum with a bias that its gradient needs. A group
// is computed with an earlier one when all else that it reads is there by then, so that no order changes but its own; both must have one
// shape, scope and phase, so that they belong together and its result is not made long before it is needed.
func (f *fuser) pair() {
	for i, n := range f.g.Nodes() {
		if f.group[i] != i || f.written[i] {
			continue
		}
		if first, ok := f.partner(n); ok {
			f.pairs[first] = append(f.pairs[first], i)
			f.paired[i] = first
			f.size[first] += f.size[i]
			f.inputs[first] = append(f.inputs[first], f.further(first, n)...)
		} else {
			f.pairs[i] = []int{i}
		}
	}
}

// partner is the earliest group that n's can be computed with, by its root.
func (f *fuser) partner(n *graph.Node) (first int, ok bool) {
	for _, v := range f.inputs[n.ID] {
		if v.Shape() != n.Out[0].Shape || v.Rank() == 0 {
			continue // what little is shared is not worth it
		}
		for _, u := range append([]int{v.Node().ID}, f.users[v.Node().ID]...) {
			root := f.group[u]
			if root < 0 {
				continue
			}
			if r, done := f.paired[root]; done {
				root = r
			}
			if root < n.ID && f.together(f.g.Nodes()[root], n) {
				return root, true
			}
		}
	}
	return 0, false
}

// together reports whether the group of n can be computed in that of first.
func (f *fuser) together(first, n *graph.Node) bool {
	if len(f.pairs[first.ID]) == 0 || len(f.pairs[first.ID]) == maxResults || f.size[first.ID]+f.size[n.ID] > maxFused {
		return false
	}
	if first.Out[0].Shape != n.Out[0].Shape || first.Scope() != n.Scope() || first.Phase() != n.Phase() {
		return false
	}
	more := f.further(first.ID, n)
	for _, v := range more {
		if v.Node().ID >= first.ID {
			return false
		}
	}
	return len(f.inputs[first.ID])+len(more) <= maxFusedInputs
}

// further lists what the group of n reads that the groups with root first neither read nor make.
func (f *fuser) further(first int, n *graph.Node) []graph.Value {
	var out []graph.Value
	for _, v := range f.inputs[n.ID] {
		if !slices.Contains(f.inputs[first], v) && !slices.Contains(f.pairs[first], v.Node().ID) {
			out = append(out, v)
		}
	}
	return out
}

// emitPair adds one node for several groups, or each group by itself where the device has no kernel for all of them.
func (f *fuser) emitPair(p *Plan, r *graph.Rewriter, roots []int) error {
	nodes := make([]*graph.Node, len(roots))
	for k, i := range roots {
		nodes[k] = f.g.Nodes()[i]
	}
	ok, err := f.apply(p, r, nodes...)
	if err != nil || ok {
		return err
	}
	for _, i := range roots[1:] { // in their turn
		delete(f.paired, i)
	}
	if len(f.members[roots[0]]) == 1 {
		r.Move(nodes[0])
		return nil
	}
	return f.emit(p, r, nodes[0])
}
