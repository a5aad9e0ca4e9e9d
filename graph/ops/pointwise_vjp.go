package ops

import (
	"math"

	"github.com/bitsandbyes/bitsandbyes/graph"
)

// Gradients of the pointwise table. y is the node's own output; broadcasting is undone by the sweep.

func vjp1(g Value) []Value { return []Value{g} }

func vjpCast(n *graph.Node, gy Value, _ []bool) []Value {
	if !n.In[0].DType().IsFloat() || !gy.DType().IsFloat() {
		return []Value{{}}
	}
	return vjp1(Cast(gy, n.In[0].DType()))
}

func vjpAdd(_ *graph.Node, gy Value, _ []bool) []Value { return []Value{gy, gy} }

func vjpSub(_ *graph.Node, gy Value, need []bool) []Value {
	return lazily(need, func() Value { return gy }, func() Value { return Neg(gy) })
}

func vjpMul(n *graph.Node, gy Value, need []bool) []Value {
	return lazily(need, func() Value { return Mul(gy, n.In[1]) }, func() Value { return Mul(gy, n.In[0]) })
}

// d(a/b) = da/b - (a/b)/b db
func vjpDiv(n *graph.Node, gy Value, need []bool) []Value {
	ga := func() Value { return Div(gy, n.In[1]) }
	return lazily(need, ga, func() Value { return Neg(Mul(ga(), n.Output(0))) })
}

func vjpMin(n *graph.Node, gy Value, need []bool) []Value {
	return vjpPick(LessEqual(n.In[0], n.In[1]), gy, need)
}

func vjpMax(n *graph.Node, gy Value, need []bool) []Value {
	return vjpPick(GreaterEqual(n.In[0], n.In[1]), gy, need)
}

func vjpPick(takesFirst, gy Value, need []bool) []Value {
	zero := Scalar(gy, 0)
	return lazily(need, func() Value { return Where(takesFirst, gy, zero) }, func() Value { return Where(takesFirst, zero, gy) })
}

// d(a^b) = b a^(b-1) da + a^b ln(a) db, the second only where a > 0
func vjpPow(n *graph.Node, gy Value, need []bool) []Value {
	a, b := n.In[0], n.In[1]
	return lazily(need,
		func() Value { // a^0 is constant, also at a = 0, where a^(b-1) is infinite
			slope := Mul(b, Pow(a, AddScalar(b, -1)))
			return Mul(gy, Where(Equal(b, Scalar(b, 0)), Scalar(a, 0), slope))
		},
		func() Value {
			safe := Where(Greater(a, Scalar(a, 0)), a, Scalar(a, 1))
			return Mul(gy, Mul(n.Output(0), Log(safe)))
		})
}

func vjpWhere(n *graph.Node, gy Value, need []bool) []Value {
	zero := Scalar(gy, 0)
	out := make([]Value, 3)
	if need[1] {
		out[1] = Where(n.In[0], gy, zero)
	}
	if need[2] {
		out[2] = Where(n.In[0], zero, gy)
	}
	return out
}

func vjpNeg(_ *graph.Node, gy Value, _ []bool) []Value { return vjp1(Neg(gy)) }

func vjpAbs(n *graph.Node, gy Value, _ []bool) []Value { return vjp1(Mul(gy, Sign(n.In[0]))) }

func vjpExp(n *graph.Node, gy Value, _ []bool) []Value { return vjp1(Mul(gy, n.Output(0))) }

func vjpLog(n *graph.Node, gy Value, _ []bool) []Value { return vjp1(Div(gy, n.In[0])) }

func vjpSqrt(n *graph.Node, gy Value, _ []bool) []Value {
	return vjp1(Div(Scale(gy, 0.5), n.Output(0)))
}

// d rsqrt(x) = -1/2 y³ dx
func vjpRsqrt(n *graph.Node, gy Value, _ []bool) []Value {
	y := n.Output(0)
	return vjp1(Mul(Scale(gy, -0.5), Mul(y, Mul(y, y))))
}

func vjpSin(n *graph.Node, gy Value, _ []bool) []Value { return vjp1(Mul(gy, Cos(n.In[0]))) }

func vjpCos(n *graph.Node, gy Value, _ []bool) []Value { return vjp1(Neg(Mul(gy, Sin(n.In[0])))) }

// d tanh = 1 - y²
func vjpTanh(n *graph.Node, gy Value, _ []bool) []Value {
	y := n.Output(0)
	return vjp1(Mul(gy, Sub(Scalar(y, 1), Mul(y, y))))
}

// d erf(x) = 2/√π e^(-x²)
func vjpErf(n *graph.Node, gy Value, _ []bool) []Value {
	x := n.In[0]
	return vjp1(Mul(gy, Scale(Exp(Neg(Mul(x, x))), 2/math.Sqrt(math.Pi))))
}

// d sigmoid = y(1-y)
func vjpSigmoid(n *graph.Node, gy Value, _ []bool) []Value {
	y := n.Output(0)
	return vjp1(Mul(gy, Mul(y, Sub(Scalar(y, 1), y))))
}

