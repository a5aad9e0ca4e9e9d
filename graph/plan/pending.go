package plan

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Pending is a run that was enqueued. Runs may be waited for in any order, or not at all; the results of those that are not are lost when the plan
// is closed.
type Pending struct {
	plan *Plan
	res  Result
	slot *hostSlot // nil where the result is there already
	done device.Event
}

// hostSlot is host memory that outputs of one run are copied to.
type hostSlot struct {
	buf   device.Buffer
	bytes []byte
}

// maxSlot bounds the pinned memory of a run's outputs. Larger ones are waited for at once.
const maxSlot = 16 << 20

// Start is Run that does not wait for the device, where the device has queues: feeds are free for other use when it returns, the outputs
// come with Wait. Runs are done in the order in which they are started. Plans of one session, and sessions of one device, may be run from several goroutines:
// each run is whole, and waits for those before it.
func (p *Plan) Start(ctx context.Context, feed Feed) (*Pending, error) {
	if p.recorder != nil {
		res, err := p.record(ctx, feed)
		return &Pending{plan: p, res: res}, err
	}
	p.store.begin()
	defer p.store.end()
	arena, err := p.ready(ctx)
	if err != nil {
		return nil, err
	}
	slot, err := p.slots.take(p) // first: a run that has been enqueued changes variables
	if err != nil {
		return nil, err
	}
	main := p.dev.Stream(0)
	if err = p.upload(main, feed, arena); err == nil {
		err = p.execute(main)
	}
	if err != nil {
		p.slots.give(slot)
		return nil, err
	}
	if slot == nil {
		res, err := p.collect(main, arena)
		return &Pending{plan: p, res: res}, err
	}
	if err := p.copyOut(main, arena, slot); err != nil {
		return nil, err
	}
	return &Pending{plan: p, slot: slot, done: main.Record()}, nil
}

// Wait blocks until the run is done and returns its outputs.
func (r *Pending) Wait() (Result, error) {
	if r.slot == nil {
		return r.res, nil
	}
	p := r.plan
	if p.closed {
		return Result{}, fmt.Errorf("plan %q: closed before a run that was started was waited for", p.g.Name())
	}
	if err := p.dev.Stream(0).(device.Awaiter).Await(r.done); err != nil {
		return Result{}, p.fault(err)
	}
	res := Result{vals: make(map[graph.Value]*tensor.Tensor, len(p.outs))}
	at := int64(0)
	for i, v := range p.outs {
		t := tensor.New(v.Type())
		n := v.Type().Bytes()
		copy(t.Bytes(), r.slot.bytes[at:at+n])
		at += alignUp(n)
		res.vals[p.asked[i]] = t
	}
	p.slots.give(r.slot)
	r.res, r.slot = res, nil
	return res, nil
}

func (p *Plan) copyOut(s device.Stream, arena memory, slot *hostSlot) error {
	to := int64(0)
	for i, v := range p.outs {
		at, err := p.address(p.outAt[i], arena)
		if err != nil {
			return err
		}
		n := v.Type().Bytes()
		if n > 0 {
			if err := s.Copy(device.Ptr{Buf: slot.buf, Off: to}, at, n); err != nil {
				return fmt.Errorf("plan: output %d: %w", i, err)
			}
		}
		to += alignUp(n)
	}
	return nil
}

// hostSlots are the slots of a plan that no run uses.
type hostSlots struct {
	mu   sync.Mutex
	free []*hostSlot
	all  []*hostSlot
}

// take returns a slot for the outputs of p, nil where they cannot or should not be copied without waiting.
func (h *hostSlots) take(p *Plan) (*hostSlot, error) {
	host, ok := p.dev.(device.HostAllocator)
	if _, waits := p.dev.Stream(0).(device.Awaiter); !ok || !waits {
		return nil, nil
	}
	var need int64
	for _, v := range p.outs {
		need += alignUp(v.Type().Bytes())
	}
	if need == 0 || need > maxSlot {
		return nil, nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if n := len(h.free); n > 0 {
		s := h.free[n-1]
		h.free = h.free[:n-1]
		return s, nil
	}
	buf, err := host.AllocHost(need)
	if err != nil {
		return nil, fmt.Errorf("plan: host memory for outputs: %w", err)
	}
	b, ok := buf.(device.HostBuffer)
	if !ok {
		return nil, errors.Join(fmt.Errorf("plan: AllocHost of device %s gives no device.HostBuffer", p.dev.Info().Kind), buf.Free())
	}
	s := &hostSlot{buf, b.Bytes()}
	h.all = append(h.all, s)
	return s, nil
}

func (h *hostSlots) give(s *hostSlot) {
	if s == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.free = append(h.free, s)
}

// close frees the slots. A run that nobody has waited for still writes to its own: then the device is waited for.
func (h *hostSlots) close(p *Plan) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	var errs []error
	if len(h.free) < len(h.all) {
		errs = append(errs, p.fault(p.dev.Stream(0).Sync()))
	}
	for _, s := range h.all {
		errs = append(errs, s.buf.Free())
	}
	h.all, h.free = nil, nil
	return errors.Join(errs...)
}
