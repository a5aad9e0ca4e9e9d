package plan

import (
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// accumulator finds sums c + f·y whose y nothing else needs and whose op can add to c as it computes: y is then never stored, and c is
// summed in place.
type accumulator struct {
	p       *Plan
	g       *graph.Graph
	users   []int  // by node ID: uses of its outputs, also as outputs of the graph and as writes
	into    []*sum // by node ID: what it becomes
	dropped []bool // by node ID: it is computed within a sum
}

// sum is c + factor·y for the result y of node.
type sum struct {
	c      graph.Value
	node   *graph.Node
	op     graph.Op
	within []*graph.Node // node and what lies between it and the sum, last first
}

func accumulate(p *Plan, g *graph.Graph, outs []graph.Value) (*graph.Graph, []graph.Value, error) {
	a := newAccumulator(g, outs)
	a.p = p
	found := false
	for _, n := range g.Nodes() {
		if s := a.find(n); s != nil {
			found, a.into[n.ID] = true, s
			for _, m := range s.within {
				a.dropped[m.ID] = true
			}
		}
	}
	if !found {
		return g, outs, nil
	}
	r := graph.NewRewriter(g)
	for _, n := range g.Nodes() {
		switch {
		case a.dropped[n.ID]:
		case a.into[n.ID] == nil:
			r.Move(n)
		default:
			if err := a.emit(p, r, n); err != nil {
				return nil, nil, err
			}
		}
	}
	return prune(p, r.Writes(g), r.GetAll(outs))
}

func newAccumulator(g *graph.Graph, outs []graph.Value) *accumulator {
	n := len(g.Nodes())
	a := &accumulator{g: g, users: make([]int, n), into: make([]*sum, n), dropped: make([]bool, n)}
	use := func(v graph.Value) {
		if v.Valid() {
			a.users[v.Node().ID]++
		}
	}
	for _, node := range g.Nodes() {
		for _, v := range node.In {
			use(v)
		}
	}
	for _, v := range outs {
		use(v)
	}
	for _, w := range g.Writes() {
		use(w.Value)
	}
	return a
}

// find returns what n can become, nil if it stays as it is. Where either operand can be added to the other, the one that is more work is: it
// reads the other while it computes, and a thin product is as fast as it writes its result.
func (a *accumulator) find(n *graph.Node) *sum {
	op, ok := n.Op.(graph.Linear)
	if !ok || len(n.In) != 2 {
		return nil
	}
	factors, ok := op.Factors(n.In)
	if !ok {
		return nil
	}
	var best *sum
	for i := 1; i >= 0; i-- {
		c := n.In[1-i]
		if factors[1-i] != 1 || factors[i] == 0 || c.Type() != n.Out[0] || n.In[i].Type().Size() != n.Out[0].Size() {
			continue
		}
		if s := a.follow(n.In[i], factors[i]); s != nil && a.room(s, c, n) && a.served(s, c.Type()) && (best == nil || work(s.node) > work(best.node)) {
			s.c = c
			best = s
		}
	}
	return best
}

// work is the arithmetic of a node.
func work(n *graph.Node) int64 {
	flops, _, _ := cost(n)
	return flops
}

// served reports whether the device can add s.node's result to values of type c. The product may come through a cast to float32, in which
// case the sum has to be one of float32 too.
func (a *accumulator) served(s *sum, c tensor.Type) bool {
	in := append([]tensor.Type{c}, s.node.InTypes()...)
	out, err := s.op.Infer(in)
	if err != nil || len(out) != 1 || out[0] != c {
		return false
	}
	_, err = a.p.kernelOf(keyFor(s.op, in), in, out)
	return err == nil
}

// follow goes from y through views and factors to an op that can accumulate.
func (a *accumulator) follow(y graph.Value, factor float64) *sum {
	var within []*graph.Node
	for {
		n := y.Node()
		if a.users[n.ID] != 1 || len(n.Out) != 1 {
			return nil
		}
		within = append(within, n)
		if acc, ok := n.Op.(graph.Accumulator); ok {
			op, ok := acc.AddTo(factor, n)
			if !ok {
				return nil
			}
			return &sum{node: n, op: op, within: within}
		}
		i, f := passThrough(n)
		if f == 0 || n.In[i].Type().Size() != n.Out[0].Size() {
			return nil
		}
		factor *= f
		y = n.In[i]
	}
}

// passThrough returns the one input that n's result is f times of; f is 0 if there is none.
func passThrough(n *graph.Node) (input int, f float64) {
	if isView(n) {
		if len(n.In) > 1 || n.In[0].DType() != n.Out[0].DType {
			return 0, 0 // it waits for another value, or reads bits as other numbers
		}
		return 0, 1
	}
	if c, ok := n.Op.(graph.Caster); ok && c.Casts() && n.Out[0].DType == tensor.F32 && n.In[0].DType().Size() == 2 && n.In[0].DType().IsFloat() {
		return 0, 1 // of a product that is then summed in float32 and never rounded to 16 bits
	}
	op, ok := n.Op.(graph.Linear)
	if !ok {
		return 0, 0
	}
	factors, ok := op.Factors(n.In)
	if !ok {
		return 0, 0
	}
	for i, x := range factors {
		switch {
		case x == 0:
		case f != 0:
			return 0, 0
		default:
			input, f = i, x
		}
	}
	return input, f
}

// room reports whether the sum n may take the place of c, or needs none.
func (a *accumulator) room(s *sum, c graph.Value, n *graph.Node) bool {
	_, apart := s.op.(graph.Apart)
	return apart || a.ends(c, n)
}

// ends reports whether c's storage is free for the sum n: nothing else needs its value, or it is a variable that the sum is written to,
// whose other readers come first.
func (a *accumulator) ends(c graph.Value, n *graph.Node) bool {
	for isView(c.Node()) && a.users[c.Node().ID] == 1 {
		c = c.Node().In[0]
	}
	if read, ok := c.Node().Op.(graph.Read); ok {
		for _, w := range a.g.Writes() {
			if w.Value == n.Output(0) && w.Var == read.Var {
				return true
			}
		}
		return false
	}
	return !isLeaf(c.Node()) && a.users[c.Node().ID] == 1
}

// emit adds the op that accumulates, in scope and phase the product's, or the nodes as they were where the device has no kernel for it.
func (a *accumulator) emit(p *Plan, r *graph.Rewriter, n *graph.Node) error {
	s := a.into[n.ID]
	done, err := replace(p, r, n, s.node, s.op, append([]graph.Value{r.Get(s.c)}, r.GetAll(s.node.In)...))
	if done || err != nil {
		return err
	}
	for i := len(s.within) - 1; i >= 0; i-- {
		r.Move(s.within[i])
	}
	r.Move(n)
	return nil
}
