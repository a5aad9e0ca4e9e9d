package trainer

import (
	"context"
	"errors"
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/trainer/report"
)

// compile plans every shape of the run and refuses what does not fit, before a weight is read. With train.fit the micro-batch is
// halved until it fits; a resumed run keeps the one it began with, because the order of additions depends on it.
func (j *job) compile(context.Context) error {
	budget, err := j.cfg.Train.MemoryBytes()
	if err != nil {
		return badConfig("train.memory", "%v", err)
	}
	if free := j.dev.Info().MemoryFree; budget == 0 && free > 0 {
		budget = free
	}
	fit := j.cfg.Train.Fit
	if fit && j.cfg.Resume {
		s, st, err := j.newest()
		if err != nil {
			return err
		}
		if s != nil && st.MicroBatch > 0 && st.MicroBatch <= j.micro {
			fit, j.micro = false, st.MicroBatch
			if err := j.makeLoaders(); err != nil {
				return err
			}
		}
	}
	for {
		err := j.compileWithin(budget)
		var short *plan.BudgetError
		if !errors.As(err, &short) {
			return err
		}
		if !j.cfg.Train.Fit {
			return fmt.Errorf("%w\ntrain.fit (--fit) chooses a smaller micro-batch by itself; train.memory (--memory) is the budget", err)
		}
		if !fit || j.micro == 1 {
			return fmt.Errorf("%w\nThis is with %d rows at once; train.fit cannot go lower", err, j.micro)
		}
		j.log.Info("the step does not fit; halving train.micro_batch", "micro_batch", j.micro, "needs", report.Bytes(short.Report.Peak()),
			"budget", report.Bytes(budget))
		j.micro = (j.micro + 1) / 2
		if err := j.makeLoaders(); err != nil {
			return err
		}
	}
}

// compileWithin compiles for the present micro-batch, recomputing activations when they do not fit and may be.
func (j *job) compileWithin(budget int64) error {
	o := stepOptions{device: j.dev, rows: j.micro, parts: j.parts, budget: budget, neftune: j.cfg.Train.NEFTune}
	if j.cfg.Train.Checkpointing == "on" {
		o.recompute = j.model.Config().Layers
	}
	o.lengths = j.lengths(j.loader)
	if j.evalLoader != nil {
		o.evalLens = j.lengths(j.evalLoader)
	}
	err := j.compileAll(o)
	var short *plan.BudgetError
	if errors.As(err, &short) && j.cfg.Train.Checkpointing == "auto" {
		j.log.Info("the step does not fit; recomputing activations", "needs", report.Bytes(short.Report.Peak()), "budget", report.Bytes(budget))
		o.recompute = j.model.Config().Layers
		err = j.compileAll(o)
	}
	return err
}

// compileAll compiles every plan in a session of its own, since a session keeps the arena size of plans that were given up.
func (j *job) compileAll(o stepOptions) error {
	if j.plans != nil {
		if err := j.plans.close(); err != nil {
			return err
		}
		j.plans = nil
	}
	if err := j.closeScorers(); err != nil {
		return err
	}
	j.session = plan.NewSession(j.store)
	o.session = j.session
	var err error
	if o.objective, err = j.makeObjective(o); err != nil {
		return err
	}
	if j.plans, err = compileStep(j.model.Model, j.adapter, j.group, o); err != nil {
		return err
	}
	if j.total, err = j.planExact(o.budget); err != nil {
		return err
	}
	samples, err := j.planSamples(o.budget)
	if err != nil {
		return err
	}
	j.total = max(j.total, samples)
	if o.budget > 0 && j.total > o.budget { // each plan fits alone
		r := j.largest()
		r.Arena, r.Consts = j.session.ArenaBytes(), 0
		r.Vars = j.total - r.Arena
		return &plan.BudgetError{Report: r, Budget: o.budget}
	}
	return nil
}

// largest is the report of the training plan with the largest arena.
func (j *job) largest() (largest plan.Report) {
	for _, l := range j.plans.train {
		if r := l.plan.Report(); r.Arena >= largest.Arena {
			largest = r
		}
	}
	return largest
}
