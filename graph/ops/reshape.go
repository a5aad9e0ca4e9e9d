package ops

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// ReshapeTo gives the same elements another shape. It computes nothing.
type ReshapeTo struct{ Shape tensor.Shape }

var (
	_ graph.Differentiable = ReshapeTo{}
	_ graph.Viewer         = ReshapeTo{}
)

// Name implements graph.Op.
func (ReshapeTo) Name() string { return "reshape" }

// Infer implements graph.Op.
func (o ReshapeTo) Infer(in []tensor.Type) ([]tensor.Type, error) {
	if err := arity(in, 1); err != nil {
		return nil, err
	}
	if !o.Shape.Valid() || o.Shape.Size() != in[0].Size() {
		return nil, fmt.Errorf("cannot reshape %v to %v: the number of elements differs", in[0], o.Shape)
	}
	return []tensor.Type{{DType: in[0].DType, Shape: o.Shape}}, nil
}

// View implements graph.Viewer.
func (ReshapeTo) View([]tensor.Type) (int64, bool) { return 0, true }

// VJP implements graph.Differentiable.
func (ReshapeTo) VJP(n *graph.Node, gy []Value, _ []bool) []Value {
	return []Value{Reshape(gy[0], n.In[0].Shape().Dims()...)}
}

// Reshape gives x another shape; one extent may be -1 and is then computed.
func Reshape(x Value, dims ...int) Value {
	if !x.Valid() {
		return x
	}
	d := append([]int(nil), dims...)
	known, free := 1, -1
	for i, n := range d {
		if n == -1 && free < 0 {
			free = i
		} else {
			known *= n
		}
	}
	if free >= 0 {
		if known <= 0 || x.Type().Size()%known != 0 {
			return fail("reshape", x, "%v elements do not divide into %v", x.Type().Size(), dims)
		}
		d[free] = x.Type().Size() / known
	}
	s := tensor.S(d...)
	if s == x.Shape() {
		return x
	}
	return one(ReshapeTo{s}, x)
}

// Depend orders x after another value without touching it: the scheduler, common-subexpression elimination included, cannot
// undo it. Recomputation in the backward sweep is built on it.
type Depend struct{}

var (
	_ graph.Differentiable = Depend{}
	_ graph.Viewer         = Depend{}
)

// Name implements graph.Op.
func (Depend) Name() string { return "depend" }

// Infer implements graph.Op.
func (Depend) Infer(in []tensor.Type) ([]tensor.Type, error) {
	if err := arity(in, 2); err != nil {
		return nil, err
	}
	return []tensor.Type{in[0]}, nil
}

// View implements graph.Viewer.
func (Depend) View([]tensor.Type) (int64, bool) { return 0, true }

// VJP implements graph.Differentiable.
func (Depend) VJP(_ *graph.Node, gy []Value, _ []bool) []Value { return []Value{gy[0], {}} }

// After returns x, available only once dep is computed.
func After(x, dep Value) Value { return one(Depend{}, x, dep) }

// Barrier stops gradients: the value passes, the cotangent does not.
type Barrier struct{}

var _ graph.Viewer = Barrier{}

// Name implements graph.Op.
func (Barrier) Name() string { return "stop_grad" }

// Infer implements graph.Op.
func (Barrier) Infer(in []tensor.Type) ([]tensor.Type, error) {
	if err := arity(in, 1); err != nil {
		return nil, err
	}
	return []tensor.Type{in[0]}, nil
}

// View implements graph.Viewer.
func (Barrier) View([]tensor.Type) (int64, bool) { return 0, true }
