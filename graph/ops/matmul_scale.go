package ops

import (
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// ScaleMatMul is Alpha times the product of MatMul, rounded once: what a plan makes of a product that only a number is multiplied by.
type ScaleMatMul struct {
	MatMul
	Alpha float32
}

var (
	_ graph.Scaler         = MatMul{}
	_ graph.Accumulator    = ScaleMatMul{}
	_ graph.Differentiable = ScaleMatMul{}
	_ graph.Decomposable   = ScaleMatMul{}
	_ graph.Coster         = ScaleMatMul{}
)

// Scaled implements graph.Scaler. Float64 is for checking gradients, where the plain form is what is checked.
func (o MatMul) Scaled(factor float64, n *graph.Node) (graph.Op, bool) {
	return ScaleMatMul{o, float32(factor)}, n.Out[0].DType != tensor.F64
}

// Scaled hides that of MatMul.
func (WideMatMul) Scaled(float64, *graph.Node) (graph.Op, bool) { return nil, false }

// Scaled hides that of MatMul.
func (ScaleMatMul) Scaled(float64, *graph.Node) (graph.Op, bool) { return nil, false }

// Widened hides that of MatMul.
func (ScaleMatMul) Widened([]bool) (graph.Op, bool) { return nil, false }

// Name implements graph.Op.
func (ScaleMatMul) Name() string { return "scale_matmul" }

// AddTo implements graph.Accumulator.
func (o ScaleMatMul) AddTo(factor float64, n *graph.Node) (graph.Op, bool) {
	return o.MatMul.AddTo(factor*float64(o.Alpha), n)
}

// VJP implements graph.Differentiable.
func (o ScaleMatMul) VJP(n *graph.Node, gy []Value, need []bool) []Value {
	return o.MatMul.VJP(&graph.Node{Op: o.MatMul, In: n.In}, []Value{Scale(gy[0], float64(o.Alpha))}, need)
}

// Decompose implements graph.Decomposable.
func (o ScaleMatMul) Decompose(in []Value) []Value {
	return []Value{Scale(one(o.MatMul, in...), float64(o.Alpha))}
}
