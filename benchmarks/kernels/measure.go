package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// rotate is how many bytes the operands of memory-bound work have together, at least: more than any last cache.
const rotate = 512 << 20

// bench is work ready to be timed: each call does it once.
type bench struct {
	call  func(ctx context.Context) error
	close func() error
}

// best is the least mean time of a call, by a clock, over rounds of the given length, after two calls that do not count.
func (b *bench) best(ctx context.Context, now func() time.Duration, rounds int, each time.Duration) (time.Duration, error) {
	for range 2 {
		if err := b.call(ctx); err != nil {
			return 0, err
		}
	}
	least := time.Duration(math.MaxInt64)
	for range rounds {
		start, calls := now(), 0
		for {
			if err := errors.Join(b.call(ctx), ctx.Err()); err != nil {
				return 0, err
			}
			calls++
			if took := now() - start; took >= each {
				least = min(least, took/time.Duration(calls))
				break
			}
		}
	}
	return least, nil
}

// launches is a kernel with one or several sets of operands.
type launches struct {
	dev     device.Device
	kernel  device.Kernel
	ins     [][]device.Ptr
	outs    [][]device.Ptr
	scratch device.Ptr
	buffers []device.Buffer
	turn    int
}

// newLaunches makes the kernel of op for operands like in, in as many copies as have total bytes together (one, if total is 0). Only
// the operands in vary differ between copies, the outputs always do; what the op updates in place must be among them. A nil operand is
// absent.
func newLaunches(dev device.Device, op graph.Op, in []*tensor.Tensor, total int64, vary ...int) (*bench, error) {
	s := device.Spec{Op: op}
	for _, x := range in {
		var t tensor.Type // of an absent operand
		if x != nil {
			t = x.Type()
		}
		s.In = append(s.In, t)
	}
	var err error
	if s.Out, err = op.Infer(s.In); err != nil {
		return nil, err
	}
	l := &launches{dev: dev}
	if l.kernel, err = dev.Kernel(s); err != nil {
		return nil, fmt.Errorf("%s%v: %w", op.Name(), s.In, err)
	}
	err = l.fill(op, s, in, copies(op, s, total, vary), vary)
	if err == nil && l.kernel.Scratch() > 0 {
		l.scratch, err = l.alloc(l.kernel.Scratch())
	}
	if err != nil {
		return nil, errors.Join(err, l.close())
	}
	return &bench{call: l.launch, close: l.close}, nil
}

// copies is how many sets of operands have total bytes.
func copies(op graph.Op, s device.Spec, total int64, vary []int) int {
	var each int64
	for _, i := range vary {
		each += s.In[i].Bytes()
	}
	if _, inPlace := op.(graph.Aliaser); !inPlace {
		for _, t := range s.Out {
			each += t.Bytes()
		}
	}
	if each == 0 || total == 0 {
		return 1
	}
	return int((total + each - 1) / each)
}

func (l *launches) fill(op graph.Op, s device.Spec, in []*tensor.Tensor, n int, vary []int) error {
	differs := make([]bool, len(in))
	for _, i := range vary {
		differs[i] = true
	}
	for set := range n {
		ins := make([]device.Ptr, len(in))
		for i, x := range in {
			if x == nil {
				continue
			}
			if set > 0 && !differs[i] {
				ins[i] = l.ins[0][i]
				continue
			}
			p, err := l.alloc(x.Type().Bytes())
			if err != nil {
				return err
			}
			if err := l.dev.Stream(0).Upload(p, x.Bytes()); err != nil {
				return err
			}
			ins[i] = p
		}
		outs := make([]device.Ptr, len(s.Out))
		for i, t := range s.Out {
			var err error
			if a, ok := op.(graph.Aliaser); ok && i < len(a.Alias()) {
				outs[i] = ins[a.Alias()[i].In]
			} else if outs[i], err = l.alloc(t.Bytes()); err != nil {
				return err
			}
		}
		l.ins, l.outs = append(l.ins, ins), append(l.outs, outs)
	}
	return nil
}

func (l *launches) alloc(bytes int64) (device.Ptr, error) {
	b, err := l.dev.Alloc(bytes)
	if err != nil {
		return device.Ptr{}, err
	}
	l.buffers = append(l.buffers, b)
	return device.Ptr{Buf: b}, nil
}

func (l *launches) launch(context.Context) error {
	l.turn = (l.turn + 1) % len(l.ins)
	return l.kernel.Launch(l.dev.Stream(0), l.ins[l.turn], l.outs[l.turn], l.scratch)
}

func (l *launches) close() error {
	var errs []error
	for _, b := range l.buffers {
		errs = append(errs, b.Free())
	}
	l.buffers = nil
	return errors.Join(errs...)
}
