package plan

import (
	"slices"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// rewrite copies the graph with the stacks in it.
func (s *stacker) rewrite() error {
	for n, c := range s.member {
		for _, v := range c.within {
			s.done[v.ID] = true
		}
		if !c.Turned {
			continue
		}
		views, _, _ := s.readers(n)
		for _, v := range views {
			s.done[v.ID] = true
		}
	}
	sooner := s.sooner()
	for _, n := range s.g.Nodes() {
		switch c := s.at[n]; {
		case s.broken:
			return nil
		case s.done[n.ID]:
		case c != nil:
			s.emit(c, n)
		case s.member[n] != nil: // with the others, at their place
		default:
			s.move(n)
		}
		for _, c := range sooner[n] {
			s.emit(c, c.nodes[0])
		}
	}
	return s.r.New.Err()
}

// sooner lists, by the last node that their operands come from, products that can be computed before their place. The gradients of weights stand where they are
// added to what was there before, at the end of a step: the scheduler brings single ones forward, as they free what they read, but not the joins that these need.
func (s *stacker) sooner() map[*graph.Node][]*stacked {
	after := map[*graph.Node][]*stacked{}
	for place, c := range s.at {
		last, ok, known := -1, c.shared >= 0, map[*graph.Node]bool{} // what of the weights alone can be had at any time
		for _, m := range c.nodes {
			for _, v := range m.In {
				if !v.Valid() || s.early(v, 0, known) {
					continue
				}
				n := whole(v).Node()
				last, ok = max(last, n.ID), ok && s.member[n] == nil
			}
		}
		if ok && last >= 0 && last < place.ID {
			n := s.g.Nodes()[last]
			after[n] = append(after[n], c)
		}
	}
	for _, list := range after {
		slices.SortFunc(list, func(a, b *stacked) int { return a.nodes[0].ID - b.nodes[0].ID })
	}
	return after
}

// move copies a node and what it needs that is not there yet. Results that are transposes now are read as such.
func (s *stacker) move(n *graph.Node) {
	if s.done[n.ID] {
		return
	}
	if s.member[n] != nil {
		s.broken = true
		return
	}
	s.done[n.ID] = true
	for _, v := range n.In {
		if v.Valid() {
			s.move(v.Node())
		}
	}
	if !s.pinned[n.ID] {
		s.r.Move(n)
		return
	}
	op, in := n.Op, s.r.GetAll(n.In)
	for i, v := range n.In {
		if !v.Valid() {
			continue
		}
		w := whole(v)
		if c := s.member[w.Node()]; c != nil && c.Turned {
			op, _ = op.(graph.Turner).Turned(i) // reads has seen to it
			in[i] = s.r.Get(w)
		}
	}
	undo := s.r.New.OnBehalf(n)
	s.r.Set(n, s.r.New.Apply(op, in...))
	undo()
}

// get is a value of the new graph, computed first if it is not there yet.
func (s *stacker) get(v graph.Value) graph.Value {
	s.move(v.Node())
	return s.r.Get(v)
}

// join returns one operand of all nodes as one.
func (s *stacker) join(c *stacked, op graph.Op, operand func(n *graph.Node) graph.Value) graph.Value {
	in := make([]graph.Value, len(c.nodes))
	for i, n := range c.nodes {
		in[i] = s.get(whole(operand(n)))
	}
	if s.broken {
		return graph.Value{}
	}
	return s.r.New.Apply(op, in...)[0]
}

// emit computes the nodes of c at once, in the place of n.
func (s *stacker) emit(c *stacked, n *graph.Node) {
	defer s.r.New.OnBehalf(n)()
	for _, m := range c.nodes {
		s.done[m.ID] = true
	}
	if c.shared < 0 {
		s.emitChain(c, n)
		return
	}
	in := []graph.Value{s.join(c, c.Join, func(m *graph.Node) graph.Value { return m.In[c.Input] }), s.get(whole(n.In[c.shared]))}
	if c.Each {
		for _, m := range c.nodes {
			in = append(in, s.get(m.In[0]))
		}
	}
	if s.broken {
		return
	}
	out := s.r.New.Apply(c.Op(len(c.nodes)), in...)
	at := int64(0)
	for i, m := range c.nodes {
		if c.Each {
			s.r.Set(m, out[i:i+1])
			continue
		}
		t := m.Out[0]
		if c.Turned {
			t = turnedType(t)
		}
		s.r.Set(m, s.r.New.Apply(graph.Part{Offset: at, Shape: t.Shape}, out[0]))
		at += int64(t.Size())
	}
}

// emitChain computes the sum of all products of c in the place of the last, n.
func (s *stacker) emitChain(c *stacked, n *graph.Node) {
	left := s.join(c, c.left, func(m *graph.Node) graph.Value { return m.In[len(m.In)-2] })
	right := s.join(c, c.right, func(m *graph.Node) graph.Value { return m.In[len(m.In)-1] })
	var in []graph.Value
	for _, v := range c.head.In[:len(c.head.In)-2] { // what the first is added to
		in = append(in, s.get(v))
	}
	if s.broken {
		return
	}
	y := s.r.New.Apply(c.head.Op, append(in, left, right)...)[0]
	if y.Valid() && y.Shape() != n.Out[0].Shape {
		y = s.r.New.Apply(graph.Part{Shape: n.Out[0].Shape}, y)[0]
	}
	s.r.Set(n, []graph.Value{y})
}

// turnedType is the type of a matrix' transpose.
func turnedType(t tensor.Type) tensor.Type { return tensor.T(t.DType, t.Dim(1), t.Dim(0)) }
