package plan

import "github.com/bitsandbyes/bitsandbyes/graph"

// scaled is a product that a number is multiplied by.
type scaled struct {
	node   *graph.Node
	op     graph.Op
	within []*graph.Node // node and the views between it and the number
}

// scale lets products that can (Scaler) take in the one number that they are only multiplied by, as the strength of an adapter is: a launch over
// a narrow tensor less.
func scale(p *Plan, g *graph.Graph, outs []graph.Value) (*graph.Graph, []graph.Value, error) {
	a := newAccumulator(g, outs)
	a.p = p
	found := map[*graph.Node]*scaled{}
	for _, n := range g.Nodes() {
		if s := a.product(n); s != nil {
			found[n] = s
			for _, m := range s.within {
				a.dropped[m.ID] = true
			}
		}
	}
	if len(found) == 0 {
		return g, outs, nil
	}
	r := graph.NewRewriter(g)
	for _, n := range g.Nodes() {
		s := found[n]
		switch {
		case a.dropped[n.ID]:
		case s == nil:
			r.Move(n)
		default:
			undo := r.New.OnBehalf(s.node)
			v := r.New.Apply(s.op, r.GetAll(s.node.In)...)[0]
			if v.Valid() && v.Shape() != n.Out[0].Shape {
				v = r.New.Apply(graph.Part{Shape: n.Out[0].Shape}, v)[0]
			}
			undo()
			r.Set(n, []graph.Value{v})
		}
	}
	return prune(p, r.Writes(g), r.GetAll(outs))
}

// product returns the product that n multiplies by a number, nil if n does anything else or something else needs the product.
func (a *accumulator) product(n *graph.Node) *scaled {
	if _, ok := n.Op.(graph.Linear); !ok || isView(n) {
		return nil
	}
	i, f := passThrough(n)
	if f == 0 || f == 1 {
		return nil
	}
	s := &scaled{}
	for y := n.In[i]; ; y = y.Node().In[0] {
		m := y.Node()
		if a.users[m.ID] != 1 || len(m.Out) != 1 || m.Out[0].DType != n.Out[0].DType || m.Out[0].Size() != n.Out[0].Size() {
			return nil
		}
		s.within = append(s.within, m)
		if sc, ok := m.Op.(graph.Scaler); ok {
			if s.op, ok = sc.Scaled(f, m); !ok {
				return nil
			}
			s.node = m
			break
		}
		if _, f := passThrough(m); !isView(m) || f != 1 {
			return nil
		}
	}
	in := s.node.InTypes()
	if _, err := a.p.kernelOf(keyFor(s.op, in), in, s.node.Out); err != nil {
		return nil
	}
	return s
}
