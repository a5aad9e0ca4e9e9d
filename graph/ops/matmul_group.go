package ops

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// MatMulGroup is products of one x (..., K) by the transposes of N weights (R_i, K), each with an output of its own, (..., R_i), times its Alpha. A
// weight has x's dtype or is float32 and rounded to it. Sums are in float32 and rounded once. It is what a plan makes of the narrow sides of adapters that read
// the same few rows.
type MatMulGroup struct {
	Alpha [GroupMost]float32 // of the first N; the others are zero
	N     int8
}

var (
	_ graph.Decomposable = MatMulGroup{}
	_ graph.Coster       = MatMulGroup{}
	_ graph.Grouper      = MatMulGroup{}
	_ graph.Grouper      = MatMul{}
	_ graph.Grouper      = ScaleMatMul{}
	_ graph.Absorber     = MatMulGroup{}
	_ graph.Absorber     = MatMul{}
	_ graph.Absorber     = ScaleMatMul{}
)

// Name implements graph.Op.
func (MatMulGroup) Name() string { return "matmul_group" }

// String prints the factors.
func (o MatMulGroup) String() string {
	return fmt.Sprintf("matmul_group%v", o.Alpha[:min(max(o.N, 0), GroupMost)])
}

// NumOut is the number of outputs, one for each product.
func (o MatMulGroup) NumOut() int { return int(o.N) }

// Infer implements graph.Op.
func (o MatMulGroup) Infer(in []tensor.Type) (out []tensor.Type, err error) {
	if o.N < 1 || o.N > GroupMost {
		return nil, fmt.Errorf("a group has 1 to %d products, not %d", GroupMost, o.N)
	}
	if err := arity(in, 1+int(o.N)); err != nil {
		return nil, err
	}
	x := in[0]
	if !x.DType.IsFloat() || x.Rank() < 1 {
		return nil, fmt.Errorf("x must be floats with an axis or more, got %v", x)
	}
	dims := x.Shape.Dims()
	k := dims[len(dims)-1]
	for i, a := range in[1:] {
		if a.DType != x.DType && a.DType != tensor.F32 || a.Rank() != 2 || a.Dim(1) != k {
			return nil, fmt.Errorf("weight %d must be %v or f32 with %d columns, got %v", i, x.DType, k, a)
		}
		dims[len(dims)-1] = a.Dim(0)
		out = append(out, tensor.T(x.DType, dims...))
	}
	return out, nil
}

// Decompose implements graph.Decomposable.
func (o MatMulGroup) Decompose(in []Value) (out []Value) {
	x := in[0]
	for i, a := range in[1:] {
		dims := append(x.Shape().Dims()[:x.Rank()-1], a.Dim(0))
		y := Linear(Reshape(x, leadSize(x), x.Dim(-1)), Cast(a, x.DType()))
		out = append(out, Reshape(Scale(y, float64(o.Alpha[i])), dims...))
	}
	return out
}

// Cost implements graph.Coster.
func (o MatMulGroup) Cost(in, out []tensor.Type) (flops, bytes int64) {
	for _, t := range out {
		flops += 2 * int64(t.Size()) * int64(in[0].Dim(-1))
	}
	return flops, sumBytes(in) + sumBytes(out)
}

// thinKind is what thin products of a group have in common beside x, which could be read with another last axis.
type thinKind struct{ cols int }

// thin reports whether n is x·Aᵀ with few rows of A.
func (o MatMul) thin(n *graph.Node) bool {
	return !o.TransA && o.TransB && n.In[0].Rank() >= 1 && n.In[1].Rank() == 2 && n.In[1].Dim(0) <= groupRank && 4*n.In[1].Dim(0) <= n.In[1].Dim(1)
}

// Grouping implements graph.Grouper.
func (o MatMul) Grouping(n *graph.Node) (shared int, kind any, ok bool) {
	return 0, thinKind{n.In[0].Dim(-1)}, o.thin(n)
}

// Grouped implements graph.Grouper.
func (o MatMul) Grouped(nodes []*graph.Node) (graph.Op, []Value, bool) { return groupThin(nodes) }

// Grouping implements graph.Grouper.
func (o ScaleMatMul) Grouping(n *graph.Node) (shared int, kind any, ok bool) {
	return o.MatMul.Grouping(n)
}

// Grouped implements graph.Grouper.
func (o ScaleMatMul) Grouped(nodes []*graph.Node) (graph.Op, []Value, bool) { return groupThin(nodes) }

// Grouping hides that of MatMul.
func (WideMatMul) Grouping(*graph.Node) (shared int, kind any, ok bool) { return 0, nil, false }

// Absorbed implements graph.Absorber: the cast of a thin product's weight.
func (o MatMul) Absorbed(n *graph.Node, i int, by *graph.Node) (graph.Op, []Value, bool) {
	return absorbThin(o, n, i, by)
}

// Absorbed implements graph.Absorber.
func (o ScaleMatMul) Absorbed(n *graph.Node, i int, by *graph.Node) (graph.Op, []Value, bool) {
	return absorbThin(o.MatMul, n, i, by)
}

// Absorbed hides that of MatMul.
func (WideMatMul) Absorbed(*graph.Node, int, *graph.Node) (graph.Op, []Value, bool) {
	return nil, nil, false
}

func absorbThin(o MatMul, n *graph.Node, i int, by *graph.Node) (graph.Op, []Value, bool) {
	if !o.thin(n) {
		return nil, nil, false
	}
	op, in, _ := groupThin([]*graph.Node{n})
	return op.(MatMulGroup).Absorbed(&graph.Node{In: in}, i, by)
}

// Grouping implements graph.Grouper.
func (o MatMulGroup) Grouping(n *graph.Node) (shared int, kind any, ok bool) {
	return 0, thinKind{n.In[0].Dim(-1)}, o.N == 1
}

// Grouped implements graph.Grouper.
func (o MatMulGroup) Grouped(nodes []*graph.Node) (graph.Op, []Value, bool) { return groupThin(nodes) }

// groupThin is the products of the first node's x.
func groupThin(nodes []*graph.Node) (graph.Op, []Value, bool) {
	var g MatMulGroup
	in := nodes[0].In[:1:1]
	for _, n := range nodes[:min(len(nodes), GroupMost)] {
		g.Alpha[g.N] = 1
		switch o := n.Op.(type) {
		case MatMul:
		case ScaleMatMul:
			g.Alpha[g.N] = o.Alpha
		case MatMulGroup:
			g.Alpha[g.N] = o.Alpha[0]
		default:
			return nil, nil, false
		}
		g.N++
		in = append(in, n.In[1])
	}
	return g, in, true
}

// Absorbed implements graph.Absorber: casts of weights from float32.
func (o MatMulGroup) Absorbed(n *graph.Node, i int, by *graph.Node) (graph.Op, []Value, bool) {
	c, casts := by.Op.(graph.Caster)
	if i == 0 || !casts || !c.Casts() || by.In[0].DType() != tensor.F32 {
		return nil, nil, false
	}
	return o, replaced(n.In, i, by.In[0]), true
}
