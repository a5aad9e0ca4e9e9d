package main

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/bitsandbyes/bitsandbyes/optim"
	"github.com/bitsandbyes/bitsandbyes/trainer"
	"github.com/bitsandbyes/bitsandbyes/trainer/config"
	"github.com/bitsandbyes/bitsandbyes/trainer/report"
)

// curveF16 is the limit of the mean difference of losses between a run in float16 and the processor's in float32: that of float32, because at 11
// significant bits the order of additions and the steps of 8-bit states weigh more than rounding.
const curveF16 = 0.02

// The provoked run begins with the largest scale there is, whose gradients overflow, and doubles after so few steps that it rises and overflows
// again and again.
const (
	provokedScale    = optim.MaxLossScale
	provokedInterval = 3
)

// float16 trains with dynamic loss scaling: the losses are near those of float32; a scale that overflows falls, rises again and does so by the rule;
// a run that is stopped among overflows goes on with the bits of one that is not.
func (s *suite) float16() (string, error) {
	reference, half := s.config(s.steps), s.config(s.steps)
	reference.Device, reference.Train.DType, half.Train.DType = "cpu", "f32", "f16"
	want, ref, err := s.losses(reference)
	if err != nil {
		return "", err
	}
	got, sum, err := s.losses(half)
	if err != nil {
		return "", err
	}
	mean, most := difference(got, want)
	text := fmt.Sprintf("%d steps: differs from the processor's f32 by %.4f in the mean, %.4f at most, held out %.4f and %.4f", len(got), mean, most, sum.EvalLoss, ref.EvalLoss)
	if !(mean <= curveF16) || !(math.Abs(sum.EvalLoss-ref.EvalLoss) <= 2*curveF16) {
		return text, fmt.Errorf("it is further from the processor than %v", curveF16)
	}
	whole := s.provoked()
	var rows []report.Row
	sum, err = s.train(whole, trainer.Hooks{OnStep: func(r report.Row) error { rows = append(rows, r); return nil }})
	if err != nil {
		return text, fmt.Errorf("a scale of %v: %w", float64(provokedScale), err)
	}
	falls, rises, err := followed(rows, provokedInterval)
	text += fmt.Sprintf("; from 2^%.0f in %d steps the scale fell %d times and rose %d times, to 2^%.0f", math.Log2(provokedScale), len(rows), falls, rises,
		math.Log2(rows[len(rows)-1].More["loss_scale"]))
	if err != nil {
		return text, err
	}
	digest, err := s.interrupted(s.provoked(), int64(s.scaled/2))
	if err != nil {
		return text, err
	}
	if digest != sum.WeightsDigest {
		return text, fmt.Errorf("weights differ: whole %s, resumed %s", sum.WeightsDigest, digest)
	}
	return text + "; resumed: equal bits, " + digest[:12], nil
}

// provoked is a deterministic run in float16 whose gradients overflow.
func (s *suite) provoked() config.Config {
	c := s.config(s.scaled)
	c.Deterministic = true
	c.Train.DType, c.Train.LossScale, c.Train.ScaleInterval = "f16", provokedScale, provokedInterval
	return c
}

// followed checks that the scale of every step follows from the step before: halved where its gradient was not finite, doubled after interval
// finite steps in a row, else kept, within the limits. It must have done both, and risen after a fall.
func followed(rows []report.Row, interval int) (falls, rises int, err error) {
	good := 0
	for i, r := range rows {
		scale, ok := r.More["loss_scale"]
		if !ok || math.IsNaN(r.Loss) || math.IsInf(r.Loss, 0) {
			return falls, rises, fmt.Errorf("step %d has the loss %v and the loss scale %v", r.Step, r.Loss, scale)
		}
		next := scale
		if math.IsNaN(r.GradNorm) || math.IsInf(r.GradNorm, 0) {
			next, good = max(scale/2, optim.MinLossScale), 0
			falls++
		} else if good++; good == interval {
			next, good = min(scale*2, optim.MaxLossScale), 0
			rises++
		}
		if i+1 < len(rows) && rows[i+1].More["loss_scale"] != next {
			return falls, rises, fmt.Errorf("the scale of step %d is %v and its gradient norm %v: the next scale is %v, not %v", r.Step, scale, r.GradNorm,
				rows[i+1].More["loss_scale"], next)
		}
	}
	if falls < 2 || rises < 1 {
		return falls, rises, errors.New("a scale that overflows must fall, and rise once it fits")
	}
	return falls, rises, nil
}

// interrupted trains, stops after a step, goes on and returns the digest of the weights.
func (s *suite) interrupted(c config.Config, stop int64) (string, error) {
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	_, err := trainer.Run(ctx, c, trainer.Hooks{OnStep: func(r report.Row) error {
		if r.Step == stop {
			cancel()
		}
		return nil
	}})
	switch {
	case err == nil:
		return "", fmt.Errorf("the run that was to stop after step %d went on to its end", stop)
	case !errors.Is(err, trainer.ErrStopped):
		return "", fmt.Errorf("the run that was to stop after step %d: %w", stop, err)
	}
	c.Resume = true
	sum, err := s.train(c, trainer.Hooks{})
	if err != nil {
		return "", err
	}
	return sum.WeightsDigest, nil
}
