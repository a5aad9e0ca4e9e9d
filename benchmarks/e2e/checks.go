package main

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/device/cuda/nvrtc"
	"github.com/bitsandbyes/bitsandbyes/trainer"
	"github.com/bitsandbyes/bitsandbyes/trainer/report"
)

// Limits of the mean difference of losses between the device and the processor in float32: of float32, where the order of additions differs and
// 8-bit states make steps of it, and of bfloat16, whose numbers have three digits.
const (
	curveF32  = 0.02
	curveBF16 = 0.06
)

// curve compares the losses of the built-in run with those of the processor in float32.
func (s *suite) curve() (string, error) {
	reference := s.config(s.steps)
	reference.Device, reference.Train.DType = "cpu", "f32"
	want, ref, err := s.losses(reference)
	if err != nil {
		return "", err
	}
	text := fmt.Sprintf("%d steps; processor f32: %.3f to %.3f, held out %.4f", len(want), want[0], want[len(want)-1], ref.EvalLoss)
	var errs []error
	for dtype, limit := range map[string]float64{"f32": curveF32, "bf16": curveBF16} {
		c := s.config(s.steps)
		c.Train.DType = dtype
		got, sum, err := s.losses(c)
		if err != nil {
			return text, fmt.Errorf("%s: %w", dtype, err)
		}
		mean, most := difference(got, want)
		text += fmt.Sprintf("; %s: differs by %.4f in the mean, %.4f at most, held out %.4f", dtype, mean, most, sum.EvalLoss)
		if !(mean <= limit) || !(math.Abs(sum.EvalLoss-ref.EvalLoss) <= 2*limit) {
			errs = append(errs, fmt.Errorf("%s is further from the processor than %v", dtype, limit))
		}
	}
	return text, errors.Join(errs...)
}

func difference(a, b []float64) (mean, most float64) {
	if len(a) != len(b) {
		return math.NaN(), math.NaN()
	}
	for i := range a {
		d := math.Abs(a[i] - b[i])
		mean += d / float64(len(a))
		most = max(most, d)
	}
	return mean, most
}

// resume stops a deterministic run and goes on: the bits are those of a run that was not stopped, and of its repetition.
func (s *suite) resume() (string, error) {
	const steps, stop = 24, 11
	var digests []string
	for range 2 {
		c := s.config(steps)
		c.Deterministic = true
		sum, err := s.train(c, trainer.Hooks{})
		if err != nil {
			return "", err
		}
		digests = append(digests, sum.WeightsDigest)
	}
	c := s.config(steps)
	c.Deterministic = true
	resumed, err := s.interrupted(c, stop)
	if err != nil {
		return "", err
	}
	digests = append(digests, resumed)
	if digests[0] != digests[1] || digests[0] != digests[2] {
		return "", fmt.Errorf("weights differ: whole %s, again %s, resumed at step %d %s", digests[0], digests[1], stop, digests[2])
	}
	return fmt.Sprintf("%d steps, stopped at %d: equal bits, %s", steps, stop, digests[0][:12]), nil
}

// steady trains for thousands of steps: neither what is allocated nor what is free of the device changes after the first hundred.
func (s *suite) steady() (string, error) {
	dev, err := s.open()
	if err != nil {
		return "", err
	}
	c := s.config(s.long)
	var early, late, heldEarly, heldLate int64
	began := time.Now()
	_, err = s.train(c, trainer.Hooks{Device: dev, OnStep: func(r report.Row) error {
		switch r.Step {
		case int64(min(100, s.long/2)):
			early, heldEarly = dev.Info().MemoryFree, r.MemoryBytes
		case int64(s.long):
			late, heldLate = dev.Info().MemoryFree, r.MemoryBytes
		}
		return nil
	}})
	took := time.Since(began)
	if err = errors.Join(err, dev.Close()); err != nil {
		return "", err
	}
	text := fmt.Sprintf("%d steps in %.1f s; allocated %s, then %s; free %s, then %s", s.long, took.Seconds(), report.Bytes(heldEarly), report.Bytes(heldLate),
		report.Bytes(early), report.Bytes(late))
	if heldEarly != heldLate {
		return text, errors.New("what is allocated has changed")
	}
	if dev.Info().Kind != "cpu" && early-late > 4<<20 {
		return text, errors.New("free memory has fallen")
	}
	return text, nil
}

