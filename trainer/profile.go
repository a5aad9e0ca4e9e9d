package trainer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/bitsandbyes/bitsandbyes/data"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/trainer/config"
	"github.com/bitsandbyes/bitsandbyes/trainer/profile"
)

// ProfileOptions say what of a run is profiled.
type ProfileOptions struct {
	Steps  int  // that are measured; 0: DefaultProfileSteps
	Warmup int  // steps before them; negative: none, 0: DefaultProfileWarmup
	Dry    bool // no step is run and no weight read: the memory alone
}

// Steps of a profile that is not told otherwise.
const (
	DefaultProfileSteps  = 5
	DefaultProfileWarmup = 2
)

// Profile runs a few training steps of a configuration, as Run would begin, and says where their time and memory go. It writes
// nothing; see profile.Result.Write. What the steps learn is dropped.
func Profile(ctx context.Context, cfg config.Config, o ProfileOptions, hooks Hooks) (*profile.Result, error) {
	j := &job{cfg: cfg, hooks: hooks, fs: vfs.OS{}, log: hooks.Logger, started: time.Now()}
	if j.log == nil {
		j.log = slog.New(slog.DiscardHandler)
	}
	if o.Steps <= 0 {
		o.Steps = DefaultProfileSteps
	}
	if o.Warmup == 0 {
		o.Warmup = DefaultProfileWarmup
	}
	o.Warmup = max(o.Warmup, 0)
	r, err := j.profile(ctx, o)
	if err != nil && ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		err = &exitError{config.ExitStopped, fmt.Errorf("stopped; nothing was written: %w", err)}
	}
	return r, classify(errors.Join(err, j.close()))
}

func (j *job) profile(ctx context.Context, o ProfileOptions) (*profile.Result, error) {
	if err := j.cfg.Validate(); err != nil {
		return nil, err
	}
	if j.cfg.Resume {
		return nil, badConfig("resume", "has no meaning for a profile, which begins the run anew; leave it out")
	}
	remove, err := scratchOut(j)
	if err != nil {
		return nil, err
	}
	defer remove()
	for _, f := range []func(context.Context) error{j.openModel, j.openData, j.compile} {
		if err := f(ctx); err != nil {
			return nil, err
		}
	}
	title := fmt.Sprintf("%s, %s", j.cfg.Model, j.cfg.Train.Optimizer)
	if j.adapter != nil {
		title = fmt.Sprintf("%s, LoRA r=%d, %s", j.cfg.Model, j.adapter.Config.Rank, j.cfg.Train.Optimizer)
	}
	p, err := profile.New(profile.Options{Device: j.dev, Title: title, Warmup: o.Warmup, Categorize: j.categories()})
	if err != nil {
		return nil, err
	}
	j.watch(p)
	defer p.Unwatch()
	if o.Dry {
		err = j.dryStep(p)
	} else {
		err = j.profileSteps(ctx, p, o)
	}
	if err != nil {
		return nil, err
	}
	return p.Result(), nil
}

// watch attaches a profile to every plan of the run: all of them share the memory, whether a step runs them or not.
func (j *job) watch(p *profile.Profile) {
	for _, t := range sortedKeys(j.plans.train) {
		p.Watch(fmt.Sprintf("gradients of %dx%d tokens", j.micro, t), j.plans.train[t].plan)
	}
	p.Watch("update", j.plans.apply)
	if a := j.plans.average; a != nil {
		p.Watch("average", a.update)
		p.Watch("average, put in place", a.enter)
		p.Watch("average, put back", a.leave)
	}
	for _, t := range sortedKeys(j.plans.eval) {
		p.Watch(fmt.Sprintf("evaluation of %dx%d tokens", j.micro, t), j.plans.eval[t].plan)
	}
}

func sortedKeys(m map[int]*lossPlan) []int {
	var out []int
	for t := range m {
		out = append(out, t)
	}
	slices.Sort(out)
	return out
}

// categories tells what the variables of the run are for.
func (j *job) categories() func(*graph.Var) profile.Category {
	of := map[*graph.Var]profile.Category{}
	put := func(c profile.Category, vars ...*graph.Var) {
		for _, v := range vars {
			root, _ := v.Root()
			of[root] = c
		}
	}
	for _, q := range layers.Params(j.model.Model) {
		if q.Var != nil {
			put(profile.Weights, q.Var)
		}
		if q.Quantized != nil {
			put(profile.Weights, q.Quantized.Vars()...)
		}
	}
	put(profile.States, j.group.StateVars()...)
	put(profile.States, j.parts.vars()...)
	put(profile.States, j.plans.lossSum)
	put(profile.Gradients, j.group.GradSlabs()...)
	put(profile.Parameters, j.group.ParamSlabs()...)
	put(profile.Parameters, j.group.Params()...)
	return func(v *graph.Var) profile.Category {
		if c, ok := of[v]; ok {
			return c
		}
		return profile.OtherVars
	}
}

// profileSteps loads the weights, lets the first steps pass and records the others. The rows begin again where there are fewer steps
// of them.
func (j *job) profileSteps(ctx context.Context, p *profile.Profile, o ProfileOptions) error {
	if err := j.load(ctx); err != nil {
		return err
	}
	var buf []data.Batch
	one := func(i int) error {
		step := i % j.loader.Steps()
		r, next, err := j.plans.run(ctx, j.loader, step, j.cfg.Train.Seed, j.rate(step), buf)
		buf = next
		if err == nil && !finite(r.loss) {
			j.log.Warn("the loss is not finite; times of such a step may differ from those of others", "step", i+1, "loss", r.loss)
		}
		return err
	}
	for i := range o.Warmup {
		if err := one(i); err != nil {
			return err
		}
	}
	if err := p.Measure(ctx); err != nil {
		return err
	}
	for i := range o.Steps {
		if err := p.Step(func() error { return one(o.Warmup + i) }); err != nil {
			return err
		}
	}
	return nil
}

// dryStep tells a profile which plans the first step would run.
func (j *job) dryStep(p *profile.Profile) error {
	batches, err := j.loader.StepInto(0, nil)
	if err != nil {
		return err
	}
	var run []*plan.Plan
	for i := range batches {
		l, ok := j.plans.train[batches[i].T]
		if !ok {
			return fmt.Errorf("trainer: no plan for rows of %d tokens", batches[i].T)
		}
		if batches[i].Targets > 0 {
			run = append(run, l.plan)
		}
	}
	run = append(run, j.plans.apply)
	if j.plans.average != nil {
		run = append(run, j.plans.average.update)
	}
	return p.Dry(run...)
}
