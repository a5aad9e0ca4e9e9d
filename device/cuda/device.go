package cuda

import (
	"errors"

	"github.com/bitsandbyes/bitsandbyes/device"
)

// Device is one opened GPU.
type Device struct{}

// Stream is an in-order queue of the device.
type Stream struct{ dev *Device }

// Function is a compiled kernel.
type Function struct{}

// Function compiles a program, or finds it compiled, and returns one of its kernels.
func (d *Device) Function(p Program, name string) (*Function, error) {
	return nil, errors.New("cuda: no driver")
}

// Launch enqueues a kernel. args are Addr, int32, uint32, int64, uint64, float32, float64 or a pointer to a struct without Go pointers,
// in the order of the kernel's parameters.
func (c *Call) Launch(f *Function, g Geometry, args ...any) error {
	return errors.New("cuda: no driver")
}

// Zero enqueues clearing n bytes.
func (c *Call) Zero(at Addr, n int64) error { return errors.New("cuda: no driver") }

// Copy enqueues copying n bytes.
func (c *Call) Copy(dst, src Addr, n int64) error { return errors.New("cuda: no driver") }

// enter runs f with the device's context current on a locked thread.
func (d *Device) enter(f func() error) error { return f() }

// address checks that n bytes at p are inside a buffer of this device.
func (d *Device) address(p device.Ptr, n int64) (Addr, error) {
	return 0, errors.New("cuda: no driver")
}

// Upload implements device.Stream.
func (s *Stream) Upload(dst device.Ptr, src []byte) error { return errors.New("cuda: no driver") }

// Download implements device.Stream.
func (s *Stream) Download(dst []byte, src device.Ptr) error { return errors.New("cuda: no driver") }

// Copy implements device.Stream.
func (s *Stream) Copy(dst, src device.Ptr, n int64) error { return errors.New("cuda: no driver") }

// Record implements device.Stream.
func (s *Stream) Record() device.Event { return nil }

// Wait implements device.Stream.
func (s *Stream) Wait(device.Event) error { return errors.New("cuda: no driver") }

// Sync implements device.Stream.
func (s *Stream) Sync() error { return errors.New("cuda: no driver") }
