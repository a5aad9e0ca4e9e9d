package plan

import (
	"fmt"
	"slices"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// What casts are done together: those of at most so many elements, of at least so many variables, which have at least a quarter of the slab between
// them. Large weights stay alone: some are cast again in the backward pass, to be kept no longer.
const (
	gatheredElements = 1 << 18
	gatheredCasts    = 8
)

// gather casts small variables of one slab at once, where each is cast by itself as it is used: the adapters of a model are hundreds of
// small launches. A factor before the cast is part of it. Each result is a view; no bit changes.
func gather(p *Plan, g *graph.Graph, outs []graph.Value) (*graph.Graph, []graph.Value, error) {
	groups := findSlabCasts(g)
	if len(groups) == 0 {
		return g, outs, nil
	}
	of := map[*graph.Node]*slabCasts{}
	for _, s := range groups {
		for _, n := range s.casts {
			of[n] = s
		}
	}
	r := graph.NewRewriter(g)
	for _, n := range g.Nodes() {
		s := of[n]
		if s == nil {
			r.Move(n)
			continue
		}
		if !s.whole.Valid() {
			s.whole = s.emit(r)
		}
		_, v, _ := slabCast(n)
		undo := r.New.OnBehalf(n)
		r.Set(n, r.New.Apply(slabView{n.Out[0], slabOffset(v) - s.lo}, s.whole))
		undo()
	}
	if err := r.New.Err(); err != nil {
		return nil, nil, err
	}
	return prune(p, r.Writes(g), r.GetAll(outs))
}

// castKey says which casts are alike: of one slab, to one dtype, after one factor or none.
type castKey struct {
	root   *graph.Var
	cast   graph.Op
	scale  graph.Op // absent: nil
	factor graph.Value
	second bool // the factor is the first operand
}

// slabCasts are casts of variables between elements lo and hi of a slab.
type slabCasts struct {
	key    castKey
	casts  []*graph.Node
	lo, hi int64
	used   int64 // elements that are cast
	whole  graph.Value
}

func findSlabCasts(g *graph.Graph) []*slabCasts {
	written := map[*graph.Var]bool{}
	for _, w := range g.Writes() {
		root, _ := w.Var.Root()
		written[root] = true
	}
	by := map[castKey]*slabCasts{}
	var order []*slabCasts
	for _, n := range g.Nodes() {
		key, v, ok := slabCast(n)
		if !ok || written[key.root] {
			continue
		}
		s := by[key]
		if s == nil {
			s = &slabCasts{key: key, lo: 1 << 62}
			by[key] = s
			order = append(order, s)
		}
		off := slabOffset(v)
		s.casts = append(s.casts, n)
		s.lo, s.hi = min(s.lo, off), max(s.hi, off+int64(v.Type.Size()))
		s.used += int64(v.Type.Size())
	}
	return slices.DeleteFunc(order, func(s *slabCasts) bool { return len(s.casts) < gatheredCasts || 4*s.used < s.hi-s.lo })
}

// slabCast recognises a cast of a small variable of a slab, or of that times a scalar.
func slabCast(n *graph.Node) (key castKey, v *graph.Var, ok bool) {
	c, ok := n.Op.(graph.Caster)
	if !ok || !c.Casts() {
		return key, nil, false
	}
	x := n.In[0]
	key.cast = n.Op
	if op, ok := x.Node().Op.(graph.Linear); ok && len(x.Node().In) == 2 {
		for i, in := range x.Node().In {
			if other := x.Node().In[1-i]; other.Type().Size() == 1 && in.Type() == x.Type() {
				key.scale, key.factor, key.second = op, other, i == 1
				x = in
				break
			}
		}
	}
	read, ok := x.Node().Op.(graph.Read)
	if !ok || read.Var.Slab == nil || read.Var.Type.Size() > gatheredElements {
		return key, nil, false
	}
	key.root, _ = read.Var.Root()
	return key, read.Var, key.root.Place == graph.OnDevice && key.root.Type.DType == read.Var.Type.DType && key.root.Type.Shape.Rank() == 1
}

// slabOffset is the first element of a variable in its slab.
func slabOffset(v *graph.Var) int64 {
	_, bytes := v.Root()
	return bytes / int64(v.Type.DType.Size())
}

// emit casts all between the first and the last variable.
func (s *slabCasts) emit(r *graph.Rewriter) graph.Value {
	defer r.New.OnBehalf(s.casts[0])()
	x := r.New.Apply(slabView{tensor.T(s.key.root.Type.DType, int(s.hi-s.lo)), s.lo}, r.New.Read(s.key.root))[0]
	if s.key.scale != nil {
		in := []graph.Value{x, r.Get(s.key.factor)}
		if s.key.second {
			slices.Reverse(in)
		}
		x = r.New.Apply(s.key.scale, in...)[0]
	}
	return r.New.Apply(s.key.cast, x)[0]
}

// slabView is a value of a type from an element of its input on.
type slabView struct {
	typ  tensor.Type
	from int64
}

// Name implements graph.Op.
func (slabView) Name() string { return "slab_view" }

// Infer implements graph.Op.
func (o slabView) Infer(in []tensor.Type) ([]tensor.Type, error) {
	if len(in) != 1 || in[0].DType != o.typ.DType || o.from < 0 || o.from+int64(o.typ.Size()) > int64(in[0].Size()) {
		return nil, fmt.Errorf("%v from element %d on is not within %v", o.typ, o.from, in)
	}
	return []tensor.Type{o.typ}, nil
}

// View implements graph.Viewer.
func (o slabView) View([]tensor.Type) (int64, bool) { return o.from * int64(o.typ.DType.Size()), true }
