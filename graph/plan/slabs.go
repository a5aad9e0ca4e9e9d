package plan

import (
	"slices"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// A range of a slab is cast as a whole from so many casts of its parts on, if they are three quarters of it; or if they are a quarter of it and none has
// more elements than smallPart: then the launches that are saved are worth more than what is cast for nothing. Where blocks are recomputed large parts
// are cast block by block: all weights of a model at once would take the memory that recomputation is there to save.
const (
	minSlabCasts = 4
	smallPart    = 1 << 18
)

// castSlabs casts a slab once where much of what lies in it is cast to a narrower type, part by part: the weights that are trained, of an adapter
// some hundred small ones. A factor before the cast, as LoRA's scale, is part of it. Results have the same bits, and live as long as the last of
// them did.
func castSlabs(p *Plan, g *graph.Graph, outs []graph.Value) (*graph.Graph, []graph.Value, error) {
	of := map[*graph.Node]*slabCast{}
	for _, s := range findSlabCasts(g) {
		for _, n := range s.casts {
			of[n] = s
		}
	}
	if len(of) == 0 {
		return g, outs, nil
	}
	r := graph.NewRewriter(g)
	for _, n := range g.Nodes() {
		s := of[n]
		if s == nil {
			r.Move(n)
			continue
		}
		undo := r.New.OnBehalf(n)
		if s.whole.Absent() {
			s.whole = s.emit(r)
		}
		_, v, _ := castOfPart(n)
		r.Set(n, r.New.Apply(graph.Part{Offset: partOffset(v) - s.lo, Shape: n.Out[0].Shape}, s.whole))
		undo()
	}
	return prune(p, r.Writes(g), r.GetAll(outs))
}

// castKind says which casts are alike: of one slab, by one op, after one factor or none.
type castKind struct {
	slab   *graph.Var
	op     graph.Op
	scale  graph.Op // nil: there is no factor
	factor graph.Value
	second bool // the factor is the first operand
}

// slabCast is casts of variables between elements lo and hi of a slab.
type slabCast struct {
	castKind
	casts  []*graph.Node
	lo, hi int64
	used   int64 // elements that are cast
	small  bool  // all parts are
	again  bool  // some are read again where blocks are recomputed
	whole  graph.Value
}

// findSlabCasts lists what can be cast at once. Where large and small parts do not go together, the small ones may.
func findSlabCasts(g *graph.Graph) []*slabCast {
	type group struct {
		kind  castKind
		small bool
	}
	by, again := map[group]*slabCast{}, readAgain(g)
	for _, n := range g.Nodes() {
		kind, v, ok := castOfPart(n)
		if !ok {
			continue
		}
		for _, small := range []bool{false, true} {
			if small && v.Type.Size() > smallPart {
				continue
			}
			k := group{kind, small}
			if by[k] == nil {
				by[k] = &slabCast{castKind: kind, lo: partOffset(v), small: small}
			}
			by[k].add(n, v)
			by[k].again = by[k].again || again[v]
		}
	}
	var out []*slabCast
	for k, s := range by {
		if s.pays() && (!k.small || !by[group{k.kind, false}].pays()) {
			out = append(out, s)
		}
	}
	return out
}

// readAgain returns the variables that recomputed blocks read.
func readAgain(g *graph.Graph) map[*graph.Var]bool {
	out := map[*graph.Var]bool{}
	for _, n := range g.Nodes() {
		if n.Phase() != graph.Recompute {
			continue
		}
		for _, v := range n.In {
			if !v.Valid() {
				continue
			}
			if read, ok := v.Node().Op.(graph.Read); ok {
				out[read.Var] = true
			}
		}
	}
	return out
}

func (s *slabCast) add(n *graph.Node, v *graph.Var) {
	at := partOffset(v)
	s.casts = append(s.casts, n)
	s.lo, s.hi = min(s.lo, at), max(s.hi, at+int64(v.Type.Size()))
	s.used += int64(v.Type.Size())
}

// pays reports whether the range is cast as a whole.
func (s *slabCast) pays() bool {
	size := s.hi - s.lo
	return len(s.casts) >= minSlabCasts && (4*s.used >= 3*size && !s.again || s.small && 4*s.used >= size)
}

// partOffset is the first element of a variable in its slab.
func partOffset(v *graph.Var) int64 {
	_, bytes := v.Root()
	return bytes / int64(v.Type.DType.Size())
}

// castOfPart returns what n belongs to, and the variable, if it casts one that lies in a slab, or that times a scalar, to a narrower type.
func castOfPart(n *graph.Node) (kind castKind, v *graph.Var, ok bool) {
	c, ok := n.Op.(graph.Caster)
	if !ok || !c.Casts() || n.Out[0].DType.Size() >= n.In[0].DType().Size() {
		return kind, nil, false
	}
	x := n.In[0]
	kind.op = n.Op
	if op, ok := x.Node().Op.(graph.Linear); ok && len(x.Node().In) == 2 {
		in := x.Node().In
		for i := range in {
			if in[1-i].Type().Size() == 1 && in[i].Type() == x.Type() {
				kind.scale, kind.factor, kind.second = op, in[1-i], i == 1
				x = in[i]
				break
			}
		}
	}
	read, ok := x.Node().Op.(graph.Read)
	if !ok || read.Var.Slab == nil {
		return kind, nil, false
	}
	kind.slab, _ = read.Var.Root()
	return kind, read.Var, kind.slab.Place == graph.OnDevice && kind.slab.Type.DType == read.Var.Type.DType
}

// emit casts all between the first and the last variable.
func (s *slabCast) emit(r *graph.Rewriter) graph.Value {
	x := r.New.Read(s.slab)
	if size := int(s.hi - s.lo); size != x.Type().Size() {
		x = r.New.Apply(graph.Part{Offset: s.lo, Shape: tensor.S(size)}, x)[0]
	}
	if s.scale != nil {
		in := []graph.Value{x, r.Get(s.factor)}
		if s.second {
			slices.Reverse(in)
		}
		x = r.New.Apply(s.scale, in...)[0]
	}
	return r.New.Apply(s.op, x)[0]
}
