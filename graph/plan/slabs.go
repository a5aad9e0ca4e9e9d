package plan

import "github.com/bitsandbyes/bitsandbyes/graph"

// minSlabCasts is from how many casts of its parts on a slab is cast as a whole.
const minSlabCasts = 4

// slabCast is casts of variables that lie in one slab, all by one op.
type slabCast struct {
	slab *graph.Var
	op   graph.Op
}

// castSlabs casts a slab once where most of what lies in it is cast to a narrower type, part by part: the weights that are trained, of an adapter
// some hundred small ones. Results have the same bits, and live as long as the last of them did.
func castSlabs(p *Plan, g *graph.Graph, outs []graph.Value) (*graph.Graph, []graph.Value, error) {
	groups := map[slabCast][]*graph.Node{}
	for _, n := range g.Nodes() {
		if k, ok := castOfPart(n); ok {
			groups[k] = append(groups[k], n)
		}
	}
	in := map[*graph.Node]slabCast{}
	for k, nodes := range groups {
		size := 0
		for _, n := range nodes {
			size += n.Out[0].Size()
		}
		if len(nodes) < minSlabCasts || 4*size < 3*k.slab.Type.Size() {
			continue
		}
		for _, n := range nodes {
			in[n] = k
		}
	}
	if len(in) == 0 {
		return g, outs, nil
	}
	r := graph.NewRewriter(g)
	whole := map[slabCast]graph.Value{}
	for _, n := range g.Nodes() {
		k, ok := in[n]
		if !ok {
			r.Move(n)
			continue
		}
		undo := r.New.OnBehalf(n)
		if whole[k].Absent() {
			whole[k] = r.New.Apply(k.op, r.New.Read(k.slab))[0]
		}
		v := n.In[0].Node().Op.(graph.Read).Var
		r.Set(n, r.New.Apply(graph.Part{Offset: v.Offset, Shape: n.Out[0].Shape}, whole[k]))
		undo()
	}
	return prune(p, r.Writes(g), r.GetAll(outs))
}

// castOfPart returns what n belongs to, if it casts a variable that lies in a slab to a narrower type.
func castOfPart(n *graph.Node) (slabCast, bool) {
	c, ok := n.Op.(graph.Caster)
	if !ok || !c.Casts() || n.Out[0].DType.Size() >= n.In[0].DType().Size() {
		return slabCast{}, false
	}
	read, ok := n.In[0].Node().Op.(graph.Read)
	if !ok {
		return slabCast{}, false
	}
	s := read.Var.Slab
	ok = s != nil && s.Slab == nil && s.Place == graph.OnDevice && s.Type.DType == read.Var.Type.DType
	return slabCast{s, n.Op}, ok
}
