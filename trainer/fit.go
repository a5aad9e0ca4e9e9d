package trainer

import (
	"context"
	"errors"
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/data"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/trainer/report"
)

// compile plans every shape of the run and refuses what does not fit, before a weight is read. With train.fit it takes the first of the
// settings that fit, see ladder; where none does, the optimizer's states go to host memory and all are tried again. A resumed run keeps the
// micro-batch that it began with, fitted or not: the order of additions depends on it.
func (j *job) compile(ctx context.Context) error {
	end := tellWork(ctx, j.dev, j.log, workEvery)
	defer end()
	budget, err := j.budget()
	if err != nil {
		return err
	}
	if err := j.checkOffload(); err != nil {
		return err
	}
	fit := j.cfg.Train.Fit
	if j.cfg.Resume {
		s, st, err := j.newest()
		if err != nil {
			return err
		}
		if s != nil && st.MicroBatch > 0 && st.MicroBatch <= j.micro {
			fit = false
			if err := j.setMicro(st.MicroBatch); err != nil {
				return err
			}
		}
	}
	rungs := []rung{{j.micro, j.cfg.Train.Checkpointing}}
	if fit {
		rungs = ladder(j.micro, j.cfg.Train.Batch, j.seqLen, j.cfg.Train.Checkpointing)
	}
	asked := j.micro
	var short *plan.BudgetError
	err = j.compileFirst(ctx, rungs, budget)
	if errors.As(err, &short) && j.hostMemory() && j.toHost("states of the optimizer", j.group.StateVars()...) {
		err = j.compileFirst(ctx, rungs, budget)
	}
	if !errors.As(err, &short) {
		if err == nil && (j.micro != asked || j.recompute > 0) {
			away, _ := j.away()
			j.log.Info("settings that fit were taken", "micro_batch", j.micro, "batch", j.cfg.Train.Batch,
				"blocks_recomputed", fmt.Sprintf("%d of %d", j.recompute, j.model.Config().Layers), "activations_in_host_memory", report.Bytes(away),
				"needs", report.Bytes(j.total), "budget", report.Bytes(budget))
		}
		if err == nil && j.hostMemory() {
			err = hostFits(j.session.HostBytes(), hostFree())
		}
		return err
	}
	if err := j.setMicro(asked); err != nil {
		return err
	}
	return j.refuse(ctx, short, budget, fit)
}

// compileFirst compiles for the first of the rungs that fits. Where none does, the error is the last one's *plan.BudgetError.
func (j *job) compileFirst(ctx context.Context, rungs []rung, budget int64) (err error) {
	for _, r := range rungs {
		if err := j.setMicro(r.micro); err != nil {
			return err
		}
		var short *plan.BudgetError
		if err = j.compileWithin(ctx, budget, r.checkpointing); !errors.As(err, &short) {
			return err
		}
	}
	return err
}

// deviceReserve is what is left free of a device with memory of its own where train.memory does not say how much to take: kernels, recorded
// graphs and libraries are loaded after the run was planned, some at the first step.
const deviceReserve = 512 << 20

// budget is how many bytes the run may take on the device, 0 for no limit.
func (j *job) budget() (int64, error) {
	budget, err := j.cfg.Train.MemoryBytes()
	if err != nil {
		return 0, badConfig("train.memory", "%v", err)
	}
	if free := j.dev.Info().MemoryFree; budget == 0 && free > 0 {
		budget = free
		if j.hostMemory() {
			budget = max(free-deviceReserve, free/2)
		}
	}
	return budget, nil
}

func (j *job) setMicro(micro int) error {
	if micro == j.micro {
		return nil
	}
	j.micro = micro
	if j.train == nil {
		return nil
	}
	return j.makeLoaders()
}

// rung is a choice of train.fit.
type rung struct {
	micro         int
	checkpointing string
}

// fullTokens is how many tokens a micro-batch keeps while halving it costs nothing: products of that many rows run at full speed.
const fullTokens = 1024

// ladder lists the settings that train.fit tries, from the fastest: smaller micro-batches as long as they are large enough for full speed, then the
// fewest recomputed blocks, then smaller micro-batches still, without and with recomputation. The batch, and with it the update, stays the same.
func ladder(micro, batch, seqLen int, checkpointing string) (out []rung) {
	plain := checkpointing
	if plain == "auto" {
		plain = "off"
	}
	for {
		large := micro*seqLen >= fullTokens
		next := half(micro, batch)
		out = append(out, rung{micro, plain})
		if checkpointing == "auto" && (!large || next*seqLen < fullTokens || micro == 1) {
			out = append(out, rung{micro, "auto"})
		}
		if micro == 1 {
			return out
		}
		micro = next
	}
}

// half is the largest divisor of the batch up to half of a micro-batch, so that no micro-batch is part padding.
func half(micro, batch int) int {
	for n := micro / 2; n > 1; n-- {
		if batch%n == 0 {
			return n
		}
	}
	return 1
}

