package plan

import "github.com/bitsandbyes/bitsandbyes/graph"

// absorb lets ops that can (Absorber) compute an input themselves which nothing else needs, where the device has a kernel for both: a product by a weight in
// 4 bits adds the adapter's part to its few rows, and reads the adapter's weights as they are stored instead of casts of them.
func absorb(p *Plan, g *graph.Graph, outs []graph.Value) (*graph.Graph, []graph.Value, error) {
	a := newAccumulator(g, outs)
	a.p = p
	into := map[*graph.Node]*graph.Node{}
	for _, n := range g.Nodes() {
		if m := a.absorbed(n, into); m != n {
			into[n] = m
		}
	}
	if len(into) == 0 {
		return g, outs, nil
	}
	r := graph.NewRewriter(g)
	for _, n := range g.Nodes() {
		m := into[n]
		if m == nil {
			r.Move(n)
			continue
		}
		undo := r.New.OnBehalf(n)
		r.Set(n, r.New.Apply(m.Op, r.GetAll(m.In)...))
		undo()
	}
	return prune(p, r.Writes(g), r.GetAll(outs))
}

// absorbed is what n becomes: a node that stands in no graph, or n itself. An input may be what its node has become.
func (a *accumulator) absorbed(n *graph.Node, into map[*graph.Node]*graph.Node) *graph.Node {
	for i := 0; i < len(n.In); i++ {
		op, ok := n.Op.(graph.Absorber)
		if !ok {
			break
		}
		by := a.only(n.In[i])
		if by == nil {
			continue
		}
		next, in, ok := op.Absorbed(n, i, by)
		if m := into[by]; !ok && m != nil {
			next, in, ok = op.Absorbed(n, i, m)
		}
		if !ok {
			continue
		}
		m := &graph.Node{Op: next, In: in, Out: n.Out}
		if a.computes(m) {
			n, i = m, -1 // from the first input again, as those of m are others
		}
	}
	return n
}

// only is the node that computes v, through views of all of it, if nothing else needs its one result.
func (a *accumulator) only(v graph.Value) *graph.Node {
	if !v.Valid() {
		return nil
	}
	n := v.Node()
	for a.users[n.ID] == 1 && isWhole(n) {
		n = n.In[0].Node()
	}
	if a.users[n.ID] != 1 || len(n.Out) != 1 || isLeaf(n) || isView(n) {
		return nil
	}
	return n
}

// computes reports whether the device has a kernel for a node whose outputs are what the op says.
func (a *accumulator) computes(m *graph.Node) bool {
	in := m.InTypes()
	out, err := m.Op.Infer(in)
	if err != nil || len(out) != len(m.Out) {
		return false
	}
	for i := range out {
		if out[i] != m.Out[i] {
			return false
		}
	}
	_, err = a.p.kernelOf(keyFor(m.Op, in), in, out)
	return err == nil
}
