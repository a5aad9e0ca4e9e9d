package trainer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sort"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/bitsandbyes/bitsandbyes/checkpoint"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/trainer/config"
	"github.com/bitsandbyes/bitsandbyes/trainer/report"
)

// Planned is what a run will take, known before it runs.
type Planned struct {
	Model               string
	Parameters, Trained int64
	WeightBytes         int64 // of the model's weights as they are stored
	TrainBytes          int64 // of trained weights, gradients and optimizer state
	ArenaBytes          int64 // of intermediates, the largest plan's
	TotalBytes          int64 // what a run allocates on the device
	Steps               int
	MicroBatch          int                 // rows computed at once
	Lengths             map[int]plan.Report // by row length
	FlopsPerToken       float64             // forward and backward, of a training row
	Scopes              []plan.ScopeBytes   // what fills the largest plan at its fullest step
}

// Plan opens the model and the data of a configuration and compiles every plan, without reading a weight or training.
func Plan(ctx context.Context, cfg config.Config, hooks Hooks) (*Planned, error) {
	j := &job{cfg: cfg, hooks: hooks, fs: vfs.OS{}, log: hooks.Logger, started: time.Now()}
	if j.log == nil {
		j.log = slog.New(slog.DiscardHandler)
	}
	p, err := j.plan(ctx)
	return p, classify(errors.Join(err, j.close()))
}

func (j *job) plan(ctx context.Context) (*Planned, error) {
	if err := j.cfg.Validate(); err != nil {
		return nil, err
	}
	tmp, err := scratchOut(j)
	if err != nil {
		return nil, err
	}
	defer tmp()
	for _, f := range []func(context.Context) error{j.openModel, j.openData, j.compile} {
		if err := f(ctx); err != nil {
			return nil, err
		}
	}
	p := &Planned{Model: j.cfg.Model, Steps: j.loader.Steps(), ArenaBytes: j.session.ArenaBytes(), TotalBytes: j.total,
		Lengths: map[int]plan.Report{}}
	p.Parameters, p.Trained = j.countParams()
	for _, q := range layers.Params(j.model.Llama) {
		switch {
		case q.Quantized != nil:
			p.WeightBytes += q.Quantized.Bytes()
		case !q.Var.Trainable:
			p.WeightBytes += q.Var.Type.Bytes()
		}
	}
	p.TrainBytes = j.session.Bytes() - p.ArenaBytes - p.WeightBytes
	for t, l := range j.plans.train {
		r := l.plan.Report()
		p.Lengths[t] = r
		p.FlopsPerToken = max(p.FlopsPerToken, float64(r.Flops)/float64(t*j.micro))
	}
	p.MicroBatch, p.Scopes = j.micro, j.largest().Scopes
	return p, nil
}

// scratchOut points a job at a temporary run directory for the built-in rows.
func scratchOut(j *job) (func(), error) {
	dir, err := makeTemp()
	if err != nil {
		return nil, withCode(config.ExitDisk, err)
	}
	j.cfg.Out = dir
	j.runs = checkpoint.NewRun(j.fs, dir)
	return func() {
		if err := j.fs.RemoveAll(dir); err != nil {
			j.log.Warn("temporary directory", "err", err)
		}
	}, nil
}

// Text prints the plan for people.
func (p *Planned) Text() string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	row := func(name, value string) { fmt.Fprintf(w, "%s\t%s\n", name, value) }
	row("model", p.Model)
	row("parameters", report.Count(p.Parameters))
	row("trained", fmt.Sprintf("%s (%.2f%%)", report.Count(p.Trained), 100*float64(p.Trained)/float64(max(p.Parameters, 1))))
	row("frozen weights", report.Bytes(p.WeightBytes))
	row("trained weights, gradients, states", report.Bytes(p.TrainBytes))
	row("arena", report.Bytes(p.ArenaBytes))
	row("total on the device", report.Bytes(p.TotalBytes))
	row("FLOP a token", fmt.Sprintf("%.3g", p.FlopsPerToken))
	row("optimizer steps", report.Count(int64(p.Steps)))
	row("rows at once", report.Count(int64(p.MicroBatch)))
	lengths := make([]int, 0, len(p.Lengths))
	for t := range p.Lengths {
		lengths = append(lengths, t)
	}
	sort.Ints(lengths)
	for _, t := range lengths {
		r := p.Lengths[t]
		row(fmt.Sprintf("rows of %d tokens", t), fmt.Sprintf("%d launches, arena %s", r.Launches, report.Bytes(r.Arena)))
	}
	for i, s := range p.Scopes {
		if i == maxScopes {
			break
		}
		row("  at the peak: "+s.Scope, report.Bytes(s.Bytes))
	}
	if err := w.Flush(); err != nil {
		return err.Error()
	}
	return b.String()
}

// maxScopes is how many scopes the text lists.
const maxScopes = 8

func makeTemp() (string, error) { return os.MkdirTemp("", "trainer-plan-") }
