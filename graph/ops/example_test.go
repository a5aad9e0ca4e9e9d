package ops_test

import (
	"fmt"
	"math"

	"github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// show evaluates values on the processor and prints them with three decimals.
func show(feed plan.Feed, vals ...graph.Value) {
	dev := cpu.New(cpu.Options{Threads: 1})
	out, err := plan.Eval(dev, feed, vals...)
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, t := range out {
		fmt.Printf("%v %.3f\n", t.Type(), t.Float32s())
	}
	if err := dev.Close(); err != nil {
		fmt.Println(err)
	}
}

// Constructors take and return values of a graph; nothing is computed until a plan runs.
func ExampleSoftmax() {
	g := graph.New("example")
	x := g.Input("x", tensor.T(tensor.F32, 3))
	v, err := tensor.Of([]float32{0, float32(math.Log(2)), 0})
	if err != nil {
		fmt.Println(err)
		return
	}
	y := ops.Softmax(x, -1)
	show(plan.Feed{x: v}, ops.Scale(y, 4), ops.ArgMax(y, 0))
	// Output:
	// f32[3] [1.000 2.000 1.000]
	// i32[] [1.000]
}

// Targets below zero do not count, here that of the second row.
func ExampleCrossEntropy() {
	g := graph.New("example")
	logits, labels := g.Input("logits", tensor.T(tensor.F32, 2, 4)), g.Input("labels", tensor.T(tensor.I32, 2))
	l, err := tensor.Of([]int32{3, -100})
	if err != nil {
		fmt.Println(err)
		return
	}
	loss := ops.CrossEntropy(logits, labels)
	show(plan.Feed{logits: tensor.New(logits.Type()), labels: l}, ops.Exp(loss))
	// Output: f32[] [4.000]
}

// Linear multiplies by a weight stored (out, in), as checkpoints have it.
func ExampleLinear() {
	g := graph.New("example")
	x := ops.Iota(g, tensor.T(tensor.F32, 1, 3), 1)
	w, err := tensor.Of([]float32{1, 1, 1, 0, 0, 5}, 2, 3)
	if err != nil {
		fmt.Println(err)
		return
	}
	show(nil, ops.Linear(x, g.Const(w)))
	// Output: f32[1,2] [3.000 10.000]
}
