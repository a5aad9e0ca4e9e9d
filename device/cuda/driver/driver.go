// Package driver is CUDA's driver interface as Go functions: devices, memory, streams, events, graphs, modules, launches. It adds nothing
// to what CUDA says of them; numbers and names are those of cuda.h. Calls need a current context (MakeCurrent) on the calling
// thread, so the caller holds runtime.LockOSThread around a group of them.
package driver

import (
	"fmt"
	"unsafe"

	"github.com/bitsandbyes/bitsandbyes/internal/ffi"
)

// The handles of the driver.
type (
	Device    int32   // a device's number
	Context   uintptr // a primary context
	Stream    uintptr // a queue
	Event     uintptr // a point in a queue
	Module    uintptr // loaded code
	Function  uintptr // a kernel in a module
	Graph     uintptr // recorded work
	GraphExec uintptr // recorded work, ready to be launched
	Physical  uintptr // memory without an address
	Addr      uint64  // an address on the device
)

// procs are the entry points. Names without a suffix where later versions have one are an older interface, hence _v2.
type procs struct {
	Init          ffi.Proc `c:"cuInit"`
	Version       ffi.Proc `c:"cuDriverGetVersion"`
	Count         ffi.Proc `c:"cuDeviceGetCount"`
	Get           ffi.Proc `c:"cuDeviceGet"`
	Name          ffi.Proc `c:"cuDeviceGetName"`
	TotalMem      ffi.Proc `c:"cuDeviceTotalMem_v2"`
	Attribute     ffi.Proc `c:"cuDeviceGetAttribute"`
	Retain        ffi.Proc `c:"cuDevicePrimaryCtxRetain"`
	Release       ffi.Proc `c:"cuDevicePrimaryCtxRelease_v2"`
	SetCurrent    ffi.Proc `c:"cuCtxSetCurrent"`
	CtxSync       ffi.Proc `c:"cuCtxSynchronize"`
	ErrorName     ffi.Proc `c:"cuGetErrorName"`
	ErrorString   ffi.Proc `c:"cuGetErrorString"`
	MemInfo       ffi.Proc `c:"cuMemGetInfo_v2"`
	MemAlloc      ffi.Proc `c:"cuMemAlloc_v2"`
	MemFree       ffi.Proc `c:"cuMemFree_v2"`
	HostAlloc     ffi.Proc `c:"cuMemHostAlloc"`
	FreeHost      ffi.Proc `c:"cuMemFreeHost"`
	HostPointer   ffi.Proc `c:"cuMemHostGetDevicePointer_v2"`
	CopyToDevice  ffi.Proc `c:"cuMemcpyHtoDAsync_v2"`
	CopyToHost    ffi.Proc `c:"cuMemcpyDtoHAsync_v2"`
	Copy          ffi.Proc `c:"cuMemcpyAsync"`
	Memset8       ffi.Proc `c:"cuMemsetD8Async"`
	AddrReserve   ffi.Proc `c:"cuMemAddressReserve"`
	AddrFree      ffi.Proc `c:"cuMemAddressFree"`
	MemCreate     ffi.Proc `c:"cuMemCreate"`
	MemRelease    ffi.Proc `c:"cuMemRelease"`
	MemMap        ffi.Proc `c:"cuMemMap"`
	MemUnmap      ffi.Proc `c:"cuMemUnmap"`
	MemSetAccess  ffi.Proc `c:"cuMemSetAccess"`
	Granularity   ffi.Proc `c:"cuMemGetAllocationGranularity"`
	StreamCreate  ffi.Proc `c:"cuStreamCreateWithPriority"`
	StreamDestroy ffi.Proc `c:"cuStreamDestroy_v2"`
	StreamSync    ffi.Proc `c:"cuStreamSynchronize"`
	StreamWait    ffi.Proc `c:"cuStreamWaitEvent"`
	BeginCapture  ffi.Proc `c:"cuStreamBeginCapture_v2"`
	EndCapture    ffi.Proc `c:"cuStreamEndCapture"`
	EventCreate   ffi.Proc `c:"cuEventCreate"`
	EventDestroy  ffi.Proc `c:"cuEventDestroy_v2"`
	EventRecord   ffi.Proc `c:"cuEventRecord"`
	EventSync     ffi.Proc `c:"cuEventSynchronize"`
	EventElapsed  ffi.Proc `c:"cuEventElapsedTime"`
	Instantiate   ffi.Proc `c:"cuGraphInstantiateWithFlags"`
	GraphLaunch   ffi.Proc `c:"cuGraphLaunch"`
	ExecDestroy   ffi.Proc `c:"cuGraphExecDestroy"`
	GraphDestroy  ffi.Proc `c:"cuGraphDestroy"`
	GraphNodes    ffi.Proc `c:"cuGraphGetNodes"`
	ModuleLoad    ffi.Proc `c:"cuModuleLoadData"`
	ModuleUnload  ffi.Proc `c:"cuModuleUnload"`
	ModuleFunc    ffi.Proc `c:"cuModuleGetFunction"`
	FuncGet       ffi.Proc `c:"cuFuncGetAttribute"`
	FuncSet       ffi.Proc `c:"cuFuncSetAttribute"`
	ParamInfo     ffi.Proc `c:"cuFuncGetParamInfo,optional"`
	Occupancy     ffi.Proc `c:"cuOccupancyMaxActiveBlocksPerMultiprocessor"`
	Launch        ffi.Proc `c:"cuLaunchKernel"`
}

