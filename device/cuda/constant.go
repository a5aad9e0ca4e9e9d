package cuda

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"unsafe"

	"github.com/bitsandbyes/bitsandbyes/device/cuda/driver"
	"github.com/bitsandbyes/bitsandbyes/internal/ffi"
)

// Constant brings bytes that never change to the device, for kernels: equal ones once. They stay until the device is closed, beside the
// programs, and are no buffer. It is called when a kernel is built.
func (d *Device) Constant(data []byte) (Addr, error) {
	if len(data) == 0 {
		return 0, nil
	}
	key := sha256.Sum256(data)
	d.constants.Lock()
	defer d.constants.Unlock()
	if at, ok := d.constants.at[key]; ok {
		return at, nil
	}
	var at driver.Addr
	err := d.enter(func() (err error) {
		if at, err = d.api.Alloc(int64(len(data))); err != nil {
			return d.noMemory(err, int64(len(data)))
		}
		if err := d.send(at, data); err != nil {
			return errors.Join(err, d.api.Free(at))
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("a table of a kernel: %w", err)
	}
	if d.constants.at == nil {
		d.constants.at = map[[32]byte]Addr{}
	}
	d.constants.at[key] = Addr(at)
	return Addr(at), nil
}

// send copies to fresh memory and waits.
func (d *Device) send(at driver.Addr, data []byte) error {
	s, err := d.stream(setupStream)
	if err != nil {
		return err
	}
	host, _, err := d.api.AllocHost(int64(len(data)))
	if err != nil {
		return err
	}
	copy(ffi.Memory(host, int64(len(data))), data)
	err = errors.Join(d.api.Upload(at, host, int64(len(data)), s.handle), d.api.Sync(s.handle))
	return errors.Join(err, d.api.FreeHostMemory(host))
}

// constants is a table of fixed-size values without pointers on the device.
func constants[T any](d *Device, table []T) (Addr, error) {
	if len(table) == 0 {
		return 0, nil
	}
	return d.Constant(unsafe.Slice((*byte)(unsafe.Pointer(&table[0])), len(table)*int(unsafe.Sizeof(table[0]))))
}
