package trainer

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/bitsandbyes/bitsandbyes/autograd"
	"github.com/bitsandbyes/bitsandbyes/data"
	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/lora"
	"github.com/bitsandbyes/bitsandbyes/models"
	"github.com/bitsandbyes/bitsandbyes/optim"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// A step is made of plans that share a session: for each row length one that adds the gradient of the summed token losses of a
// micro-batch to the gradient slab, and one that divides by the number of trained tokens, clips and updates. The result does
// not depend on how the rows were cut into micro-batches, beyond the order of float32 additions.

// batchInputs are the inputs that every micro-batch feeds.
type batchInputs struct {
	tokens, targets, pos, docStart, sample, key graph.Value
}

func newBatchInputs(g *graph.Graph, b, t int) batchInputs {
	in := func(name string) graph.Value { return g.Input(name, tensor.T(tensor.I32, b, t)) }
	return batchInputs{in("tokens"), in("targets"), in("pos"), in("doc_start"), in("sample"), g.Input("key", tensor.T(tensor.U32, 2))}
}

// lossPlan computes the summed loss of one micro-batch shape, and for training adds its gradient to the slab.
type lossPlan struct {
	plan    *plan.Plan
	in      batchInputs
	loss    graph.Value
	targets []int32
	feed    plan.Feed
}

// stepPlans are the compiled plans of a run.
type stepPlans struct {
	train map[int]*lossPlan // by row length
	eval  map[int]*lossPlan
	apply *plan.Plan
	parts updateParts

	lr, step, tokens, loss graph.Value // inputs of apply; tokens and loss are the sums of the step
	norm                   graph.Value
	scale                  graph.Value // factor of the float16 loss in the step, absent in others

	average *averagePlans // nil without an average of the weights
}

// stepOptions says how plans are compiled.
type stepOptions struct {
	device     device.Device
	session    *plan.Session
	rows       int // of a micro-batch
	lengths    []int
	evalLens   []int
	parts      updateParts
	checkpoint bool
	budget     int64
}

// compileStep compiles every plan of a run, before any weight is read.
func compileStep(m *models.Model, a *lora.Adapter, group *optim.Group, o stepOptions) (*stepPlans, error) {
	s := &stepPlans{train: map[int]*lossPlan{}, eval: map[int]*lossPlan{}, parts: o.parts}
	for _, t := range o.lengths {
		p, err := compileLoss(m, a, group, t, o)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("training rows of %d tokens: %w", t, err), s.close())
		}
		s.train[t] = p
	}
	for _, t := range o.evalLens {
		p, err := compileLoss(m, a, nil, t, o)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("evaluation rows of %d tokens: %w", t, err), s.close())
		}
		s.eval[t] = p
	}
	if err := s.compileApply(group, o); err != nil {
		return nil, errors.Join(err, s.close())
	}
	if err := s.compileAverage(o); err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

func compileLoss(m *models.Model, a *lora.Adapter, group *optim.Group, t int, o stepOptions) (*lossPlan, error) {
	g := graph.New(fmt.Sprintf("loss_%d", t))
	p := &lossPlan{in: newBatchInputs(g, o.rows, t), feed: plan.Feed{}}
	in := models.Inputs{Tokens: p.in.tokens, Pos: p.in.pos, DocStart: p.in.docStart, Checkpoint: models.AllBlocks(o.checkpoint && group != nil)}
	if group != nil {
		in.Random = layers.Random{Key: p.in.key, Sample: p.in.sample, Pos: p.in.pos}
	}
	if a != nil {
		a.Random = in.Random
	}
	p.loss = ops.Sum(m.TokenLoss(m.Hidden(in), p.in.targets))
	if a != nil {
		a.Random = layers.Random{} // it belongs to this graph alone
	}
	if group != nil {
		loss := p.loss
		if o.parts.scaler != nil {
			loss = ops.Mul(loss, o.parts.scaler.Scale(g))
		}
		grads, err := autograd.Grad(loss, group.Params()...)
		if err != nil {
			return nil, err
		}
		group.Accumulate(g, grads)
	}
	var err error
	p.plan, err = plan.Compile([]graph.Value{p.loss}, plan.Options{Device: o.device, Session: o.session, Budget: o.budget})
	return p, err
}

