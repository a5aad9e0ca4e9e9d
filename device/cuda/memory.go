package cuda

import (
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/device/cuda/driver"
	"github.com/bitsandbyes/bitsandbyes/internal/ffi"
)

// region is memory at a fixed address: what Buffer, HostBuffer and Arena have in common.
type region struct {
	dev     *Device
	base    driver.Addr
	size    atomic.Int64 // grows in an Arena
	freed   atomic.Bool
	counted int64 // bytes in Device.allocated
	release func() error
}

// Size implements device.Buffer.
func (r *region) Size() int64 { return r.size.Load() }

// Free implements device.Buffer. It may wait for the device.
func (r *region) Free() error {
	if r.freed.Swap(true) {
		if r.dev.lost.Load() != nil {
			return nil // Close may have freed it first
		}
		return errors.New("cuda: a buffer was freed twice")
	}
	r.dev.forget(r)
	if r.dev.lost.Load() != nil {
		return nil // the memory went with the device
	}
	return r.dev.enter(r.release)
}

func (r *region) memory() *region { return r }

func (d *Device) remember(r *region) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return errClosed
	}
	d.live[r] = struct{}{}
	d.allocated += r.counted
	return nil
}

func (d *Device) forget(r *region) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.live, r)
	d.allocated -= r.counted
}

// Buffer is device memory.
type Buffer struct{ region }

// Alloc implements device.Device. Memory is aligned to 256 bytes.
func (d *Device) Alloc(bytes int64) (device.Buffer, error) {
	if bytes < 0 || bytes > 1<<50 {
		return nil, fmt.Errorf("cuda: a buffer of %d bytes", bytes)
	}
	b := &Buffer{}
	b.dev, b.counted = d, bytes
	b.size.Store(bytes)
	err := d.enter(func() error {
		at, err := d.api.Alloc(max(bytes, 1))
		if err != nil {
			return d.noMemory(err, bytes)
		}
		b.base = at
		b.release = func() error { return d.api.Free(at) }
		if err := d.clear(at, bytes); err != nil {
			return errors.Join(err, d.api.Free(at))
		}
		return d.remember(&b.region)
	})
	if err != nil {
		return nil, err
	}
	return b, nil
}

// clear zeroes memory that no work uses yet, and waits for it.
func (d *Device) clear(at driver.Addr, bytes int64) error {
	if bytes == 0 {
		return nil
	}
	s, err := d.stream(setupStream)
	if err != nil {
		return err
	}
	if err := d.api.Set(at, 0, bytes, s.handle); err != nil {
		return err
	}
	return d.api.Sync(s.handle)
}

// noMemory says how much there is.
func (d *Device) noMemory(err error, bytes int64) error {
	var e *driver.Error
	if !errors.As(err, &e) || !e.OutOfMemory() {
		return err
	}
	d.mu.Lock()
	held := d.allocated
	d.mu.Unlock()
	free, total, memErr := d.api.Memory()
	if memErr != nil {
		return errors.Join(err, memErr)
	}
	return fmt.Errorf("%s: %s of device memory do not fit: %s are free of %s, this process holds %s in buffers (%w)", d.name, size(bytes), size(free), size(total),
		size(held), err)
}

// size writes bytes for people.
func size(n int64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%.2f GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	}
	return fmt.Sprintf("%d bytes", n)
}

// HostBuffer is pinned memory of the host, which kernels and copies use at its device address.
type HostBuffer struct {
	region
	bytes []byte
}

// Bytes implements device.HostBuffer.
func (b *HostBuffer) Bytes() []byte { return b.bytes }

// AllocHost implements device.HostAllocator. Pages are zero and aligned to 4096 bytes.
func (d *Device) AllocHost(bytes int64) (device.Buffer, error) {
	if bytes < 0 || bytes > 1<<50 {
		return nil, fmt.Errorf("cuda: a host buffer of %d bytes", bytes)
	}
	b := &HostBuffer{}
	b.dev = d
	b.size.Store(bytes)
	err := d.enter(func() error {
		host, at, err := d.api.AllocHost(max(bytes, 1))
		if err != nil {
			return fmt.Errorf("%s of pinned host memory: %w", size(bytes), err)
		}
		b.base, b.bytes = at, ffi.Memory(host, bytes)
		clear(b.bytes)
		b.release = func() error {
			b.bytes = nil
			return d.api.FreeHostMemory(host)
		}
		return d.remember(&b.region)
	})
	if err != nil {
		return nil, err
	}
	return b, nil
}

// address checks that n bytes at p are inside a buffer of this device.
func (d *Device) address(p device.Ptr, n int64) (Addr, error) {
	m, ok := p.Buf.(interface{ memory() *region })
	if !ok {
		if p.Buf == nil {
			return 0, errors.New("cuda: an address without a buffer")
		}
		return 0, fmt.Errorf("cuda: a buffer of another device (%T)", p.Buf)
	}
	r := m.memory()
	if r.dev != d {
		return 0, errors.New("cuda: a buffer of another GPU")
	}
	if r.freed.Load() {
		return 0, errors.New("cuda: a buffer that was freed")
	}
	if size := r.size.Load(); p.Off < 0 || n < 0 || p.Off > size-n {
		return 0, fmt.Errorf("cuda: bytes [%d, %d) of a buffer of %d", p.Off, p.Off+n, size)
	}
	return Addr(r.base) + Addr(p.Off), nil
}

// Allocated implements device.Meter.
func (d *Device) Allocated() int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.allocated
}

// Overhead implements device.Meter.
func (d *Device) Overhead() int64 {
	free, err := d.memoryFree()
	if err != nil {
		return 0
	}
	return d.free0 - free - d.Allocated()
}
