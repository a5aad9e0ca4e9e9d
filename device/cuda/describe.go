package cuda

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/device/cuda/driver"
	"github.com/bitsandbyes/bitsandbyes/device/cuda/nvrtc"
)

// describers are what the files of libraries add to Describe: which library was found, and what is used where it was not. They are
// registered by init functions and called in order.
var describers []func(d *Device) []device.Fact

// Describe implements device.Describer.
func (d *Device) Describe() []device.Fact {
	facts := []device.Fact{
		{Topic: "device", Text: fmt.Sprintf("%s, compute capability %s, %d multiprocessors, %s, L2 %s", d.name, nvrtc.Capability(d.capability), d.sms, size(d.total),
			size(d.l2))},
		{Topic: "driver", Text: fmt.Sprintf("CUDA %s, %s", driver.Text(d.api.CUDA()), d.api.Path())},
		{Topic: "compiler", Text: d.describeCompiler()},
		{Topic: "compiled kernels", Text: d.describeCache()},
		{Topic: "bfloat16", Text: d.describeBF16()},
		{Topic: "lanes", Text: d.describeLanes()},
	}
	for _, f := range describers {
		facts = append(facts, f(d)...)
	}
	return facts
}

func (d *Device) describeCompiler() string {
	c := &d.compile
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := d.compiler(); err != nil {
		return "none: " + err.Error()
	}
	text := fmt.Sprintf("NVRTC %s for %s, %s", driver.Text(c.compiler.Version()), c.arch, c.compiler.Path())
	if c.arch[0] == 'c' {
		text += "; the device is newer than the compiler, so the driver translates PTX"
	}
	return text
}

func (d *Device) describeCache() string {
	c := &d.compile
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cache == nil {
		return "not used yet"
	}
	if err := c.cache.Problem(); err != nil {
		return err.Error()
	}
	return c.cache.Dir()
}

func (d *Device) describeLanes() string {
	n, err := d.api.DeviceAttr(d.number, driver.AttrCopyEngines)
	switch {
	case err != nil:
		return err.Error()
	case n == 0:
		return "arithmetic, collectives and copies in streams of their own; copies to and from the host have no engine and do not run beside kernels"
	}
	return fmt.Sprintf("arithmetic, collectives and copies in streams of their own; copy engines: %d", n)
}

func (d *Device) describeBF16() string {
	if d.capability >= 80 {
		return "in tensor cores, sums in float32"
	}
	return "stored; computed in float32, because tensor cores have it from compute capability 8.0"
}
