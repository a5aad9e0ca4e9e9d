package graph

// Rewriter copies a graph node by node into a new one, so that a pass never edits what it reads. Nodes keep their scope and
// position.
type Rewriter struct {
	New  *Graph
	vals map[Value]Value
}

// NewRewriter starts a copy of g.
func NewRewriter(g *Graph) *Rewriter {
	return &Rewriter{New: New(g.name), vals: make(map[Value]Value, len(g.nodes))}
}

// Get returns the new value of an old one; absent stays absent.
func (r *Rewriter) Get(v Value) Value { return r.vals[v] }

// GetAll maps a list.
func (r *Rewriter) GetAll(vs []Value) []Value {
	out := make([]Value, len(vs))
	for i, v := range vs {
		out[i] = r.vals[v]
	}
	return out
}

// Set declares that the outputs of old node n are now vals.
func (r *Rewriter) Set(n *Node, vals []Value) {
	for i, v := range vals {
		r.vals[Value{n, i}] = v
	}
}

// Copy applies n's op to the mapped inputs.
func (r *Rewriter) Copy(n *Node) []Value {
	defer r.New.OnBehalf(n)()
	out := r.New.Apply(n.Op, r.GetAll(n.In)...)
	r.Set(n, out)
	return out
}

// Writes copies the effects of g and returns the new graph.
func (r *Rewriter) Writes(g *Graph) *Graph {
	for _, w := range g.writes {
		r.New.Write(w.Var, r.vals[w.Value])
	}
	return r.New
}

// Reachable returns which nodes the outputs and the graph's writes depend on, by ID.
func (g *Graph) Reachable(outs []Value) []bool {
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
