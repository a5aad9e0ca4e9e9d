package plan_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/autograd"
	"github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// A plan is one whole step: this one fits a line by gradient descent and updates its variable itself.
func ExampleCompile() {
	slope := graph.NewVar("slope", tensor.T(tensor.F32))
	g := graph.New("fit")
	x, y := g.Input("x", tensor.T(tensor.F32, 4)), g.Input("y", tensor.T(tensor.F32, 4))
	loss := ops.Mean(ops.Square(ops.Sub(ops.Mul(x, g.Read(slope)), y)))
	grads, err := autograd.Grad(loss, slope)
	if err != nil {
		fmt.Println(err)
		return
	}
	g.Write(slope, ops.Sub(g.Read(slope), ops.Scale(grads[0], 0.05)))

	dev := cpu.New(cpu.Options{Threads: 1})
	session := plan.NewSession(plan.NewStore(dev))
	step, err := plan.Compile([]graph.Value{loss}, plan.Options{Device: dev, Session: session})
	if err != nil {
		fmt.Println(err)
		return
	}
	xs, errX := tensor.Of([]float32{1, 2, 3, 4})
	ys, errY := tensor.Of([]float32{3, 6, 9, 12})
	if err := errors.Join(errX, errY); err != nil {
		fmt.Println(err)
		return
	}
	for range 30 {
		if _, err := step.Run(context.Background(), plan.Feed{x: xs, y: ys}); err != nil {
			fmt.Println(err)
			return
		}
	}
	learned, err := session.Store().Get(slope)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("slope %.3f\n", learned.At(0))
	fmt.Println("bytes held:", dev.Allocated() == step.Report().Peak())
	if err := errors.Join(step.Close(), session.Close(), dev.Close()); err != nil {
		fmt.Println(err)
	}
	// Output:
	// slope 3.000
	// bytes held: true
}

// A step that needs more than its budget is refused before anything is allocated.
func ExampleBudgetError() {
	g := graph.New("large")
	x := g.Input("x", tensor.T(tensor.F32, 1024))
	y := ops.Sum(ops.Mul(ops.Reshape(x, 1024, 1), x))
	dev := cpu.New(cpu.Options{Threads: 1})
	_, err := plan.Compile([]graph.Value{y}, plan.Options{Device: dev, Budget: 1 << 10})
	var short *plan.BudgetError
	fmt.Println(errors.As(err, &short), dev.Allocated(), dev.Close())
	// Output: true 0 <nil>
}
