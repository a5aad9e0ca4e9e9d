// Package cuda runs plans on NVIDIA GPUs. It needs the driver, and NVRTC, cuBLASLt and cuDNN of a toolkit or of pip's packages; all
// are opened when the program runs. Its kernels are CUDA C++ in the folder kernels, compiled for the device found and kept on disk.
//
// Importing the package registers the backend "cuda".
package cuda

import (
	"fmt"
	"reflect"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Addr is an address on the device; 0 stands for an absent optional operand.
type Addr uint64

// Kernel is one op ready to be enqueued.
type Kernel struct {
	Label        string // shown in reports
	ScratchBytes int64
	// Enqueue puts the work on the call's stream and does not wait for it. It may be called many times, also while a graph is
	// captured: it must allocate no device memory and must not depend on values on the device.
	Enqueue func(c *Call) error

	spec    device.Spec
	dev     *Device
	call    Call
	in, out []int64     // sizes of the operands in bytes
	needs   []*Function // what Prepare compiles
	draft   *pending    // what is left to Settle, nil once nothing is
}

// Call is what a kernel's Enqueue works on. In and Out hold the operands' addresses; those of absent optional inputs are 0. Addresses
// are aligned to the element of their dtype, and to 256 bytes unless the operand is a view.
type Call struct {
	In, Out []Addr
	Scratch Addr // aligned to 256 bytes
	Dev     *Device
	Stream  *Stream
}

// Build makes the kernel of one op at fixed types, or returns device.ErrNoKernel to have the op decomposed. Functions are named and libraries
// asked for algorithms here, never in Enqueue. What is named is compiled when the kernel is prepared for launches.
type Build[O device.Op] func(d *Device, op O, s device.Spec) (*Kernel, error)

var table = map[reflect.Type]func(d *Device, s device.Spec) (*Kernel, error){}

// Register adds the kernel of an op type, from an init function: ops of other modules can bring their own. The type parameter
// is the registration.
func Register[O device.Op](b Build[O]) {
	var op O
	table[reflect.TypeOf(op)] = func(d *Device, s device.Spec) (*Kernel, error) { return b(d, s.Op.(O), s) }
}

// Kernel implements device.Device. Its code is not compiled yet: Prepare does that, or the first launch.
func (d *Device) Kernel(s device.Spec) (device.Kernel, error) {
	k, needs, err := d.building.run(nil, func() (*Kernel, error) { return d.inner(s) })
	if err != nil {
		return nil, err
	}
	k.needs = needs
	return k, nil
}

// inner is Kernel for a builder, which enqueues the kernel of another op as a part of its own.
func (d *Device) inner(s device.Spec) (*Kernel, error) {
	b, ok := table[reflect.TypeOf(s.Op)]
	if !ok {
		return nil, device.ErrNoKernel
	}
	if lost := d.lost.Load(); lost != nil { // libraries are gone, too
		return nil, *lost
	}
	k, err := b(d, s)
	if err != nil {
		return nil, err
	}
	return k.bind(d, s), nil
}

// bind makes a kernel that was built for s ready to be launched.
func (k *Kernel) bind(d *Device, s device.Spec) *Kernel {
	k.spec, k.dev = s, d
	k.call = Call{In: make([]Addr, len(s.In)), Out: make([]Addr, len(s.Out)), Dev: d}
	k.in, k.out = sizes(s.In), sizes(s.Out)
	return k
}

func sizes(types []tensor.Type) []int64 {
	out := make([]int64, len(types))
	for i, t := range types {
		out[i] = t.Bytes()
	}
	return out
}

// Scratch implements device.Kernel.
func (k *Kernel) Scratch() int64 { return k.ScratchBytes }

// KernelName implements device.Named.
func (k *Kernel) KernelName() string {
	if k.Label != "" {
		return k.Label
	}
	return k.spec.Op.Name()
}

// Launch implements device.Kernel.
func (k *Kernel) Launch(s device.Stream, in, out []device.Ptr, scratch device.Ptr) error {
	if k.draft != nil {
		return fmt.Errorf("cuda: kernel %s is a draft; Settle makes it one that can be launched", k.KernelName())
	}
	stream, ok := s.(*Stream)
	if !ok || stream.dev != k.dev {
		return fmt.Errorf("cuda: kernel %s was launched on a stream of another device", k.KernelName())
	}
	if err := k.dev.addresses(k.call.In, in, k.in); err != nil {
		return fmt.Errorf("kernel %s, inputs: %w", k.KernelName(), err)
	}
	if err := k.dev.addresses(k.call.Out, out, k.out); err != nil {
		return fmt.Errorf("kernel %s, results: %w", k.KernelName(), err)
	}
	if k.ScratchBytes > 0 {
		var err error
		if k.call.Scratch, err = k.dev.address(scratch, k.ScratchBytes); err != nil {
			return fmt.Errorf("kernel %s, temporary memory: %w", k.KernelName(), err)
		}
	}
	k.call.Stream = stream
	return stream.enter(func() error {
		err := k.Enqueue(&k.call)
		if err == nil && k.dev.sync && stream.record == nil { // libraries launch by themselves
			err = k.dev.api.Sync(stream.handle)
		}
		if err != nil {
			return fmt.Errorf("kernel %s: %w", k.KernelName(), err)
		}
		return nil
	})
}

// addresses sets dst to the address of each operand, after a check that all its bytes are inside its buffer.
func (d *Device) addresses(dst []Addr, at []device.Ptr, sizes []int64) error {
	if len(at) != len(dst) {
		return fmt.Errorf("%d operands for %d types", len(at), len(dst))
	}
	for i, p := range at {
		dst[i] = 0
		if p.Buf == nil {
			continue
		}
		a, err := d.address(p, sizes[i])
		if err != nil {
			return err
		}
		dst[i] = a
	}
	return nil
}
