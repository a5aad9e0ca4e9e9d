package plan

import (
	"slices"

	"github.com/bitsandbyes/bitsandbyes/graph"
)

// share lets ops that can (Sharer) be computed with another node that reads the same input: both products of an adapter's gradients read that of the
// layer's output once. The two become one node in the place of the earlier, so all that the later reads must be there by then; what is a leaf, such as a
// gradient that is added to, is brought there. Results are summed by another kernel, in the precision that they had.
func share(p *Plan, g *graph.Graph, outs []graph.Value) (*graph.Graph, []graph.Value, error) {
	found := findShared(g)
	if len(found) == 0 {
		return g, outs, nil
	}
	r := graph.NewRewriter(g)
	done := make([]bool, len(g.Nodes()))
	move := func(n *graph.Node) {
		if !done[n.ID] {
			done[n.ID] = true
			r.Move(n)
		}
	}
	for _, n := range g.Nodes() {
		s, ok := found[n]
		if !ok || done[n.ID] {
			move(n)
			continue
		}
		for _, v := range s.in {
			if v.Valid() && isLeaf(v.Node()) {
				move(v.Node())
			}
		}
		out, err := tryOp(p, r, n, s.op, r.GetAll(s.in))
		switch {
		case err != nil:
			return nil, nil, err
		case out == nil:
			move(n)
		default:
			r.Set(s.nodes[0], out[:len(s.nodes[0].Out)])
			r.Set(s.nodes[1], out[len(s.nodes[0].Out):])
			done[s.nodes[0].ID], done[s.nodes[1].ID] = true, true
		}
	}
	return prune(p, r.Writes(g), r.GetAll(outs))
}

// shared is what two nodes become, in the order of their results.
type shared struct {
	nodes [2]*graph.Node
	op    graph.Op
	in    []graph.Value
}

// findShared returns what pairs of nodes become, by the earlier of each.
func findShared(g *graph.Graph) map[*graph.Node]shared {
	type readers struct{ sharers, others []*graph.Node }
	of := map[graph.Value]*readers{}
	found, taken := map[*graph.Node]shared{}, map[*graph.Node]bool{}
	pairs := func(n *graph.Node, with []*graph.Node) bool {
		for _, m := range with {
			if taken[m] {
				continue
			}
			if s, ok := sharedBy(m, n); ok {
				found[m], taken[m], taken[n] = s, true, true
				return true
			}
		}
		return false
	}
	for _, n := range g.Nodes() {
		_, sharer := n.Op.(graph.Sharer)
		for i, v := range n.In {
			if !v.Valid() || repeats(n.In, i) || taken[n] {
				continue
			}
			at := of[v]
			if at == nil {
				at = &readers{}
				of[v] = at
			}
			switch {
			case pairs(n, at.sharers), sharer && pairs(n, at.others):
			case sharer:
				at.sharers = append(at.sharers, n)
			default:
				at.others = append(at.others, n)
			}
		}
	}
	return found
}

// sharedBy returns what two nodes become in the place of the earlier; ok is false where they stay apart.
func sharedBy(earlier, later *graph.Node) (s shared, ok bool) {
	late := func(v graph.Value) bool { return v.Valid() && v.Node().ID >= earlier.ID && !isLeaf(v.Node()) }
	for _, order := range [2][2]*graph.Node{{earlier, later}, {later, earlier}} {
		op, can := order[0].Op.(graph.Sharer)
		if !can {
			continue
		}
		s = shared{nodes: order}
		if s.op, s.in, ok = op.Shared(order[0], order[1]); ok && !slices.ContainsFunc(s.in, late) {
			return s, true
		}
	}
	return shared{}, false
}
