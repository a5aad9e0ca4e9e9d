package trainer_test

import (
	"bytes"
	"context"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/checkpoint"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/optim"
	"github.com/bitsandbyes/bitsandbyes/tensor"
	"github.com/bitsandbyes/bitsandbyes/trainer"
	"github.com/bitsandbyes/bitsandbyes/trainer/config"
	"github.com/bitsandbyes/bitsandbyes/trainer/report"
)

// resumes runs a configuration whole, and again stopped after two steps and resumed: both must end with the same weights.
func resumes(t *testing.T, c config.Config) *trainer.Summary {
	t.Helper()
	c.Save.Every = 0
	c.Out = filepath.Join(t.TempDir(), "whole")
	whole := run(t, c, trainer.Hooks{})
	c.Out, c.Resume = filepath.Join(t.TempDir(), "parts"), true
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	fails(t, ctx, c, trainer.Hooks{OnStep: func(r report.Row) error {
		if r.Step == 2 {
			cancel()
		}
		return nil
	}}, config.ExitStopped)
	parts := run(t, c, trainer.Hooks{OnStep: func(r report.Row) error { require.Greater(t, r.Step, int64(2)); return nil }})
	require.NotEmpty(t, whole.WeightsDigest)
	require.Equal(t, whole.WeightsDigest, parts.WeightsDigest)
	require.Equal(t, whole.Loss, parts.Loss)
	return whole
}

// TestSchedules compares the rates of runs with those of package optim.
func TestSchedules(t *testing.T) {
	for _, kind := range optim.ScheduleNames() {
		t.Run(kind, func(t *testing.T) {
			c := pretrain(t)
			c.Train.Schedule, c.Train.Steps, c.Data.Val, c.Eval.Every = kind, 6, 0.2, 3
			want := optim.Schedule{Kind: kind, LR: c.Train.LR, Warmup: c.Train.Warmup, Total: 6}
			a := &c.Train.ScheduleArgs
			switch kind {
			case "cosine":
				a.MinLR, a.Cycles = 1e-3, 2
				want.MinLR, want.Cycles = 1e-3, 2
			case "wsd":
				a.MinLR, a.Decay, a.DecayShape = 1e-3, 3, "sqrt"
				want.MinLR, want.Decay, want.Shape = 1e-3, 3, "sqrt"
			case "inverse_sqrt":
				a.Timescale, want.Timescale = 7, 7
			case "polynomial":
				a.Power, want.Power = 2, 2
			case "onecycle":
				a.StartDiv, a.EndDiv, want.StartDiv, want.EndDiv = 5, 50, 5, 50
			}
			run(t, c, trainer.Hooks{OnStep: func(r report.Row) error {
				require.Equal(t, want.At(int(r.Step)-1), r.LR, "step %d", r.Step)
				return nil
			}})
		})
	}
}

// TestPlateau reduces the rate of a run that cannot make progress, and does so after a resumption where the whole run does.
func TestPlateau(t *testing.T) {
	c := pretrain(t)
	c.Train.Schedule, c.Train.Steps, c.Data.Val, c.Eval.Every = "plateau", 6, 0.2, 1
	c.Train.ScheduleArgs.Patience, c.Train.ScheduleArgs.Factor, c.Train.ScheduleArgs.Threshold, c.Train.ScheduleArgs.MinLR = 1, 0.5, 0.99, 3e-3
	var rates []float64
	hooks := trainer.Hooks{OnStep: func(r report.Row) error { rates = append(rates, r.LR); return nil }}
	c.Out = filepath.Join(t.TempDir(), "run")
	run(t, c, hooks)
	require.InDeltaSlice(t, []float64{1e-2, 1e-2, 1e-2, 5e-3, 5e-3, 3e-3}, rates, 1e-12)
	resumes(t, c)

	c.Eval.Every, c.Out, c.Resume = 2, filepath.Join(t.TempDir(), "other"), false
	run(t, c, trainer.Hooks{})
	c.Data.Path[0].Path, c.Data.Val = rows(t, 1), 0.5
	c.Out = filepath.Join(t.TempDir(), "none")
	fails(t, context.Background(), c, trainer.Hooks{}, config.ExitConfig, "no row is held out")
}

