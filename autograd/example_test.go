package autograd_test

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/autograd"
	"github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Gradients are values like any other and can be differentiated again: x³ has 3x² and 6x.
func ExampleGradValues() {
	g := graph.New("cube")
	x := g.Input("x", tensor.T(tensor.F64))
	y := ops.Mul(x, ops.Square(x))
	first, err := autograd.GradValues(y, x)
	if err != nil {
		fmt.Println(err)
		return
	}
	second, err := autograd.GradValues(first[0], x)
	if err != nil {
		fmt.Println(err)
		return
	}
	dev := cpu.New(cpu.Options{Threads: 1})
	out, err := plan.Eval(dev, plan.Feed{x: 2.0}, y, first[0], second[0])
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(out[0].At(0), out[1].At(0), out[2].At(0))
	// Output: 8 12 12
}

// A gradient that nobody asked for is not built: with w frozen the graph holds no matrix product for it.
func ExampleGrad() {
	w, b := graph.NewVar("w", tensor.T(tensor.F32, 5, 3)), graph.NewVar("b", tensor.T(tensor.F32, 5))
	for _, wrt := range [][]*graph.Var{{b}, {w, b}} {
		g := graph.New("step")
		x := g.Input("x", tensor.T(tensor.F32, 2, 3))
		loss := ops.Mean(ops.Square(ops.Add(ops.Linear(x, g.Read(w)), g.Read(b))))
		if _, err := autograd.Grad(loss, wrt...); err != nil {
			fmt.Println(err)
			return
		}
		products := 0
		for _, n := range g.Nodes() {
			if n.Op.Name() == "matmul" {
				products++
			}
		}
		fmt.Println(len(wrt), "gradients,", products, "matrix products")
	}
	// Output:
	// 1 gradients, 1 matrix products
	// 2 gradients, 2 matrix products
}
