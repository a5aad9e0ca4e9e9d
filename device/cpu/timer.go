package cpu

import (
	"context"
	"slices"
	"time"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/device/cpu/pool"
	"github.com/bitsandbyes/bitsandbyes/internal/probe"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// timing are the marks of a stream: since it is synchronous, readings of the clock.
type timing struct {
	began time.Time
	marks []device.Mark
	meter pool.Meter
}

// Reserve implements device.Timer.
func (s *stream) Reserve(n int) error {
	s.timing.marks = slices.Grow(s.timing.marks[:0], n)
	s.dev.pool.Measure(&s.timing.meter)
	s.timing.began = time.Now()
	return nil
}

// Mark implements device.Timer.
func (s *stream) Mark() error {
	at := time.Since(s.timing.began)
	s.timing.marks = append(s.timing.marks, device.Mark{At: at, Busy: at + s.timing.meter.Extra()})
	return nil
}

// Marks implements device.Timer.
func (s *stream) Marks() ([]device.Mark, error) {
	s.dev.pool.Measure(nil)
	return s.timing.marks, nil
}

// Limits implements device.Limiter.
func (d *Device) Limits(ctx context.Context) (device.Limits, error) {
	// The largest working set is touched whole: no more than a quarter of what is free.
	var bytes int64
	if _, free := memory(); free > 0 {
		bytes = min(probe.DefaultBytes, free/4)
	}
	r, err := probe.Measure(ctx, probe.Options{Threads: d.threads, Bytes: bytes})
	if err != nil {
		return device.Limits{}, err
	}
	l := device.Limits{Flops: map[tensor.DType]float64{tensor.F32: r.FMA, tensor.F64: r.FMA / 2}, Notes: r.Level + " loops of internal/probe"}
	if r.Dot8 > 0 {
		l.Flops[tensor.I8] = r.Dot8
	}
	if r.DotBF16 > 0 {
		l.Flops[tensor.BF16] = r.DotBF16
	}
	for _, s := range r.Memory {
		l.Memory = append(l.Memory, device.Bandwidth{Bytes: s.Bytes, Read: s.Read, Copy: s.Copy})
	}
	return l, nil
}
