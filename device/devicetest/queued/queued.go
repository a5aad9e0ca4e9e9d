// Package queued gives tests a device with a real queue: work that is enqueued is done when somebody waits for it, never earlier. It has what
// GPUs have beside the least that a device must: recorded launches, an arena that grows in place, host memory of its own. A plan that reads
// a result too early, or replays addresses that have changed, is wrong on it although the processor computes every kernel.
package queued

import (
	"errors"
	"fmt"
	"sync"

	"github.com/bitsandbyes/bitsandbyes/device"
)

// Options of a device.
type Options struct {
	Total int64 // bytes of memory, which all of it is free; 0: a mebibyte of range for each growing buffer
	BF16  bool  // arithmetic in bfloat16 is the default
}

// Device is a queue in front of another device, whose own queue must be synchronous.
type Device struct {
	inner device.Device
	opts  Options

	mu     sync.Mutex
	queue  []func() error
	record *[]func() error // of a capture in progress
	lost   error
	fails  int // launches until the device is lost; 0: never
	held   int64
	choice device.Arithmetic

	// Counts of what was asked for.
	Captures, Replays, Launches, Waits int
}

// New puts a queue in front of a device.
func New(inner device.Device, o Options) *Device { return &Device{inner: inner, opts: o} }

// LoseAfter makes the nth launch from now on, and all work after it, fail: what a driver reports of a lost device.
func (d *Device) LoseAfter(launches int) { d.fails = launches }

// Choice is what SetArithmetic was told last.
func (d *Device) Choice() device.Arithmetic { return d.choice }

// SetArithmetic implements device.Chooser.
func (d *Device) SetArithmetic(a device.Arithmetic) error { d.choice = a; return nil }

// ErrLost is the error of a lost device.
var ErrLost = errors.New("queued: the device is lost")

// Info implements device.Device.
func (d *Device) Info() device.Info {
	i := d.inner.Info()
	i.Name, i.Kind, i.BF16 = "queue before "+i.Name, "queued", d.opts.BF16
	i.MemoryTotal, i.MemoryFree = d.opts.Total, max(d.opts.Total-d.held, 0)
	return i
}

// Close implements device.Device.
func (d *Device) Close() error { return nil }

// Allocated implements device.Meter.
func (d *Device) Allocated() int64 { return d.held }

// Overhead implements device.Meter.
func (d *Device) Overhead() int64 { return 0 }

// buffer is memory of the device; host marks that of AllocHost.
type buffer struct {
	device.Buffer
	dev   *Device
	host  bool
	bytes []byte
	size  int64
}

// Size implements device.Buffer.
func (b *buffer) Size() int64 { return b.size }

// Bytes implements device.HostBuffer.
func (b *buffer) Bytes() []byte { return b.bytes }

// Free implements device.Buffer: as a driver does, it waits for the queue.
func (b *buffer) Free() error {
	if !b.host {
		b.dev.held -= b.size
	}
	return errors.Join(b.dev.drain(), b.Buffer.Free())
}

// Grow implements device.Growable.
func (b *buffer) Grow(bytes int64) error {
	if bytes > b.Buffer.Size() {
		return fmt.Errorf("queued: %d bytes of %d that were reserved", bytes, b.Buffer.Size())
	}
	b.dev.held += max(bytes-b.size, 0)
	b.size = max(b.size, bytes)
	return nil
}

// Alloc implements device.Device.
func (d *Device) Alloc(n int64) (device.Buffer, error) {
	if d.opts.Total > 0 && d.held+n > d.opts.Total {
		return nil, fmt.Errorf("queued: %d bytes do not fit beside %d of %d", n, d.held, d.opts.Total)
	}
	b, err := d.inner.Alloc(n)
	if err != nil {
		return nil, err
	}
	d.held += n
	return struct{ device.Buffer }{&buffer{Buffer: b, dev: d, size: n}}, nil // neither growable nor of the host
}

// Reserve implements device.Reserver.
func (d *Device) Reserve(limit int64) (device.Growable, error) {
	if limit <= 0 {
		limit = 1 << 20
	}
	b, err := d.inner.Alloc(limit)
	if err != nil {
		return nil, err
	}
	return &buffer{Buffer: b, dev: d}, nil
}

// AllocHost implements device.HostAllocator.
func (d *Device) AllocHost(n int64) (device.Buffer, error) {
	b, err := d.inner.Alloc(n)
	if err != nil {
		return nil, err
	}
	h := &buffer{Buffer: b, dev: d, host: true, size: n, bytes: make([]byte, n)}
	return h, nil
}

func (d *Device) enqueue(f func() error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.record != nil {
		*d.record = append(*d.record, f)
		return nil
	}
	d.queue = append(d.queue, f)
	return nil
}

// drain does what is in the queue.
func (d *Device) drain() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.record != nil {
		return errors.New("queued: waiting is not allowed while launches are recorded")
	}
	for len(d.queue) > 0 && d.lost == nil {
		f := d.queue[0]
		d.queue = d.queue[1:]
		d.lost = f()
	}
	return d.lost
}

// Capture implements device.Capturer.
func (d *Device) Capture(_ device.Stream, record func() error) (device.Graph, error) {
	d.Captures++
	var list []func() error
	d.record = &list
	err := record()
	d.record = nil
	if err != nil {
		return nil, err
	}
	return &recorded{dev: d, list: list}, nil
}

type recorded struct {
	dev  *Device
	list []func() error
	free bool
}

// Launch implements device.Graph.
func (r *recorded) Launch(device.Stream) error {
	if r.free {
		return errors.New("queued: a freed graph is launched")
	}
	r.dev.Replays++
	for _, f := range r.list {
		if err := r.dev.enqueue(f); err != nil {
			return err
		}
	}
	return nil
}

// Free implements device.Graph.
func (r *recorded) Free() error {
	r.free = true
	return r.dev.drain()
}
