// Package testdevice opens the device that golden tests compute on, so that the same test binary compares the processor and, copied to a
// machine with one, a GPU with the reference data:
//
//	CGO_ENABLED=0 go test -c ./models && BYES_TEST_DEVICE=cuda ./models.test -test.run Golden
package testdevice

import (
	"os"
	"sync"
	"testing"

	"github.com/bitsandbyes/bitsandbyes/device"
	_ "github.com/bitsandbyes/bitsandbyes/device/cpu"  // the default
	_ "github.com/bitsandbyes/bitsandbyes/device/cuda" // by name
)

// Env names the device as device.Open takes it. Empty: cpu:threads=2.
const Env = "BYES_TEST_DEVICE"

var opened struct {
	sync.Mutex
	dev device.Device
	err error
}

// Open returns the device of all tests of the process. It is not to be closed.
func Open(t testing.TB) device.Device {
	t.Helper()
	opened.Lock()
	defer opened.Unlock()
	if opened.dev == nil && opened.err == nil {
		name := os.Getenv(Env)
		if name == "" {
			name = "cpu:threads=2"
		}
		opened.dev, opened.err = device.Open(name)
	}
	if opened.err != nil {
		t.Fatalf("%s: %v", Env, opened.err)
	}
	return opened.dev
}
