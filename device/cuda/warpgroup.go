package cuda

import (
	"errors"
	"fmt"
	"sync"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/device/cuda/nvrtc"
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

// groupsRight has the device check its products by warpgroups of a type at the first question. What a completed check found holds for as long as
// the device is open; an error on the way to it, such as memory that is taken just then, is told and the next question tries again.
func (d *Device) groupsRight(dt tensor.DType) error {
	if d.capability != attnGroupCapability {
		return &withoutError{"products by warpgroups are of compute capability 9.0"}
	}
	w := &d.warpgroups
	w.mu.Lock()
	defer w.mu.Unlock()
	if err, ok := w.checked[dt]; ok {
		return err
	}
	err := d.checkGroups(dt)
	if err != nil && !verdict(err) {
		return fmt.Errorf("products by warpgroups in %s cannot be checked: %w", dt, err)
	}
	if w.checked == nil {
		w.checked = map[tensor.DType]error{}
	}
	w.checked[dt] = err
	return err
}

// withoutError is why a device does without products by warpgroups.
type withoutError struct{ text string }

func (e *withoutError) Error() string { return e.text }

// verdict tells whether an error is what a completed check found, or a compiler that refuses the code, which it would do again.
func verdict(err error) bool {
	var without *withoutError
	var refused *nvrtc.CompileError
	return errors.As(err, &without) || errors.As(err, &refused)
}

// groupsTaken tells whether kernels by warpgroups are chosen for a type. An error is that of a check that did not come to its end. A draft leaves the check
// to Settle, and counts on a good end.
func (d *Device) groupsTaken(dt tensor.DType) (bool, error) {
	if left := d.drafting(); left != nil && !d.groupsKnown(dt) {
		if arch, err := d.arch(); err != nil || arch != groupArch {
			return false, err
		}
		left.open, left.checks = true, true
		_, err := d.groupCheck(dt)
		return err == nil, err
	}
	err := d.groupsRight(dt)
	if err != nil && verdict(err) {
		return false, nil
	}
	return err == nil, err
}

// groupsKnown tells whether the check of a type was completed.
func (d *Device) groupsKnown(dt tensor.DType) bool {
	w := &d.warpgroups
	w.mu.Lock()
	defer w.mu.Unlock()
	_, ok := w.checked[dt]
	return ok
}

var _ device.Checker = (*Device)(nil)

// Check implements device.Checker.
func (d *Device) Check() []device.Problem {
	var unknown []device.Problem
	if d.capability == attnGroupCapability {
		d.building.mu.Lock() // kernels that are being built may use the queue of trials
		defer d.building.mu.Unlock()
		for _, dt := range groupTypes {
			if err := d.groupsRight(dt); err != nil && !verdict(err) { // Problems tells verdicts
				unknown = append(unknown, device.Problem{What: err.Error(), Remedy: "a run that needs them ends with this error; free the device's memory, or close what else uses it, and try again"})
			}
		}
	}
	return append(d.Problems(), unknown...)
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
	arch, err := d.arch()
	switch {
	case err != nil:
		return err
	case arch != groupArch:
		return &withoutError{fmt.Sprintf("code for %s has no products by warpgroups", arch)}
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
		return &withoutError{fmt.Sprintf("%d elements of products by warpgroups are wrong on this device", n)}
	}
	return nil
}
