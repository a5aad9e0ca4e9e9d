package cpu

import (
	"fmt"
	"reflect"
	"runtime"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Kernel is one op ready to run on the processor.
type Kernel struct {
	Label        string // shown in reports
	ScratchBytes int64
	Run          func(c *Call) error

	spec    device.Spec
	dev     *Device
	call    Call
	in, out []int64 // sizes of the operands in bytes
}

// Call is what a kernel's Run works on. In and Out hold the operands' bytes; an absent optional input is nil. Slices have the
// exact size of their type.
type Call struct {
	In, Out [][]byte
	Scratch []byte
	Dev     *Device
}

// Build makes the kernel of one op at fixed types, or returns device.ErrNoKernel to have the op decomposed.
type Build[O device.Op] func(d *Device, op O, s device.Spec) (*Kernel, error)

var table = map[reflect.Type]func(d *Device, s device.Spec) (*Kernel, error){}

// Register adds the kernel of an op type, from an init function: ops of other modules can bring their own. The type parameter
// is the registration.
func Register[O device.Op](b Build[O]) {
	var op O
	table[reflect.TypeOf(op)] = func(d *Device, s device.Spec) (*Kernel, error) { return b(d, s.Op.(O), s) }
}

// Kernel implements device.Device.
func (d *Device) Kernel(s device.Spec) (device.Kernel, error) {
	b, ok := table[reflect.TypeOf(s.Op)]
	if !ok {
		return nil, device.ErrNoKernel
	}
	k, err := b(d, s)
	if err != nil {
		return nil, err
	}
	k.spec, k.dev = s, d
	k.call = Call{In: make([][]byte, len(s.In)), Out: make([][]byte, len(s.Out)), Dev: d}
	k.in, k.out = sizes(s.In), sizes(s.Out)
	return k, nil
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

// Launch implements device.Kernel. It runs at once. A panic inside a kernel is a bug of the kernel and is returned as an error.
func (k *Kernel) Launch(_ device.Stream, in, out []device.Ptr, scratch device.Ptr) (err error) {
	defer k.leave(&err)
	if err := views(k.call.In, in, k.in); err != nil {
		return err
	}
	if err := views(k.call.Out, out, k.out); err != nil {
		return err
	}
	if k.ScratchBytes > 0 {
		if k.call.Scratch, err = bytesAt(scratch, k.ScratchBytes); err != nil {
			return err
		}
	}
	err = k.Run(&k.call)
	runtime.KeepAlive(in) // the kernel works in these buffers
	runtime.KeepAlive(out)
	runtime.KeepAlive(scratch.Buf)
	return err
}

// leave ends a launch. A kernel outlives buffers: it must not keep their memory alive.
func (k *Kernel) leave(err *error) {
	if r := recover(); r != nil {
		*err = fmt.Errorf("cpu: kernel %s failed: %v", k.KernelName(), r)
	}
	clear(k.call.In)
	clear(k.call.Out)
	k.call.Scratch = nil
}

// views sets dst to the bytes at each address; absent ones stay nil.
func views(dst [][]byte, at []device.Ptr, sizes []int64) error {
	for i, p := range at {
		if p.Buf == nil {
			continue
		}
		b, err := bytesAt(p, sizes[i])
		if err != nil {
			return err
		}
		dst[i] = b
	}
	return nil
}

// parallel runs f for tasks 0..n-1 on the worker pool and returns when all are done.
func (d *Device) parallel(n int, f func(task int)) error { return d.pool.Run(n, f) }

// ranges cuts n items into tasks of at least grain items and calls f with each range [lo, hi). The cuts depend on n and grain
// only, so a kernel may also accumulate by range.
func (d *Device) ranges(n, grain int, f func(lo, hi int)) error {
	if n <= 0 {
		return nil
	}
	tasks := min(max(n/max(grain, 1), 1), maxTasks)
	if tasks == 1 {
		f(0, n)
		return nil
	}
	return d.parallel(tasks, func(t int) { f(n*t/tasks, n*(t+1)/tasks) })
}

// maxTasks bounds how finely work is cut.
const maxTasks = 64
