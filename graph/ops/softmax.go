package ops

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// SoftmaxOp normalises along the last axis: e^x / Σe^x, or its logarithm with Log. The largest element is subtracted first, so
// that nothing overflows; sums are kept at least in float32. A row of only -Inf gives NaN.
type SoftmaxOp struct{ Log bool }

var (
	_ graph.Differentiable = SoftmaxOp{}
	_ graph.Decomposable   = SoftmaxOp{}
	_ graph.Aliaser        = SoftmaxOp{}
	_ graph.Coster         = SoftmaxOp{}
)

// Name implements graph.Op.
func (o SoftmaxOp) Name() string {
	if o.Log {
		return "log_softmax"
	}
	return "softmax"
}

// Infer implements graph.Op.
func (SoftmaxOp) Infer(in []tensor.Type) ([]tensor.Type, error) {
	if err := arity(in, 1); err != nil {
		return nil, err
	}
	return in, floatRows(in[0])
}

// VJP implements graph.Differentiable.
func (o SoftmaxOp) VJP(n *graph.Node, gy []Value, _ []bool) []Value {
	return []Value{one(SoftmaxGradOp(o), n.Output(0), gy[0])}
}

// Decompose implements graph.Decomposable.
func (o SoftmaxOp) Decompose(in []Value) []Value {
	x := in[0]
	if x.Type().Size() == 0 {
		return []Value{x}
	}
	z := Cast(x, wide(x.DType()))
	z = Sub(z, keepLast(MaxOf(z, -1)))
	e := Exp(z)
	sum := keepLast(Sum(e, -1))
	if o.Log {
		return []Value{Cast(Sub(z, Log(sum)), x.DType())}
	}
	return []Value{Cast(Div(e, sum), x.DType())}
}

// Alias implements graph.Aliaser.
func (SoftmaxOp) Alias() []graph.AliasPair { return []graph.AliasPair{{Out: 0, In: 0}} }

// Cost implements graph.Coster.
func (SoftmaxOp) Cost(in, out []tensor.Type) (flops, bytes int64) { return rowCost(8, in, out) }

// SoftmaxGradOp is the gradient of SoftmaxOp from its output y and the cotangent gy, both (..., C):
// y·(gy - Σ gy·y), with Log gy - e^y·Σ gy.
type SoftmaxGradOp struct{ Log bool }

var (
	_ graph.Decomposable = SoftmaxGradOp{}
	_ graph.Aliaser      = SoftmaxGradOp{}
	_ graph.Coster       = SoftmaxGradOp{}
)

// Name implements graph.Op.
func (o SoftmaxGradOp) Name() string { return SoftmaxOp(o).Name() + "_grad" }

// Infer implements graph.Op.
func (SoftmaxGradOp) Infer(in []tensor.Type) ([]tensor.Type, error) {
	if err := arity(in, 2); err != nil {
		return nil, err
	}
	if in[0] != in[1] {
		return nil, fmt.Errorf("the output %v and its cotangent %v differ in type", in[0], in[1])
	}
	return in[:1], floatRows(in[0])
}

// Decompose implements graph.Decomposable.
func (o SoftmaxGradOp) Decompose(in []Value) []Value {
	d := in[0].DType()
	y, g := Cast(in[0], wide(d)), Cast(in[1], wide(d))
	if o.Log {
		return []Value{Cast(Sub(g, Mul(Exp(y), keepLast(Sum(g, -1)))), d)}
	}
	return []Value{Cast(Mul(y, Sub(g, keepLast(Sum(Mul(y, g), -1)))), d)}
}

// Alias implements graph.Aliaser. With Log, e^y is written before gy is read for the last time.
func (o SoftmaxGradOp) Alias() []graph.AliasPair {
	if o.Log {
		return []graph.AliasPair{{Out: 0, In: 0}}
	}
	return []graph.AliasPair{{Out: 0, In: 0}, {Out: 0, In: 1}}
}

// Cost implements graph.Coster.
func (SoftmaxGradOp) Cost(in, out []tensor.Type) (flops, bytes int64) { return rowCost(4, in, out) }

// Softmax returns e^x / Σe^x along an axis; an axis other than the last is moved there and back.
func Softmax(x Value, axis int) Value { return softmax(SoftmaxOp{}, x, axis) }

// LogSoftmax returns x - log Σe^x along an axis.
func LogSoftmax(x Value, axis int) Value { return softmax(SoftmaxOp{Log: true}, x, axis) }

func softmax(o SoftmaxOp, x Value, axis int) Value {
	a, ok := axisOf(o.Name(), x, axis)
	if !ok {
		return absorb(x)
	}
	last := x.Rank() - 1
	if a == last {
		return one(o, x)
	}
	perm := make([]int, x.Rank())
	for i := range perm {
		perm[i] = i
	}
	perm[a], perm[last] = last, a
	return Transpose(one(o, Transpose(x, perm...)), perm...)
}

// floatRows accepts floating-point tensors with at least one axis.
func floatRows(t tensor.Type) error {
	if !t.DType.IsFloat() {
		return fmt.Errorf("not defined on %v", t.DType)
	}
	if t.Rank() < 1 {
		return fmt.Errorf("needs at least one axis")
	}
	return nil
}

// wide is the type that statistics are kept in: float64 for f64, else float32.
func wide(d tensor.DType) tensor.DType {
	if d == tensor.F64 {
		return d
	}
	return tensor.F32
}

// keepLast puts back a last axis of extent 1 that a reduction has dropped.
func keepLast(x Value) Value { return Reshape(x, append(x.Shape().Dims(), 1)...) }

// sumRows adds up all axes but the last.
func sumRows(x Value) Value {
	if x.Rank() < 2 {
		return x
	}
	axes := make([]int, x.Rank()-1)
	for i := range axes {
		axes[i] = i
	}
	return Sum(x, axes...)
}

// rowCost is the cost of an op that does a fixed number of operations an element of its first input.
func rowCost(each int64, in, out []tensor.Type) (flops, bytes int64) {
	return each * int64(in[0].Size()), sumBytes(in) + sumBytes(out)
}

// spread places the outputs of a gradient op, which has one a needed input in order, at those inputs.
func spread(out []Value, need ...bool) []Value {
	gx := make([]Value, len(need))
	next := 0
	for i, want := range need {
		if want && next < len(out) {
			gx[i] = out[next]
			next++
		}
	}
	return gx
}

func countTrue(flags ...bool) (n int) {
	for _, f := range flags {
		if f {
			n++
		}
	}
	return n
}
