package ops

import (
	"fmt"
	"math"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// SortOp orders the elements along Axis and gives the first K of them, with their i32 positions. The order is stable: of equal
// elements the one with the lower position comes first, also with Descending. NaN counts as larger than every number, and -0
// equals 0.
type SortOp struct {
	Axis       int8
	K          int64
	Descending bool
}

var _ graph.Differentiable = SortOp{}

// Name implements graph.Op.
func (SortOp) Name() string { return "sort" }

// NumOut is 2: the values and the positions.
func (SortOp) NumOut() int { return 2 }

// Infer implements graph.Op.
func (o SortOp) Infer(in []tensor.Type) ([]tensor.Type, error) {
	if err := arity(in, 1); err != nil {
		return nil, err
	}
	x := in[0]
	if o.Axis < 0 || int(o.Axis) >= x.Rank() {
		return nil, fmt.Errorf("axis %d is out of range for rank %d", o.Axis, x.Rank())
	}
	dims := x.Shape.Dims()
	n := dims[o.Axis]
	if o.K < 0 || int(o.K) > n {
		return nil, fmt.Errorf("%d elements are wanted of %d", o.K, n)
	}
	if n > math.MaxInt32 {
		return nil, fmt.Errorf("axis %d has %d elements, positions are i32", o.Axis, n)
	}
	dims[o.Axis] = int(o.K)
	return []tensor.Type{tensor.T(x.DType, dims...), tensor.T(tensor.I32, dims...)}, nil
}

// VJP implements graph.Differentiable: cotangents go back to where the values came from.
func (o SortOp) VJP(n *graph.Node, gy []Value, _ []bool) []Value {
	if gy[0].Absent() {
		return []Value{{}}
	}
	x := n.In[0]
	flat := Reshape(flatIndex(n.Output(1), x.Shape(), int(o.Axis)), -1)
	back := ScatterAdd(Reshape(gy[0], gy[0].Type().Size()), 0, flat, x.Type().Size())
	return []Value{Reshape(back, x.Shape().Dims()...)}
}

// Sort orders x along an axis, ascending unless descending, and returns the values and their i32 positions in x. It is stable;
// NaN comes after every number (before, descending). The values are differentiable.
func Sort(x Value, axis int, descending bool) (values, positions Value) {
	return sorted("sort", x, axis, -1, descending)
}

// ArgSort returns the i32 positions that sort x along an axis.
func ArgSort(x Value, axis int, descending bool) Value {
	_, at := Sort(x, axis, descending)
	return at
}

// TopK returns the k largest elements along an axis in descending order, or the k smallest in ascending order, and their i32
// positions. Of equal elements the one with the lower position comes first.
func TopK(x Value, k, axis int, largest bool) (values, positions Value) {
	if x.Valid() && k < 0 {
		fail("top_k", x, "k must not be negative, got %d", k)
		return absorb(x), absorb(x)
	}
	return sorted("top_k", x, axis, k, largest)
}

func sorted(name string, x Value, axis, k int, descending bool) (values, positions Value) {
	a, ok := axisOf(name, x, axis)
	if !ok {
		return absorb(x), absorb(x)
	}
	if k < 0 {
		k = x.Dim(a)
	}
	out := apply(SortOp{int8(a), int64(k), descending}, x)
	return out[0], out[1]
}
