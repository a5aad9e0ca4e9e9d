package graph

// Rewriter copies a graph node by node into a new one, so that a pass never edits what it reads. Nodes keep their scope and
// position.
type Rewriter struct {
	New   *Graph
	first []Value         // new value of output 0, by old node ID
	rest  map[Value]Value // of the other outputs
}

// NewRewriter starts a copy of g.
func NewRewriter(g *Graph) *Rewriter {
	r := &Rewriter{New: New(g.name), first: make([]Value, len(g.nodes)), rest: map[Value]Value{}}
	r.New.nodes = make([]*Node, 0, len(g.nodes))
	return r
}

// Get returns the new value of an old one; absent stays absent.
func (r *Rewriter) Get(v Value) Value {
	switch {
	case v.n == nil || v.n.bad:
		return Value{}
	case v.i == 0:
		return r.first[v.n.ID]
	}
	return r.rest[v]
}

// GetAll maps a list.
func (r *Rewriter) GetAll(vs []Value) []Value {
	out := make([]Value, len(vs))
	for i, v := range vs {
		out[i] = r.Get(v)
	}
	return out
}

// Set declares that the outputs of old node n are now vals.
func (r *Rewriter) Set(n *Node, vals []Value) {
	for i, v := range vals {
		r.set(n, i, v)
	}
}

func (r *Rewriter) set(n *Node, i int, v Value) {
	if i == 0 {
		r.first[n.ID] = v
		return
	}
	r.rest[Value{n, i}] = v
}

// Copy applies n's op to the mapped inputs, where an equal node may stand already.
func (r *Rewriter) Copy(n *Node) []Value {
	defer r.New.OnBehalf(n)()
	out := r.New.Apply(n.Op, r.GetAll(n.In)...)
	r.Set(n, out)
	return out
}

// Move is Copy for inputs that map to values of the same types, in a rewrite that cannot make two nodes equal: nothing is
// inferred or looked up.
func (r *Rewriter) Move(n *Node) *Node {
	g := r.New
	c := &Node{ID: len(g.nodes), Op: n.Op, In: r.GetAll(n.In), Out: n.Out, g: g, scope: n.scope, pos: n.pos, phase: n.phase}
	g.nodes = append(g.nodes, c)
	for i := range c.Out {
		r.set(n, i, Value{c, i})
	}
	return c
}

// Writes copies the effects of g and returns the new graph.
func (r *Rewriter) Writes(g *Graph) *Graph {
	for _, w := range g.Writes() {
		r.New.Write(w.Var, r.Get(w.Value))
	}
	return r.New
}

// Reachable returns which nodes the outputs and the graph's writes depend on, by ID.
func (g *Graph) Reachable(outs []Value) []bool {
	g = g.empty()
	live := make([]bool, len(g.nodes))
	mark := func(v Value) {
		if v.n != nil && !v.n.bad {
			live[v.n.ID] = true
		}
	}
	for _, v := range outs {
		mark(v)
	}
	for _, w := range g.writes {
		mark(w.Value)
	}
	for i := len(g.nodes) - 1; i >= 0; i-- {
		if live[i] {
			for _, v := range g.nodes[i].In {
				mark(v)
			}
		}
	}
	return live
}