// TestParts runs and resumes each of what surrounds an optimizer's rule, and sees that it has an effect.
func TestParts(t *testing.T) {
	base := pretrain(t)
	base.Train.Steps, base.Train.LR, base.Train.Clip = 5, 0.3, 0 // the norms rise
	plain := run(t, base, trainer.Hooks{}).WeightsDigest
	for name, change := range map[string]func(c *config.Train){
		"percentile": func(c *config.Train) { c.Percentile = 5 },
		"values":     func(c *config.Train) { c.ClipValue = 1e-3 },
		"adaptive":   func(c *config.Train) { c.AdaptiveClip = 1e-2 },
		"all clips":  func(c *config.Train) { c.Percentile, c.ClipValue, c.AdaptiveClip = 50, 1e-2, 0.1 },
		"average":    func(c *config.Train) { c.EMA = 0.5 },
		"averages":   func(c *config.Train) { c.EMA, c.EMAEvery, c.EMAWarmup = 0.9, 2, true },
		"f16":        func(c *config.Train) { c.DType = "f16" },
	} {
		t.Run(name, func(t *testing.T) {
			c := base
			change(&c.Train)
			require.NotEqual(t, plain, resumes(t, c).WeightsDigest)
		})
	}
}

// TestStopInsideStep stops a run with an average of the weights wherever inside a step a run looks whether it should stop: what was saved goes on
// as if nothing had happened.
func TestStopInsideStep(t *testing.T) {
	c := pretrain(t)
	c.Train.Steps, c.Train.EMA, c.Save.Every, c.Resume = 3, 0.5, 0, true
	whole := run(t, c, trainer.Hooks{}).WeightsDigest
	for looks := range 6 {
		c.Out = filepath.Join(t.TempDir(), "run")
		ctx := &lateContext{Context: context.Background(), looks: -1}
		_, err := trainer.Run(ctx, c, trainer.Hooks{OnStep: func(r report.Row) error {
			if r.Step == 1 {
				ctx.looks = looks
			}
			return nil
		}})
		require.Equal(t, config.ExitStopped, config.ExitCode(err), "%d: %v", looks, err)
		require.Equal(t, whole, run(t, c, trainer.Hooks{}).WeightsDigest, "stopped after looking %d times", looks)
	}
}

// lateContext is cancelled after it was asked so many times; never if negative.
type lateContext struct {
	context.Context
	looks int
}

// Err implements context.Context.
func (c *lateContext) Err() error {
	if c.looks < 0 {
		return nil
	}
	if c.looks == 0 {
		return context.Canceled
	}
	c.looks--
	return nil
}

// TestAverage checks what is evaluated and written against what is trained.
func TestAverage(t *testing.T) {
	c := pretrain(t)
	c.Data.Val, c.Eval.Every, c.Train.Steps = 0.2, 1, 6
	plain := run(t, c, trainer.Hooks{})
	trained := weights(t, c.Out)
	c.Out, c.Train.EMA = filepath.Join(t.TempDir(), "run"), 1e-12 // keeps nothing: the average is the last weights
	last := run(t, c, trainer.Hooks{})
	require.InDelta(t, plain.EvalLoss, last.EvalLoss, 1e-5)
	for name, w := range weights(t, c.Out) {
		require.InDeltaSlice(t, trained[name], w, 1e-6, name)
	}

	c.Out, c.Train.EMA = filepath.Join(t.TempDir(), "run"), 0.9
	dev := threads(t, 1)
	p, err := trainer.Plan(context.Background(), c, trainer.Hooks{Device: dev})
	require.NoError(t, err)
	averaged := run(t, c, trainer.Hooks{Device: dev, OnStep: func(r report.Row) error {
		require.Equal(t, p.TotalBytes, r.MemoryBytes, "planned with the average")
		return nil
	}})
	require.Equal(t, plain.Loss, averaged.Loss, "the average does not change the training")
	require.NotEqual(t, plain.EvalLoss, averaged.EvalLoss)
	mean := weights(t, c.Out)

	// The checkpoint holds the trained weights and the average apart.
	saved, err := checkpoint.NewRun(vfs.OS{}, c.Out).Latest()
	require.NoError(t, err)
	f, err := saved.Tensors()
	require.NoError(t, err)
	defer func() { require.NoError(t, f.Close()) }()
	for name, avg := range mean {
		w, err := f.Read(name)
		require.NoError(t, err)
		require.NotEqual(t, tensor.Data[float32](w), avg, name)
	}
	_, err = f.Read("ema.optim.32bit.param")
	require.NoError(t, err)
}