// d silu(x) = s(1 + x(1-s)), s = sigmoid(x)
func vjpSiLU(n *graph.Node, gy Value, _ []bool) []Value {
	x := n.In[0]
	s := Sigmoid(x)
	return vjp1(Mul(gy, Mul(s, AddScalar(Mul(x, Sub(Scalar(x, 1), s)), 1))))
}

// d gelu(x) = Φ(x) + x φ(x)
func vjpGELU(n *graph.Node, gy Value, _ []bool) []Value {
	x := n.In[0]
	cdf := Scale(AddScalar(Erf(Scale(x, 1/math.Sqrt2)), 1), 0.5)
	pdf := Scale(Exp(Scale(Mul(x, x), -0.5)), 1/math.Sqrt(2*math.Pi))
	return vjp1(Mul(gy, Add(cdf, Mul(x, pdf))))
}

// u = c(x + kx³), t = tanh(u): d = (1+t)/2 + x/2 (1-t²) c(1+3kx²)
func vjpGELUTanh(n *graph.Node, gy Value, _ []bool) []Value {
	x := n.In[0]
	x2 := Mul(x, x)
	t := Tanh(Scale(Mul(x, AddScalar(Scale(x2, geluK), 1)), geluC))
	du := Scale(AddScalar(Scale(x2, 3*geluK), 1), geluC)
	half := Scale(AddScalar(t, 1), 0.5)
	return vjp1(Mul(gy, Add(half, Mul(Scale(x, 0.5), Mul(Sub(Scalar(t, 1), Mul(t, t)), du)))))
}

func vjpReLU(n *graph.Node, gy Value, _ []bool) []Value {
	return vjp1(Where(Greater(n.In[0], Scalar(n.In[0], 0)), gy, Scalar(gy, 0)))
}

// lazily builds only the wanted gradients.
func lazily(need []bool, f ...func() Value) []Value {
	out := make([]Value, len(f))
	for i := range f {
		if need[i] {
			out[i] = f[i]()
		}
	}
	return out
}

func vjpExpm1(n *graph.Node, gy Value, _ []bool) []Value {
	return vjp1(Mul(gy, AddScalar(n.Output(0), 1)))
}

func vjpLog1p(n *graph.Node, gy Value, _ []bool) []Value { return vjp1(Div(gy, AddScalar(n.In[0], 1))) }

// d tan = 1 + y²
func vjpTan(n *graph.Node, gy Value, _ []bool) []Value {
	return vjp1(Mul(gy, AddScalar(Square(n.Output(0)), 1)))
}

// d asin(x) = 1/√(1-x²)
func vjpAsin(n *graph.Node, gy Value, _ []bool) []Value {
	return vjp1(Mul(gy, Rsqrt(oneMinusSquare(n.In[0]))))
}

func vjpAcos(n *graph.Node, gy Value, _ []bool) []Value {
	return vjp1(Neg(Mul(gy, Rsqrt(oneMinusSquare(n.In[0])))))
}

func vjpAtan(n *graph.Node, gy Value, _ []bool) []Value {
	return vjp1(Div(gy, AddScalar(Square(n.In[0]), 1)))
}

func vjpSinh(n *graph.Node, gy Value, _ []bool) []Value { return vjp1(Mul(gy, Cosh(n.In[0]))) }

func vjpCosh(n *graph.Node, gy Value, _ []bool) []Value { return vjp1(Mul(gy, Sinh(n.In[0]))) }

// d asinh(x) = 1/√(x²+1)
func vjpAsinh(n *graph.Node, gy Value, _ []bool) []Value {
	return vjp1(Mul(gy, Rsqrt(AddScalar(Square(n.In[0]), 1))))
}

// d acosh(x) = 1/√((x-1)(x+1)), which does not cancel near 1 as x²-1 does
func vjpAcosh(n *graph.Node, gy Value, _ []bool) []Value {
	x := n.In[0]
	return vjp1(Mul(gy, Rsqrt(Mul(AddScalar(x, -1), AddScalar(x, 1)))))
}

func vjpAtanh(n *graph.Node, gy Value, _ []bool) []Value {
	return vjp1(Div(gy, oneMinusSquare(n.In[0])))
}

// oneMinusSquare is 1-x² as (1-x)(1+x), which does not cancel near ±1.
func oneMinusSquare(x Value) Value { return Mul(Sub(Scalar(x, 1), x), AddScalar(x, 1)) }

func vjpSoftplus(n *graph.Node, gy Value, _ []bool) []Value { return vjp1(Mul(gy, Sigmoid(n.In[0]))) }

// y = a - q·b for a whole number q: da = 1, db = -q = (y-a)/b
func vjpRem(n *graph.Node, gy Value, need []bool) []Value {
	return lazily(need, func() Value { return gy },
		func() Value { return Mul(gy, Div(Sub(n.Output(0), n.In[0]), n.In[1])) })
}
