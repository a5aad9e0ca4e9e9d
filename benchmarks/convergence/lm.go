package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"

	"github.com/bitsandbyes/bitsandbyes/autograd"
	"github.com/bitsandbyes/bitsandbyes/builtin/corpus"
	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/models"
	"github.com/bitsandbyes/bitsandbyes/tensor"
	"github.com/bitsandbyes/bitsandbyes/trainer"
)

// sizes of the language model that the optimizers are compared on, and of a step.
const (
	lmHidden, lmLayers, lmHeads, lmInner = 64, 2, 4, 172
	lmRows, lmTokens                     = 8, 64
	lmHeldOut                            = 16 // batches
)

// text is a token stream, cut in two.
type text struct {
	train, held []int32
	vocab       int
}

// openText encodes documents of the built-in grammar with the built-in tokenizer.
func openText() (*text, error) {
	m, err := trainer.OpenModel("builtin:tiny", trainer.ModelOptions{})
	if err != nil {
		return nil, err
	}
	tok := m.Tokenizer
	if err := m.Close(); err != nil {
		return nil, err
	}
	t := &text{vocab: tok.VocabSize()}
	encode := func(seed uint64, docs int) (out []int32, err error) {
		for doc := range corpus.Generate(seed, docs) {
			ids, err := tok.Encode(doc)
			if err != nil {
				return nil, err
			}
			out = append(out, ids...)
		}
		return out, nil
	}
	if t.train, err = encode(101, 6000); err != nil {
		return nil, err
	}
	t.held, err = encode(202, 400)
	return t, err
}

// batch draws rows of tokens and of the tokens that follow, from a stream.
func (t *text) batch(from []int32, rng *rand.Rand) (tokens, next *tensor.Tensor) {
	typ := tensor.T(tensor.I32, lmRows, lmTokens)
	tokens, next = tensor.New(typ), tensor.New(typ)
	for i := range lmRows {
		at := rng.IntN(len(from) - lmTokens - 1)
		copy(tensor.Data[int32](tokens)[i*lmTokens:(i+1)*lmTokens], from[at:])
		copy(tensor.Data[int32](next)[i*lmTokens:(i+1)*lmTokens], from[at+1:])
	}
	return tokens, next
}

// lm is a small Llama without a tied head. With Norm its embedding is the stable one (Dettmers et al. 2022, arXiv 2110.02861, section 2.3).
type lm struct {
	Embed  embedder          `name:"embed_tokens"`
	Blocks []*models.Block   `name:"layers"`
	Norm   *layers.RMSNorm   `name:"norm"`
	Head   layers.Projection `name:"lm_head"`
}

// embedder is a plain or a stable embedding.
type embedder interface {
	Forward(ids graph.Value) graph.Value
}

func newLM(src layers.Source, vocab int, stable bool) *lm {
	m := &lm{Norm: layers.NewRMSNorm(src.Sub("norm"), lmHidden, 1e-5)}
	if stable {
		m.Embed = layers.NewStableEmbedding(src.Sub("embed_tokens"), vocab, lmHidden)
	} else {
		m.Embed = layers.NewEmbedding(src.Sub("embed_tokens"), vocab, lmHidden, layers.Normal(1))
	}
	for i := range lmLayers {
		s := src.Sub("layers.%d", i)
		m.Blocks = append(m.Blocks, &models.Block{
			Norm1: layers.NewRMSNorm(s.Sub("input_layernorm"), lmHidden, 1e-5),
			Attn:  layers.NewAttention(s.Sub("self_attn"), lmHidden, lmHeads, lmHeads, lmHidden/lmHeads, false),
			Norm2: layers.NewRMSNorm(s.Sub("post_attention_layernorm"), lmHidden, 1e-5),
			MLP:   layers.NewGatedMLP(s.Sub("mlp"), lmHidden, lmInner, false),
		})
	}
	m.Head = src.Linear("lm_head", lmHidden, vocab, false)
	return m
}

