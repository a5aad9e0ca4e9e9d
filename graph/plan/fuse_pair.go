package plan

import (
	"slices"

	"github.com/bitsandbyes/bitsandbyes/graph"
)

// maxResults bounds the results of one fused kernel.
const maxResults = 4

// pair lets groups that read the same values become one kernel with several results, as the gradients of both factors of a gated layer: what
// they share is read once. A group is computed with an earlier one when all that it reads is there by then, so that no order changes but its
// own; both must have one shape, scope and phase, so that they belong together and its result is not made long before it is needed.
func (f *fuser) pair() {
	for i, n := range f.g.Nodes() {
		if f.group[i] != i || f.written[i] {
			continue
		}
		if first, ok := f.partner(n); ok {
			f.pairs[first] = append(f.pairs[first], i)
			f.paired[i] = first
			f.size[first] += f.size[i]
			for _, v := range f.inputs[i] {
				if !slices.Contains(f.inputs[first], v) {
					f.inputs[first] = append(f.inputs[first], v)
				}
			}
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
		for _, u := range f.users[v.Node().ID] {
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
	count := len(f.inputs[first.ID])
	for _, v := range f.inputs[n.ID] {
		if v.Node().ID >= first.ID {
			return false
		}
		if !slices.Contains(f.inputs[first.ID], v) {
			count++
		}
	}
	return count <= maxFusedInputs
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
