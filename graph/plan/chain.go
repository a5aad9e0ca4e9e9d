package plan

import (
	"cmp"
	"slices"

	"github.com/bitsandbyes/bitsandbyes/graph"
)

// term is a summand with the arithmetic of the product that it is.
type term struct {
	v    graph.Value
	work int64
}

// chain orders sums of three products or more, such as the gradients of the input of several adapted layers, so that each product but the
// first can be added to the sum before it (see accumulate): a sum of two sums would be a pass over memory of its own. The least product comes
// first, since it is the one that is stored by itself.
func chain(p *Plan, g *graph.Graph, outs []graph.Value) (*graph.Graph, []graph.Value, error) {
	a := newAccumulator(g, outs)
	terms := map[*graph.Node][]term{} // of sums by their last node
	inner := map[*graph.Node]bool{}
	for i := len(g.Nodes()) - 1; i >= 0; i-- {
		n := g.Nodes()[i]
		if inner[n] || !isSum(n) {
			continue
		}
		var within []*graph.Node
		list := a.terms(n, &within)
		if len(list) > 2 && !slices.ContainsFunc(list, func(t term) bool { return t.work < 0 }) {
			terms[n] = list
			for _, m := range within {
				inner[m] = true
			}
		}
	}
	if len(terms) == 0 {
		return g, outs, nil
	}
	r := graph.NewRewriter(g)
	for _, n := range g.Nodes() {
		list, ok := terms[n]
		switch {
		case inner[n]:
		case !ok:
			r.Move(n)
		default:
			slices.SortStableFunc(list, func(x, y term) int { return cmp.Compare(x.work, y.work) })
			undo := r.New.OnBehalf(n)
			shaped := func(t term) graph.Value {
				v := r.Get(t.v)
				if v.Valid() && v.Shape() != n.Out[0].Shape {
					v = r.New.Apply(graph.Part{Shape: n.Out[0].Shape}, v)[0]
				}
				return v
			}
			sum := shaped(list[0])
			for _, t := range list[1:] {
				sum = r.New.Apply(n.Op, sum, shaped(t))[0]
			}
			undo()
			r.Set(n, []graph.Value{sum})
		}
	}
	return prune(p, r.Writes(g), r.GetAll(outs))
}

// isSum reports whether n adds two values of its type.
func isSum(n *graph.Node) bool {
	op, ok := n.Op.(graph.Linear)
	if !ok || len(n.In) != 2 || n.In[0].Type() != n.Out[0] || n.In[1].Type() != n.Out[0] {
		return false
	}
	f, ok := op.Factors(n.In)
	return ok && f[0] == 1 && f[1] == 1
}

// terms lists what the sum n adds up, through sums that nothing else needs, which it appends to within. The work of a term that is no product
// is negative.
func (a *accumulator) terms(n *graph.Node, within *[]*graph.Node) (out []term) {
	for _, v := range n.In {
		var views []*graph.Node
		m := v.Node()
		for ; isView(m) && a.users[m.ID] == 1; m = m.In[0].Node() { // sums of one input can have it in several shapes
			if _, f := passThrough(m); f != 1 || m.In[0].Type().Size() != n.Out[0].Size() {
				break
			}
			views = append(views, m)
		}
		if isSum(m) && a.users[m.ID] == 1 && m.Out[0].DType == n.Out[0].DType && m.Out[0].Size() == n.Out[0].Size() {
			*within = append(append(*within, views...), m)
			out = append(out, a.terms(m, within)...)
			continue
		}
		t := term{v, -1}
		if s := a.follow(v, 1); s != nil {
			t.work = work(s.node)
		}
		out = append(out, t)
	}
	return out
}
