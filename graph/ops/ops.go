// Package ops holds every operation once: its attributes, shape rule, gradient and decomposition stand in one file. Pointwise
// operations are rows of a table (pointwise_table.go). Kernels live in the backends, keyed by the op's Go type.
package ops

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Value is graph.Value, for short signatures.
type Value = graph.Value

// apply adds a node to the graph of the first present input. With no input present the result is absent, which plan.Compile
// and Grad refuse.
func apply(op graph.Op, in ...Value) []Value {
	for _, v := range in {
		if !v.Absent() {
			return v.Graph().Apply(op, in...)
		}
	}
	return make([]Value, numOut(op))
}

// one is apply for an op with a single output.
func one(op graph.Op, in ...Value) Value { return apply(op, in...)[0] }

func numOut(op graph.Op) int {
	if o, ok := op.(interface{ NumOut() int }); ok {
		return o.NumOut()
	}
	return 1
}

// grads places single gradients into a list of n absent values.
func grads(n int, at ...indexed) []Value {
	out := make([]Value, n)
	for _, a := range at {
		out[a.i] = a.v
	}
	return out
}

type indexed struct {
	i int
	v Value
}

func arity(in []tensor.Type, want int) error {
	if len(in) != want {
		return fmt.Errorf("takes %d inputs, got %d", want, len(in))
	}
	for i, t := range in {
		if t.DType == tensor.Invalid {
			return fmt.Errorf("input %d is absent", i)
		}
	}
	return nil
}

// fail records a building error on the graph of v.
func fail(name string, v Value, format string, args ...any) Value {
	if v.Absent() {
		return v
	}
	return v.Graph().Fail(name, []Value{v}, fmt.Errorf(format, args...))
}

// axisOf normalises an axis of v, recording an error when it is out of range.
func axisOf(name string, v Value, axis int) (int, bool) {
	if !v.Valid() {
		return 0, false
	}
	a, ok := v.Shape().Axis(axis)
	if !ok {
		fail(name, v, "axis %d is out of range for rank %d", axis, v.Rank())
	}
	return a, ok
}
