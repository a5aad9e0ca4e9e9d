package driver

import (
	"runtime"
	"unsafe"

	"github.com/bitsandbyes/bitsandbyes/internal/ffi"
)

// LoadModule loads a CUBIN, or the text of PTX, which the driver then compiles.
func (a *API) LoadModule(image []byte) (Module, error) {
	if len(image) == 0 {
		return 0, &Error{Call: "cuModuleLoadData", Code: InvalidImage, Name: "INVALID_IMAGE", Text: "the image is empty"}
	}
	image = append(image[:len(image):len(image)], 0) // PTX is a C string
	var m uintptr
	err := a.check("cuModuleLoadData", a.c.ModuleLoad.Call(uintptr(unsafe.Pointer(&m)), uintptr(unsafe.Pointer(&image[0]))))
	return Module(m), err
}

// UnloadModule frees a module.
func (a *API) UnloadModule(m Module) error {
	return a.check("cuModuleUnload", a.c.ModuleUnload.Call(uintptr(m)))
}

// Function finds a kernel of a module.
func (a *API) Function(m Module, name string) (Function, error) {
	text := ffi.CString(name)
	var f uintptr
	err := a.check("cuModuleGetFunction", a.c.ModuleFunc.Call(uintptr(unsafe.Pointer(&f)), uintptr(m), uintptr(unsafe.Pointer(&text[0]))))
	return Function(f), err
}

// FuncAttr is a number of CUfunction_attribute.
type FuncAttr int32

// The attributes of kernels in use.
const (
	FuncMaxThreads FuncAttr = 0 // threads of a block at most, with the kernel's registers
	FuncShared     FuncAttr = 1 // bytes of shared memory that the code declares
	FuncLocal      FuncAttr = 3 // bytes a thread that do not fit registers
	FuncRegisters  FuncAttr = 4
	FuncDynamic    FuncAttr = 8 // bytes of dynamic shared memory that a launch may ask for
)

// FuncAttr reads an attribute of a kernel.
func (a *API) FuncAttr(f Function, at FuncAttr) (int, error) {
	var v int32
	err := a.check("cuFuncGetAttribute", a.c.FuncGet.Call(uintptr(unsafe.Pointer(&v)), uintptr(at), uintptr(f)))
	return int(v), err
}

// AllowShared lets launches of a kernel ask for so many bytes of dynamic shared memory.
func (a *API) AllowShared(f Function, bytes int) error {
	return a.check("cuFuncSetAttribute", a.c.FuncSet.Call(uintptr(f), uintptr(FuncDynamic), uintptr(bytes)))
}

// BlocksPerSM is how many blocks of a kernel a multiprocessor holds at once.
func (a *API) BlocksPerSM(f Function, threads, shared int) (int, error) {
	var n int32
	err := a.check("cuOccupancyMaxActiveBlocksPerMultiprocessor",
		a.c.Occupancy.Call(uintptr(unsafe.Pointer(&n)), uintptr(f), uintptr(threads), uintptr(shared)))
	return int(n), err
}

// MaxParams is how many parameters a kernel may have here.
const MaxParams = 48

// LaunchBlock is the memory of a launch, kept between launches so that none allocates. The driver copies parameters before it returns.
type LaunchBlock struct {
	// Params are the addresses of the parameters, set by the caller: into Values, or to what the caller keeps alive.
	Params [MaxParams]unsafe.Pointer
	// Values is room for scalars.
	Values [MaxParams]uint64
	args   [11]uintptr
}

// Launch enqueues a kernel with the block's parameters. The block must be in memory that does not move: on the heap.
func (a *API) Launch(f Function, grid, block [3]uint32, shared int, s Stream, b *LaunchBlock) error {
	b.args = [11]uintptr{uintptr(f), uintptr(grid[0]), uintptr(grid[1]), uintptr(grid[2]), uintptr(block[0]), uintptr(block[1]), uintptr(block[2]),
		uintptr(shared), uintptr(s), uintptr(unsafe.Pointer(&b.Params[0])), 0}
	r := a.c.Launch.Call(b.args[:]...)
	runtime.KeepAlive(b)
	return a.check("cuLaunchKernel", r)
}

// Params are the sizes of a kernel's parameters in bytes, or nil where the driver is too old to tell. It asks for one more than there are, since
// an error is all that tells the end.
func (a *API) Params(f Function) []int {
	if !a.c.ParamInfo.Present() {
		return nil
	}
	sizes := []int{}
	for i := range MaxParams {
		var offset, size uint64
		if a.c.ParamInfo.Call(uintptr(f), uintptr(i), uintptr(unsafe.Pointer(&offset)), uintptr(unsafe.Pointer(&size))) != 0 {
			break
		}
		sizes = append(sizes, int(size))
	}
	return sizes
}
