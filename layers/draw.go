package layers

import (
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Drawer is Values that draws initial values itself, as a device can in a second where the host takes minutes. Load hands it the weights
// that have no file.
type Drawer interface {
	Values
	Draw(v *graph.Var, in Init) error
	// DrawQuantized draws a weight and quantizes it as q is.
	DrawQuantized(q *Quantized, in Init) error
}

// Draw builds in a graph a matrix of initial values, float32 (rows, cols), whose first row is row first of the weight. key is i32 [2]; the numbers
// follow from it, from the row and from the column alone. They are not those of Value, but distributed as they are.
func (in Init) Draw(key graph.Value, first, rows, cols int) graph.Value {
	g := key.Graph()
	shape := tensor.T(tensor.F32, rows, cols)
	switch in.kind {
	case initZeros:
		return ops.BroadcastTo(ops.Fill(g, tensor.F32, 0), rows, cols)
	case initConstant:
		return ops.BroadcastTo(ops.Fill(g, tensor.F32, in.a), rows, cols)
	}
	row := ops.AddScalar(ops.Iota(g, tensor.T(tensor.I32, rows), 0), float64(first))
	zero := ops.Scale(row, 0)
	// in (0, 1]: a word of 32 bits, and half a step where float32 would round it to 0
	uniform := func(site uint32) graph.Value {
		words := g.Apply(ops.PhiloxOp{Site: site, N: int64(cols)}, key, row, zero)[0]
		return ops.AddScalar(ops.Scale(ops.Cast(words, shape.DType), 1.0/(1<<32)), 1.0/(1<<33))
	}
	if in.kind == initUniform {
		return ops.AddScalar(ops.Scale(uniform(0), 2*in.a), -in.a)
	}
	// Box and Muller 1958.
	radius := ops.Sqrt(ops.Scale(ops.Log(uniform(0)), -2))
	return ops.Mul(ops.Scale(radius, in.a), ops.Cos(ops.Scale(uniform(1), twoPi)))
}

const twoPi = 6.283185307179586

// WriteQuantized quantizes x (float32, rows and columns as Matrix says) as q is and writes it into the variables of q in the graph of x. It
// returns what is written.
func (q *Quantized) WriteQuantized(x graph.Value) []graph.Value {
	parts := q.parts(x)
	for i, v := range q.Vars() {
		x.Graph().Write(v, ops.Reshape(parts[i], v.Type.Shape.Dims()...))
	}
	return parts
}

// parts are the values of Vars for a weight x.
func (q *Quantized) parts(x graph.Value) []graph.Value {
	if q.Scheme == quant.Int8 {
		codes, scales, _ := ops.QuantizeRowsTo8(ops.Cast(x, tensor.F16), 0)
		return []graph.Value{codes, scales}
	}
	codes, absmax := ops.QuantizeTo4(x, q.Scheme, q.Blocksize)
	if !q.Nested() {
		return []graph.Value{codes, absmax}
	}
	offset := ops.Mean(absmax)
	small, nested := ops.QuantizeTo8(ops.Quantize8{Blocksize: quant.StateBlocksize}, ops.Sub(absmax, offset))
	return []graph.Value{codes, small, nested, offset}
}
