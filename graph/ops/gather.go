package ops

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// GatherRows picks entries of x along Axis by i32 or i64 indices: with x (a..., N, b...) and idx (i...), the result is
// (a..., i..., b...). An index outside [0, N) gives zeros.
type GatherRows struct{ Axis int8 }

var _ graph.Differentiable = GatherRows{}

// Name implements graph.Op.
func (GatherRows) Name() string { return "gather" }

// Infer implements graph.Op.
func (o GatherRows) Infer(in []tensor.Type) ([]tensor.Type, error) {
	if err := arity(in, 2); err != nil {
		return nil, err
	}
	x, idx := in[0], in[1]
	if err := indices(idx); err != nil {
		return nil, err
	}
	if o.Axis < 0 || int(o.Axis) >= x.Rank() || x.Rank()-1+idx.Rank() > tensor.MaxRank {
		return nil, fmt.Errorf("cannot index axis %d of rank %d by rank %d", o.Axis, x.Rank(), idx.Rank())
	}
	dims := append([]int(nil), x.Shape.Dims()[:o.Axis]...)
	dims = append(dims, idx.Shape.Dims()...)
	dims = append(dims, x.Shape.Dims()[o.Axis+1:]...)
	return []tensor.Type{tensor.T(x.DType, dims...)}, nil
}

// indices refuses what is no index.
func indices(t tensor.Type) error {
	if t.DType != tensor.I32 && t.DType != tensor.I64 {
		return fmt.Errorf("the indices must be i32 or i64, got %v; cast them", t.DType)
	}
	return nil
}

// VJP implements graph.Differentiable.
func (o GatherRows) VJP(n *graph.Node, gy []Value, _ []bool) []Value {
	size := int64(n.In[0].Dim(int(o.Axis)))
	return []Value{one(ScatterAddRows{o.Axis, size}, gy[0], n.In[1]), {}}
}

// Gather picks entries of x along an axis by i32 or i64 indices.
func Gather(x Value, axis int, idx Value) Value {
	a, ok := axisOf("gather", x, axis)
	if !ok {
		return absorb(x)
	}
	return one(GatherRows{int8(a)}, x, idx)
}

// Embed looks up rows of a table (V, C) by ids (...): the result is (..., C). An id outside [0, V) gives zeros.
func Embed(table, ids Value) Value { return Gather(table, 0, ids) }

// ScatterAddRows is the transpose of GatherRows: zeros with Size entries along Axis, to which the entries of u are added at
// the i32 or i64 indices. u is (a..., i..., b...), idx (i...). Entries with an index outside [0, Size) are dropped; equal indices add
// up in index order, in float32 for the half types.
type ScatterAddRows struct {
	Axis int8
	Size int64
}

var _ graph.Differentiable = ScatterAddRows{}

// Name implements graph.Op.
func (ScatterAddRows) Name() string { return "scatter_add" }

// Infer implements graph.Op.
func (o ScatterAddRows) Infer(in []tensor.Type) ([]tensor.Type, error) {
	if err := arity(in, 2); err != nil {
		return nil, err
	}
	u, idx := in[0], in[1]
	if err := indices(idx); err != nil {
		return nil, err
	}
	if o.Axis < 0 || o.Size < 0 || int(o.Axis)+idx.Rank() > u.Rank() {
		return nil, fmt.Errorf("axis %d with indices of rank %d does not fit rank %d", o.Axis, idx.Rank(), u.Rank())
	}
	if u.DType == tensor.Bool {
		return nil, fmt.Errorf("not defined on bool")
	}
	for i := range idx.Rank() {
		if u.Dim(int(o.Axis)+i) != idx.Dim(i) {
			return nil, fmt.Errorf("index shape %v does not match the entries' axes", idx.Shape)
		}
	}
	dims := append([]int(nil), u.Shape.Dims()[:o.Axis]...)
	dims = append(dims, int(o.Size))
	dims = append(dims, u.Shape.Dims()[int(o.Axis)+idx.Rank():]...)
	return []tensor.Type{tensor.T(u.DType, dims...)}, nil
}

// VJP implements graph.Differentiable.
func (o ScatterAddRows) VJP(n *graph.Node, gy []Value, _ []bool) []Value {
	return []Value{one(GatherRows{o.Axis}, gy[0], n.In[1]), {}}
}

// ScatterAdd adds the entries of u at the indices along an axis of a zero tensor with size entries there.
func ScatterAdd(u Value, axis int, idx Value, size int) Value {
	a, ok := axisOf("scatter_add", u, axis)
	if !ok {
		return absorb(u)
	}
	return one(ScatterAddRows{int8(a), int64(size)}, u, idx)
}

// Range counts 0, 1, 2, ... along one axis of a tensor.
type Range struct {
	Type tensor.Type
	Axis int8
}

// Name implements graph.Op.
func (Range) Name() string { return "iota" }

// Infer implements graph.Op.
func (o Range) Infer(in []tensor.Type) ([]tensor.Type, error) {
	if len(in) != 0 {
		return nil, fmt.Errorf("takes no inputs")
	}
	if o.Axis < 0 || int(o.Axis) >= o.Type.Rank() || o.Type.DType == tensor.Bool || o.Type.DType.Size() == 0 {
		return nil, fmt.Errorf("cannot count along axis %d of %v", o.Axis, o.Type)
	}
	return []tensor.Type{o.Type}, nil
}

// Iota counts 0, 1, 2, ... along an axis of a tensor of type t.
func Iota(g *graph.Graph, t tensor.Type, axis int) Value {
	a, ok := t.Shape.Axis(axis)
	if !ok {
		return g.Fail("iota", nil, fmt.Errorf("axis %d is out of range for rank %d", axis, t.Rank()))
	}
	return g.Apply(Range{t, int8(a)})[0]
}

// OneHot turns indices (...) into (..., n) with 1 at the index and 0 elsewhere, all zero for an index outside [0, n).
func OneHot(idx Value, n int, d tensor.DType) Value {
	if !idx.Valid() {
		return idx
	}
	if err := indices(idx.Type()); err != nil {
		return fail("one_hot", idx, "%w", err)
	}
	count := Iota(idx.Graph(), tensor.T(idx.DType(), n), 0)
	return Cast(Equal(Reshape(idx, append(idx.Shape().Dims(), 1)...), count), d)
}

// CausalMask is the bool (q, k) mask that lets query i see keys 0..i+offset.
func CausalMask(g *graph.Graph, q, k, offset int) Value {
	i := Iota(g, tensor.T(tensor.I32, q, 1), 0)
	j := Iota(g, tensor.T(tensor.I32, 1, k), 1)
	return LessEqual(j, AddScalar(i, float64(offset)))
}
