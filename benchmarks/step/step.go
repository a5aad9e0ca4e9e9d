// Package step holds whole training steps at fixed sizes, for measuring: how long a step takes, how long it takes to build and
// compile, how many bytes it holds, and whether it leaves anything behind on the Go heap.
package step

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/bitsandbyes/bitsandbyes/autograd"
	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/lora"
	"github.com/bitsandbyes/bitsandbyes/models"
	"github.com/bitsandbyes/bitsandbyes/optim"
	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Step is a compiled training step with the data it is fed.
type Step struct {
	Plan    *plan.Plan
	Session *plan.Session
	Times   Times

	feed  plan.Feed
	loss  graph.Value
	load  func(lora.Store) error
	ready bool
}

// Times is what it took to get from nothing to a plan. Build is the model and its forward pass, Grad the backward pass and the
// optimizer, Compile the passes, the schedule and the arena.
type Times struct{ Build, Grad, Compile time.Duration }

// Run executes the step once and returns its loss. The first call fills in the weights.
func (s *Step) Run(ctx context.Context) (float64, error) {
	if !s.ready {
		if err := s.load(s.Session.Store()); err != nil {
			return 0, err
		}
		s.ready = true
	}
	out, err := s.Plan.Run(ctx, s.feed)
	if err != nil {
		return 0, err
	}
	return out.Float(s.loss), nil
}

// Close frees the step; the device stays.
func (s *Step) Close() error { return errors.Join(s.Plan.Close(), s.Session.Close()) }

// NewMLP is one SGD step of a classifier 784-512-10 (ReLU between) on a batch of 64 rows.
func NewMLP(dev device.Device) (*Step, error) {
	const batch, in, hidden, out, lr = 64, 784, 512, 10, 0.1
	start := time.Now()
	src := layers.NewSource(layers.Options{Seed: 1})
	first, second := src.Linear("first", in, hidden, true), src.Linear("second", hidden, out, true)
	model := &struct {
		First  layers.Projection `name:"first"`
		Second layers.Projection `name:"second"`
	}{first, second}
	layers.SetTrainable(model, true)
	g := graph.New("mlp")
	x, y := g.Input("x", tensor.T(tensor.F32, batch, in)), g.Input("labels", tensor.T(tensor.I32, batch))
	s := &Step{load: func(v lora.Store) error { return src.Load(v) }, feed: plan.Feed{}}
	s.loss = ops.CrossEntropy(second.Forward(ops.ReLU(first.Forward(x))), y)
	s.Times.Build = time.Since(start)
	params := layers.Trainable(model)
	grads, err := autograd.Grad(s.loss, params...)
	if err != nil {
		return nil, err
	}
	for i, v := range params {
		g.Write(v, ops.Sub(g.Read(v), ops.Scale(grads[i], lr)))
	}
	s.Times.Grad = time.Since(start) - s.Times.Build
	pixels := make([]float32, batch*in)
	labels := make([]int32, batch)
	for i := range pixels {
		pixels[i] = float32(i*i%255) / 255
	}
	for i := range labels {
		labels[i] = int32(i*7) % out
	}
	return s, errors.Join(src.Err(), s.feedValue(x, tensor.AsBytes(pixels)), s.feedValue(y, tensor.AsBytes(labels)), s.compile(dev))
}

// LlamaOptions sizes a Llama step.
type LlamaOptions struct {
	Model     models.Config
	Batch     int // rows
	Len       int // tokens a row
	Rank      int // of LoRA on all linear layers; 0 trains every weight
	NF4       bool
	Optimizer string
	Recompute bool         // keep no activations inside blocks
	Compute   tensor.DType // of activations; Invalid: float32
}

// Tiny is a Llama small enough for a test: 3.3 million weights.
func Tiny() models.Config {
	return models.Config{Vocab: 512, Hidden: 256, Intermediate: 688, Layers: 4, Heads: 4, KVHeads: 4, HeadDim: 64, MaxPositions: 2048,
		Eps: 1e-5, Rope: models.Rope{Theta: 10000}, InitStd: 0.02, Pad: -1}
}