// compileWithin compiles for the present micro-batch. A run that does not fit has its table of tokens in host memory, where the device has its
// own; then, with checkpointing auto, the fewest blocks recomputed that make it fit. What recomputed blocks begin from waits in host memory before
// anything else is given up, see mayMove.
func (j *job) compileWithin(ctx context.Context, budget int64, checkpointing string) error {
	wait := false
	compile := func() error {
		o := j.stepOptions(ctx, budget)
		if wait {
			o.move = j.mayMove(o.move)
		}
		if checkpointing == "on" {
			o.recompute = j.model.Config().Layers
		}
		return j.compileAll(o)
	}
	var short *plan.BudgetError
	err := compile()
	if errors.As(err, &short) && j.hostMemory() && j.toHost("table of tokens", j.frozenTable()) {
		err = compile()
	}
	if checkpointing == "on" && errors.As(err, &short) && j.mayMove(nil) != nil {
		wait = true
		err = compile()
	}
	if checkpointing == "auto" && errors.As(err, &short) {
		err = j.compileFewest(ctx, budget)
	}
	return err
}

// compileFewest recomputes the fewest blocks, one at least, that make the run fit.
func (j *job) compileFewest(ctx context.Context, budget int64) error {
	o := j.stepOptions(ctx, budget)
	o.move = j.mayMove(o.move)
	// The first blocks are those to recompute (see models.FirstBlocks), and each costs the same arithmetic: the fewest are the cheapest set.
	// The last one helps little, as its activations are used right after they are made: it is recomputed only where all others are not enough.
	all := j.model.Config().Layers
	most := max(all-1, 1)
	o.recompute = most
	var short *plan.BudgetError
	if err := j.compileAll(o); errors.As(err, &short) && all > most {
		o.recompute = all
		return j.compileAll(o)
	} else if err != nil {
		return err
	}
	fewest := 1
	for fewest < most {
		o.recompute = (fewest + most) / 2
		err := j.compileAll(o)
		switch {
		case err == nil:
			most = o.recompute
		case errors.As(err, &short):
			fewest = o.recompute + 1
		default:
			return err
		}
	}
	if j.plans != nil && j.recompute == most {
		return nil
	}
	o.recompute = most
	return j.compileAll(o)
}

// documentBounds is what a loader knows of the documents of its rows, nothing without one.
func documentBounds(l *data.Loader) (b ops.DocumentBounds) {
	if l != nil {
		b.Most, b.Longest = l.DocumentBounds()
	}
	return b
}

// stepOptions are those of the present micro-batch.
func (j *job) stepOptions(ctx context.Context, budget int64) stepOptions {
	o := stepOptions{ctx: ctx, device: j.dev, rows: j.micro, parts: j.parts, budget: budget, neftune: j.cfg.Train.NEFTune, router: j.cfg.Train.RouterLoss, move: j.moves(), fold: j.cfg.Adapter.Folds(),
		single: !j.cfg.Data.Pack && !j.cfg.Train.Preferences(), docs: documentBounds(j.loader), evalDocs: documentBounds(j.evalLoader)}
	switch {
	case j.loader != nil:
		o.lengths = j.loader.Buckets()
	case j.cfg.Data.Pack && !j.cfg.Train.Preferences():
		o.lengths = []int{j.seqLen}
	default:
		o.lengths = data.DefaultBuckets(j.seqLen)
	}
	if j.loader == nil && j.cfg.Data.Val > 0 {
		o.evalLens = o.lengths
	}
	if j.evalLoader != nil {
		o.evalLens = j.evalLoader.Buckets()
	}
	if j.cfg.Train.Objective == "kto" {
		o.mixedLens = data.DefaultBuckets(j.seqLen)
	}
	return o
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
	j.session = j.execution().Session(j.store)
	o.session = j.session
	var err error
	if o.objective, err = j.makeObjective(o); err != nil {
		return err
	}
	if j.plans, err = compileStep(j.model.Model, j.adapter, j.group, o); err != nil {
		return err
	}
	j.recompute = o.recompute
	if j.total = j.session.Bytes(); o.budget > 0 && j.total > o.budget { // each plan fits alone
		r := j.largest()
		r.Arena, r.Consts = j.session.ArenaBytes(), 0
		r.Vars = j.total - r.Arena
		return &plan.BudgetError{Report: r, Budget: o.budget}
	}
	return j.planAnswers(o)
}

// planAnswers adds what generation in the run takes, the comparison of held-out answers and the samples. What does not fit beside the steps is
// left out, and the session made again without it: its arena has grown.
func (j *job) planAnswers(o stepOptions) error {
	if j.noAnswers {
		j.exact, j.sampled = false, false
		return nil
	}
	exact, err := j.planExact(o.ctx, o.budget)
	if err != nil {
		return err
	}
	samples, err := j.planSamples(o.ctx, o.budget)
	if err != nil {
		return err
	}
	total := max(j.total, exact, samples)
	if o.budget > 0 && total > o.budget {
		j.log.Warn("nothing is generated in this run, neither samples nor answers to compare: it would not fit in memory", "needs", report.Bytes(total),
			"budget", report.Bytes(o.budget))
		j.noAnswers = true
		return j.compileAll(o)
	}
	j.total = total
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
