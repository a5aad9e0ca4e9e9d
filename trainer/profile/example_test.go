package profile_test

import (
	"context"
	"fmt"
	"os"

	"github.com/bitsandbyes/bitsandbyes/autograd"
	"github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/tensor"
	"github.com/bitsandbyes/bitsandbyes/trainer/profile"
)

// A loop of one's own is profiled by watching its plans and running some of its steps through Step.
func Example() {
	if err := loop(context.Background()); err != nil {
		fmt.Println(err)
	}
	// Output: 3 steps; the kernels and what is around them make up the step: true
}

func loop(ctx context.Context) error {
	dev := cpu.New(cpu.Options{})
	w := graph.NewVar("w", tensor.T(tensor.F32, 64, 64))
	w.Trainable = true
	g := graph.New("step")
	x := g.Input("x", tensor.T(tensor.F32, 32, 64))
	loss := ops.Mean(ops.Square(ops.Linear(x, g.Read(w))))
	grads, err := autograd.Grad(loss, w)
	if err != nil {
		return err
	}
	g.Write(w, ops.Sub(g.Read(w), ops.Scale(grads[0], 0.1)))
	p, err := plan.Compile([]graph.Value{loss}, plan.Options{Device: dev})
	if err != nil {
		return err
	}
	feed := plan.Feed{x: tensor.New(x.Type())}

	prof, err := profile.New(profile.Options{Device: dev, Title: "one layer"})
	if err != nil {
		return err
	}
	if err := prof.Measure(ctx); err != nil { // what the machine reaches at most
		return err
	}
	prof.Watch("step", p)
	for range 3 {
		err := prof.Step(func() error {
			_, err := p.Run(ctx, feed)
			return err
		})
		if err != nil {
			return err
		}
	}
	prof.Unwatch() // later runs cost what they did before
	r := prof.Result()
	dir, err := os.MkdirTemp("", "profile-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if err := r.Write(nil, dir); err != nil {
		return err
	}
	t := r.Time
	fmt.Printf("%d steps; the kernels and what is around them make up the step: %v\n", r.Steps.Count,
		t.Kernels+t.Gaps+t.Feed+t.Fetch+t.Outside-t.Step < 1e-9)
	return p.Close()
}
