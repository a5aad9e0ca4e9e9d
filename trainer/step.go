package trainer

import (
	"context"
	"errors"
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/data"
	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/lora"
	"github.com/bitsandbyes/bitsandbyes/models"
	"github.com/bitsandbyes/bitsandbyes/optim"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// A step is made of plans that share a session: for each row length one that adds the gradient of the summed losses of a micro-batch to
// the gradient slab, and one that divides by what was summed over, clips and updates. The result does not depend on how the rows were cut
// into micro-batches, beyond the order of float32 additions.

// stepPlans are the compiled plans of a run.
type stepPlans struct {
	train map[int]*lossPlan // by row length
	eval  map[int]*lossPlan
	apply *plan.Plan
	parts updateParts

	objective objective

	lossSum          *graph.Var  // float32: the summed losses of the step's micro-batches so far
	lr, step, tokens graph.Value // inputs of apply; tokens are the sum of the step
	norm             graph.Value
	scale            graph.Value // factor of the float16 loss in the step, absent in others

	average *averagePlans // nil without an average of the weights

	ahead ahead
}

// ahead is the rows of the next step, made while the device computes.
type ahead struct {
	loader *data.Loader
	step   int
	rows   []data.Batch
}

// stepOptions says how plans are compiled.
type stepOptions struct {
	ctx       context.Context // of compiling
	device    device.Device
	session   *plan.Session
	objective objective
	rows      int // of a micro-batch, or its pairs
	lengths   []int
	evalLens  []int
	mixedLens []int // of rows that no loader makes: kto's prompts with the answers of others, which may be longer than either row
	parts     updateParts
	recompute int                       // how many blocks compute their activations again in the backward sweep
	move      func([]plan.Saved) []bool // which activations wait in host memory; nil: none
	neftune   float64                   // alpha of the noise on embeddings
	router    float64                   // weight of the load-balancing loss of experts
	budget    int64
	fold      bool               // adapters may be folded into weights
	single    bool               // a row is one document and padding
	docs      ops.DocumentBounds // of the rows that are trained on
	evalDocs  ops.DocumentBounds

	lossSum *graph.Var // see stepPlans
}

// plan is what all plans of a run are compiled with.
func (o *stepOptions) plan() plan.Options {
	return plan.Options{Context: o.ctx, Device: o.device, Session: o.session, Budget: o.budget, Fold: o.fold}
}

// compileStep compiles every plan of a run, before any weight is read.
func compileStep(m *models.Model, a *lora.Adapter, group *optim.Group, o stepOptions) (*stepPlans, error) {
	s := &stepPlans{train: map[int]*lossPlan{}, eval: map[int]*lossPlan{}, parts: o.parts, objective: o.objective,
		lossSum: graph.NewVar("step.loss", tensor.T(tensor.F32))}
	o.lossSum = s.lossSum
	for _, t := range o.lengths {
		p, err := compileLoss(m, a, group, t, o)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("training rows of %d tokens: %w", t, err), s.close())
		}
		s.train[t] = p
	}
	o.docs = o.evalDocs
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

// stepResult is what one optimizer step did.
type stepResult struct {
	tally
	loss, norm float64
	skipped    bool    // a float16 gradient overflowed: nothing was updated, and the scale is halved
	scale      float64 // of the float16 loss
}

