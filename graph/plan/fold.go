package plan

import (
	"slices"

	"github.com/bitsandbyes/bitsandbyes/graph"
)

// fold makes one product of a product by a frozen weight and of what an adapter adds to it, where the op can (Folder) and the device has a kernel: the
// adapter's matrices are added to the weight as it is read, so that what the adapter adds is neither written nor read. Both are summands of one sum, which
// may have others: the gradients of an input of several projections, a bias. What the adapter's first matrix gives stays for those that need it too, as
// gradients do. It comes before the passes that break sums up.
func fold(p *Plan, g *graph.Graph, outs []graph.Value) (*graph.Graph, []graph.Value, error) {
	f := &folder{accumulator: newAccumulator(g, outs), within: map[*graph.Node]bool{}, parts: map[*graph.Node]summand{}, gone: map[*graph.Node][2]bool{},
		folded: map[*graph.Node]folded{}, known: map[[2]int]bool{}, done: make([]bool, len(g.Nodes()))}
	f.p = p
	for i := len(g.Nodes()) - 1; i >= 0; i-- {
		if n := g.Nodes()[i]; !f.within[n] && isPlus(n) {
			f.sum(n)
		}
	}
	if p.folded = len(f.folded); p.folded == 0 {
		return g, outs, nil
	}
	f.r = graph.NewRewriter(g)
	for _, n := range g.Nodes() {
		f.move(n)
	}
	if err := f.r.New.Err(); err != nil {
		return nil, nil, err
	}
	return prune(p, f.r.Writes(g), f.r.GetAll(outs))
}

// folder finds and rewrites such sums.
type folder struct {
	*accumulator
	r      *graph.Rewriter
	within map[*graph.Node]bool    // sums that are part of another
	parts  map[*graph.Node]summand // where those stand in it
	gone   map[*graph.Node][2]bool // which inputs of a sum are dropped
	folded map[*graph.Node]folded  // by the product that it takes the place of
	known  map[[2]int]bool         // what early found, by IDs
	done   []bool                  // by node ID: stands in the new graph, or is not needed there
}

// summand is the result of a node as an input of a sum.
type summand struct {
	node *graph.Node
	way  []*graph.Node // views and multiples of it, the last one first
	add  *graph.Node   // adds it to its other input
	at   int
}

// folded is what a product becomes.
type folded struct {
	op graph.Op
	in []graph.Value
}

// isPlus reports whether n adds two values, of which one may be repeated along axes, as a bias is.
func isPlus(n *graph.Node) bool {
	op, ok := n.Op.(graph.Linear)
	if !ok || len(n.In) != 2 || n.In[0].Type() != n.Out[0] && n.In[1].Type() != n.Out[0] {
		return false
	}
	f, ok := op.Factors(n.In)
	return ok && f[0] == 1 && f[1] == 1
}

// sum folds what it can of the summands of n.
func (f *folder) sum(n *graph.Node) {
	list := f.summands(n, nil)
	used := make([]bool, len(list))
	for _, base := range list {
		op, ok := base.node.Op.(graph.Folder)
		if !ok || base.scale() != 1 {
			continue
		}
		for i, s := range list {
			if used[i] || s.node == base.node || !f.droppable(s) {
				continue
			}
			if to, ok := f.pair(op, base.node, s.node, s.scale()); ok {
				f.folded[base.node] = to
				f.drop(s)
				used[i] = true
				break
			}
		}
	}
}

// summands lists what n adds up, through sums, views and numbers that nothing else needs.
func (f *folder) summands(n *graph.Node, list []summand) []summand {
	for i, v := range n.In {
		if v.Type().Size() != n.Out[0].Size() || v.DType() != n.Out[0].DType {
			continue
		}
		s := summand{node: v.Node(), add: n, at: i}
		for s.alone(f.users) && s.step() {
		}
		switch {
		case !s.alone(f.users):
		case isPlus(s.node) && s.scale() == 1:
			f.within[s.node], f.parts[s.node] = true, s
			list = f.summands(s.node, list)
		default:
			list = append(list, s)
		}
	}
	return list
}

