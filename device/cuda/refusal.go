package cuda

import (
	"errors"
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/device/cuda/cudnn"
	"github.com/bitsandbyes/bitsandbyes/device/cuda/driver"
)

// outOfMemory tells whether the driver or a library had no memory to do something in. That says nothing about what was to be done, and passes.
func outOfMemory(err error) bool {
	var e interface {
		error
		OutOfMemory() bool
	}
	return errors.As(err, &e) && e.OutOfMemory()
}

// passing tells whether what failed may succeed another time, so that it is not to be remembered.
func passing(err error) bool {
	var e *cudnn.Error
	return outOfMemory(err) || errors.As(err, &e) && e.Passing()
}

// ended is the error after which nothing runs on a device any more, nil for others.
func ended(err error) error {
	if errors.Is(err, device.ErrLost) || errors.Is(err, errClosed) {
		return err
	}
	return nil
}

// refusal is what a contender of a trial answers instead of running, while the device is well and has memory: it is passed over.
type refusal struct{ error }

// Unwrap is why it refused.
func (r refusal) Unwrap() error { return r.error }

// refuses makes an error of a contender a refusal, if it is one.
func (r *trial) refuses(err error) error {
	if e := r.d.well(err, func() error { return r.d.api.Sync(r.stream.handle) }); e != nil {
		return e
	}
	if outOfMemory(err) {
		return err
	}
	return refusal{err}
}

// well is nil if the device is so after an error of a library, which may hide what the driver answers every call with from then on; look asks the driver.
func (d *Device) well(after error, look func() error) error {
	var e *driver.Error
	if errors.As(after, &e) && e.Lost() {
		return after
	}
	if err := look(); err != nil {
		return fmt.Errorf("%w, after: %w", err, after)
	}
	return nil
}
