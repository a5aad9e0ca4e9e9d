package plan

import (
	"errors"
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph"
)

// group computes ops that can (Grouper) at once with others that read the same input, where the device has a kernel for all: the projections of a token are
// one launch, and so are the narrow sides of their adapters. A group is computed in the place of its first node, so all that the others read must be there,
// or be leaves, or be computed elementwise from what is. Results are those of the nodes, each by itself.
func group(p *Plan, g *graph.Graph, outs []graph.Value) (*graph.Graph, []graph.Value, error) {
	s := &grouper{p: p, g: g, of: map[*graph.Node]*grouped{}}
	if err := s.find(); err != nil || len(s.of) == 0 {
		return g, outs, err
	}
	s.r, s.done = graph.NewRewriter(g), make([]bool, len(g.Nodes()))
	for _, n := range g.Nodes() {
		s.move(n)
	}
	return prune(p, s.r.Writes(g), s.r.GetAll(outs))
}

// grouper finds and rewrites groups.
type grouper struct {
	p    *Plan
	g    *graph.Graph
	r    *graph.Rewriter
	of   map[*graph.Node]*grouped
	done []bool // by node ID: stands in the new graph
}

// grouped is nodes that become one, in the place of the first.
type grouped struct {
	nodes []*graph.Node
	op    graph.Op
	in    []graph.Value
}

// groupKey is what nodes of a group have in common.
type groupKey struct {
	shared graph.Value
	kind   any
	phase  graph.Phase
}

// find makes groups in the order of their first nodes: then what a later one needs of an earlier one is there.
func (s *grouper) find() error {
	alike := map[groupKey][]*graph.Node{}
	keys := make([]groupKey, len(s.g.Nodes()))
	for i, n := range s.g.Nodes() {
		if op, ok := n.Op.(graph.Grouper); ok && len(n.Out) == 1 {
			if at, kind, ok := op.Grouping(n); ok && n.In[at].Valid() {
				keys[i] = groupKey{unshaped(n.In[at]), kind, n.Phase()}
				alike[keys[i]] = append(alike[keys[i]], n)
			}
		}
	}
	for i, n := range s.g.Nodes() {
		list := alike[keys[i]]
		if keys[i].kind == nil || s.of[n] != nil {
			continue
		}
		fit := []*graph.Node{n}
		known := map[*graph.Node]bool{}
		for _, m := range list {
			if m.ID > n.ID && s.of[m] == nil && s.before(m.In, n.ID, known) {
				fit = append(fit, m)
			}
		}
		if err := s.add(fit); err != nil {
			return err
		}
	}
	return nil
}

// unshaped goes from a value through all views that only change its shape.
func unshaped(v graph.Value) graph.Value {
	for isWhole(v.Node()) {
		v = v.Node().In[0]
	}
	return v
}

// before reports whether all values can be had before a node. What is known of nodes is asked once.
func (s *grouper) before(list []graph.Value, id int, known map[*graph.Node]bool) bool {
	for _, v := range list {
		if !v.Valid() || isLeaf(v.Node()) {
			continue
		}
		n := v.Node()
		if c := s.of[n]; c != nil {
			n = c.nodes[0]
		}
		if n.ID < id {
			continue
		}
		if _, ok := n.Op.(graph.Elementwise); !ok && !isView(n) {
			return false
		}
		ok, asked := known[n]
		if !asked {
			ok = s.before(n.In, id, known)
			known[n] = ok
		}
		if !ok {
			return false
		}
	}
	return true
}

// add notes a group of as many of the nodes as the device computes at once, the first among them, if that is not what the first is already. Where it has no
// kernel for all of them they are taken in one by one, so that one node that it lacks a kernel for costs the others nothing.
func (s *grouper) add(nodes []*graph.Node) error {
	c, err := s.together(nodes)
	if err != nil {
		return err
	}
	if c == nil {
		if c, err = s.oneByOne(nodes); c == nil {
			return err
		}
	}
	for _, n := range c.nodes {
		s.of[n] = c
	}
	return nil
}

// oneByOne is the group of the first node and of those that the device computes with it and what is there already.
func (s *grouper) oneByOne(nodes []*graph.Node) (c *grouped, err error) {
	var fit []*graph.Node
	for _, n := range nodes {
		next, err := s.together(append(fit[:len(fit):len(fit)], n))
		switch {
		case err != nil:
			return nil, err
		case len(fit) == 0 || next != nil && len(next.nodes) > len(fit): // the first may have no group of its own
			fit, c = append(fit, n), next
		}
	}
	return c, nil
}

// together is the group of as many of the first nodes as its op computes; nil where there is none, where the device has no kernel for it, or where it is what
// the first node is.
func (s *grouper) together(nodes []*graph.Node) (*grouped, error) {
	op, in, ok := nodes[0].Op.(graph.Grouper).Grouped(nodes)
	if !ok {
		return nil, nil
	}
	from := types(in)
	out, err := op.Infer(from)
	if err != nil {
		return nil, fmt.Errorf("%s: %s: %w", nodes[0].Where(), graph.OpText(op), err)
	}
	c := &grouped{nodes: nodes[:len(out)], op: op, in: in}
	if len(c.nodes) == 1 && op == nodes[0].Op {
		return nil, nil
	}
	switch _, err := s.p.kernelOf(keyFor(op, from), from, out); {
	case errors.Is(err, device.ErrNoKernel):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("%s: %s: %w", nodes[0].Where(), graph.OpText(op), err)
	}
	return c, nil
}

// move puts a node, or the group that it is in, into the new graph, after what it needs.
func (s *grouper) move(n *graph.Node) {
	if s.done[n.ID] {
		return
	}
	c := s.of[n]
	if c == nil {
		s.done[n.ID] = true
		s.need(n.In)
		s.r.Move(n)
		return
	}
	for _, m := range c.nodes {
		s.done[m.ID] = true
	}
	s.need(c.in)
	defer s.r.New.OnBehalf(c.nodes[0])()
	out := s.r.New.Apply(c.op, s.r.GetAll(c.in)...)
	for i, m := range c.nodes {
		v := out[i]
		if v.Valid() && v.Shape() != m.Out[0].Shape {
			v = s.r.New.Apply(graph.Part{Shape: m.Out[0].Shape}, v)[0]
		}
		s.r.Set(m, []graph.Value{v})
	}
}

func (s *grouper) need(list []graph.Value) {
	for _, v := range list {
		if v.Valid() {
			s.move(v.Node())
		}
	}
}
