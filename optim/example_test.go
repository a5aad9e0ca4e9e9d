package optim_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/autograd"
	"github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/optim"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Update puts the optimizer into the graph that computes the gradients, so that a step is one plan.
func ExampleOptimizer_Update() {
	w := graph.NewVar("w", tensor.T(tensor.F32, 256))
	g := graph.New("step")
	lr := g.Input("lr", tensor.T(tensor.F32))
	loss := ops.Mean(ops.Square(ops.AddScalar(g.Read(w), -1)))
	grads, err := autograd.Grad(loss, w)
	if err != nil {
		fmt.Println(err)
		return
	}
	opt, err := optim.New("adamw8bit", optim.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	opt.Update(g, []*graph.Var{w}, grads, lr)
	for _, v := range opt.StateVars() {
		fmt.Println(v)
	}
	dev := cpu.New(cpu.Options{Threads: 1})
	session := plan.NewSession(plan.NewStore(dev))
	step, err := plan.Compile([]graph.Value{loss}, plan.Options{Device: dev, Session: session})
	if err != nil {
		fmt.Println(err)
		return
	}
	schedule := optim.Schedule{Kind: "linear", LR: 0.1, Total: 50}
	var last plan.Result
	for i := range schedule.Total {
		if last, err = step.Run(context.Background(), plan.Feed{lr: schedule.At(i)}); err != nil {
			fmt.Println(err)
			return
		}
	}
	fmt.Println("learned:", last.Float(loss) < 0.01)
	if err := errors.Join(step.Close(), session.Close(), dev.Close()); err != nil {
		fmt.Println(err)
	}
	// Output:
	// optim.8bit.state1 u8[256]
	// optim.8bit.state2 u8[256]
	// optim.8bit.absmax1 f32[1]
	// optim.8bit.absmax2 f32[1]
	// optim.8bit.step f32[]
	// learned: true
}

// The rate climbs for two steps and then falls along a cosine.
func ExampleSchedule() {
	s := optim.Schedule{Kind: "cosine", LR: 1, Warmup: 2, Total: 6}
	for i := range s.Total {
		fmt.Printf("%.2f ", s.At(i))
	}
	fmt.Println()
	// Output: 0.50 1.00 1.00 0.85 0.50 0.15
}

// The rate is halved when two measurements in a row bring nothing new.
func ExamplePlateau() {
	s := optim.Schedule{Kind: "plateau", LR: 0.1}
	p, err := optim.NewPlateau(optim.PlateauOptions{Factor: 0.5, Patience: 1}, optim.PlateauState{})
	if err != nil {
		fmt.Println(err)
		return
	}
	for step, loss := range []float64{2, 1.5, 1.6, 1.5, 1.2} {
		fmt.Printf("%.2f ", p.Scale*s.At(step))
		p.Observe(loss)
	}
	fmt.Printf("%.2f\n", p.Scale*s.At(5))
	// Output: 0.10 0.10 0.10 0.10 0.05 0.05
}

// An average of the weights takes their place for an evaluation, and gives it back.
func ExampleEMA() {
	w := graph.NewVar("w", tensor.T(tensor.F32, 1))
	opt, err := optim.New("sgd", optim.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	group, err := optim.NewGroup([]*graph.Var{w}, optim.Options{Optimizer: opt})
	if err != nil {
		fmt.Println(err)
		return
	}
	ema, err := optim.NewEMA(group, optim.EMAOptions{Decay: 0.5})
	if err != nil {
		fmt.Println(err)
		return
	}
	dev := cpu.New(cpu.Options{Threads: 1})
	store := plan.NewStore(dev)
	run := func(emit func(*graph.Graph) graph.Value) {
		p, err := plan.Compile([]graph.Value{emit(graph.New("average"))}, plan.Options{Device: dev, Store: store})
		if err == nil {
			_, err = p.Run(context.Background(), nil)
		}
		if err != nil {
			fmt.Println(err)
		}
	}
	show := func(what string) {
		x, err := store.Get(w)
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Printf("%s %.2f\n", what, x.At(0))
	}
	for _, v := range []float64{1, 4} { // what training would do
		x := tensor.New(w.Type)
		x.Set(0, v)
		if err := store.Set(w, x); err != nil {
			fmt.Println(err)
			return
		}
		run(ema.Update)
	}
	run(ema.Enter)
	show("average")
	run(ema.Leave)
	show("weight")
	// Output:
	// average 3.00
	// weight 4.00
}
