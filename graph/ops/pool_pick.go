package ops

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// PoolPickOp takes elements of each channel by position: x (N, C, S...) and i32 idx (N, C, P...), flat positions in a channel,
// give (N, C, P...). A position outside the channel gives 0.
type PoolPickOp struct{}

// PoolPlaceOp is the transpose of PoolPickOp, to the spatial extents Size: it adds u (N, C, P...) at the positions idx
// (N, C, P...) of zeros (N, C, S...), in order, at least in float32. What lies outside the channel is dropped.
type PoolPlaceOp struct {
	Rank int8
	Size [MaxWindow]int64
}

var (
	_ graph.Differentiable = PoolPickOp{}
	_ graph.Decomposable   = PoolPickOp{}
	_ graph.Differentiable = PoolPlaceOp{}
	_ graph.Decomposable   = PoolPlaceOp{}
)

// Name implements graph.Op.
func (PoolPickOp) Name() string { return "pool_pick" }

// Name implements graph.Op.
func (PoolPlaceOp) Name() string { return "pool_place" }

// Infer implements graph.Op.
func (PoolPickOp) Infer(in []tensor.Type) ([]tensor.Type, error) {
	if err := arity(in, 2); err != nil {
		return nil, err
	}
	return []tensor.Type{in[1].With(in[0].DType)}, channels(in[0], in[1])
}

// Infer implements graph.Op.
func (o PoolPlaceOp) Infer(in []tensor.Type) ([]tensor.Type, error) {
	if err := arity(in, 2); err != nil {
		return nil, err
	}
	u := in[0]
	if o.Rank < 1 || o.Rank > MaxWindow || u.Rank() < 3 || in[1] != u.With(tensor.I32) {
		return nil, fmt.Errorf("the positions must be %v like the input, and the size 1 to %d extents", u.With(tensor.I32), MaxWindow)
	}
	x := tensor.T(u.DType, append(u.Shape.Dims()[:2], ints(o.Size, int(o.Rank))...)...)
	if !x.Shape.Valid() {
		return nil, fmt.Errorf("the size %v is not valid", o.Size[:o.Rank])
	}
	return []tensor.Type{x}, channels(x, in[1])
}

// channels checks that idx (N, C, P...) holds positions in the channels of x (N, C, S...).
func channels(x, idx tensor.Type) error {
	switch {
	case !x.DType.IsFloat():
		return fmt.Errorf("not defined on %v; cast to a float dtype", x.DType)
	case idx.DType != tensor.I32 || x.Rank() < 3 || idx.Rank() < 3 || x.Dim(0) != idx.Dim(0) || x.Dim(1) != idx.Dim(1):
		return fmt.Errorf("positions must be i32 (N, C, P...) for x (N, C, S...), got %v for %v", idx, x)
	case product(x.Shape.Dims()[2:]) > 1<<31-1:
		return fmt.Errorf("a channel of %v has more than 2^31-1 elements", x)
	}
	return nil
}

// VJP implements graph.Differentiable.
func (PoolPickOp) VJP(n *graph.Node, gy []Value, _ []bool) []Value {
	return grads(2, indexed{0, MaxUnpool(gy[0], n.In[1], n.In[0].Shape().Dims()[2:]...)})
}

// VJP implements graph.Differentiable.
func (PoolPlaceOp) VJP(n *graph.Node, gx []Value, _ []bool) []Value {
	return grads(2, indexed{0, one(PoolPickOp{}, gx[0], n.In[1])})
}

// Decompose implements graph.Decomposable.
func (PoolPickOp) Decompose(in []Value) []Value {
	x, idx := perChannel(in[0]), perChannel(in[1])
	zero := Scalar(x, 0)
	y := Sum(Where(channelHits(idx, x.Dim(1)), pairRow(x), zero), -1)
	return []Value{Reshape(y, in[1].Shape().Dims()...)}
}

// Decompose implements graph.Decomposable.
func (o PoolPlaceOp) Decompose(in []Value) []Value {
	d := in[0].DType()
	u, idx := Cast(perChannel(in[0]), wide(d)), perChannel(in[1])
	size := ints(o.Size, int(o.Rank))
	x := Sum(Where(channelHits(idx, product(size)), keepLast(u), Scalar(u, 0)), 1)
	return []Value{Cast(Reshape(x, append(in[0].Shape().Dims()[:2], size...)...), d)}
}

// perChannel is x (N, C, S...) as (N·C, S).
func perChannel(x Value) Value {
	dims := x.Shape().Dims()
	return Reshape(x, dims[0]*dims[1], product(dims[2:]))
}

// channelHits is the bool (R, P, S) that is true where position p of row r is s.
func channelHits(idx Value, n int) Value {
	return Equal(keepLast(idx), Iota(idx.Graph(), tensor.T(tensor.I32, n), 0))
}

// MaxUnpool puts the elements of y (N, C, P...) at the positions that MaxPoolIndices gave, in zeros of the given spatial
// extents; what meets adds up.
func MaxUnpool(y, idx Value, size ...int) Value {
	if y.Valid() && (len(size) < 1 || len(size) > MaxWindow) {
		return fail("max_unpool", y, "the size must have 1 to %d extents, got %v", MaxWindow, size)
	}
	return one(PoolPlaceOp{int8(len(size)), int64s(size)}, y, idx)
}
