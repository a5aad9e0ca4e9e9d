package graph_test

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// A mistake is recorded once, with the line that made it; what is built on it stays silent.
func ExampleGraph_Err() {
	g := graph.New("step")
	a, b := g.Input("a", tensor.T(tensor.F32, 2, 3)), g.Input("b", tensor.T(tensor.F32, 4))
	defer g.Scope("layers.0")()
	c := ops.Exp(ops.Add(a, b))
	fmt.Println(c.Valid())
	fmt.Println(g.Err())
	// Output:
	// false
	// example_test.go:16 (layers.0): add(f32[2,3], f32[4]): shapes [2,3] and [4] do not broadcast: extents 3 and 4 on axis 1 from the end
}

// A graph is a plain value: equal operations on equal inputs are one node, and a variable is read and written by name.
func ExampleGraph() {
	w := graph.NewVar("w", tensor.T(tensor.F32, 3))
	g := graph.New("step")
	x := g.Input("x", tensor.T(tensor.F32, 2, 3))
	y := ops.Mul(x, g.Read(w))
	fmt.Println(y.Type(), y == ops.Mul(x, g.Read(w)))
	g.Write(w, ops.Sum(y, 0))
	for _, n := range g.Nodes() {
		fmt.Println(n)
	}
	// Output:
	// f32[2,3] true
	// %0 = input "x"() f32[2,3]
	// %1 = read w() f32[3]
	// %2 = mul(%0, %1) f32[2,3]
	// %3 = reduce_sum{Axes:1}(%2) f32[3]
}
