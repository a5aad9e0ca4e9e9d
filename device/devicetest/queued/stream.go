package queued

import (
	"errors"

	"github.com/bitsandbyes/bitsandbyes/device"
)

// Stream implements device.Device. There is one queue.
func (d *Device) Stream(int) device.Stream { return stream{d} }

type stream struct{ dev *Device }

// inside returns the address that the inner device knows.
func inside(p device.Ptr) device.Ptr {
	switch b := p.Buf.(type) {
	case *buffer:
		p.Buf = b.Buffer
	case struct{ device.Buffer }:
		p.Buf = b.Buffer.(*buffer).Buffer
	}
	return p
}

func insides(ps []device.Ptr) []device.Ptr {
	out := make([]device.Ptr, len(ps))
	for i, p := range ps {
		out[i] = inside(p)
	}
	return out
}

// Upload implements device.Stream.
func (s stream) Upload(dst device.Ptr, src []byte) error {
	if s.dev.record != nil {
		return errors.New("queued: an upload is not allowed while launches are recorded")
	}
	b := append([]byte(nil), src...)
	return s.dev.enqueue(func() error { return s.dev.inner.Stream(0).Upload(inside(dst), b) })
}

// Download implements device.Stream.
func (s stream) Download(dst []byte, src device.Ptr) error {
	if err := s.Sync(); err != nil {
		return err
	}
	return s.dev.inner.Stream(0).Download(dst, inside(src))
}

// Copy implements device.Stream.
func (s stream) Copy(dst, src device.Ptr, n int64) error {
	return s.dev.enqueue(func() error {
		inner := s.dev.inner.Stream(0)
		if err := inner.Copy(inside(dst), inside(src), n); err != nil {
			return err
		}
		if h, ok := dst.Buf.(*buffer); ok && h.host {
			return inner.Download(h.bytes[dst.Off:dst.Off+n], inside(dst))
		}
		return nil
	})
}

// event is how much was enqueued.
type event struct{ done *bool }

// Record implements device.Stream.
func (s stream) Record() device.Event {
	done := new(bool)
	_ = s.dev.enqueue(func() error { *done = true; return nil }) // never fails
	return event{done}
}

// Await implements device.Awaiter: it does no more than it must.
func (s stream) Await(e device.Event) error {
	d := s.dev
	d.Waits++
	d.mu.Lock()
	defer d.mu.Unlock()
	for !*e.(event).done && len(d.queue) > 0 && d.lost == nil {
		f := d.queue[0]
		d.queue = d.queue[1:]
		d.lost = f()
	}
	return d.lost
}

// Wait implements device.Stream: one queue is in order.
func (s stream) Wait(device.Event) error { return nil }

// Sync implements device.Stream.
func (s stream) Sync() error { s.dev.Waits++; return s.dev.drain() }

type kernel struct {
	device.Kernel
	dev *Device
}

// Kernel implements device.Device.
func (d *Device) Kernel(s device.Spec) (device.Kernel, error) {
	k, err := d.inner.Kernel(s)
	if err != nil {
		return nil, err
	}
	return kernel{k, d}, nil
}

// KernelName implements device.Named.
func (k kernel) KernelName() string {
	if n, ok := k.Kernel.(device.Named); ok {
		return n.KernelName()
	}
	return "kernel"
}

// Launch implements device.Kernel.
func (k kernel) Launch(_ device.Stream, in, out []device.Ptr, scratch device.Ptr) error {
	a, b, c := insides(in), insides(out), inside(scratch)
	return k.dev.enqueue(func() error {
		d := k.dev
		d.Launches++
		if d.fails > 0 {
			if d.fails--; d.fails == 0 {
				return ErrLost
			}
		}
		if err := k.Kernel.Launch(d.inner.Stream(0), a, b, c); err != nil {
			return err
		}
		for _, p := range out {
			if h, ok := p.Buf.(*buffer); ok && h.host {
				if err := d.inner.Stream(0).Download(h.bytes, device.Ptr{Buf: h.Buffer}); err != nil {
					return err
				}
			}
		}
		return nil
	})
}
