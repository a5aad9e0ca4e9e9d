package ops

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// WideMatMul is MatMul of operands of any float types, in the wider one and at least float32: what a plan makes of a product whose
// operands were cast to it first. Weights stored in 16 bits are then never whole in float32.
type WideMatMul struct{ MatMul }

// AddMatMul is C + Alpha·op(A)·op(B) with the product of MatMul, or of WideMatMul if C is float32, and the shape of C, which has as many
// elements as the product. The sum is rounded once to the element type. It is what a plan makes of a product that is only added to
// something: the product is summed where C is and never stored by itself.
type AddMatMul struct {
	TransA, TransB bool
	Alpha          float32
}

var (
	_ graph.Decomposable   = WideMatMul{}
	_ graph.Accumulator    = WideMatMul{}
	_ graph.Coster         = WideMatMul{}
	_ graph.Decomposable   = AddMatMul{}
	_ graph.Differentiable = AddMatMul{}
	_ graph.Differentiable = WideMatMul{}
	_ graph.Aliaser        = AddMatMul{}
	_ graph.Coster         = AddMatMul{}
	_ graph.Accumulator    = MatMul{}
	_ graph.Widener        = MatMul{}
)

// Widened implements graph.Widener.
func (o MatMul) Widened([]bool) (graph.Op, bool) { return WideMatMul{o}, true }

// AddTo implements graph.Accumulator. In 16 bits the sum is rounded once instead of twice. Float64 is for checking gradients, where the
// plain form is what is checked.
func (o MatMul) AddTo(factor float64, n *graph.Node) (graph.Op, bool) {
	return AddMatMul{o.TransA, o.TransB, float32(factor)}, n.Out[0].DType != tensor.F64
}

// Name implements graph.Op.
func (WideMatMul) Name() string { return "wide_matmul" }

// Infer implements graph.Op.
func (o WideMatMul) Infer(in []tensor.Type) ([]tensor.Type, error) {
	if err := arity(in, 2); err != nil {
		return nil, err
	}
	d := tensor.F32
	for _, t := range in {
		if !t.DType.IsFloat() {
			return nil, fmt.Errorf("not defined on %v", t.DType)
		}
		if t.DType == tensor.F64 {
			d = t.DType
		}
	}
	return o.MatMul.Infer([]tensor.Type{{DType: d, Shape: in[0].Shape}, {DType: d, Shape: in[1].Shape}})
}

// Decompose implements graph.Decomposable.
func (o WideMatMul) Decompose(in []Value) []Value {
	d := tensor.F32
	if in[0].DType() == tensor.F64 || in[1].DType() == tensor.F64 {
		d = tensor.F64
	}
	return []Value{one(o.MatMul, Cast(in[0], d), Cast(in[1], d))}
}

// VJP hides that of MatMul: the gradient is that of the decomposition, whose casts bring it back to the operands' types.
func (o WideMatMul) VJP(n *graph.Node, gy []Value, need []bool) []Value {
	in := o.Decompose(n.In)[0].Node().In
	out := o.MatMul.VJP(&graph.Node{Op: o.MatMul, In: in}, gy, need)
	for i, v := range out {
		if v.Valid() {
			out[i] = Cast(v, n.In[i].DType())
		}
	}
	return out
}

// Name implements graph.Op.
func (AddMatMul) Name() string { return "add_matmul" }

// product is the op without the sum, for a C of type c.
func (o AddMatMul) product(c tensor.DType) interface {
	graph.Differentiable
	graph.Op
} {
	if c == tensor.F32 {
		return WideMatMul{MatMul{o.TransA, o.TransB}}
	}
	return MatMul{o.TransA, o.TransB}
}

// Product returns the type of the product that is added to c.
func (o AddMatMul) Product(in []tensor.Type) (tensor.Type, error) {
	p, err := o.product(in[0].DType).Infer(in[1:])
	if err != nil {
		return tensor.Type{}, err
	}
	return p[0], nil
}

// Infer implements graph.Op.
func (o AddMatMul) Infer(in []tensor.Type) ([]tensor.Type, error) {
	if err := arity(in, 3); err != nil {
		return nil, err
	}
	p, err := o.Product(in)
	if err != nil {
		return nil, err
	}
	if c := in[0]; c.DType != p.DType || c.Size() != p.Size() {
		return nil, fmt.Errorf("cannot add a product %v to %v: dtypes and numbers of elements must be equal", p, c)
	}
	return in[:1], nil
}

// VJP implements graph.Differentiable.
func (o AddMatMul) VJP(n *graph.Node, gy []Value, need []bool) []Value {
	p, err := o.Product(n.InTypes())
	if err != nil {
		return []Value{fail(o.Name(), gy[0], "%v", err), {}, {}}
	}
	g := Scale(Reshape(gy[0], p.Shape.Dims()...), float64(o.Alpha))
	return append(gy[:1:1], o.product(n.In[0].DType()).VJP(&graph.Node{In: n.In[1:]}, []Value{g}, need[1:])...)
}

// Decompose implements graph.Decomposable.
func (o AddMatMul) Decompose(in []Value) []Value {
	y := Reshape(one(o.product(in[0].DType()), in[1:]...), in[0].Shape().Dims()...)
	return []Value{Add(in[0], Scale(y, float64(o.Alpha)))}
}

// Alias implements graph.Aliaser.
func (AddMatMul) Alias() []graph.AliasPair { return []graph.AliasPair{{Out: 0, In: 0}} }

// Cost implements graph.Coster.
func (o AddMatMul) Cost(in, out []tensor.Type) (flops, bytes int64) {
	_, k, _, _ := MatMul{o.TransA, o.TransB}.dims(in[1], in[2])
	return 2 * int64(out[0].Size()) * int64(k), sumBytes(in) + sumBytes(out)
}
