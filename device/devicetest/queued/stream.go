package queued

import (
	"errors"

	"github.com/bitsandbyes/bitsandbyes/device"
)

// Stream implements device.Device.
func (d *Device) Stream(i int) device.Stream { return stream{d, i % lanes} }

type stream struct {
	dev *Device
	i   int
}

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
	if r := s.dev.record; r != nil && r.joined[s.i] {
		return errors.New("queued: an upload is not allowed while launches are recorded")
	}
	b := append([]byte(nil), src...)
	s.dev.enqueue(s.i, func() error { return s.dev.inner.Stream(0).Upload(inside(dst), b) })
	return nil
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
	s.dev.enqueue(s.i, func() error {
		inner := s.dev.inner.Stream(0)
		if err := inner.Copy(inside(dst), inside(src), n); err != nil {
			return err
		}
		if h, ok := dst.Buf.(*buffer); ok && h.host {
			return inner.Download(h.bytes[dst.Off:dst.Off+n], inside(dst))
		}
		return nil
	})
	return nil
}

// Record implements device.Stream.
func (s stream) Record() device.Event { return s.dev.enqueue(s.i, func() error { return nil }) }

// Await implements device.Awaiter: it does no more than it must.
func (s stream) Await(e device.Event) error {
	s.dev.waited()
	return s.dev.await(e.(*item))
}

// Wait implements device.Stream.
func (s stream) Wait(e device.Event) error { return s.dev.wait(s.i, e.(*item)) }

// Sync implements device.Stream.
func (s stream) Sync() error {
	s.dev.waited()
	return s.dev.drain(s.i)
}

func (d *Device) waited() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.Waits++
}

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
func (k kernel) Launch(s device.Stream, in, out []device.Ptr, scratch device.Ptr) error {
	a, b, c := insides(in), insides(out), inside(scratch)
	k.dev.enqueue(s.(stream).i, func() error {
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
	return nil
}
