package cpu_test

import (
	"testing"

	"github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/device/devicetest"
)

func TestDevice(t *testing.T) {
	devicetest.Run(t, cpu.New(cpu.Options{Threads: 2}))
}
