package ops

import (
	"fmt"
	"math"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Pointwise is every elementwise operation: F picks the row of the table. Inputs broadcast by NumPy's rule and share one dtype
// (the condition of where is bool). To is the result's dtype for cast and fill, Val the value of fill.
type Pointwise struct {
	F   Func
	To  tensor.DType
	Val float64
}

var (
	_ graph.Differentiable = Pointwise{}
	_ graph.Linear         = Pointwise{}
	_ graph.Caster         = Pointwise{}
	_ graph.Aliaser        = Pointwise{}
	_ graph.Coster         = Pointwise{}
)

// Casts implements graph.Caster.
func (o Pointwise) Casts() bool { return o.F == FnCast }

// Factors implements graph.Linear.
func (o Pointwise) Factors(in []Value) ([]float64, bool) {
	switch o.F {
	case FnAdd:
		return []float64{1, 1}, true
	case FnSub:
		return []float64{1, -1}, true
	case FnNeg:
		return []float64{-1}, true
	case FnMul:
		if v, ok := immediate(in[1]); ok {
			return []float64{v, 0}, true
		}
		if v, ok := immediate(in[0]); ok {
			return []float64{0, v}, true
		}
	}
	return nil, false
}

// immediate returns the number of a fill.
func immediate(v Value) (float64, bool) {
	if !v.Valid() {
		return 0, false
	}
	op, ok := v.Node().Op.(Pointwise)
	return op.Val, ok && op.F == FnFill
}

// Name implements graph.Op.
func (o Pointwise) Name() string { return o.Row().Name }

// String prints the op with the attributes that matter.
func (o Pointwise) String() string {
	switch o.F {
	case FnCast:
		return "cast{" + o.To.String() + "}"
	case FnFill:
		return fmt.Sprintf("fill{%v %v}", o.Val, o.To)
	}
	return o.Name()
}

// Row returns the table row of the operation.
func (o Pointwise) Row() *Row { return &Table[o.F] }

// Elementwise implements graph.Elementwise.
func (Pointwise) Elementwise() {}

// Infer implements graph.Op.
func (o Pointwise) Infer(in []tensor.Type) ([]tensor.Type, error) {
	r := o.Row()
	if err := arity(in, r.Arity); err != nil {
		return nil, err
	}
	if (o.F == FnFill || o.F == FnCast) && o.To.Size() == 0 {
		return nil, fmt.Errorf("%v is not a dtype to %s to", o.To, r.Name)
	}
	if o.F == FnFill {
		return []tensor.Type{{DType: o.To}}, nil
	}
	first := 0
	if o.F == FnWhere {
		if in[0].DType != tensor.Bool {
			return nil, fmt.Errorf("the condition must be bool; compare first")
		}
		first = 1
	}
	shape := in[0].Shape
	for i, t := range in[1:] {
		var err error
		if shape, err = tensor.Broadcast(shape, t.Shape); err != nil {
			return nil, err
		}
		if i+1 > first && t.DType != in[first].DType {
			return nil, fmt.Errorf("dtypes differ: %v and %v; cast one of them", in[first].DType, t.DType)
		}
	}
	if err := r.accepts(in[first].DType); err != nil {
		return nil, err
	}
	return []tensor.Type{{DType: o.outDType(in[first].DType), Shape: shape}}, nil
}

func (o Pointwise) outDType(in tensor.DType) tensor.DType {
	switch {
	case o.F == FnCast:
		return o.To
	case o.Row().Predicate:
		return tensor.Bool
	}
	return in
}

// VJP implements graph.Differentiable by the row's rule.
func (o Pointwise) VJP(n *graph.Node, gy []Value, need []bool) []Value {
	if o.Row().VJP == nil {
		return make([]Value, len(n.In))
	}
	return o.Row().VJP(n, gy[0], need)
}

// Alias implements graph.Aliaser: an element is read before it is written, so the output may be any input of the same size.
func (o Pointwise) Alias() []graph.AliasPair {
	var out []graph.AliasPair
	for i := range o.Row().Arity {
		out = append(out, graph.AliasPair{Out: 0, In: i})
	}
	return out
}

// Cost implements graph.Coster.
func (o Pointwise) Cost(in, out []tensor.Type) (flops, bytes int64) {
	return int64(out[0].Size()), sumBytes(in) + sumBytes(out)
}

func sumBytes(ts []tensor.Type) (n int64) {
	for _, t := range ts {
		n += t.Bytes()
	}
	return n
}

// Add returns x + y.
func Add(x, y Value) Value { return binary(FnAdd, x, y) }

// Sub returns x - y.
func Sub(x, y Value) Value { return binary(FnSub, x, y) }

// Mul returns x * y.
func Mul(x, y Value) Value { return binary(FnMul, x, y) }

// Div returns x / y; integers truncate and give 0 for a zero divisor.
func Div(x, y Value) Value { return binary(FnDiv, x, y) }

// Min returns the smaller of x and y; on a tie the gradient goes to x.
func Min(x, y Value) Value { return binary(FnMin, x, y) }

// Max returns the larger of x and y; on a tie the gradient goes to x.
func Max(x, y Value) Value { return binary(FnMax, x, y) }

// Pow returns x to the power y.
func Pow(x, y Value) Value { return binary(FnPow, x, y) }

// Equal returns x == y as bool.
func Equal(x, y Value) Value { return binary(FnEq, x, y) }

// NotEqual returns x != y as bool.
func NotEqual(x, y Value) Value { return binary(FnNe, x, y) }

// Less returns x < y as bool.
func Less(x, y Value) Value { return binary(FnLt, x, y) }

// LessEqual returns x <= y as bool.
func LessEqual(x, y Value) Value { return binary(FnLe, x, y) }

// Greater returns x > y as bool.
func Greater(x, y Value) Value { return binary(FnLt, y, x) }

// GreaterEqual returns x >= y as bool.
func GreaterEqual(x, y Value) Value { return binary(FnLe, y, x) }

// And returns x && y of bools.
func And(x, y Value) Value { return binary(FnAnd, x, y) }

// Or returns x || y of bools.
func Or(x, y Value) Value { return binary(FnOr, x, y) }

// Not returns !x of a bool.
func Not(x Value) Value { return unary(FnNot, x) }

// Where returns x where cond is true, else y.
func Where(cond, x, y Value) Value { return one(Pointwise{F: FnWhere}, cond, x, y) }

// Clip limits x to [lo, hi]; the gradient is zero outside.
func Clip(x Value, lo, hi float64) Value { return Min(Max(x, Scalar(x, lo)), Scalar(x, hi)) }

// Neg returns -x.
func Neg(x Value) Value { return unary(FnNeg, x) }

// Abs returns |x|; the gradient at 0 is 0.
func Abs(x Value) Value { return unary(FnAbs, x) }

// Sign returns -1, 0 or 1.
func Sign(x Value) Value { return unary(FnSign, x) }

// Floor rounds down.
func Floor(x Value) Value { return unary(FnFloor, x) }

// Exp returns e^x.
func Exp(x Value) Value { return unary(FnExp, x) }

// Log returns the natural logarithm.
func Log(x Value) Value { return unary(FnLog, x) }

// Sqrt returns the square root.
func Sqrt(x Value) Value { return unary(FnSqrt, x) }

// Rsqrt returns 1/sqrt(x).
func Rsqrt(x Value) Value { return unary(FnRsqrt, x) }

// Sin returns the sine of x in radians.
func Sin(x Value) Value { return unary(FnSin, x) }

// Cos returns the cosine of x in radians.
func Cos(x Value) Value { return unary(FnCos, x) }

// Tanh returns the hyperbolic tangent.
func Tanh(x Value) Value { return unary(FnTanh, x) }

// Erf returns the error function.
func Erf(x Value) Value { return unary(FnErf, x) }

// Sigmoid returns 1/(1+e^-x).
func Sigmoid(x Value) Value { return unary(FnSigmoid, x) }

// SiLU returns x·sigmoid(x) (Elfwing et al. 2017, also called swish).
func SiLU(x Value) Value { return unary(FnSiLU, x) }

// GELU returns x·Φ(x) with the exact Gaussian distribution function (Hendrycks & Gimpel 2016).
func GELU(x Value) Value { return unary(FnGELU, x) }

// GELUTanh is the tanh approximation of GELU: x/2·(1+tanh(√(2/π)(x+0.044715x³))).
func GELUTanh(x Value) Value { return unary(FnGELUTanh, x) }

// ReLU returns x where x > 0 and else 0, also for NaN; the gradient at 0 is 0.
func ReLU(x Value) Value { return unary(FnReLU, x) }

// IsFinite is true where x is neither infinite nor NaN.
func IsFinite(x Value) Value { return unary(FnIsFinite, x) }

// Square returns x².
func Square(x Value) Value { return Mul(x, x) }

// Cast converts to another dtype: floats round to nearest even, a float becomes an integer by truncation, and anything but 0
// becomes true. A cast to the same dtype is x itself.
func Cast(x Value, d tensor.DType) Value {
	if x.DType() == d {
		return x
	}
	return one(Pointwise{F: FnCast, To: d}, x)
}

// Fill returns a scalar constant.
func Fill(g *graph.Graph, d tensor.DType, v float64) Value {
	if v == 0 && math.Signbit(v) && d.IsFloat() {
		return Neg(Fill(g, d, 0)) // as attributes, -0 and 0 are equal
	}
	return g.Apply(Pointwise{F: FnFill, To: d, Val: v})[0]
}

// Scalar returns a scalar constant of x's dtype in x's graph.
func Scalar(x Value, v float64) Value {
	if !x.Valid() {
		return x
	}
	return Fill(x.Graph(), x.DType(), v)
}

// Scale returns x·v.
func Scale(x Value, v float64) Value { return Mul(x, Scalar(x, v)) }

// AddScalar returns x + v.
func AddScalar(x Value, v float64) Value { return Add(x, Scalar(x, v)) }

// ZerosLike returns zeros of x's type.
func ZerosLike(x Value) Value { return BroadcastTo(Scalar(x, 0), x.Shape().Dims()...) }

func unary(f Func, x Value) Value     { return one(Pointwise{F: f}, x) }
func binary(f Func, x, y Value) Value { return one(Pointwise{F: f}, x, y) }
