// Package queued gives tests a device with real queues: work that is enqueued is done when somebody waits for it, never earlier, and that of several
// streams in any order that their events allow. It has what GPUs have beside the least that a device must: recorded launches, an arena that grows in
// place, host memory of its own. A plan that reads a result too early, forgets that another lane still uses some bytes, or replays addresses that have
// changed, is wrong on it although the processor computes every kernel.
package queued

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"

	"github.com/bitsandbyes/bitsandbyes/device"
)

// Options of a device.
type Options struct {
	Total int64 // bytes of memory, which all of it is free; 0: a mebibyte of range for each growing buffer
	Host  int64 // bytes of host memory that it hands out at once; 0: no limit
	BF16  bool  // arithmetic in bfloat16 is the default
	// Order seeds the order of work on several streams. 0: what was enqueued on a stream is done only for the sake of work that must come after it.
	Order uint64
}

// Device is a queue in front of another device, whose own queue must be synchronous.
type Device struct {
	inner device.Device
	opts  Options

	turn   sync.Mutex // see Lock
	mu     sync.Mutex
	queues [lanes][]*item
	record *capture // in progress
	rng    *rand.Rand
	lost   error
	fails  int // launches until the device is lost; 0: never
	held   atomic.Int64
	pinned atomic.Int64 // of the host
	choice device.Arithmetic

	// Counts of what was asked for.
	Captures, Replays, Launches, Waits int
	Beside                             int // items done on streams other than the first
}

// lanes is how many streams there are.
const lanes = 3

// Lock implements device.Exclusive: what is enqueued while launches are recorded is part of the recording, whoever does it.
func (d *Device) Lock() { d.turn.Lock() }

// Unlock implements device.Exclusive.
func (d *Device) Unlock() { d.turn.Unlock() }

// Lanes implements device.Parallel.
func (d *Device) Lanes() int { return lanes }

// New puts a queue in front of a device.
func New(inner device.Device, o Options) *Device {
	return &Device{inner: inner, opts: o, rng: rand.New(rand.NewPCG(o.Order, 1))}
}

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
	i.MemoryTotal, i.MemoryFree = d.opts.Total, max(d.opts.Total-d.held.Load(), 0)
	return i
}

// Close implements device.Device.
func (d *Device) Close() error { return nil }

// Allocated implements device.Meter.
func (d *Device) Allocated() int64 { return d.held.Load() }

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
	if b.host {
		b.dev.pinned.Add(-b.size)
	} else {
		b.dev.held.Add(-b.size)
	}
	return errors.Join(b.dev.drainAll(), b.Buffer.Free())
}

// Grow implements device.Growable.
func (b *buffer) Grow(bytes int64) error {
	if bytes > b.Buffer.Size() {
		return fmt.Errorf("queued: %d bytes of %d that were reserved", bytes, b.Buffer.Size())
	}
	b.dev.held.Add(max(bytes-b.size, 0))
	b.size = max(b.size, bytes)
	return nil
}

// Alloc implements device.Device.
func (d *Device) Alloc(n int64) (device.Buffer, error) {
	if err := take(&d.held, n, d.opts.Total, "bytes"); err != nil {
		return nil, err
	}
	b, err := d.inner.Alloc(n)
	if err != nil {
		d.held.Add(-n)
		return nil, err
	}
	return struct{ device.Buffer }{&buffer{Buffer: b, dev: d, size: n}}, nil // neither growable nor of the host
}

// take counts n bytes more, of a total unless that is 0.
func take(held *atomic.Int64, n, total int64, what string) error {
	if now := held.Add(n); total > 0 && now > total {
		held.Add(-n)
		return fmt.Errorf("queued: %d %s do not fit beside %d of %d", n, what, now-n, total)
	}
	return nil
}

// PageBytes implements device.Reserver: sizes are not rounded.
func (d *Device) PageBytes() int64 { return 1 }

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
	if err := take(&d.pinned, n, d.opts.Host, "bytes of host memory"); err != nil {
		return nil, err
	}
	b, err := d.inner.Alloc(n)
	if err != nil {
		d.pinned.Add(-n)
		return nil, err
	}
	h := &buffer{Buffer: b, dev: d, host: true, size: n, bytes: make([]byte, n)}
	return h, nil
}
