// Command mlp trains a classifier 784-512-10, the shape of the classic digits task, on pictures that the program makes itself.
//
//	go run ./examples/mlp            # a few seconds
//	go run ./examples/mlp -small     # one second
//	go run ./examples/mlp -out DIR   # also writes DIR/model.safetensors
//
// It shows the core: a model is a struct of layers; an ordinary function builds a graph with it; the graph is differentiated by
// adding nodes to it and compiled into a plan that does forward, backward and update in one go.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"

	"github.com/bitsandbyes/bitsandbyes/autograd"
	"github.com/bitsandbyes/bitsandbyes/device"
	_ "github.com/bitsandbyes/bitsandbyes/device/cpu" // a backend for device.Open to choose
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/optim"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

const pixels, hidden, classes, batch = 784, 512, 10, 64

// classifier is a model. The tags are the names that its weights have in files.
type classifier struct {
	First  layers.Projection `name:"first"`
	Second layers.Projection `name:"second"`
}

// forward maps x (B, 784) to scores (B, 10). Building never fails: a mistake is recorded with its line and comes out of Compile.
func (c *classifier) forward(x graph.Value) graph.Value {
	return c.Second.Forward(ops.ReLU(c.First.Forward(x)))
}

func main() {
	small := flag.Bool("small", false, "train for a second only")
	out := flag.String("out", "", "folder for the trained weights")
	flag.Parse()
	steps := 1000
	if *small {
		steps = 200
	}
	if err := run(context.Background(), steps, *out); err != nil {
		fmt.Fprintln(os.Stderr, "mlp:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, steps int, out string) (err error) {
	dev, err := device.Open("auto")
	if err != nil {
		return err
	}
	// A source supplies weights by name, from a file or, as here, from an initialiser. A session holds their values on the device,
	// and the working memory that the plans below take turns with.
	src := layers.NewSource(layers.Options{Seed: 1})
	model := &classifier{src.Linear("first", pixels, hidden, true), src.Linear("second", hidden, classes, true)}
	layers.SetTrainable(model, true)
	session := plan.NewSession(plan.NewStore(dev))
	defer func() { err = errors.Join(err, session.Close(), dev.Close()) }()
	if err := errors.Join(src.Err(), src.Load(session.Store())); err != nil {
		return err
	}
	if err := train(ctx, model, session, steps); err != nil {
		return err
	}
	accuracy, err := test(ctx, model, session)
	if err != nil {
		return err
	}
	fmt.Printf("accuracy on %d new pictures: %.1f%%\n", 20*batch, 100*accuracy)
	if out == "" {
		return nil
	}
	return save(model, session.Store(), out)
}

// train builds the training step once, for one shape, and runs it.
func train(ctx context.Context, model *classifier, session *plan.Session, steps int) error {
	g := graph.New("train")
	x, y := g.Input("x", tensor.T(tensor.F32, batch, pixels)), g.Input("labels", tensor.T(tensor.I32, batch))
	lr := g.Input("lr", tensor.T(tensor.F32))
	loss := ops.CrossEntropy(model.forward(x), y)
	params := layers.Trainable(model)
	grads, err := autograd.Grad(loss, params...)
	if err != nil {
		return err
	}
	opt, err := optim.New("sgd", optim.Config{Momentum: 0.9})
	if err != nil {
		return err
	}
	opt.Update(g, params, grads, lr)
	step, err := plan.Compile([]graph.Value{loss}, plan.Options{Device: session.Store().Device(), Session: session})
	if err != nil {
		return err
	}
	// The plan knows what it takes before it has run.
	r := step.Report()
	fmt.Printf("a step: %d launches, %.0f MFLOP, %.1f MB\n", r.Launches, float64(r.Flops)/1e6, float64(r.Peak())/1e6)
	schedule := optim.Schedule{Kind: "cosine", LR: 0.02, Warmup: 0.05, Total: steps}
	data := newPictures(1)
	for i := range steps {
		xs, ys, err := data.batch()
		if err != nil {
			return err
		}
		res, err := step.Run(ctx, plan.Feed{x: xs, y: ys, lr: schedule.At(i)})
		if err != nil {
			return err
		}
		if i%(steps/10) == 0 || i == steps-1 {
			fmt.Printf("step %4d  loss %.4f\n", i+1, res.Float(loss))
		}
	}
	return step.Close()
}

// test returns the share of pictures, never trained on, that get the right class. It reads the weights that train left.
func test(ctx context.Context, model *classifier, session *plan.Session) (share float64, err error) {
	g := graph.New("test")
	x, y := g.Input("x", tensor.T(tensor.F32, batch, pixels)), g.Input("labels", tensor.T(tensor.I32, batch))
	right := ops.Mean(ops.Cast(ops.Equal(ops.ArgMax(model.forward(x), -1), y), tensor.F32))
	step, err := plan.Compile([]graph.Value{right}, plan.Options{Device: session.Store().Device(), Session: session})
	if err != nil {
		return 0, err
	}
	data := newPictures(2)
	for range 20 {
		xs, ys, err := data.batch()
		if err != nil {
			return 0, err
		}
		res, err := step.Run(ctx, plan.Feed{x: xs, y: ys})
		if err != nil {
			return 0, err
		}
		share += res.Float(right) / 20
	}
	return share, step.Close()
}
