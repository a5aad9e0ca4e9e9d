package ops

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Cumulate gives the running sum along Axis, or with Mul the running product, each element included; with Reverse it runs from
// the end. Floats are carried in float64, integers wrap.
type Cumulate struct {
	Axis         int8
	Mul, Reverse bool
}

var (
	_ graph.Differentiable = Cumulate{}
	_ graph.Decomposable   = Cumulate{}
	_ graph.Aliaser        = Cumulate{}
)

// Name implements graph.Op.
func (o Cumulate) Name() string {
	if o.Mul {
		return "cumprod"
	}
	return "cumsum"
}

// Infer implements graph.Op.
func (o Cumulate) Infer(in []tensor.Type) ([]tensor.Type, error) {
	if err := arity(in, 1); err != nil {
		return nil, err
	}
	if o.Axis < 0 || int(o.Axis) >= in[0].Rank() {
		return nil, fmt.Errorf("axis %d is out of range for rank %d", o.Axis, in[0].Rank())
	}
	if in[0].DType == tensor.Bool {
		return nil, fmt.Errorf("not defined on bool; cast first")
	}
	return in, nil
}

// Decompose implements graph.Decomposable by doubling (Hillis & Steele 1986): log2(n) shifted additions or products.
func (o Cumulate) Decompose(in []Value) []Value {
	y, axis := in[0], int(o.Axis)
	for d := 1; d < y.Dim(axis); d *= 2 {
		if o.Mul {
			y = Mul(y, shifted(y, axis, d, o.Reverse, 1))
		} else {
			y = Add(y, shifted(y, axis, d, o.Reverse, 0))
		}
	}
	return []Value{y}
}

// VJP implements graph.Differentiable. The gradient of a sum runs the other way. For a product y_t = x_t·y_{t-1} it is
// y_{t-1}·s_t with s_t = gy_t + x_{t+1}·s_{t+1}: no division, so that zeros need no care.
func (o Cumulate) VJP(n *graph.Node, gy []Value, _ []bool) []Value {
	x, axis := n.In[0], int(o.Axis)
	if !o.Mul {
		return []Value{one(Cumulate{Axis: o.Axis, Reverse: !o.Reverse}, gy[0])}
	}
	before := shifted(n.Output(0), axis, 1, o.Reverse, 1)
	after := one(Recur{Axis: o.Axis, Reverse: !o.Reverse, Late: true}, x, gy[0])
	return []Value{Mul(before, after)}
}

// Alias implements graph.Aliaser: an element is read before it is written.
func (Cumulate) Alias() []graph.AliasPair { return []graph.AliasPair{{Out: 0, In: 0}} }

// shifted moves the elements of x by d steps along an axis in the direction of a scan, filling with val.
func shifted(x Value, axis, d int, reverse bool, val float64) Value {
	n := x.Dim(axis)
	d = min(d, n)
	if reverse {
		return PadAxis(Slice(x, axis, d, n), axis, 0, d, val)
	}
	return PadAxis(Slice(x, axis, 0, n-d), axis, d, 0, val)
}

// Cumulative are the options of CumSum and CumProd.
type Cumulative struct {
	Exclusive bool // without the element itself: the first result is 0, or 1 for products
	Reverse   bool // from the end
}

// CumSum adds up the elements along an axis so far.
func CumSum(x Value, axis int, o Cumulative) Value { return cumulate(x, axis, o, false, 0) }

// CumProd multiplies the elements along an axis so far. Its gradient is exact where elements are zero.
func CumProd(x Value, axis int, o Cumulative) Value { return cumulate(x, axis, o, true, 1) }

func cumulate(x Value, axis int, o Cumulative, mul bool, empty float64) Value {
	op := Cumulate{Mul: mul, Reverse: o.Reverse}
	a, ok := axisOf(op.Name(), x, axis)
	if !ok {
		return absorb(x)
	}
	op.Axis = int8(a)
	y := one(op, x)
	if o.Exclusive && y.Valid() {
		return shifted(y, a, 1, o.Reverse, empty)
	}
	return y
}

// Recur is the linear recurrence h_t = a_t·h_{t-1} + b_t along Axis, from h = 0, on two inputs a and b of one floating-point
// type. With Reverse it runs from the end (h_t = a_t·h_{t+1} + b_t). With Late the factor is that of the element before:
// h_t = a_{t-1}·h_{t-1} + b_t, which is what the gradient of the other direction needs. It is carried in float64.
type Recur struct {
	Axis          int8
	Reverse, Late bool
}

var (
	_ graph.Differentiable = Recur{}
	_ graph.Decomposable   = Recur{}
	_ graph.Aliaser        = Recur{}
)

// Name implements graph.Op.
func (Recur) Name() string { return "recurrence" }

// Infer implements graph.Op.
func (o Recur) Infer(in []tensor.Type) ([]tensor.Type, error) {
	if err := arity(in, 2); err != nil {
		return nil, err
	}
	if in[0] != in[1] || !in[0].DType.IsFloat() {
		return nil, fmt.Errorf("factors and terms must be of one floating-point type, got %v and %v", in[0], in[1])
	}
	if o.Axis < 0 || int(o.Axis) >= in[0].Rank() {
		return nil, fmt.Errorf("axis %d is out of range for rank %d", o.Axis, in[0].Rank())
	}
	return in[:1], nil
}

// Decompose implements graph.Decomposable by doubling on pairs: (a, b) after (a', b') is (a·a', a·b' + b).
func (o Recur) Decompose(in []Value) []Value {
	a, b, axis := in[0], in[1], int(o.Axis)
	if o.Late {
		a = shifted(a, axis, 1, o.Reverse, 0)
	}
	for d := 1; d < b.Dim(axis); d *= 2 {
		b = Add(b, Mul(a, shifted(b, axis, d, o.Reverse, 0)))
		a = Mul(a, shifted(a, axis, d, o.Reverse, 0))
	}
	return []Value{b}
}

// VJP implements graph.Differentiable: the cotangent of b runs the other way with the factors one step off, and that of a is
// the cotangent of b times the state the factor multiplied.
func (o Recur) VJP(n *graph.Node, gy []Value, need []bool) []Value {
	h, axis := n.Output(0), int(o.Axis)
	back := func() Value { return one(Recur{Axis: o.Axis, Reverse: !o.Reverse, Late: !o.Late}, n.In[0], gy[0]) }
	return lazily(need, func() Value {
		if o.Late { // a_t multiplied h_t on its way to h_{t+1}
			return Mul(h, shifted(back(), axis, 1, !o.Reverse, 0))
		}
		return Mul(back(), shifted(h, axis, 1, o.Reverse, 0))
	}, back)
}

// Alias implements graph.Aliaser: a term is read before the state is written; factors may be read later.
func (Recur) Alias() []graph.AliasPair { return []graph.AliasPair{{Out: 0, In: 1}} }

// Recurrence returns h with h_t = a_t·h_{t-1} + b_t along an axis, starting from h = 0: the state of a linear recurrent layer.
func Recurrence(a, b Value, axis int) Value {
	i, ok := axisOf("recurrence", a, axis)
	if !ok {
		return absorb(a)
	}
	return one(Recur{Axis: int8(i)}, a, b)
}
