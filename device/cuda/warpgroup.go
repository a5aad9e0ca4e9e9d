package cuda

import (
	"errors"
	"fmt"
	"sync"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// warpgroups is what is known of a device's products by warpgroups, for each type: kernels that use them are chosen only where a device has been
// seen to compute them right.
type warpgroups struct {
	mu      sync.Mutex
	checked map[tensor.DType]error
}

// groupArch is the architecture whose code has products by warpgroups.
const groupArch = "sm_90a"

// groupsRight has the device check its products by warpgroups of a type at the first question.
func (d *Device) groupsRight(dt tensor.DType) error {
	if d.capability != attnGroupCapability {
		return fmt.Errorf("products by warpgroups are of compute capability 9.0")
	}
	w := &d.warpgroups
	w.mu.Lock()
	defer w.mu.Unlock()
	err, ok := w.checked[dt]
	if !ok {
		err = d.checkGroups(dt)
		if w.checked == nil {
			w.checked = map[tensor.DType]error{}
		}
		w.checked[dt] = err
	}
	return err
}

var _ device.Checker = (*Device)(nil)

// Check implements device.Checker.
func (d *Device) Check() []device.Problem {
	if d.capability == attnGroupCapability {
		for _, dt := range groupTypes {
			_ = d.groupsRight(dt) // Problems tells
		}
	}
	return d.Problems()
}

// groupTypes are the types of products by warpgroups.
var groupTypes = []tensor.DType{tensor.BF16, tensor.F16}

// Problems implements device.Checker.
func (d *Device) Problems() []device.Problem {
	w := &d.warpgroups
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []device.Problem
	for _, dt := range groupTypes {
		if err := w.checked[dt]; err != nil {
			out = append(out, device.Problem{What: fmt.Sprintf("attention in %s does without products by warpgroups, which is right, and slower where cuDNN does not do it: %v", dt, err),
				Remedy: "use the newest NVRTC and driver that this GPU takes; if it stays, report it with the output of trainer doctor"})
		}
	}
	return out
}

// groupCheck is the kernel that compares products by warpgroups with others.
func (d *Device) groupCheck(dt tensor.DType) (*Function, error) {
	return d.Function(Program{Files: []string{"tensor_core.cuh", "attention_tiles.cuh", "warpgroup.cuh", "warpgroup_check.cu"},
		Define: []string{"T " + cType(dt), "D 128", "APART 0"}}, "check_groups")
}

func (d *Device) checkGroups(dt tensor.DType) (err error) {
	// A compiler that does not know the device makes code that has none of these instructions, and would stop it.
	if arch, err := d.arch(); err != nil || arch != groupArch {
		return errors.Join(err, fmt.Errorf("code for %s has no products by warpgroups", arch))
	}
	f, err := d.groupCheck(dt)
	if err != nil {
		return err
	}
	b, err := d.Alloc(4)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Free()) }()
	s, err := d.stream(tuneStream) // kernels are built while others use the device's queues
	if err != nil {
		return err
	}
	p := device.Ptr{Buf: b}
	at, err := d.address(p, 4)
	if err != nil {
		return err
	}
	wrong := make([]byte, 4)
	if err := s.Upload(p, wrong); err != nil {
		return err
	}
	g := Rows(1, 128)
	g.Shared = swizzleAlign + (64+128)*128*2
	if err := d.enter(func() error { return (&Call{Dev: d, Stream: s}).Launch(f, g, at) }); err != nil {
		return err
	}
	if err := s.Download(wrong, p); err != nil {
		return err
	}
	if n := tensor.View[int32](wrong)[0]; n != 0 {
		return fmt.Errorf("%d elements of products by warpgroups are wrong on this device", n)
	}
	return nil
}