// Deep has the shape of Llama 2 7B: 32 layers at their real widths, to be planned, not run, on a small machine.
func Deep() models.Config {
	c := Tiny()
	c.Vocab, c.Hidden, c.Intermediate, c.Layers = 32000, 4096, 11008, 32
	c.Heads, c.KVHeads, c.HeadDim = 32, 32, 128
	return c
}

// NewLlama is one whole training step of a language model: loss, gradients and update in one plan.
func NewLlama(dev device.Device, o LlamaOptions) (*Step, error) {
	start := time.Now()
	m, src, load, err := o.model()
	if err != nil {
		return nil, err
	}
	g := graph.New("llama")
	in := func(name string) graph.Value { return g.Input(name, tensor.T(tensor.I32, o.Batch, o.Len)) }
	tokens, targets, pos := in("tokens"), in("targets"), in("pos")
	lr := g.Input("lr", tensor.T(tensor.F32))
	s := &Step{load: load, feed: plan.Feed{lr: 1e-4}}
	h := m.Hidden(models.Inputs{Tokens: tokens, Pos: pos, Checkpoint: models.AllBlocks(o.Recompute)})
	s.loss = ops.MeanLoss(m.TokenLoss(h, targets), targets)
	s.Times.Build = time.Since(start)
	params := layers.Trainable(m)
	grads, err := autograd.Grad(s.loss, params...)
	if err != nil {
		return nil, err
	}
	opt, err := optim.New(o.Optimizer, optim.Config{})
	if err != nil {
		return nil, err
	}
	opt.Update(g, params, grads, lr)
	s.Times.Grad = time.Since(start) - s.Times.Build
	n := o.Batch * o.Len
	ids, next, at := make([]int32, n), make([]int32, n), make([]int32, n)
	for i := range ids {
		ids[i], next[i], at[i] = o.token(i), o.token(i+1), int32(i%o.Len)
	}
	return s, errors.Join(src.Err(), s.feedValue(tokens, tensor.AsBytes(ids)), s.feedValue(targets, tensor.AsBytes(next)),
		s.feedValue(pos, tensor.AsBytes(at)), s.compile(dev))
}

// model declares the weights and what is trained of them.
func (o LlamaOptions) model() (*models.Model, layers.Source, func(lora.Store) error, error) {
	lo := layers.Options{Seed: 1, Policy: layers.Policy{Compute: o.Compute}}
	if o.NF4 {
		lo.Quantize = func(string) (quant.Config, bool) {
			return quant.Config{Scheme: quant.NF4, Blocksize: 64, Double: true}, true
		}
	}
	src := layers.NewSource(lo)
	m, err := models.New(o.Model, src)
	if err != nil || o.Rank == 0 {
		if err == nil {
			layers.SetTrainable(m, true)
		}
		return m, src, func(v lora.Store) error { return src.Load(v) }, err
	}
	a, err := lora.Attach(m, lora.Config{Rank: o.Rank, Alpha: 2 * float64(o.Rank)})
	load := func(v lora.Store) error { return errors.Join(src.Load(v), a.Init(v)) }
	return m, src, load, err
}

// token is a fixed sequence without a short period.
func (o LlamaOptions) token(i int) int32 { return int32((i*i + 3*i) % o.Model.Vocab) }

func (s *Step) feedValue(v graph.Value, data []byte) error {
	t, err := tensor.FromBytes(v.Type(), data)
	if err != nil {
		return fmt.Errorf("feeding %v: %w", v, err)
	}
	s.feed[v] = t
	return nil
}

func (s *Step) compile(dev device.Device) error {
	start := time.Now()
	s.Session = plan.NewSession(plan.NewStore(dev))
	var err error
	s.Plan, err = plan.Compile([]graph.Value{s.loss}, plan.Options{Device: dev, Session: s.Session})
	s.Times.Compile = time.Since(start)
	return err
}