// alone reports whether nothing else needs the one result of s.node.
func (s *summand) alone(users []int) bool { return users[s.node.ID] == 1 && len(s.node.Out) == 1 }

// step goes to what s.node is a view of, or a multiple in the same type; false where it is neither.
func (s *summand) step() bool {
	i, factor := passThrough(s.node)
	if factor == 0 || s.node.In[i].DType() != s.node.Out[0].DType || s.node.In[i].Type().Size() != s.node.Out[0].Size() {
		return false
	}
	s.way, s.node = append(s.way, s.node), s.node.In[i].Node()
	return true
}

// scale is what the result of s.node is multiplied by on its way.
func (s *summand) scale() float64 {
	factor := 1.0
	for _, n := range s.way {
		_, x := passThrough(n)
		factor *= x
	}
	return factor
}

// pair is what a product n becomes with factor times the result of outer, if that is an adapter's of the same input.
func (f *folder) pair(op graph.Folder, n, outer *graph.Node, factor float64) (to folded, ok bool) {
	if len(n.In) == 0 || len(outer.In) == 0 || !n.In[0].Valid() || !outer.In[0].Valid() {
		return folded{}, false
	}
	inner := summand{node: outer.In[0].Node()}
	for inner.step() {
	}
	from := inner.node.In
	if len(from) == 0 || !from[0].Valid() || origin(from[0]) != origin(n.In[0]) {
		return folded{}, false
	}
	if to.op, to.in, ok = op.Folded(n, inner.node, outer, factor*inner.scale()); !ok {
		return folded{}, false
	}
	for _, v := range to.in {
		ok = ok && f.early(v, n.ID)
	}
	return to, ok && f.computes(&graph.Node{Op: to.op, In: to.in, Out: n.Out})
}

// origin goes from a value through views of all of it.
func origin(v graph.Value) graph.Value {
	for isWhole(v.Node()) {
		v = v.Node().In[0]
	}
	return v
}

// early reports whether v can be had before a node: it is there by then, or is a cast or the like of weights.
func (f *folder) early(v graph.Value, before int) bool {
	n := v.Node()
	if n.ID < before || isLeaf(n) {
		return true
	}
	if _, ok := n.Op.(graph.Elementwise); !ok && !isView(n) {
		return false
	}
	key := [2]int{n.ID, before}
	if ok, asked := f.known[key]; asked {
		return ok
	}
	f.known[key] = !slices.ContainsFunc(n.In, func(x graph.Value) bool { return x.Valid() && !f.early(x, before) })
	return f.known[key]
}

// droppable reports whether a sum can do without s: what is left of it has its type.
func (f *folder) droppable(s summand) bool {
	if !isSum(s.add) {
		return false
	}
	if !f.gone[s.add][1-s.at] {
		return true
	}
	part, ok := f.parts[s.add]
	return ok && f.droppable(part)
}

// drop takes s out of its sum, and a sum that nothing is left of out of the one around it.
func (f *folder) drop(s summand) {
	gone := f.gone[s.add]
	gone[s.at] = true
	f.gone[s.add] = gone
	for _, n := range append(s.way, s.node) {
		f.done[n.ID] = true
	}
	if gone[1-s.at] {
		f.drop(f.parts[s.add])
	}
}

// move copies a node and what it needs that is not there yet.
func (f *folder) move(n *graph.Node) {
	if f.done[n.ID] {
		return
	}
	f.done[n.ID] = true
	in := n.In
	to, folds := f.folded[n]
	gone := f.gone[n]
	switch {
	case folds:
		in = to.in
	case gone[0]:
		in = n.In[1:]
	case gone[1]:
		in = n.In[:1]
	}
	for _, v := range in {
		if v.Valid() {
			f.move(v.Node())
		}
	}
	switch {
	case folds:
		undo := f.r.New.OnBehalf(n)
		f.r.Set(n, f.r.New.Apply(to.op, f.r.GetAll(in)...))
		undo()
	case gone[0] || gone[1]:
		f.r.Set(n, f.r.GetAll(in))
	default:
		f.r.Move(n)
	}
}
