package ops

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// AddQuantMatMul is C + the product of QuantMatMul, with the shape of C, which has the product's dtype and as many elements. The sum is
// rounded once. The inputs are C, then those of QuantMatMul. It is what a plan makes of a product by a frozen weight that is only added to
// something, such as an adapter's part or the other gradients of an input.
type AddQuantMatMul struct{ QuantMatMul }

var (
	_ graph.Accumulator    = QuantMatMul{}
	_ graph.Differentiable = AddQuantMatMul{}
	_ graph.Decomposable   = AddQuantMatMul{}
	_ graph.Frozen         = AddQuantMatMul{}
	_ graph.Coster         = AddQuantMatMul{}
	_ graph.Aliaser        = AddQuantMatMul{}
)

// AddTo implements graph.Accumulator: the plain sum. Float64 is for checking gradients, where the plain form is what is checked.
func (o QuantMatMul) AddTo(factor float64, n *graph.Node) (graph.Op, bool) {
	return AddQuantMatMul{o}, factor == 1 && n.Out[0].DType != tensor.F64
}

// Name implements graph.Op.
func (AddQuantMatMul) Name() string { return "add_quant_matmul" }

// String prints the attributes with the scheme's name.
func (o AddQuantMatMul) String() string { return "add_" + o.QuantMatMul.String() }

// Product returns the type of the product that is added to C.
func (o AddQuantMatMul) Product(in []tensor.Type) (tensor.Type, error) {
	p, err := o.QuantMatMul.Infer(in[1:])
	if err != nil {
		return tensor.Type{}, err
	}
	return p[0], nil
}

// Infer implements graph.Op.
func (o AddQuantMatMul) Infer(in []tensor.Type) ([]tensor.Type, error) {
	if len(in) == 0 {
		return nil, fmt.Errorf("takes what the product is added to, x and the parts of the weight, got nothing")
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
func (o AddQuantMatMul) VJP(n *graph.Node, gy []Value, _ []bool) []Value {
	p, err := o.Product(n.InTypes())
	if err != nil {
		return append([]Value{fail(o.Name(), gy[0], "%v", err)}, make([]Value, len(n.In)-1)...)
	}
	back := o.QuantMatMul
	back.Trans = !o.Trans
	dx := QuantLinear(back, Reshape(gy[0], p.Shape.Dims()...), n.In[2:]...)
	return append([]Value{gy[0], dx}, make([]Value, len(n.In)-2)...)
}

// FrozenInput implements graph.Frozen.
func (o AddQuantMatMul) FrozenInput(i int) string {
	if i == 0 {
		return ""
	}
	return o.QuantMatMul.FrozenInput(i - 1)
}

// Cost implements graph.Coster.
func (o AddQuantMatMul) Cost(in, out []tensor.Type) (flops, bytes int64) {
	return 2 * int64(in[1].Size()) * int64(o.outer()), sumBytes(in) + sumBytes(out)
}

// Alias implements graph.Aliaser.
func (AddQuantMatMul) Alias() []graph.AliasPair { return []graph.AliasPair{{Out: 0, In: 0}} }

// Decompose implements graph.Decomposable.
func (o AddQuantMatMul) Decompose(in []Value) []Value {
	y := Reshape(one(o.QuantMatMul, in[1:]...), in[0].Shape().Dims()...)
	return []Value{Add(in[0], y)}
}
