package onnx

import (
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// unaryOp and binaryOp make handlers of plain functions.
func unaryOp(f func(x graph.Value) graph.Value) Handler {
	return func(n *Node) []graph.Value { return one(f(n.In(0))) }
}

func binaryOp(f func(x, y graph.Value) graph.Value) Handler {
	return func(n *Node) []graph.Value { return one(f(n.In(0), n.In(1))) }
}

// variadic folds a function of two values over any number of inputs.
func variadic(f func(x, y graph.Value) graph.Value) Handler {
	return func(n *Node) []graph.Value {
		acc := n.In(0)
		for _, x := range n.Ins()[1:] {
			acc = f(acc, x)
		}
		return one(acc)
	}
}

func one(v graph.Value) []graph.Value { return []graph.Value{v} }

// stepwise is the reason of functions that are constant but for jumps.
const (
	stepwise = "piecewise constant"
	boolean  = "the result is bool"
	integers = "defined on integers only"
)

func init() {
	for name, f := range map[string]func(x graph.Value) graph.Value{
		"Erf": ops.Erf, "Exp": ops.Exp, "Log": ops.Log, "Neg": ops.Neg, "Sigmoid": ops.Sigmoid, "Sin": ops.Sin, "Sqrt": ops.Sqrt, "Tanh": ops.Tanh,
		"Acos": ops.Acos, "Asin": ops.Asin, "Asinh": ops.Asinh, "Atan": ops.Atan, "Atanh": ops.Atanh, "Tan": ops.Tan,
		"Reciprocal": ops.Reciprocal,
		"Identity":   func(x graph.Value) graph.Value { return x },
	} {
		register(name, Operator{Build: unaryOp(f)})
	}
	register("Softsign", Operator{Build: unaryOp(ops.Softsign), Kinks: true})
	register("Abs", Operator{Build: unaryOp(ops.Abs), Kinks: true})
	register("Relu", Operator{Build: unaryOp(ops.ReLU), Kinks: true})
	register("Floor", Operator{Build: unaryOp(ops.Floor), NoGrad: stepwise})
	register("Sign", Operator{Build: unaryOp(ops.Sign), NoGrad: stepwise})
	register("Not", Operator{Build: unaryOp(ops.Not), NoGrad: boolean})
	for name, f := range map[string]func(x, y graph.Value) graph.Value{"Add": ops.Add, "Sub": ops.Sub, "Mul": ops.Mul, "Div": ops.Div} {
		register(name, Operator{Build: binaryOp(f)})
	}
	for name, f := range map[string]func(x, y graph.Value) graph.Value{
		"And": ops.And, "Or": ops.Or, "Equal": ops.Equal, "Less": ops.Less, "LessOrEqual": ops.LessEqual,
		"Greater": ops.Greater, "GreaterOrEqual": ops.GreaterEqual, "Xor": ops.NotEqual,
	} {
		register(name, Operator{Build: binaryOp(f), NoGrad: boolean})
	}
	register("Sum", Operator{Build: variadic(ops.Add)})
	register("Max", Operator{Build: variadic(ops.Max), Kinks: true})
	register("Min", Operator{Build: variadic(ops.Min), Kinks: true})
	register("Mean", Operator{Build: func(n *Node) []graph.Value {
		return one(ops.Scale(variadic(ops.Add)(n)[0], 1/float64(n.NumIn())))
	}})
	register("Where", Operator{Promote: []int{1, 2}, Build: func(n *Node) []graph.Value { return one(ops.Where(n.In(0), n.In(1), n.In(2))) }})
}

func init() {
	for name, f := range map[string]func(n *Node, x graph.Value) graph.Value{
		"Elu":         func(n *Node, x graph.Value) graph.Value { return ops.ELU(x, n.Float("alpha")) },
		"Celu":        func(n *Node, x graph.Value) graph.Value { return ops.CELU(x, n.Float("alpha")) },
		"LeakyRelu":   func(n *Node, x graph.Value) graph.Value { return ops.LeakyReLU(x, n.Float("alpha")) },
		"HardSigmoid": func(n *Node, x graph.Value) graph.Value { return ops.HardSigmoid(x, n.Float("alpha"), n.Float("beta")) },
		"Shrink":      func(n *Node, x graph.Value) graph.Value { return ops.Shrink(x, n.Float("lambd"), n.Float("bias")) },
		"PRelu":       func(n *Node, x graph.Value) graph.Value { return ops.PReLU(x, n.In(1)) },
		"Clip":        func(n *Node, x graph.Value) graph.Value { return ops.Clamp(x, n.In(1), n.In(2)) },
		"Mod":         mod,
		"Selu":        selu,
	} {
		register(name, Operator{Build: func(n *Node) []graph.Value { return one(f(n, n.In(0))) }, Kinks: true})
	}
	register("Pow", Operator{Build: pow, Kinks: true}) // at base 0
	register("IsNaN", Operator{Build: unaryOp(ops.IsNaN), NoGrad: boolean})
	register("IsInf", Operator{Build: isInf, NoGrad: boolean})
	register("BitShift", Operator{Build: bitShift, NoGrad: integers})
	register("BitwiseAnd", Operator{Build: binaryOp(ops.BitAnd), NoGrad: integers})
	register("BitwiseOr", Operator{Build: binaryOp(ops.BitOr), NoGrad: integers})
	register("BitwiseXor", Operator{Build: binaryOp(ops.BitXor), NoGrad: integers})
	register("BitwiseNot", Operator{Build: unaryOp(ops.BitNot), NoGrad: integers})
}

func mod(n *Node, x graph.Value) graph.Value {
	if n.Bool("fmod") {
		return ops.Rem(x, n.In(1))
	}
	return ops.Mod(x, n.In(1))
}

// selu has constants as attributes, with the standard's values rounded to float32.
func selu(n *Node, x graph.Value) graph.Value {
	return ops.Scale(ops.ELU(x, n.Float("alpha")), n.Float("gamma"))
}

// pow has the base's type; integers go through float64, which holds what fits 53 bits.
func pow(n *Node) []graph.Value {
	x, y := n.In(0), n.In(1)
	d := x.DType()
	if !d.IsFloat() {
		x = ops.Cast(x, tensor.F64)
	}
	return one(ops.Cast(ops.Pow(x, ops.Cast(y, x.DType())), d))
}

func isInf(n *Node) []graph.Value {
	x := n.In(0)
	inf, zero := ops.IsInf(x), ops.Scalar(x, 0)
	if !n.Bool("detect_negative") {
		inf = ops.And(inf, ops.Greater(x, zero))
	}
	if !n.Bool("detect_positive") {
		inf = ops.And(inf, ops.Less(x, zero))
	}
	return one(inf)
}

func bitShift(n *Node) []graph.Value {
	if n.String("direction") == "LEFT" {
		return one(ops.ShiftLeft(n.In(0), n.In(1)))
	}
	return one(ops.ShiftRight(n.In(0), n.In(1)))
}