// API is the opened driver.
type API struct {
	c       procs
	path    string
	version int
}

// MinVersion is the oldest driver interface that is supported: 12.0, whose drivers begin with 525.
const MinVersion = 12000

// Open opens and initializes the driver. It fails where there is none, where it is older than CUDA 12.0, or where it finds no device it
// can use; the error says what to do.
func Open() (*API, error) {
	lib, err := ffi.Open(ffi.Search{
		What: "the NVIDIA driver's library", Unix: []string{"libcuda.so.1"}, Windows: []string{"nvcuda.dll"}, System: true,
		Remedy: "install the NVIDIA driver (525 or newer), and in a container start it with the GPU passed in (docker run --gpus all)",
	})
	if err != nil {
		return nil, err
	}
	a := &API{path: lib.Path()}
	if err := lib.Load(&a.c); err != nil {
		return nil, fmt.Errorf("the NVIDIA driver is too old: %w; install driver 525 or newer", err)
	}
	var v int32
	if err := a.check("cuDriverGetVersion", a.c.Version.Call(uintptr(unsafe.Pointer(&v)))); err != nil {
		return nil, err
	}
	a.version = int(v)
	if a.version < MinVersion {
		return nil, fmt.Errorf("the NVIDIA driver %s supports CUDA %s at most, and 12.0 is needed: install driver 525 or newer", a.path, Text(a.version))
	}
	if err := a.check("cuInit", a.c.Init.Call(0)); err != nil {
		return nil, fmt.Errorf("the NVIDIA driver %s does not start: %w", a.path, err)
	}
	return a, nil
}

// Path is the file of the driver.
func (a *API) Path() string { return a.path }

// CUDA is the newest CUDA version that the driver supports, as 1000*major + 10*minor.
func (a *API) CUDA() int { return a.version }

// Text writes such a version: 13000 is "13.0".
func Text(version int) string { return fmt.Sprintf("%d.%d", version/1000, version%1000/10) }

// Devices is how many devices there are.
func (a *API) Devices() (int, error) {
	var n int32
	err := a.check("cuDeviceGetCount", a.c.Count.Call(uintptr(unsafe.Pointer(&n))))
	return int(n), err
}

// Device finds device i.
func (a *API) Device(i int) (Device, error) {
	var d int32
	err := a.check("cuDeviceGet", a.c.Get.Call(uintptr(unsafe.Pointer(&d)), uintptr(i)))
	return Device(d), err
}

// DeviceName is what NVIDIA calls it, as "NVIDIA H100 80GB HBM3".
func (a *API) DeviceName(d Device) (string, error) {
	b := make([]byte, 256)
	err := a.check("cuDeviceGetName", a.c.Name.Call(uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), uintptr(d)))
	for i := range b {
		if b[i] == 0 {
			return string(b[:i]), err
		}
	}
	return string(b), err
}

// DeviceMemory is the device's memory in bytes.
func (a *API) DeviceMemory(d Device) (int64, error) {
	var n uint64
	err := a.check("cuDeviceTotalMem", a.c.TotalMem.Call(uintptr(unsafe.Pointer(&n)), uintptr(d)))
	return int64(n), err
}

// Attr is a number of CUdevice_attribute.
type Attr int32

// The attributes in use.
const (
	AttrMultiprocessors Attr = 16
	AttrL2              Attr = 38 // bytes
	AttrCopyEngines     Attr = 40
	AttrMajor           Attr = 75
	AttrMinor           Attr = 76
	AttrSharedOptIn     Attr = 97 // the most shared memory of a block that asks for it
	AttrVirtualMemory   Attr = 102
)

// DeviceAttr reads an attribute.
func (a *API) DeviceAttr(d Device, at Attr) (int, error) {
	var v int32
	err := a.check("cuDeviceGetAttribute", a.c.Attribute.Call(uintptr(unsafe.Pointer(&v)), uintptr(at), uintptr(d)))
	return int(v), err
}

// RetainPrimary takes a share of the device's primary context, which other libraries of the process use too.
func (a *API) RetainPrimary(d Device) (Context, error) {
	var c uintptr
	err := a.check("cuDevicePrimaryCtxRetain", a.c.Retain.Call(uintptr(unsafe.Pointer(&c)), uintptr(d)))
	return Context(c), err
}

// ReleasePrimary gives the share back.
func (a *API) ReleasePrimary(d Device) error {
	return a.check("cuDevicePrimaryCtxRelease", a.c.Release.Call(uintptr(d)))
}

// MakeCurrent makes a context that of the calling thread.
func (a *API) MakeCurrent(c Context) error {
	return a.check("cuCtxSetCurrent", a.c.SetCurrent.Call(uintptr(c)))
}

// SyncContext waits for all work of the current context.
func (a *API) SyncContext() error { return a.check("cuCtxSynchronize", a.c.CtxSync.Call()) }