// planned compares the fall of free memory while a model trains with the plan. Libraries, kernels and graphs are there from an earlier run of
// the same process.
func (s *suite) planned() (string, error) {
	dev, err := s.open()
	if err != nil {
		return "", err
	}
	defer func() { _ = dev.Close() }() // what counts was measured
	o := trainer.BenchOptions{Shape: s.shape, Batch: 1, Seq: 1024, Steps: 3, Warmup: 2, Profile: -1}
	before, least := int64(0), int64(math.MaxInt64)
	var r *trainer.BenchResult
	for range 2 {
		before, least = dev.Info().MemoryFree, math.MaxInt64
		r, err = trainer.Bench(s.ctx, o, trainer.Hooks{Device: dev, OnStep: func(report.Row) error {
			least = min(least, dev.Info().MemoryFree)
			return nil
		}})
		if err != nil {
			return "", err
		}
	}
	fall := before - least
	text := fmt.Sprintf("%s: planned %s, allocated %s, free memory fell by %s; libraries, kernels and graphs %s beside it", s.shape, report.Bytes(r.PlannedBytes),
		report.Bytes(r.PeakBytes), report.Bytes(fall), report.Bytes(r.OverheadBytes))
	if _, ok := dev.(device.Meter); !ok {
		return text + " (of a processor nothing follows from free memory)", nil
	}
	if limit := max(r.PlannedBytes/50, 64<<20); fall > r.PlannedBytes+limit || fall < r.PlannedBytes-limit {
		return text, fmt.Errorf("the fall is further from the plan than %s", report.Bytes(limit))
	}
	return text, nil
}

// offload compares steps for which the inputs of recomputed blocks wait in host memory with the same steps without: the plan and what the device hands out
// are smaller by most of what waits, and the losses are the same bits.
func (s *suite) offload() (string, error) {
	dev, err := s.open()
	if err != nil {
		return "", err
	}
	defer func() { _ = dev.Close() }() // what counts was measured
	if _, ok := dev.(device.HostAllocator); !ok {
		return "this device computes in host memory: there is nothing to move", nil
	}
	o := trainer.BenchOptions{Shape: s.shape, Batch: 2, Seq: 1024, Steps: 4, Warmup: 2, Profile: -1, Checkpointing: "on"}
	o.Execution.Deterministic = true
	var results [2]*trainer.BenchResult
	var losses [2][]float64
	for i, way := range []string{"off", "inputs"} {
		o.Offload = way
		results[i], err = trainer.Bench(s.ctx, o, trainer.Hooks{Device: dev, OnStep: func(r report.Row) error {
			losses[i] = append(losses[i], r.Loss)
			return nil
		}})
		if err != nil {
			return "", fmt.Errorf("offload %s: %w", way, err)
		}
	}
	whole, moved := results[0], results[1]
	text := fmt.Sprintf("%s: planned %s and with inputs of blocks in host memory %s, allocated %s and %s, %s wait there; step %.4f s and %.4f s", s.shape,
		report.Bytes(whole.PlannedBytes), report.Bytes(moved.PlannedBytes), report.Bytes(whole.PeakBytes), report.Bytes(moved.PeakBytes),
		report.Bytes(moved.PlannedAway), whole.StepSeconds, moved.StepSeconds)
	var errs []error
	if !slices.Equal(losses[0], losses[1]) {
		errs = append(errs, fmt.Errorf("losses differ: %v and %v", losses[0], losses[1]))
	}
	if fall := whole.PlannedBytes - moved.PlannedBytes; 2*fall < moved.PlannedAway || moved.PlannedAway == 0 {
		errs = append(errs, fmt.Errorf("the plan falls by %s, less than half of what waits elsewhere", report.Bytes(fall)))
	}
	if moved.PeakBytes > moved.PlannedBytes {
		errs = append(errs, errors.New("more is allocated than was planned"))
	}
	return text, errors.Join(errs...)
}

// two runs two processes at once: both end, with the bits of one alone.
func (s *suite) two() (string, error) {
	const steps = 40
	alone, err := s.child(steps)
	if err != nil {
		return "", err
	}
	var wg sync.WaitGroup
	digests, errs := make([]string, 2), make([]error, 2)
	for i := range digests {
		wg.Go(func() { digests[i], errs[i] = s.child(steps) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return "", err
	}
	if digests[0] != alone || digests[1] != alone {
		return "", fmt.Errorf("weights differ: alone %s, together %s and %s", alone, digests[0], digests[1])
	}
	return fmt.Sprintf("%d steps each: equal bits, %s", steps, alone[:12]), nil
}

// cold starts processes whose caches are empty.
func (s *suite) cold() (string, error) {
	var took []string
	digest := ""
	for i := range s.starts {
		cache := filepath.Join(s.dir, fmt.Sprintf("cache%d", i))
		if err := os.Mkdir(cache, 0o700); err != nil {
			return "", err
		}
		began := time.Now()
		d, err := s.child(2, nvrtc.CacheVariable+"="+cache, "CUDA_CACHE_DISABLE=1")
		if err != nil {
			return "", fmt.Errorf("start %d: %w", i+1, err)
		}
		if i > 0 && d != digest {
			return "", fmt.Errorf("start %d gives other bits", i+1)
		}
		digest = d
		took = append(took, fmt.Sprintf("%.1f", time.Since(began).Seconds()))
	}
	return "seconds to two steps and out: " + strings.Join(took, " "), nil
}

// child runs this program with --child and returns the digest that it prints.
func (s *suite) child(steps int, env ...string) (string, error) {
	exe, err := os.Executable()
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(s.ctx, exe, "--device", s.device, "--rows", fmt.Sprint(s.rows), "--seq", fmt.Sprint(s.seq), "--child", fmt.Sprint(steps))
	cmd.Env = append(os.Environ(), env...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, strings.TrimSpace(stderr.String()))
	}
	return strings.TrimSpace(string(out)), nil
}