// overflowing is a model whose last activations are so large that the gradient of its head overflows in float16.
func overflowing(t *testing.T, factor float32) string {
	t.Helper()
	dir := model(t, small)
	path := filepath.Join(dir, "model.safetensors")
	f, err := checkpoint.OpenSafetensors(vfs.OS{}, path)
	require.NoError(t, err)
	var out []checkpoint.Named
	for _, name := range f.Names() {
		x, err := f.Read(name)
		require.NoError(t, err)
		if name == "model.norm.weight" {
			for i, v := range tensor.Data[float32](x) {
				tensor.Data[float32](x)[i] = v * factor
			}
		}
		out = append(out, checkpoint.Named{Name: name, Tensor: x})
	}
	require.NoError(t, f.Close())
	require.NoError(t, os.Remove(path))
	require.NoError(t, checkpoint.WriteSafetensors(vfs.OS{}, path, out, map[string]string{"format": "pt"}))
	return dir
}

// TestLossScale lets a float16 gradient overflow: the step changes nothing, the scale is halved until it fits, and a resumed run
// goes on with the scale that it had.
func TestLossScale(t *testing.T) {
	c := pretrain(t)
	c.Model, c.Train.DType, c.Train.Steps = overflowing(t, 200), "f16", 8
	c.Data.SeqLen = 16
	var log bytes.Buffer
	var norms []float64
	before := weights(t, filepath.Dir(c.Model))
	c.Out = filepath.Join(t.TempDir(), "run")
	s := run(t, c, trainer.Hooks{Logger: slog.New(slog.NewTextHandler(&log, nil)), OnStep: func(r report.Row) error {
		norms = append(norms, r.GradNorm)
		require.False(t, math.IsNaN(r.Loss) || math.IsInf(r.Loss, 0))
		return nil
	}})
	require.Contains(t, log.String(), "overflowed")
	require.False(t, finite(norms[0]), "%v", norms)
	require.True(t, finite(norms[len(norms)-1]), "%v", norms)
	require.NotEmpty(t, s.WeightsDigest)

	c.Train.Steps, c.Train.Warmup = 1, 0
	c.Out = filepath.Join(t.TempDir(), "one")
	run(t, c, trainer.Hooks{})
	require.Equal(t, before, weights(t, c.Out), "a step that overflows changes nothing")
	c.Train.Steps = 8
	resumes(t, c)

	// Where the loss itself overflows, no scale of its gradient helps.
	c = again(t, c)
	c.Model = overflowing(t, 1e7)
	fails(t, context.Background(), c, trainer.Hooks{}, config.ExitNonFinite, "step 1", "use f32")
}

func finite(x float64) bool { return !math.IsNaN(x) && !math.IsInf(x, 0) }

// TestFloat16Curve compares the losses of a float16 run with those of a float32 run.
func TestFloat16Curve(t *testing.T) {
	losses := map[string][]float64{}
	for _, d := range []string{"f32", "f16"} {
		c := pretrain(t)
		c.Train.DType, c.Train.Steps = d, 20
		run(t, c, trainer.Hooks{OnStep: func(r report.Row) error { losses[d] = append(losses[d], r.Loss); return nil }})
	}
	for i, want := range losses["f32"] {
		require.InEpsilon(t, want, losses["f16"][i], 0.02, "step %d", i+1)
	}
}

// TestOtherModel refuses to resume on a model whose files are others.
func TestOtherModel(t *testing.T) {
	dir := model(t, small)
	c := adapt(t, dir)
	ctx, cancel := context.WithCancel(context.Background())
	fails(t, ctx, c, trainer.Hooks{OnStep: func(report.Row) error { cancel(); return nil }}, config.ExitStopped)
	path := filepath.Join(dir, "model.safetensors")
	raw, err := os.ReadFile(path)
	require.NoError(t, err)
	changed := bytes.Clone(raw)
	changed[len(changed)-1] ^= 1
	require.NoError(t, os.WriteFile(path, changed, 0o600))
	c.Resume = true
	fails(t, context.Background(), c, trainer.Hooks{}, config.ExitConfig, "model's files", dir, "--out")
	require.NoError(t, os.WriteFile(path, raw, 0o600))
	run(t, c, trainer.Hooks{})
}
