package main

import (
	"context"
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/optim"
	"github.com/bitsandbyes/bitsandbyes/trainer/report"
)

// compared are pairs of optimizers with 32-bit and 8-bit states, at one learning rate each.
var compared = []struct {
	name string
	lr   float64
	wd   float64
}{{"adamw32bit", 3e-3, 0.01}, {"adamw8bit", 3e-3, 0.01}, {"lion32bit", 1.5e-3, 0.03}, {"lion8bit", 1.5e-3, 0.03},
	{"ademamix32bit", 2e-3, 0.01}, {"ademamix8bit", 2e-3, 0.01}}

// library updates by an optimizer of package optim, with every tensor in 8 bits where it has 8-bit states.
func library(name string, wd float64) updater {
	return func(g *graph.Graph, params []*graph.Var, grads []graph.Value, lr graph.Value) error {
		c := optim.Config{WeightDecay: wd}
		o, err := optim.New(name, c)
		if err != nil {
			return err
		}
		o.Update(g, params, grads, lr)
		return g.Err()
	}
}

func runOptimizers(ctx context.Context, e *env, p *page) error {
	t, err := openText()
	if err != nil {
		return err
	}
	steps := e.pick(500, 30)
	p.say("A Llama of %d layers and width %d is trained from random weights on text of the built-in grammar, %d steps of %d rows of %d "+
		"tokens, with %d seeds for weights and data. Both members of a pair see the same weights, batches and hyperparameters; every tensor "+
		"of the 8-bit ones has 8-bit states (`min_8bit_size` 0). The held-out loss is in nats a token.", lmLayers, lmHidden, steps, lmRows, lmTokens, e.seeds)
	held := map[string][]float64{}
	curves := map[string][][]float64{}
	var rows [][]string
	chart := report.Chart{Title: "Training loss, mean over seeds", XLabel: "step", YLabel: "loss, nats a token"}
	for i, c := range compared {
		for seed := range e.seeds {
			r := lmRun{text: t, seed: uint64(seed + 1), steps: steps, lr: c.lr, update: library(c.name, c.wd)}
			res, err := r.train(ctx, e.dev)
			if err != nil {
				return fmt.Errorf("%s, seed %d: %w", c.name, seed+1, err)
			}
			e.log("%s seed %d: held-out loss %.4f", c.name, seed+1, res.held)
			held[c.name], curves[c.name] = append(held[c.name], res.held), append(curves[c.name], res.losses)
		}
		row := []string{"`" + c.name + "`", fmt.Sprint(c.lr), plusMinus(held[c.name], 4), ""}
		if i%2 == 1 {
			row[3] = plusMinus(differences(held[c.name], held[compared[i-1].name]), 4)
		}
		rows = append(rows, row)
		chart.Series = append(chart.Series, meanCurve(c.name, curves[c.name]))
	}
	p.table([]string{"optimizer", "learning rate", "held-out loss, mean ± std over seeds", "8-bit minus 32-bit, same seed"}, rows)
	return p.picture("loss", chart)
}

// differences are a[i] - b[i].
func differences(a, b []float64) []float64 {
	out := make([]float64, len(a))
	for i := range a {
		out[i] = a[i] - b[i]
	}
	return out
}
