// Package docs_test keeps README.md and the guides true: the loop they show compiles and learns, the commands and keys they list
// are those of the program, and their links lead somewhere.
package docs_test

import (
	"context"
	"fmt"
	"log"

	"github.com/bitsandbyes/bitsandbyes/autograd"
	"github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/models"
	"github.com/bitsandbyes/bitsandbyes/optim"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// train is the loop of README.md, word for word.
func train(ctx context.Context, text []byte, steps int) (last float64, err error) {
	const b, t = 4, 32 // rows, tokens a row; a token is a byte
	dev := cpu.New(cpu.Options{})
	store := plan.NewStore(dev)
	src := layers.NewSource(layers.Options{Seed: 1})
	model, err := models.New(models.Config{Vocab: 256, Hidden: 64, Intermediate: 172, Layers: 2, Heads: 4, KVHeads: 2,
		HeadDim: 16, MaxPositions: t, Eps: 1e-5, Rope: models.Rope{Theta: 10000}, Tied: true, InitStd: 0.05, Pad: -1}, src)
	if err != nil {
		return 0, err
	}
	layers.SetTrainable(model, true)

	g := graph.New("step")
	ids := tensor.T(tensor.I32, b, t)
	tok, tgt, lr := g.Input("tokens", ids), g.Input("targets", ids), g.Input("lr", tensor.T(tensor.F32))
	hidden := model.Hidden(models.Inputs{Tokens: tok, Pos: ops.Iota(g, ids, 1)})
	loss := ops.Mean(model.TokenLoss(hidden, tgt))
	params := layers.Trainable(model)
	grads, err := autograd.Grad(loss, params...)
	if err != nil {
		return 0, err // with the file and line of the call that built a wrong shape
	}
	opt, err := optim.New("adamw", optim.Config{WeightDecay: 0.01})
	if err != nil {
		return 0, err
	}
	opt.Update(g, params, grads, lr)
	step, err := plan.Compile([]graph.Value{loss}, plan.Options{Device: dev, Store: store})
	if err != nil {
		return 0, err
	}
	defer step.Close()
	fmt.Println(step.Report().Peak(), "bytes") // exact, before anything runs

	if err := src.Load(store); err != nil {
		return 0, err
	}
	rate := optim.Schedule{Kind: "cosine", LR: 3e-3, Warmup: 0.05, Total: steps}
	for i := range steps {
		x, y := tensor.New(ids), tensor.New(ids)
		for j := range b * t {
			at := (i*b + j/t) * t % (len(text) - t - 1)
			x.Set(j, float64(text[at+j%t]))
			y.Set(j, float64(text[at+j%t+1]))
		}
		out, err := step.Run(ctx, plan.Feed{tok: x, tgt: y, lr: rate.At(i)})
		if err != nil {
			return 0, err
		}
		last = out.Float(loss)
	}
	return last, nil
}

func Example() {
	text := []byte("the fox eats grapes. the owl eats mice. the bear eats honey. the frog eats flies. the goat eats grass. ")
	if _, err := train(context.Background(), text, 2); err != nil {
		log.Fatal(err)
	}
}
