// Package profile says where the time and the memory of a training step go. A Profile watches plans, of the trainer or of a loop of
// one's own, while they run; its Result has time by kernel and by scope of the graph, the work that was done in it and how near that
// is to what the device can do, a trace for chrome://tracing or Perfetto, and what lies in memory when.
//
//	prof, err := profile.New(profile.Options{Device: dev})
//	...
//	prof.Watch("step", p) // p is a *plan.Plan
//	for range 5 {
//		err := prof.Step(func() error { _, err := p.Run(ctx, feed); return err })
//		...
//	}
//	err = prof.Result().Write(nil, "profile")
//
// Plans that are not watched do nothing for it.
package profile

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
)

// Options of a profile. Device is required.
type Options struct {
	Device device.Device
	Title  string // of the report
	Warmup int    // steps that ran before, for the report
	// Categorize tells what a variable is for, by the owner of its storage. nil: DefaultCategory.
	Categorize func(v *graph.Var) Category
}

// Profile gathers the runs of plans. Like a plan, it is not safe for concurrent use.
type Profile struct {
	opts   Options
	plans  []*watched
	byPlan map[*plan.Plan]int
	limits *device.Limits
	began  time.Time
	steps  []step
	inStep bool
	now    func() time.Time
}

// watched is a plan with what is known of it before it runs.
type watched struct {
	name     string
	plan     *plan.Plan
	launches []plan.Launch
}

// step is one recorded step: its begin since the first one's, and the runs in it.
type step struct {
	began, took time.Duration
	runs        []run
	dry         bool
}

// run is one run of a plan, begun so long after the first step's begin.
type run struct {
	plan  int
	began time.Duration
	marks []device.Mark
	exact bool
}

// spans returns the time of the run in the stream's clock, and the parts of it that are not launches.
func (r *run) spans() (whole, feed, gaps, fetch time.Duration) {
	m, last := r.marks, len(r.marks)-1
	feed, fetch = m[1].At-m[0].At, m[last].At-m[last-1].At
	for i := 1; i+2 < len(m); i += 2 {
		gaps += m[i+1].At - m[i].At
	}
	return m[last].At - m[0].At, feed, gaps, fetch
}

// New starts an empty profile.
func New(o Options) (*Profile, error) {
	if o.Device == nil {
		return nil, errors.New("profile: Options.Device is not set; give the device that the plans run on")
	}
	if o.Categorize == nil {
		o.Categorize = DefaultCategory
	}
	return &Profile{opts: o, byPlan: map[*plan.Plan]int{}, now: time.Now}, nil
}

// Watch attaches the profile to a plan, under a name that the report uses. The plans of one session are watched all, since they share
// memory.
func (p *Profile) Watch(name string, pl *plan.Plan) {
	if _, ok := p.byPlan[pl]; ok {
		return
	}
	p.byPlan[pl] = len(p.plans)
	p.plans = append(p.plans, &watched{name: name, plan: pl, launches: pl.Launches()})
	pl.Record(recorder{p})
}

// Unwatch detaches the profile from all plans, whose runs cost what they did before.
func (p *Profile) Unwatch() {
	for _, w := range p.plans {
		w.plan.Record(nil)
	}
}

// Measure finds what the device reaches at most, so that the result can give shares of it. It takes about a second; nothing else
// should run meanwhile. A device that cannot measure itself leaves the shares out.
func (p *Profile) Measure(ctx context.Context) error {
	l, ok := p.opts.Device.(device.Limiter)
	if !ok {
		return nil
	}
	limits, err := l.Limits(ctx)
	if err == nil {
		p.limits = &limits
	}
	return err
}

// Step runs f as one step: the plans that it runs, and the time between them, are recorded. A step that fails is dropped.
func (p *Profile) Step(f func() error) error {
	if p.inStep {
		return errors.New("profile: Step is called within a step")
	}
	now := p.now()
	if p.began.IsZero() {
		p.began = now
	}
	p.inStep = true
	p.steps = append(p.steps, step{began: now.Sub(p.began)})
	err := f()
	p.inStep = false
	if last := len(p.steps) - 1; err != nil {
		p.steps = p.steps[:last]
	} else {
		p.steps[last].took = p.now().Sub(now)
	}
	return err
}

// recorder keeps Recorded out of Profile's own methods.
type recorder struct{ p *Profile }

// Recorded implements plan.Recorder.
func (r recorder) Recorded(pl *plan.Plan, t *plan.Timing) {
	p := r.p
	i, ok := p.byPlan[pl]
	if !ok || !p.inStep {
		return
	}
	s := &p.steps[len(p.steps)-1]
	s.runs = append(s.runs, run{plan: i, began: t.Began.Sub(p.began), marks: slices.Clone(t.Marks), exact: t.Exact})
}

// Dry records a step that is not run: the plans in the order in which it would run them. The result then has the memory of the step
// and no times.
func (p *Profile) Dry(plans ...*plan.Plan) error {
	s := step{dry: true}
	for _, pl := range plans {
		i, ok := p.byPlan[pl]
		if !ok {
			return fmt.Errorf("profile: plan %d of the step is not watched", len(s.runs))
		}
		s.runs = append(s.runs, run{plan: i})
	}
	p.steps = append(p.steps, s)
	return nil
}
