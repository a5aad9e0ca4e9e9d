package cuda

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Limits implements device.Limiter: copies and reads of 32 MiB, which stay in the last cache of large devices, and of 1 GiB; products of
// growing size until one takes long enough to be measured.
func (d *Device) Limits(ctx context.Context) (device.Limits, error) {
	l := device.Limits{Flops: map[tensor.DType]float64{}, Notes: "own loops over memory, products of square matrices of zeroes, timed by events"}
	for _, n := range []int64{32 << 20, 1 << 30} {
		free, err := d.memoryFree()
		if err != nil {
			return l, err
		}
		if n > free/4 {
			break
		}
		b, err := d.bandwidth(ctx, n)
		if err != nil {
			return l, fmt.Errorf("measuring memory: %w", err)
		}
		l.Memory = append(l.Memory, b)
	}
	for _, t := range []tensor.DType{tensor.F32, tensor.BF16, tensor.F16} {
		if t == tensor.BF16 && d.capability < 80 {
			continue
		}
		rate, err := d.arithmeticRate(ctx, t)
		if errors.Is(err, device.ErrNoKernel) {
			continue
		}
		if err != nil {
			return l, fmt.Errorf("measuring products of %v: %w", t, err)
		}
		l.Flops[t] = rate
	}
	return l, nil
}

// fastest runs f a few times on a stream and returns the shortest time, ending early when the whole takes long.
func (d *Device) fastest(ctx context.Context, s device.Stream, f func() error) (time.Duration, error) {
	best, spent := time.Duration(0), time.Duration(0)
	timer := s.(device.Timer)
	for i := range 8 {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		if err := errors.Join(timer.Reserve(2), timer.Mark(), f(), timer.Mark()); err != nil {
			return 0, err
		}
		m, err := timer.Marks()
		if err != nil {
			return 0, err
		}
		took := m[1].At - m[0].At
		spent += took
		if i == 0 || took < best {
			best = took
		}
		if spent > 100*time.Millisecond && i > 0 {
			break
		}
	}
	return best, nil
}

func (d *Device) bandwidth(ctx context.Context, n int64) (out device.Bandwidth, err error) {
	d.Lock()
	defer d.Unlock()
	s := d.Stream(0)
	a, err := d.Alloc(n)
	if err != nil {
		return out, err
	}
	defer func() { err = errors.Join(err, a.Free()) }()
	p, err := d.address(device.Ptr{Buf: a}, n)
	if err != nil {
		return out, err
	}
	run := func(name string, bytes int64, args ...any) (float64, error) {
		f, err := d.Function(Program{Files: []string{"probe.cu"}}, name)
		if err != nil {
			return 0, err
		}
		blocks, err := d.Resident(f, 256, 0)
		if err != nil {
			return 0, err
		}
		st, ok := s.(*Stream)
		if !ok {
			return 0, errors.New("cuda: no queue")
		}
		took, err := d.fastest(ctx, s, func() error {
			return d.enter(func() error { return (&Call{Dev: d, Stream: st}).Launch(f, Rows(blocks, 256), args...) })
		})
		return float64(bytes) / took.Seconds(), err
	}
	out.Bytes = n
	half := n / 2
	if out.Read, err = run("probe_read", n, p, n/16, p); err != nil {
		return out, err
	}
	out.Copy, err = run("probe_copy", n, p+Addr(half), p, half/16)
	return out, err
}

// arithmeticRate is the rate of a square product in operations a second.
func (d *Device) arithmeticRate(ctx context.Context, t tensor.DType) (float64, error) {
	rate := 0.0
	for n := 512; n <= 8192; n *= 2 {
		took, err := d.timeProduct(ctx, t, n)
		if err != nil {
			return 0, err
		}
		rate = max(rate, 2*float64(n)*float64(n)*float64(n)/took.Seconds())
		if took > 20*time.Millisecond {
			break
		}
	}
	return rate, nil
}

func (d *Device) timeProduct(ctx context.Context, t tensor.DType, n int) (took time.Duration, err error) {
	typ := tensor.T(t, n, n)
	k, err := d.Kernel(device.Spec{Op: ops.MatMul{}, In: []tensor.Type{typ, typ}, Out: []tensor.Type{typ}})
	if err != nil {
		return 0, err
	}
	var at [4]device.Ptr
	for i, bytes := range []int64{typ.Bytes(), typ.Bytes(), typ.Bytes(), k.Scratch()} {
		b, err := d.Alloc(bytes)
		if err != nil {
			return 0, err
		}
		defer func() { err = errors.Join(err, b.Free()) }()
		at[i] = device.Ptr{Buf: b}
	}
	d.Lock()
	defer d.Unlock()
	s := d.Stream(0)
	return d.fastest(ctx, s, func() error { return k.Launch(s, at[:2], at[2:3], at[3]) })
}
