package trainer

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/bitsandbyes/bitsandbyes/data"
	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/trainer/config"
	"github.com/bitsandbyes/bitsandbyes/trainer/report"
)

// begin opens the run's logs, cut back to the checkpoint, and looks at the model before training.
func (j *job) begin(ctx context.Context) error {
	yaml, err := j.cfg.Marshal()
	if err != nil {
		return err
	}
	if err := report.WriteFile(j.path("config.yaml"), yaml); err != nil {
		return withCode(config.ExitDisk, err)
	}
	j.begun = true
	if j.metrics, err = report.ResumeMetrics(j.path("metrics.jsonl"), int64(j.state.Step)); err != nil {
		return withCode(config.ExitDisk, err)
	}
	if err := j.recallSpikes(); err != nil {
		return withCode(config.ExitDisk, err)
	}
	keep := int64(j.state.Step)
	if keep == 0 && j.state.LossBefore == nil {
		keep = -1 // the evaluation before the first step comes again
	}
	if err := report.CutSamples(j.path(samplesFile), keep); err != nil {
		return withCode(config.ExitDisk, err)
	}
	if err := j.fs.MkdirAll(j.path("tensorboard")); err != nil {
		return withCode(config.ExitDisk, err)
	}
	if j.events, err = report.CreateEvents(j.path("tensorboard"), report.EventOptions{}); err != nil {
		return withCode(config.ExitDisk, err)
	}
	if j.cfg.Resume {
		if err := j.events.Restart(int64(j.state.Step)); err != nil {
			return withCode(config.ExitDisk, err)
		}
	}
	if j.hooks.Progress != nil {
		j.bar = report.NewProgress(j.hooks.Progress, report.ProgressOptions{Terminal: j.hooks.Terminal, Total: int64(j.loader.Steps())})
	}
	if j.flopRate, err = probe(ctx, j.dev, j.execution().Launching(), j.compute); err != nil {
		return err
	}
	j.describe()
	if m, ok := j.dev.(device.Meter); ok {
		j.log.Info("memory beside the plan", "libraries_and_kernels", report.Bytes(m.Overhead()), "free", report.Bytes(j.dev.Info().MemoryFree))
	}
	j.warnOf(j.dev)
	if j.state.ExactBefore == nil && j.state.Step == 0 {
		if j.state.ExactBefore, err = j.exactMatch(ctx, false); err != nil {
			return j.stopped(err)
		}
	}
	return j.evaluateFirst(ctx)
}

// warnOf logs what a device found wrong with itself while kernels were built.
func (j *job) warnOf(d device.Device) {
	if c, ok := d.(device.Checker); ok {
		for _, p := range c.Problems() {
			j.log.Warn(p.What, "remedy", p.Remedy)
		}
	}
}

// describe logs what is about to be trained.
func (j *job) describe() {
	params, trained := j.countParams()
	j.log.Info("model", "name", j.cfg.Model, "parameters", report.Count(params), "trained", report.Count(trained),
		"share", fmt.Sprintf("%.2f%%", 100*float64(trained)/float64(max(params, 1))))
	if j.cfg.Adapter.On() {
		j.log.Info("adapter", "computed", foldedText(j.largest().Folded), "adapter.fold", j.cfg.Adapter.Fold)
	}
	j.log.Info("optimizer", "name", j.cfg.Train.Optimizer, "tensors", len(j.trained()), "with_8bit_state", j.group.NumEightBit())
	j.log.Info("memory", "weights_and_states", report.Bytes(j.session.Bytes()-j.session.ArenaBytes()), "arena", report.Bytes(j.session.ArenaBytes()))
	j.log.Info("run", "out", j.cfg.Out, "steps", j.loader.Steps(), "batch", j.cfg.Train.Batch, "micro_batch", j.micro, "device", j.dev.Info().Name)
}

