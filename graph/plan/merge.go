package plan

import "github.com/bitsandbyes/bitsandbyes/graph"

// merge lets ops that can (Merger) be computed with the node that makes one of their inputs: a residual sum and the norm of it read and write
// memory once. The two become one node in the place of the later, so no node between them may read the earlier one. A sum that would end a chain of
// elementwise ops stays with it.
func merge(p *Plan, g *graph.Graph, outs []graph.Value) (*graph.Graph, []graph.Value, error) {
	merged := findMerged(g, newAccumulator(g, outs).users)
	if len(merged) == 0 {
		return g, outs, nil
	}
	first := map[*graph.Node]bool{}
	for _, m := range merged {
		first[m.first] = true
	}
	r := graph.NewRewriter(g)
	for _, n := range g.Nodes() {
		m, later := merged[n]
		switch {
		case first[n]: // with the later one
		case !later:
			r.Move(n)
		default:
			if err := m.emit(p, r, n); err != nil {
				return nil, nil, err
			}
		}
	}
	return prune(p, r.Writes(g), r.GetAll(outs))
}

// pair is what a node and the one before it become.
type pair struct {
	first *graph.Node
	op    graph.Op
	in    []graph.Value
}

// findMerged returns what nodes become with a node before them.
func findMerged(g *graph.Graph, users []int) map[*graph.Node]pair {
	firstUse := make([]int, len(g.Nodes())) // by node ID: the first node that reads it
	for _, n := range g.Nodes() {
		for _, v := range n.In {
			if v.Valid() && firstUse[v.Node().ID] == 0 {
				firstUse[v.Node().ID] = n.ID
			}
		}
	}
	merged, taken := map[*graph.Node]pair{}, map[*graph.Node]bool{}
	for _, n := range g.Nodes() {
		op, ok := n.Op.(graph.Merger)
		if !ok {
			continue
		}
		for i, v := range n.In {
			if !v.Valid() || isLeaf(v.Node()) || taken[v.Node()] || firstUse[v.Node().ID] != n.ID || endsChain(v.Node(), users) {
				continue
			}
			if whole, in, ok := op.Merged(n, i); ok {
				merged[n] = pair{v.Node(), whole, in}
				taken[v.Node()], taken[n] = true, true
				break
			}
		}
	}
	return merged
}

// endsChain reports whether n would be fused with an elementwise op before it.
func endsChain(n *graph.Node, users []int) bool {
	for _, v := range n.In {
		if !v.Valid() || users[v.Node().ID] != 1 {
			continue
		}
		if _, ok := v.Node().Op.(graph.Elementwise); ok {
			return true
		}
	}
	return false
}

// emit adds the op of both, or both where the device has no kernel for it.
func (m pair) emit(p *Plan, r *graph.Rewriter, n *graph.Node) error {
	out, err := tryOp(p, r, n, m.op, r.GetAll(m.in))
	if err != nil {
		return err
	}
	if out == nil {
		r.Move(m.first)
		r.Move(n)
		return nil
	}
	r.Set(m.first, out[:len(m.first.Out)])
	r.Set(n, out[len(m.first.Out):])
	return nil
}
