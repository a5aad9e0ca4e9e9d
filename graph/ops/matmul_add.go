package ops

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// AddMatMul is C + Alpha·op(A)·op(B) with the product of MatMul, and the shape of C, which has as many elements as the product. The sum
// is rounded once to the element type. It is what a plan makes of a product that is only added to something: the product is summed
// where C is and never stored by itself.
type AddMatMul struct {
	MatMul
	Alpha float32
}

var (
	_ graph.Differentiable = AddMatMul{}
	_ graph.Decomposable   = AddMatMul{}
	_ graph.Aliaser        = AddMatMul{}
	_ graph.Coster         = AddMatMul{}
	_ graph.Accumulator    = MatMul{}
)

// AddTo implements graph.Accumulator for float32, where one rounding less cannot be told from the order of a sum.
func (o MatMul) AddTo(factor float64, n *graph.Node) (graph.Op, bool) {
	return AddMatMul{o, float32(factor)}, n.Out[0].DType == tensor.F32
}

// Name implements graph.Op.
func (AddMatMul) Name() string { return "add_matmul" }

// Infer implements graph.Op.
func (o AddMatMul) Infer(in []tensor.Type) ([]tensor.Type, error) {
	if err := arity(in, 3); err != nil {
		return nil, err
	}
	product, err := o.MatMul.Infer(in[1:])
	if err != nil {
		return nil, err
	}
	c, p := in[0], product[0]
	if c.DType != p.DType || c.Size() != p.Size() {
		return nil, fmt.Errorf("cannot add a product %v to %v: dtypes and numbers of elements must be equal", p, c)
	}
	return []tensor.Type{c}, nil
}

// VJP implements graph.Differentiable.
func (o AddMatMul) VJP(n *graph.Node, gy []Value, need []bool) []Value {
	factors := &graph.Node{Op: o.MatMul, In: n.In[1:]}
	product, err := o.MatMul.Infer(factors.InTypes())
	if err != nil {
		return []Value{fail(o.Name(), gy[0], "%v", err), {}, {}}
	}
	g := Scale(Reshape(gy[0], product[0].Shape.Dims()...), float64(o.Alpha))
	return append([]Value{gy[0]}, o.MatMul.VJP(factors, []Value{g}, need[1:])...)
}

// Decompose implements graph.Decomposable.
func (o AddMatMul) Decompose(in []Value) []Value {
	y := Reshape(one(o.MatMul, in[1:]...), in[0].Shape().Dims()...)
	return []Value{Add(in[0], Scale(y, float64(o.Alpha)))}
}

// Alias implements graph.Aliaser.
func (AddMatMul) Alias() []graph.AliasPair { return []graph.AliasPair{{Out: 0, In: 0}} }

// Cost implements graph.Coster.
func (o AddMatMul) Cost(in, out []tensor.Type) (flops, bytes int64) {
	_, k, _, _ := o.dims(in[1], in[2])
	return 2 * int64(out[0].Size()) * int64(k), sumBytes(in) + sumBytes(out)
}
