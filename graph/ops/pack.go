package ops

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Pack copies tensors of the layout's dtype, of any shape with its sizes, to their places in a slab, with zeros between.
type Pack struct{ Layout *Layout }

// SumSquares adds the squares of a float32 tensor to a scalar, in float64 and in an order fixed by the size, rounded once.
type SumSquares struct{}

var (
	_ graph.Differentiable = Pack{}
	_ graph.Decomposable   = Pack{}
	_ graph.Coster         = Pack{}
	_ graph.Differentiable = SumSquares{}
	_ graph.Decomposable   = SumSquares{}
	_ graph.Coster         = SumSquares{}
)

// PackSlab returns the slab that holds the tensors; see Pack.
func PackSlab(l *Layout, xs ...Value) Value { return one(Pack{l}, xs...) }

// SumOfSquares returns the sum of x² as a float32 scalar.
func SumOfSquares(x Value) Value { return one(SumSquares{}, x) }

// Name implements graph.Op.
func (Pack) Name() string { return "pack" }

// Name implements graph.Op.
func (SumSquares) Name() string { return "sum_squares" }

// Infer implements graph.Op.
func (o Pack) Infer(in []tensor.Type) ([]tensor.Type, error) {
	if err := o.Layout.Check(); err != nil {
		return nil, err
	}
	if err := arity(in, len(o.Layout.Sizes)); err != nil {
		return nil, err
	}
	for i, t := range in {
		if d := o.Layout.dtype(); t.DType != d || t.Size() != o.Layout.Sizes[i] {
			return nil, fmt.Errorf("input %d must be %v with %d elements, got %v", i, d, o.Layout.Sizes[i], t)
		}
	}
	return []tensor.Type{o.Layout.Type()}, nil
}

// Infer implements graph.Op.
func (SumSquares) Infer(in []tensor.Type) ([]tensor.Type, error) {
	if err := arity(in, 1); err != nil {
		return nil, err
	}
	if in[0].DType != tensor.F32 {
		return nil, fmt.Errorf("not defined on %v; cast to f32", in[0].DType)
	}
	return []tensor.Type{tensor.T(tensor.F32)}, nil
}

// VJP implements graph.Differentiable.
func (o Pack) VJP(n *graph.Node, gy []Value, need []bool) []Value {
	out := make([]Value, len(n.In))
	for i, v := range n.In {
		if need[i] {
			at := o.Layout.Offsets[i]
			out[i] = Reshape(Slice(gy[0], 0, at, at+o.Layout.Sizes[i]), v.Shape().Dims()...)
		}
	}
	return out
}

// VJP implements graph.Differentiable.
func (SumSquares) VJP(n *graph.Node, gy []Value, _ []bool) []Value {
	return []Value{Mul(Scale(n.In[0], 2), gy[0])}
}

// Decompose implements graph.Decomposable.
func (o Pack) Decompose(in []Value) []Value {
	return []Value{o.Layout.joinOf(in[0].Graph(), o.Layout.dtype(), func(i int) Value { return Reshape(in[i], o.Layout.Sizes[i]) })}
}

// Decompose implements graph.Decomposable.
func (SumSquares) Decompose(in []Value) []Value { return []Value{Sum(Square(in[0]))} }

// Cost implements graph.Coster.
func (Pack) Cost(in, out []tensor.Type) (flops, bytes int64) { return 0, sumBytes(in) + sumBytes(out) }

// Cost implements graph.Coster.
func (SumSquares) Cost(in, out []tensor.Type) (flops, bytes int64) {
	return 2 * int64(in[0].Size()), sumBytes(in) + sumBytes(out)
}
