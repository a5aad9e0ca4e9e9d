package driver

import (
	"fmt"
	"strings"
	"unsafe"

	"github.com/bitsandbyes/bitsandbyes/internal/ffi"
)

// Code is a CUresult.
type Code int32

// The codes that callers tell apart.
const (
	OutOfMemory        Code = 2
	Deinitialized      Code = 4
	DevicesUnavailable Code = 46
	NoDevice           Code = 100
	InvalidImage       Code = 200
	NoBinaryForGPU     Code = 209
	ECCUncorrectable   Code = 214
	NVLinkUncorrected  Code = 220
	NoPTXCompiler      Code = 221
	UnsupportedPTX     Code = 222
	Contained          Code = 226
	IllegalAddress     Code = 700
	LaunchTimeout      Code = 702
	ContextDestroyed   Code = 709
	Assert             Code = 710
	HardwareStackError Code = 714
	LaunchFailed       Code = 719
	TensorMemoryLeak   Code = 721
	SystemNotReady     Code = 802
	SystemMismatch     Code = 803
	Unknown            Code = 999
)

// Error is a call that the driver refused, or the report of an earlier fault.
type Error struct {
	Call string // the function
	Code Code
	Name string // CUDA's name of the code
	Text string // CUDA's sentence
}

// Error implements error.
func (e *Error) Error() string {
	s := fmt.Sprintf("%s: %s (%d): %s", e.Call, e.Name, e.Code, e.Text)
	if r := e.remedy(); r != "" {
		s += "; " + r
	}
	return s
}

func (e *Error) remedy() string {
	switch e.Code {
	case NoDevice:
		return "the driver runs but sees no GPU: look at nvidia-smi, CUDA_VISIBLE_DEVICES and the container's settings"
	case SystemNotReady:
		return "the machine's fabric manager is not running (systemctl status nvidia-fabricmanager)"
	case SystemMismatch:
		return "the driver's library and its kernel module are of different versions: reboot, or reload the module"
	case NoBinaryForGPU, UnsupportedPTX:
		return "the compiler (NVRTC) is newer than the driver: install a newer driver, or an NVRTC of the driver's CUDA version"
	case NoPTXCompiler:
		return "the driver's own compiler (libnvidia-ptxjitcompiler) is missing: reinstall the driver, or install an NVRTC that knows this GPU"
	case ECCUncorrectable, NVLinkUncorrected:
		return "the hardware reported an error that it could not correct: look at nvidia-smi -q and the kernel's log for Xid lines"
	}
	return ""
}

// OutOfMemory tells whether the device had no room for what was asked for.
func (e *Error) OutOfMemory() bool { return e.Code == OutOfMemory }

// Lost tells whether the context is unusable after the error: the device's memory and everything enqueued is gone, and the process must
// start again.
func (e *Error) Lost() bool {
	switch e.Code {
	case Deinitialized, DevicesUnavailable, ECCUncorrectable, NVLinkUncorrected, Contained, IllegalAddress, LaunchTimeout, ContextDestroyed, Assert,
		TensorMemoryLeak, Unknown:
		return true
	}
	return e.Code >= HardwareStackError && e.Code <= LaunchFailed
}

// check turns a result into an error.
func (a *API) check(call string, r uintptr) error {
	if int32(r) == 0 {
		return nil
	}
	code := Code(int32(r))
	e := &Error{Call: call, Code: code, Name: "unknown code", Text: "the driver has no text for it"}
	if s := a.text(a.c.ErrorName, code); s != "" {
		e.Name = strings.TrimPrefix(s, "CUDA_ERROR_")
	}
	if s := a.text(a.c.ErrorString, code); s != "" {
		e.Text = s
	}
	return e
}

func (a *API) text(p ffi.Proc, code Code) string {
	var at uintptr
	if p.Call(uintptr(code), uintptr(unsafe.Pointer(&at))) != 0 {
		return ""
	}
	return ffi.Text(at, 1024)
}
