package plan

import (
	"cmp"
	"slices"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Thin products have an operand, or a sum, that is so many times as large as all else that is read and written for it.
const (
	stackThin = 4
	stackMost = 8 // products at once
)

// stack makes one product of several thin ones that share what they read or write, as those of the adapters of layers with one input do (Stacker):
// x·A₁ᵀ, x·A₂ᵀ, ... read x once, and so do their gradients t₁ᵀ·x, t₂ᵀ·x, ...; the gradient of x, t₁·A₁ + t₂·A₂ + ..., is written once (Chainer). The
// operands that differ are small and are joined. Results of the first and second kind are summed as they were; those of the third are rounded once
// instead of after each product. Products of parts of the data by one weight, and their sum that is the weight's gradient, stay: they are apart so that
// no more than one part is held at a time. It is for devices on which such products wait for memory (device.Stacking).
func stack(p *Plan, g *graph.Graph, outs []graph.Value) (*graph.Graph, []graph.Value, error) {
	dev, ok := p.dev.(device.Stacking)
	if !ok {
		return g, outs, nil
	}
	s := newStacker(p, g, outs)
	s.least = dev.StackFrom()
	s.findChains()
	s.findStacks()
	if len(s.at) == 0 {
		return g, outs, nil
	}
	if err := s.rewrite(); err != nil {
		return nil, nil, err
	}
	if s.broken {
		return g, outs, nil
	}
	return prune(p, s.r.Writes(g), s.r.GetAll(outs))
}

// stacker finds and rewrites such products.
type stacker struct {
	p     *Plan
	g     *graph.Graph
	r     *graph.Rewriter
	least int64 // bytes to be saved
	users []int // by node ID, as an accumulator counts them
	by    [][]int
	fed   []bool              // by node ID: depends on what the step is fed, as weights do not
	rank  map[graph.Value]int // of operands: in which order they are joined, so that what is joined twice is equal

	member map[*graph.Node]*stacked
	at     map[*graph.Node]*stacked // by the node in whose place they are computed
	pinned []bool                   // by node ID: reads a transpose, and stays what it is
	done   []bool                   // by node ID: stands in the new graph, or is not needed there
	broken bool                     // a node would come before what it needs
}

// stacked is nodes that become one.
type stacked struct {
	graph.Stack
	nodes  []*graph.Node // in the order in which their operands are joined
	shared int           // which input they have in common; -1 where they are a chain

	// of a chain
	left, right graph.Op
	head        *graph.Node   // the first
	within      []*graph.Node // views between its nodes
}

func newStacker(p *Plan, g *graph.Graph, outs []graph.Value) *stacker {
	return &stacker{p: p, g: g, r: graph.NewRewriter(g), users: newAccumulator(g, outs).users, by: usersOf(g, outs), fed: fedBy(g), rank: map[graph.Value]int{},
		member: map[*graph.Node]*stacked{}, at: map[*graph.Node]*stacked{}, pinned: make([]bool, len(g.Nodes())),
		done: make([]bool, len(g.Nodes()))}
}

// fedBy tells by ID which nodes depend on inputs. A view has the values of its first input, whatever it waits for: weights of blocks that are computed again
// wait for a gradient.
func fedBy(g *graph.Graph) []bool {
	fed := make([]bool, len(g.Nodes()))
	for i, n := range g.Nodes() {
		_, input := n.Op.(graph.Input)
		in := n.In
		if isView(n) {
			in = in[:1]
		}
		fed[i] = input || slices.ContainsFunc(in, func(v graph.Value) bool { return v.Valid() && fed[v.Node().ID] })
	}
	return fed
}

// whole goes from a value through views that only change its shape, to the first of the same type.
func whole(v graph.Value) graph.Value {
	same := v
	for n := v.Node(); isWhole(n); n = v.Node() {
		if v = n.In[0]; v.Type() == same.Type() {
			same = v
		}
	}
	return same
}

// isWhole reports whether n is a view of all of its one input.
func isWhole(n *graph.Node) bool {
	return len(n.In) == 1 && isView(n) && n.In[0].DType() == n.Out[0].DType && n.In[0].Type().Size() == n.Out[0].Size()
}

// pays reports whether products are worth joining for an operand or a result of so many bytes that is read or written times less often, when all that
// is joined or made for it has small bytes.
func (s *stacker) pays(large int64, times int, small int64) bool {
	return large*int64(times) >= s.least && large >= stackThin*small
}

// findChains finds products that are added to the sum of those before them. What adds is the node that is left; the order of operands is that of the
// right ones, weights that the forward pass joins too.
func (s *stacker) findChains() {
	for i := len(s.g.Nodes()) - 1; i >= 0; i-- {
		n := s.g.Nodes()[i]
		if _, ok := n.Op.(graph.Chainer); !ok || s.member[n] != nil {
			continue
		}
		c := s.chainTo(n)
		if c == nil {
			continue
		}
		for _, m := range c.nodes {
			a, b := operands(m)
			s.rank[whole(a)] = whole(b).Node().ID
		}
		s.sort(c.nodes, func(m *graph.Node) graph.Value { return m.In[len(m.In)-2] })
		s.add(c, n)
	}
}

// operands are the last two inputs of a product.
func operands(n *graph.Node) (left, right graph.Value) { return n.In[len(n.In)-2], n.In[len(n.In)-1] }

// chainTo is the chain that n ends, nil if it ends none that pays.
func (s *stacker) chainTo(n *graph.Node) *stacked {
	c := &stacked{shared: -1, nodes: []*graph.Node{n}}
	small := operandBytes(n)
	for c.head = n; len(c.nodes) < stackMost; {
		m, views := s.before(c, c.head)
		if m == nil || n.Out[0].Bytes() < stackThin*(small+operandBytes(m)) {
			break
		}
		c.nodes, c.within, c.head, small = append(c.nodes, m), append(c.within, views...), m, small+operandBytes(m)
	}
	if len(c.nodes) < 2 || !s.pays(n.Out[0].Bytes(), 2*len(c.nodes)-2, small) {
		return nil
	}
	return c
}

func operandBytes(n *graph.Node) int64 {
	a, b := operands(n)
	return a.Type().Bytes() + b.Type().Bytes()
}

// before is the product that m adds to and the views between them, nil where it can not be computed with m.
func (s *stacker) before(c *stacked, m *graph.Node) (n *graph.Node, views []*graph.Node) {
	op, ok := m.Op.(graph.Chainer)
	if !ok {
		return nil, nil
	}
	v := m.In[0]
	for s.users[v.Node().ID] == 1 && isWhole(v.Node()) {
		views = append(views, v.Node())
		v = v.Node().In[0]
	}
	n = v.Node()
	if s.users[n.ID] != 1 || len(n.Out) != 1 || len(n.In) < 2 || v.DType() != m.Out[0].DType || s.member[n] != nil {
		return nil, nil
	}
	left, right, ok := op.Chained(n.Op)
	if !ok || !alike(m, n, left, right) || s.apart(m) || s.apart(n) {
		return nil, nil
	}
	c.left, c.right = left, right
	return n, views
}

// apart reports whether neither operand of a product is a weight.
func (s *stacker) apart(n *graph.Node) bool {
	a, b := operands(n)
	return s.fed[a.Node().ID] && s.fed[b.Node().ID]
}

// alike reports whether the operands of both products can be joined.
func alike(m, before *graph.Node, left, right graph.Op) bool {
	a, b := operands(m)
	c, d := operands(before)
	if m.Phase() != before.Phase() || a.Rank() != 2 || c.Rank() != 2 || a.DType() != c.DType() || b.DType() != d.DType() {
		return false
	}
	return joins(left, a, c) && joins(right, b, d)
}

func joins(op graph.Op, vs ...graph.Value) bool {
	_, err := op.Infer(types(vs))
	return err == nil
}

func types(vs []graph.Value) []tensor.Type {
	out := make([]tensor.Type, len(vs))
	for i, v := range vs {
		out[i] = v.Type()
	}
	return out
}

// served reports whether the device can compute nodes with an operand in common at once.
func (s *stacker) served(c *stacked) bool {
	var join, in []graph.Value
	for _, n := range c.nodes {
		join = append(join, n.In[c.Input])
	}
	joined, err := c.Join.Infer(types(join))
	if err != nil {
		return false
	}
	in = append(in, c.nodes[0].In[c.shared])
	if c.Each {
		for _, n := range c.nodes {
			in = append(in, n.In[0])
		}
	}
	op, all := c.Op(len(c.nodes)), append(joined, types(in)...)
	out, err := op.Infer(all)
	if err != nil {
		return false
	}
	_, err = s.p.kernelOf(keyFor(op, all), all, out)
	return err == nil
}

// stackKey is what products that can become one have in common.
type stackKey struct {
	op     graph.Op
	shared graph.Value
	input  int
	phase  graph.Phase
}

// findStacks finds products with an operand in common.
func (s *stacker) findStacks() {
	groups := map[stackKey][]*graph.Node{}
	var order []stackKey
	for _, n := range s.g.Nodes() {
		op, ok := n.Op.(graph.Stacker)
		if !ok || s.member[n] != nil || len(n.Out) != 1 {
			continue
		}
		for i, v := range n.In {
			if !v.Valid() || v.Rank() != 2 || !s.fed[v.Node().ID] {
				continue
			}
			if _, ok := op.Stacked(n, i); !ok {
				continue
			}
			k := stackKey{n.Op, whole(v), i, n.Phase()}
			if groups[k] == nil {
				order = append(order, k)
			}
			groups[k] = append(groups[k], n)
		}
	}
	for _, k := range order {
		s.group(k, groups[k])
	}
}

// group makes stacks of nodes with an operand in common, of those whose users can read their results as they come.
func (s *stacker) group(k stackKey, nodes []*graph.Node) {
	var fit []*graph.Node
	for _, n := range nodes {
		st, _ := n.Op.(graph.Stacker).Stacked(n, k.input)
		if s.member[n] == nil && !s.pinned[n.ID] && n.In[st.Input].Valid() && (!st.Turned || s.turns(n)) && (len(fit) == 0 || joins(st.Join, fit[0].In[st.Input], n.In[st.Input])) {
			fit = append(fit, n)
		}
	}
	for lo := 0; lo+1 < len(fit); lo += stackMost {
		list := fit[lo:min(lo+stackMost, len(fit))]
		st, _ := list[0].Op.(graph.Stacker).Stacked(list[0], k.input)
		var small int64
		for _, n := range list {
			small += n.In[st.Input].Type().Bytes() + n.Out[0].Bytes()
		}
		if len(list) < 2 || !s.pays(k.shared.Type().Bytes(), len(list)-1, small) {
			continue
		}
		c := &stacked{Stack: st, shared: k.input, nodes: slices.Clone(list)}
		at := s.place(c)
		if at == nil || !s.served(c) {
			continue
		}
		s.sort(c.nodes, func(n *graph.Node) graph.Value { return n.In[st.Input] })
		s.add(c, at)
	}
}

// sort puts nodes in the order of the operands that are joined.
func (s *stacker) sort(nodes []*graph.Node, operand func(*graph.Node) graph.Value) {
	rank := func(n *graph.Node) int {
		v := whole(operand(n))
		if r, ok := s.rank[v]; ok {
			return r
		}
		return v.Node().ID
	}
	slices.SortStableFunc(nodes, func(x, y *graph.Node) int { return cmp.Compare(rank(x), rank(y)) })
}

// add notes a stack and where it is computed.
func (s *stacker) add(c *stacked, at *graph.Node) {
	s.at[at] = c
	for _, n := range c.nodes {
		s.member[n] = c
		if !c.Turned {
			continue
		}
		_, users, _ := s.readers(n)
		for _, u := range users {
			s.pinned[u.ID] = true
		}
	}
}

// turns reports whether all that reads n's result, through views of all of it, can read its transpose.
func (s *stacker) turns(n *graph.Node) bool {
	views, users, ok := s.readers(n)
	for _, m := range append(views, n) {
		for _, u := range users {
			for i, v := range u.In {
				ok = ok && (!v.Valid() || v.Node() != m || s.reads(u, i, n))
			}
		}
	}
	return ok
}

// readers lists what reads n's result: views of all of it, and other nodes; ok is false where it is a result of the graph or written.
func (s *stacker) readers(n *graph.Node) (views, users []*graph.Node, ok bool) {
	ok = true
	for list := []*graph.Node{n}; len(list) > 0; list = list[1:] {
		for _, u := range s.by[list[0].ID] {
			switch {
			case u == len(s.g.Nodes()):
				return nil, nil, false
			case isWhole(s.g.Nodes()[u]):
				views, list = append(views, s.g.Nodes()[u]), append(list, s.g.Nodes()[u])
			default:
				users = append(users, s.g.Nodes()[u])
			}
		}
	}
	return views, users, ok
}

// reads reports whether input i of user, which is n's result, can be its transpose.
func (s *stacker) reads(user *graph.Node, i int, n *graph.Node) bool {
	op, ok := user.Op.(graph.Turner)
	if !ok || user.In[i].Type() != n.Out[0] || s.member[user] != nil {
		return false
	}
	turned, ok := op.Turned(i)
	if !ok {
		return false
	}
	in := user.InTypes()
	in[i] = turnedType(in[i])
	out, err := turned.Infer(in)
	if err != nil || !slices.Equal(out, user.Out) {
		return false
	}
	_, err = s.p.kernelOf(keyFor(turned, in), in, out)
	return err == nil
}

// place returns the node in whose place all can be computed, nil if there is none: the first, where what the others read is there or can be
// brought there at no cost, as casts of weights; or the last, where nothing needs the others before.
func (s *stacker) place(c *stacked) *graph.Node {
	first, last := c.nodes[0], c.nodes[len(c.nodes)-1]
	early, late := true, true
	known := map[*graph.Node]bool{}
	for _, n := range c.nodes {
		for _, v := range n.In {
			early = early && (!v.Valid() || s.early(v, first.ID, known))
		}
		for _, u := range s.by[n.ID] {
			late = late && u > last.ID
		}
	}
	switch {
	case early:
		return first
	case late:
		return last
	}
	return nil
}

// early reports whether v can be had before a node. What is known of nodes already is asked once, as many ways may lead to them.
func (s *stacker) early(v graph.Value, before int, known map[*graph.Node]bool) bool {
	n := v.Node()
	if n.ID < before || isLeaf(n) {
		return true
	}
	if _, ok := n.Op.(graph.Elementwise); !ok && !isView(n) || s.member[n] != nil {
		return false
	}
	if ok, asked := known[n]; asked {
		return ok
	}
	known[n] = !slices.ContainsFunc(n.In, func(x graph.Value) bool { return x.Valid() && !s.early(x, before, known) })
	return known[n]
}