// loop runs the steps that are left.
func (j *job) loop(ctx context.Context) error {
	var buf []data.Batch
	total := j.loader.Steps()
	for step := j.state.Step; step < total && !j.state.Ended; step++ {
		if ctx.Err() != nil {
			return j.stopped(ctx.Err())
		}
		began := time.Now()
		lr := j.rate(step)
		r, next, err := j.plans.run(ctx, j.loader, step, j.cfg.Train.Seed, lr, buf)
		buf = next
		if err != nil {
			return j.stopped(err)
		}
		if r.skipped {
			j.log.Info("a float16 gradient overflowed; the step is left out and the loss scale halved", "step", step+1, "scale", r.scale)
		} else if !finite(r.loss) || !finite(r.norm) {
			bad := &NonFiniteError{Step: step + 1, Loss: r.loss, GradNorm: r.norm, Rows: j.sources(buf)}
			j.locate(ctx, bad, buf)
			return errors.Join(bad, j.save())
		}
		j.watchSpikes(step+1, r, buf)
		j.state.Step, j.state.Loss = step+1, r.loss
		j.state.Tokens += int64(r.tokens)
		row := j.row(step+1, r, lr, time.Since(began))
		if err := j.afterStep(ctx, row, total); err != nil {
			if ctx.Err() != nil { // a hook may return it
				return j.stopped(err)
			}
			return err
		}
	}
	return nil
}

func finite(x float64) bool { return !math.IsNaN(x) && !math.IsInf(x, 0) }

func (j *job) row(step int, r stepResult, lr float64, took time.Duration) report.Row {
	s := took.Seconds()
	row := report.Row{Step: int64(step), Loss: r.loss, LR: lr, GradNorm: r.norm, Tokens: int64(r.tokens),
		TokensPerSec: float64(r.tokens) / max(s, 1e-9), MemoryBytes: j.memory(), Seconds: s}
	if j.flopRate > 0 && s > 0 {
		row.MFU = float64(r.flops) / s / j.flopRate
	}
	row.Add(r.numbers(""))
	if r.scale > 0 {
		row.Add(map[string]float64{"loss_scale": r.scale})
	}
	return row
}

// memory is the most that the run has held on the device so far.
func (j *job) memory() int64 {
	held := j.session.Bytes()
	if d, ok := j.dev.(interface{ Allocated() int64 }); ok {
		held = d.Allocated() - j.base
	}
	j.peak = max(j.peak, held)
	return j.peak
}

// afterStep evaluates, logs and saves as the configuration says.
func (j *job) afterStep(ctx context.Context, row report.Row, total int) error {
	step := int(row.Step)
	if every := j.cfg.Eval.Every; j.evalLoader != nil && (step == total || every > 0 && step%every == 0) {
		// A step and its evaluation are one: stopped between them, the row would lack the loss that the undisturbed run has.
		if err := j.evaluateStep(context.WithoutCancel(ctx), &row); err != nil {
			return err
		}
	}
	if err := errors.Join(j.metrics.Append(row), j.events.Row(row)); err != nil {
		return withCode(config.ExitDisk, err)
	}
	if j.bar != nil {
		j.bar.Step(row)
	}
	if j.hooks.OnEval != nil && row.EvalLoss != nil { // after the row is written: a hook may end the run
		if err := j.hooks.OnEval(step, *row.EvalLoss); err != nil {
			return err
		}
	}
	if j.hooks.OnStep != nil {
		if err := j.hooks.OnStep(row); err != nil {
			return err
		}
	}
	if every := j.cfg.Save.Every; step == total || every > 0 && step%every == 0 || j.state.Ended || j.newBest() {
		return j.save()
	}
	return nil
}

// stopped turns a cancelled step into a durable checkpoint and ErrStopped. Gradients of an unfinished step are not part of a
// checkpoint: the step is run whole after the resumption.
func (j *job) stopped(err error) error {
	if !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	if err := j.save(); err != nil {
		return err
	}
	if j.bar != nil {
		j.bar.Done()
	}
	j.log.Info("stopped", "step", j.state.Step, "resume_with", "--resume --out "+j.cfg.Out)
	return ErrStopped
}

// sources names the rows of a step, a few of them.
func (j *job) sources(batches []data.Batch) []string {
	seen := map[int32]bool{}
	var out []string
	for i := range batches {
		for _, id := range batches[i].Sample {
			if id < 0 || seen[id] || len(out) == 5 {
				continue
			}
			seen[id] = true
			out = append(out, j.train.SourceOf(id))
		}
	}
	return out
}
