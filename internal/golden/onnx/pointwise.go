package onnx

import (
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
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
		"Identity": func(x graph.Value) graph.Value { return x },
	} {
		register(name, Operator{Build: unaryOp(f)})
	}
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
	register("Where", Operator{Build: func(n *Node) []graph.Value { return one(ops.Where(n.In(0), n.In(1), n.In(2))) }})
}
