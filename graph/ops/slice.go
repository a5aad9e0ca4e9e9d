package ops

import (
	"fmt"
	"math"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// SliceAxis takes elements Start, Start+Step, ... below End along one axis; Step 0 means 1.
type SliceAxis struct {
	Axis             int8
	Start, End, Step int64
}

var (
	_ graph.Differentiable = SliceAxis{}
	_ graph.Viewer         = SliceAxis{}
)

// Name implements graph.Op.
func (SliceAxis) Name() string { return "slice" }

// Infer implements graph.Op.
func (o SliceAxis) Infer(in []tensor.Type) ([]tensor.Type, error) {
	if err := arity(in, 1); err != nil {
		return nil, err
	}
	n, ok := int64(in[0].Dim(int(o.Axis))), int(o.Axis) < in[0].Rank() && o.Axis >= 0
	if !ok || o.Start < 0 || o.End < o.Start || o.End > n || o.Step < 0 {
		return nil, fmt.Errorf("[%d:%d] with step %d is out of range on axis %d", o.Start, o.End, o.step(), o.Axis)
	}
	dims := in[0].Shape.Dims()
	dims[o.Axis] = int((o.End - o.Start + o.step() - 1) / o.step())
	return []tensor.Type{tensor.T(in[0].DType, dims...)}, nil
}

func (o SliceAxis) step() int64 { return max(o.Step, 1) }

// View implements graph.Viewer: a slice of whole rows of the outermost axis that varies is contiguous.
func (o SliceAxis) View(in []tensor.Type) (int64, bool) {
	if o.step() != 1 {
		return 0, false
	}
	for i := range int(o.Axis) {
		if in[0].Dim(i) != 1 {
			return 0, false
		}
	}
	return o.Start * int64(in[0].Shape.Strides()[o.Axis]) * int64(in[0].DType.Size()), true
}

// VJP implements graph.Differentiable.
func (o SliceAxis) VJP(n *graph.Node, gy []Value, _ []bool) []Value {
	g, axis, size := gy[0], int(o.Axis), n.In[0].Dim(int(o.Axis))
	if o.step() > 1 {
		d := tensor.I32
		if size > math.MaxInt32 {
			d = tensor.I64
		}
		idx := AddScalar(Scale(Iota(g.Graph(), tensor.T(d, g.Dim(axis)), 0), float64(o.step())), float64(o.Start))
		return []Value{one(ScatterAddRows{Axis: o.Axis, Size: int64(size)}, g, idx)}
	}
	return []Value{PadAxis(g, axis, int(o.Start), size-int(o.End), 0)}
}

// Slice returns x[start:end] along an axis; negative bounds count from the end.
func Slice(x Value, axis, start, end int) Value { return SliceStep(x, axis, start, end, 1) }

// SliceStep is Slice with a positive step.
func SliceStep(x Value, axis, start, end, step int) Value {
	a, ok := axisOf("slice", x, axis)
	if !ok {
		return absorb(x)
	}
	n := x.Dim(a)
	if start < 0 {
		start += n
	}
	if end < 0 {
		end += n
	}
	if start == 0 && end == n && step == 1 {
		return x
	}
	if step < 1 {
		return fail("slice", x, "the step must be positive, got %d", step)
	}
	return one(SliceAxis{int8(a), int64(start), int64(end), int64(step)}, x)
}

// Split cuts x into pieces of the given sizes along an axis.
func Split(x Value, axis int, sizes ...int) []Value {
	out := make([]Value, len(sizes))
	for i := range out {
		out[i] = absorb(x)
	}
	a, ok := axisOf("split", x, axis)
	if !ok {
		return out
	}
	at := 0
	for _, n := range sizes {
		if at += n; n < 0 || at > x.Dim(a) {
			break
		}
	}
	if at != x.Dim(a) {
		fail("split", x, "the sizes %v do not add up to %d", sizes, x.Dim(a))
		return out
	}
	at = 0
	for i, n := range sizes {
		out[i] = Slice(x, a, at, at+n)
		at += n
	}
	return out
}

// absorb returns a poisoned value for a bad call on x that has been recorded, or passes an absent or poisoned x on.
func absorb(x Value) Value {
	if !x.Valid() {
		return x
	}
	return x.Graph().Poison()
}

// Pad adds Lo elements before and Hi after an axis, with the value Val.
type Pad struct {
	Axis   int8
	Lo, Hi int64
	Val    float64
}

var _ graph.Differentiable = Pad{}

// Name implements graph.Op.
func (Pad) Name() string { return "pad" }

// Infer implements graph.Op.
func (o Pad) Infer(in []tensor.Type) ([]tensor.Type, error) {
	if err := arity(in, 1); err != nil {
		return nil, err
	}
	if o.Axis < 0 || int(o.Axis) >= in[0].Rank() || o.Lo < 0 || o.Hi < 0 {
		return nil, fmt.Errorf("cannot pad axis %d by %d and %d", o.Axis, o.Lo, o.Hi)
	}
	dims := in[0].Shape.Dims()
	dims[o.Axis] += int(o.Lo + o.Hi)
	return []tensor.Type{tensor.T(in[0].DType, dims...)}, nil
}

// VJP implements graph.Differentiable.
func (o Pad) VJP(n *graph.Node, gy []Value, _ []bool) []Value {
	lo := int(o.Lo)
	return []Value{Slice(gy[0], int(o.Axis), lo, lo+n.In[0].Dim(int(o.Axis)))}
}

// PadAxis adds lo elements before and hi after an axis.
func PadAxis(x Value, axis, lo, hi int, val float64) Value {
	a, ok := axisOf("pad", x, axis)
	if !ok {
		return absorb(x)
	}
	if lo == 0 && hi == 0 {
		return x
	}
	return one(Pad{int8(a), int64(lo), int64(hi), val}, x)
}

// Join concatenates its inputs along an axis.
type Join struct{ Axis int8 }

var _ graph.Differentiable = Join{}

// Name implements graph.Op.
func (Join) Name() string { return "concat" }

// Infer implements graph.Op.
func (o Join) Infer(in []tensor.Type) ([]tensor.Type, error) {
	if len(in) == 0 {
		return nil, fmt.Errorf("nothing to join")
	}
	if err := arity(in, len(in)); err != nil {
		return nil, err
	}
	if o.Axis < 0 || int(o.Axis) >= in[0].Rank() {
		return nil, fmt.Errorf("axis %d is out of range for rank %d", o.Axis, in[0].Rank())
	}
	dims := in[0].Shape.Dims()
	for i, t := range in[1:] {
		other := t.Shape.Dims()
		if t.DType != in[0].DType || len(other) != len(dims) {
			return nil, fmt.Errorf("input %d is %v, not like %v", i+1, t, in[0])
		}
		for a := range dims {
			if a != int(o.Axis) && other[a] != in[0].Dim(a) {
				return nil, fmt.Errorf("input %d is %v, not like %v off axis %d", i+1, t, in[0], o.Axis)
			}
		}
		dims[o.Axis] += other[o.Axis]
	}
	return []tensor.Type{tensor.T(in[0].DType, dims...)}, nil
}

// VJP implements graph.Differentiable.
func (o Join) VJP(n *graph.Node, gy []Value, need []bool) []Value {
	out := make([]Value, len(n.In))
	at := 0
	for i, v := range n.In {
		size := v.Dim(int(o.Axis))
		if need[i] {
			out[i] = Slice(gy[0], int(o.Axis), at, at+size)
		}
		at += size
	}
	return out
}

// Concat joins values along an axis.
func Concat(axis int, xs ...Value) Value {
	if len(xs) == 0 {
		return Value{}
	}
	a, ok := axisOf("concat", xs[0], axis)
	if !ok {
		return absorb(xs[0])
	}
	if len(xs) == 1 {
		return xs[0]
	}
	return one(Join{int8(a)}, xs...)
}
