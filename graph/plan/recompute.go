package plan

import "github.com/bitsandbyes/bitsandbyes/graph"

// recompute copies a function of one value, such as the SiLU of a gated layer, to each of the elementwise ops that use it, where that value
// is kept until then anyway: the fused kernels compute it again from what they read in its stead, and its result is neither written nor
// kept. Every copy gives the same bits.
func recompute(_ *Plan, g *graph.Graph, outs []graph.Value) (*graph.Graph, []graph.Value, error) {
	users := usersOf(g, outs)
	again := make([]bool, len(g.Nodes()))
	found := false
	for _, n := range g.Nodes() {
		if cheap(n) && elsewhere(users, n) {
			again[n.ID], found = true, true
		}
	}
	if !found {
		return g, outs, nil
	}
	r := graph.NewRewriter(g)
	for _, n := range g.Nodes() {
		if again[n.ID] {
			continue
		}
		for i, v := range n.In {
			if v.Valid() && again[v.Node().ID] && !repeats(n.In, i) {
				r.Move(v.Node())
			}
		}
		r.Move(n)
	}
	return r.Writes(g), r.GetAll(outs), nil
}

// usersOf lists the nodes that use each node, by ID and ascending; the graph's length stands for outputs and writes.
func usersOf(g *graph.Graph, outs []graph.Value) [][]int {
	users := make([][]int, len(g.Nodes()))
	use := func(v graph.Value, by int) {
		if v.Valid() {
			users[v.Node().ID] = append(users[v.Node().ID], by)
		}
	}
	for i, n := range g.Nodes() {
		for _, v := range n.In {
			use(v, i)
		}
	}
	for _, v := range outs {
		use(v, len(users))
	}
	for _, w := range g.Writes() {
		use(w.Value, len(users))
	}
	return users
}

// cheap reports whether n is an elementwise function of one computed value, of its type.
func cheap(n *graph.Node) bool {
	_, ok := n.Op.(graph.Elementwise)
	return ok && len(n.In) == 1 && n.In[0].Valid() && n.In[0].Type() == n.Out[0] && !isLeaf(n.In[0].Node()) && n.Out[0].Rank() > 0
}

// elsewhere reports whether several elementwise ops of n's shape, and nothing else, use n, and n's input lives as long as they need it.
func elsewhere(users [][]int, n *graph.Node) bool {
	by := users[n.ID]
	if len(by) < 2 {
		return false
	}
	g := n.Output(0).Graph()
	for _, u := range by {
		if u >= len(users) {
			return false
		}
		user := g.Nodes()[u]
		if _, ok := user.Op.(graph.Elementwise); !ok || user.Out[0].Shape != n.Out[0].Shape || cheap(user) {
			return false
		}
	}
	kept := users[n.In[0].Node().ID]
	return kept[len(kept)-1] >= by[len(by)-1]
}
