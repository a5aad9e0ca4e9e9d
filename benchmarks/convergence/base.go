package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"

	"github.com/bitsandbyes/bitsandbyes/builtin"
	"github.com/bitsandbyes/bitsandbyes/checkpoint"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/models"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// changed serves the weights of a checkpoint after f was applied to each, in float32.
type changed struct {
	checkpoint.Reader
	f func(name string, t *tensor.Tensor) (*tensor.Tensor, error)
}

// Type implements layers.Weights.
func (c changed) Type(name string) (tensor.Type, bool) {
	t, ok := c.Reader.Type(name)
	t.DType = tensor.F32
	return t, ok
}

// Read implements layers.Weights.
func (c changed) Read(name string) (*tensor.Tensor, error) {
	t, err := c.Reader.Read(name)
	if err != nil {
		return nil, err
	}
	if t, err = t.Convert(tensor.F32); err != nil || c.f == nil {
		return t, err
	}
	return c.f(name, t)
}

// evaluation is a way to run the built-in model.
type evaluation struct {
	weights func(name string, t *tensor.Tensor) (*tensor.Tensor, error) // nil: as they are
	options layers.Options                                              // Quantize and the like
	replace func(path string, p layers.Projection) layers.Projection    // nil: no layer is replaced
}

// perplexity is exp of the mean held-out loss of the built-in model on text of its grammar.
func (v evaluation) perplexity(ctx context.Context, e *env, t *text) (ppl float64, err error) {
	dir, err := builtin.Dir("tiny")
	if err != nil {
		return 0, err
	}
	r, c, err := models.OpenWeights(builtin.FS{}, dir)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	v.options.Weights = changed{r, v.weights}
	src := layers.NewSource(v.options)
	m, err := models.New(c, src)
	if err != nil {
		return 0, err
	}
	session := plan.NewSession(plan.NewStore(e.dev))
	defer func() { err = errors.Join(err, session.Close()) }()
	if v.replace != nil {
		layers.Modules(m, func(path string, p layers.Projection, replace func(layers.Projection)) { replace(v.replace(path, p)) })
	}
	g := graph.New("eval")
	ids := tensor.T(tensor.I32, lmRows, lmTokens)
	tokens, next := g.Input("tokens", ids), g.Input("next", ids)
	loss := ops.Mean(m.TokenLoss(m.Hidden(models.Inputs{Tokens: tokens, Pos: ops.Iota(g, ids, 1)}), next))
	p, err := plan.Compile([]graph.Value{loss}, plan.Options{Device: e.dev, Session: session})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	if err := src.Load(session.Store()); err != nil {
		return 0, err
	}
	rng := rand.New(rand.NewPCG(7, 7))
	batches, sum := e.pick(64, 4), 0.0
	for range batches {
		x, y := t.batch(t.held, rng)
		out, err := p.Run(ctx, plan.Feed{tokens: x, next: y})
		if err != nil {
			return 0, fmt.Errorf("evaluation: %w", err)
		}
		sum += out.Float(loss)
	}
	return math.Exp(sum / float64(batches)), nil
}