// run feeds the micro-batches of one step and updates the weights. step counts from 0. On a device with queues all of it is enqueued before a result
// is waited for, and the next step's rows are made meanwhile. buf is storage of an earlier step's rows; those of this step are returned.
func (s *stepPlans) run(ctx context.Context, l *data.Loader, step int, seed uint64, lr float64, buf []data.Batch) (stepResult, []data.Batch, error) {
	buf, err := s.rowsOf(l, step, buf)
	if err != nil {
		return stepResult{}, buf, err
	}
	var r stepResult
	share, err := s.objective.prepare(ctx, buf)
	if err != nil {
		return r, buf, err
	}
	if share.units == 0 {
		return r, buf, fmt.Errorf("trainer: step %d has no token to train on", step+1)
	}
	var all []underway
	for i := range buf {
		m, err := s.start(ctx, s.train, &buf[i], share, runKey{seed, step})
		if err != nil {
			return r, buf, err
		}
		all = append(all, m)
	}
	update, err := s.apply.Start(ctx, plan.Feed{s.lr: lr, s.step: step + 1, s.tokens: share.units})
	if err != nil {
		return r, buf, err
	}
	s.makeAhead(l, step+1)
	for _, m := range all {
		if err := s.end(m, &r.tally); err != nil {
			return r, buf, err
		}
	}
	res, err := update.Wait()
	if err != nil {
		return r, buf, err
	}
	r.loss, r.norm = r.mean(), res.Float(s.norm)
	if s.parts.scaler != nil {
		r.scale = res.Float(s.scale)
		r.skipped = finite(r.loss) && !finite(r.norm) && r.scale > optim.MinLossScale
	}
	if s.average != nil && !r.skipped && finite(r.loss) && finite(r.norm) && (step+1)%s.parts.every == 0 {
		// The update is under way and can not be taken back: a step stopped before its average would be made again by the run that resumes.
		_, err = s.average.update.Run(context.WithoutCancel(ctx), nil)
	}
	return r, buf, err
}

// rowsOf returns the rows of a step: those made ahead, if they are the ones.
func (s *stepPlans) rowsOf(l *data.Loader, step int, buf []data.Batch) ([]data.Batch, error) {
	a := s.ahead
	if a.loader == l && a.step == step && a.rows != nil {
		s.ahead = ahead{rows: buf} // the storage is that of the next ones
		return a.rows, nil
	}
	s.ahead = ahead{rows: a.rows}
	return l.StepInto(step, buf)
}

// makeAhead makes the rows of a step that may come.
func (s *stepPlans) makeAhead(l *data.Loader, step int) {
	if step >= l.Steps() {
		return
	}
	rows, err := l.StepInto(step, s.ahead.rows)
	if err != nil {
		rows = nil // the step itself will meet the error
	}
	s.ahead = ahead{l, step, rows}
}

// underway is a micro-batch whose run was started; the zero value is one of padding alone, which is left out.
type underway struct {
	loss  *lossPlan
	run   *plan.Pending
	batch *data.Batch
}

// start runs the plan of one micro-batch and does not wait for it.
func (s *stepPlans) start(ctx context.Context, plans map[int]*lossPlan, b *data.Batch, share stepShare, key runKey) (underway, error) {
	if b.Targets == 0 {
		return underway{}, nil
	}
	p, ok := plans[b.T]
	if !ok {
		return underway{}, fmt.Errorf("trainer: no plan for rows of %d tokens", b.T)
	}
	if err := p.feedBatch(b, key); err != nil {
		return underway{}, err
	}
	if err := s.objective.feed(ctx, p, b, share); err != nil {
		return underway{}, err
	}
	run, err := p.plan.Start(ctx, p.feed)
	return underway{p, run, b}, err
}

// end adds what a micro-batch has found to a tally.
func (s *stepPlans) end(m underway, to *tally) error {
	if m.run == nil {
		return nil
	}
	res, err := m.run.Wait()
	if err != nil {
		return err
	}
	s.objective.add(to, m.loss, res, m.batch)
	to.flops += m.loss.flops
	if v, ok := m.loss.outs[outRouter]; ok {
		to.router += res.Float(v)
		to.routed += m.batch.Targets
	}
	return nil
}

// evaluate returns what the loss and its companions are over a set.
func (s *stepPlans) evaluate(ctx context.Context, l *data.Loader) (tally, error) {
	var t tally
	var buf []data.Batch
	for step := range l.Steps() {
		var err error
		if buf, err = l.StepInto(step, buf); err != nil {
			return t, err
		}
		share, err := s.objective.prepare(ctx, buf)
		if err != nil {
			return t, err
		}
		var before underway // one is computed while the next is fed
		for i := range buf {
			m, err := s.start(ctx, s.eval, &buf[i], share, runKey{step: step})
			if err == nil {
				err = s.end(before, &t)
			}
			if err != nil {
				return t, err
			}
			before = m
		}
		if err := s.end(before, &t); err != nil {
			return t, err
		}
	}
	return t, nil
}
