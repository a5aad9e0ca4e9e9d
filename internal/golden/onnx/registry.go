package onnx

import (
	"github.com/bitsandbyes/bitsandbyes/graph"
)

// Handler builds a node out of graph/ops and returns its outputs by position; those that the case does not ask for may be
// absent or missing at the end. What it does not support it says with Node.Fail, in words that hold for every case alike
// ("string tensors"): the words become the reason in the table of results.
type Handler func(n *Node) []graph.Value

// Operator is an entry of the registry.
type Operator struct {
	Build Handler

	// NoGrad says why the operator has no gradient; "" = it is differentiable, and every case with a floating-point input and
	// output is gradient-checked in float64.
	NoGrad string
	// Kinks says that the operator is not smooth where inputs are equal, 0 or at a bound: its gradient is checked beside the
	// case's inputs, moved by a little noise.
	Kinks bool
	// Promote are inputs with data that some cases have as integers: their gradients are checked on the same values as float64.
	Promote []int
	// Fixed are inputs that are not differentiated although floating point.
	Fixed []int
}

// operators is the registry, by domain and name. It is filled by init functions only.
var operators = map[string]Operator{}

func key(domain, op string) string {
	if domain == "" {
		return op
	}
	return domain + "." + op
}

// register adds an operator of the default domain.
func register(op string, o Operator) { registerIn("", op, o) }

// registerIn adds an operator of a domain.
func registerIn(domain, op string, o Operator) { operators[key(domain, op)] = o }