func (s *stepPlans) close() error {
	var errs []error
	for _, set := range []map[int]*lossPlan{s.train, s.eval} {
		for _, p := range set {
			if p.plan != nil {
				errs = append(errs, p.plan.Close())
			}
		}
	}
	if s.apply != nil {
		errs = append(errs, s.apply.Close())
	}
	if s.average != nil {
		errs = append(errs, s.average.close())
	}
	return errors.Join(errs...)
}

// run feeds one micro-batch and returns the sum of its token losses.
func (p *lossPlan) run(ctx context.Context, b *data.Batch, seed uint64, step int) (float64, error) {
	p.targets = b.Shift(p.targets)
	put := func(v graph.Value, x []int32) error {
		t, err := tensor.FromBytes(v.Type(), tensor.AsBytes(x))
		p.feed[v] = t
		return err
	}
	key := []int32{int32(uint32(seed) ^ uint32(seed>>32)), int32(step)}
	err := errors.Join(put(p.in.tokens, b.Tokens), put(p.in.targets, p.targets), put(p.in.pos, b.Pos),
		put(p.in.docStart, b.DocStart), put(p.in.sample, b.Sample), put(p.in.key, key))
	if err != nil {
		return 0, err
	}
	res, err := p.plan.Run(ctx, p.feed)
	if err != nil {
		return 0, err
	}
	return res.Float(p.loss), nil
}

// stepResult is what one optimizer step did.
type stepResult struct {
	loss, norm float64
	tokens     int
	skipped    bool    // a float16 gradient overflowed: nothing was updated, and the scale is halved
	scale      float64 // of the float16 loss
}

// run feeds the micro-batches of one step and updates the weights. step counts from 0.
func (s *stepPlans) run(ctx context.Context, l *data.Loader, step int, seed uint64, lr float64, buf []data.Batch) (stepResult, []data.Batch, error) {
	buf, err := l.StepInto(step, buf)
	if err != nil {
		return stepResult{}, buf, err
	}
	var r stepResult
	var sum float64
	for i := range buf {
		if buf[i].Targets == 0 {
			continue
		}
		p, ok := s.train[buf[i].T]
		if !ok {
			return r, buf, fmt.Errorf("trainer: no plan for rows of %d tokens", buf[i].T)
		}
		loss, err := p.run(ctx, &buf[i], seed, step)
		if err != nil {
			return r, buf, err
		}
		sum += loss
		r.tokens += buf[i].Targets
	}
	if r.tokens == 0 {
		return r, buf, fmt.Errorf("trainer: step %d has no token to train on", step+1)
	}
	res, err := s.apply.Run(ctx, plan.Feed{s.lr: lr, s.step: step + 1, s.tokens: r.tokens, s.loss: sum})
	if err != nil {
		return r, buf, err
	}
	r.loss, r.norm = sum/float64(r.tokens), res.Float(s.norm)
	if s.parts.scaler != nil {
		r.scale = res.Float(s.scale)
		r.skipped = finite(r.loss) && !finite(r.norm) && r.scale > optim.MinLossScale
	}
	if s.average != nil && !r.skipped && finite(r.loss) && finite(r.norm) && (step+1)%s.parts.every == 0 {
		_, err = s.average.update.Run(ctx, nil)
	}
	return r, buf, err
}

// evaluate returns the mean token loss of a set.
func (s *stepPlans) evaluate(ctx context.Context, l *data.Loader) (float64, error) {
	var sum float64
	var n int
	var buf []data.Batch
	for step := range l.Steps() {
		var err error
		if buf, err = l.StepInto(step, buf); err != nil {
			return 0, err
		}
		for i := range buf {
			if buf[i].Targets == 0 {
				continue
			}
			p, ok := s.eval[buf[i].T]
			if !ok {
				return 0, fmt.Errorf("trainer: no evaluation plan for rows of %d tokens", buf[i].T)
			}
			loss, err := p.run(ctx, &buf[i], 0, step)
			if err != nil {
				return 0, err
			}
			sum += loss
			n += buf[i].Targets
		}
	}
	if n == 0 {
		return math.NaN(), nil
	}
	return sum / float64(n), nil
}
