package cuda

import (
	"fmt"
	"os"
	"sync"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/device/cuda/driver"
)

type backend struct{}

func init() {
	if err := device.Register(backend{}); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
}

// native opens the driver once in a process: a library stays loaded, and its state is the process's.
var native = sync.OnceValues(driver.Open)

// Name implements device.Backend.
func (backend) Name() string { return "cuda" }

// Count implements device.Backend: 0 where there is no driver, an older one than 12.0, or no device.
func (backend) Count() int {
	api, err := native()
	if err != nil {
		return 0
	}
	n, err := api.Devices()
	if err != nil {
		return 0
	}
	return n
}

// Absence tells why no device of this kind can be used, or nil where one can.
func Absence() error {
	api, err := native()
	if err != nil {
		return err
	}
	n, err := api.Devices()
	if err == nil && n == 0 {
		err = fmt.Errorf("the NVIDIA driver (%s) shows no device; look at nvidia-smi and CUDA_VISIBLE_DEVICES", api.Path())
	}
	return err
}

// Explain implements device.Explainer.
func (backend) Explain() error { return Absence() }

// Open implements device.Backend.
func (backend) Open(i int) (device.Device, error) { return New(Options{Index: i}) }

// OpenWith implements device.Tuner. cuda:sync=on waits after each launch, so that a fault is reported for the kernel that made it;
// cuda:cudnn=off computes attention by own kernels only; cuda:1:sync=on is the second device.
func (backend) OpenWith(i int, key, value string) (device.Device, error) {
	if value != "on" && value != "off" {
		return nil, fmt.Errorf("%s=%s: want on or off", key, value)
	}
	o := Options{Index: i}
	switch key {
	case "sync":
		o.Sync = value == "on"
	case "cudnn":
		o.NoCUDNN = value == "off"
	default:
		return nil, fmt.Errorf("%s is no setting of cuda; it has sync and cudnn", key)
	}
	return New(o)
}