// loss is the mean cross-entropy of a batch, in nats a token.
func (m *lm) loss(tokens, next graph.Value) graph.Value {
	g := tokens.Graph()
	freq, err := tensor.Of(ops.InvFreq(10000, lmHidden/lmHeads))
	if err != nil {
		return g.Fail("rope", nil, err)
	}
	var c layers.AttentionContext
	c.Cos, c.Sin = ops.RopeTables(ops.Iota(g, tokens.Type(), 1), g.Const(freq))
	x := m.Embed.Forward(tokens)
	for _, b := range m.Blocks {
		x = b.Forward(x, c)
	}
	return ops.CrossEntropy(m.Head.Forward(m.Norm.Forward(x)), next)
}

// updater writes the update of parameters into a graph.
type updater func(g *graph.Graph, params []*graph.Var, grads []graph.Value, lr graph.Value) error

// lmRun says how one model is trained.
type lmRun struct {
	text   *text
	seed   uint64 // of the weights and of the order of the data
	steps  int
	lr     float64
	stable bool
	update updater
}

// lmResult is the loss of each step and the mean held-out loss after the last, NaN once a loss is not finite.
type lmResult struct {
	losses []float64
	held   float64
}

// train trains one model: a linear warm-up over a tenth of the steps, then cosine to zero. It stops when the loss is not finite.
func (r lmRun) train(ctx context.Context, dev device.Device) (res lmResult, err error) {
	src := layers.NewSource(layers.Options{Seed: r.seed})
	m := newLM(src, r.text.vocab, r.stable)
	layers.SetTrainable(m, true)
	session := plan.NewSession(plan.NewStore(dev))
	defer func() { err = errors.Join(err, session.Close()) }()

	in := func(g *graph.Graph) (tokens, next graph.Value) {
		t := tensor.T(tensor.I32, lmRows, lmTokens)
		return g.Input("tokens", t), g.Input("next", t)
	}
	g := graph.New("step")
	tokens, next := in(g)
	lr := g.Input("lr", tensor.T(tensor.F32))
	loss := m.loss(tokens, next)
	params := layers.Trainable(m)
	grads, err := autograd.Grad(loss, params...)
	if err != nil {
		return res, err
	}
	if err := r.update(g, params, grads, lr); err != nil {
		return res, err
	}
	step, err := plan.Compile([]graph.Value{loss}, plan.Options{Device: dev, Session: session})
	if err != nil {
		return res, err
	}
	defer func() { err = errors.Join(err, step.Close()) }()
	ge := graph.New("eval")
	heldTokens, heldNext := in(ge)
	heldLoss := m.loss(heldTokens, heldNext)
	eval, err := plan.Compile([]graph.Value{heldLoss}, plan.Options{Device: dev, Session: session})
	if err != nil {
		return res, err
	}
	defer func() { err = errors.Join(err, eval.Close()) }()
	if err := src.Load(session.Store()); err != nil {
		return res, err
	}

	rng := rand.New(rand.NewPCG(r.seed, 1))
	for i := range r.steps {
		x, y := r.text.batch(r.text.train, rng)
		out, err := step.Run(ctx, plan.Feed{tokens: x, next: y, lr: r.rate(i)})
		if err != nil {
			return res, fmt.Errorf("step %d: %w", i+1, err)
		}
		l := out.Float(loss)
		res.losses = append(res.losses, l)
		if math.IsNaN(l) || math.IsInf(l, 0) {
			res.held = math.NaN()
			return res, nil
		}
	}
	rng = rand.New(rand.NewPCG(99, 2)) // the same held-out batches for every run
	for range lmHeldOut {
		x, y := r.text.batch(r.text.held, rng)
		out, err := eval.Run(ctx, plan.Feed{heldTokens: x, heldNext: y})
		if err != nil {
			return res, err
		}
		res.held += out.Float(heldLoss) / lmHeldOut
	}
	return res, nil
}

func (r lmRun) rate(step int) float64 {
	warm := max(r.steps/10, 1)
	if step < warm {
		return r.lr * float64(step+1) / float64(warm)
	}
	return r.lr * (1 + math.Cos(math.Pi*float64(step-warm)/float64(max(r.steps-warm, 1)))) / 2
}
