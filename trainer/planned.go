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
	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/tensor"
	"github.com/bitsandbyes/bitsandbyes/trainer/config"
	"github.com/bitsandbyes/bitsandbyes/trainer/report"
)

// Planned is what a run will take, known before it runs.
type Planned struct {
	Model               string
	Parameters, Trained int64
	WeightBytes         int64 // of the model's weights as they are stored
	TrainBytes          int64 // of trained weights, gradients, optimizer state, and the average of the weights
	StateBytes          int64 // of the optimizer state in it
	HostBytes           int64 // of optimizer state in host memory (paged optimizers); part of the others on a device without memory of its own
	ArenaBytes          int64 // of intermediates, the largest plan's
	TotalBytes          int64 // what a run allocates on the device
	Steps               int
	MicroBatch          int                 // rows computed at once
	Lengths             map[int]plan.Report // by row length
	FlopsPerToken       float64             // forward and backward, of a training row
	FlopRate            float64             // FLOP/s of a large float32 matrix product on this device, measured now
	Seconds             float64             // least time of all training steps: their arithmetic at FlopRate
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
	for _, q := range layers.Params(j.model.Model) {
		switch {
		case q.Quantized != nil:
			p.WeightBytes += q.Quantized.Bytes()
		case !q.Var.Trainable:
			p.WeightBytes += q.Var.Type.Bytes()
		}
	}
	p.TrainBytes = j.session.Bytes() - p.ArenaBytes - p.WeightBytes
	p.HostBytes = j.session.HostBytes()
	for _, v := range j.group.StateVars() {
		p.StateBytes += v.Type.Bytes()
	}
	for t, l := range j.plans.train {
		r := l.plan.Report()
		p.Lengths[t] = r
		p.FlopsPerToken = max(p.FlopsPerToken, float64(r.Flops)/float64(t*j.micro))
	}
	p.MicroBatch, p.Scopes = j.micro, j.largest().Scopes
	if p.FlopRate, err = probe(ctx, j.dev); err != nil {
		return nil, err
	}
	longest := 0
	for t := range p.Lengths {
		longest = max(longest, t)
	}
	p.Seconds = p.FlopsPerToken * float64(longest*j.cfg.Train.Batch) * float64(p.Steps) / p.FlopRate
	return p, nil
}

// Size and number of the matrix products that a device is timed with.
const (
	probeSize = 512
	probeRuns = 5
)

// probe returns the best rate of a square float32 matrix product in FLOP/s.
func probe(ctx context.Context, dev device.Device) (rate float64, err error) {
	g := graph.New("probe")
	x := ops.BroadcastTo(ops.Fill(g, tensor.F32, 1), probeSize, probeSize)
	y := ops.Sum(ops.Dot(x, x))
	p, err := plan.Compile([]graph.Value{y}, plan.Options{Device: dev})
	if err != nil {
		return 0, err
	}
	for range probeRuns {
		began := time.Now()
		if _, err = p.Run(ctx, nil); err != nil {
			break
		}
		rate = max(rate, 2*probeSize*probeSize*probeSize/time.Since(began).Seconds())
	}
	return rate, errors.Join(err, p.Close())
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
	row("  of these, optimizer states", report.Bytes(p.StateBytes))
	if p.HostBytes > 0 {
		row("  paged, in host memory", report.Bytes(p.HostBytes))
	}
	row("arena", report.Bytes(p.ArenaBytes))
	row("total on the device", report.Bytes(p.TotalBytes))
	row("FLOP a token", fmt.Sprintf("%.3g", p.FlopsPerToken))
	row("optimizer steps", report.Count(int64(p.Steps)))
	row("time of the steps, at least", fmt.Sprintf("%s (at %.0f GFLOP/s, measured)", report.Duration(time.Duration(p.Seconds*float64(time.Second))), p.FlopRate/1e9))
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
