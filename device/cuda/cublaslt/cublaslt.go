// Package cublaslt binds what this project uses of NVIDIA's cuBLASLt: one matrix product at a time, with the algorithm in the caller's
// hands and workspace in the caller's memory, so that nothing is allocated or chosen behind a plan's back.
//
// Matrices here are row-major. The library thinks by columns, so a product C = A·B is handed to it as Cᵀ = Bᵀ·Aᵀ, which costs nothing.
//
// Constants are those of cublasLt.h and library_types.h of CUDA 13.0; they are the same in CUDA 12.
package cublaslt

import (
	"fmt"
	"runtime"
	"unsafe"

	"github.com/bitsandbyes/bitsandbyes/internal/ffi"
)

// DataType is cudaDataType_t.
type DataType int32

// Types of elements (library_types.h).
const (
	R32F  DataType = 0
	R64F  DataType = 1
	R16F  DataType = 2
	R8I   DataType = 3
	R32I  DataType = 10
	R16BF DataType = 14
)

// Compute is cublasComputeType_t: how products are summed.
type Compute int32

// Ways to sum (cublas_api.h). Compute32F sums halves and floats in float32 and rounds no float32 operand; TF32 rounds them to 11 bits.
const (
	Compute32F  Compute = 68
	Compute64F  Compute = 70
	Compute32I  Compute = 72
	ComputeTF32 Compute = 77
)

// Attributes (cublasLt.h).
const (
	descTransA, descTransB                                = 3, 4                // CUBLASLT_MATMUL_DESC_TRANSA, _TRANSB: int32
	layoutBatch, layoutStride                             = 5, 6                // CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT: int32, _STRIDED_BATCH_OFFSET: int64
	prefWorkspace, prefReduction                          = 1, 3                // CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES: uint64, _REDUCTION_SCHEME_MASK: uint32
	prefAlignA, prefAlignB, prefAlignC, prefAlignD        = 5, 6, 7, 8          // CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_*_BYTES: uint32
	reductionComputeType                           uint32 = 2                   // CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE
	opN, opT                                       int32  = 0, 1                // cublasOperation_t
	resultBytes                                           = 64 + 8 + 4 + 4 + 16 // cublasLtMatmulHeuristicResult_t
)

type functions struct {
	Version       ffi.Proc `c:"cublasLtGetVersion"`
	Create        ffi.Proc `c:"cublasLtCreate"`
	Destroy       ffi.Proc `c:"cublasLtDestroy"`
	DescCreate    ffi.Proc `c:"cublasLtMatmulDescCreate"`
	DescSet       ffi.Proc `c:"cublasLtMatmulDescSetAttribute"`
	DescDestroy   ffi.Proc `c:"cublasLtMatmulDescDestroy"`
	LayoutCreate  ffi.Proc `c:"cublasLtMatrixLayoutCreate"`
	LayoutSet     ffi.Proc `c:"cublasLtMatrixLayoutSetAttribute"`
	LayoutDestroy ffi.Proc `c:"cublasLtMatrixLayoutDestroy"`
	PrefCreate    ffi.Proc `c:"cublasLtMatmulPreferenceCreate"`
	PrefSet       ffi.Proc `c:"cublasLtMatmulPreferenceSetAttribute"`
	PrefDestroy   ffi.Proc `c:"cublasLtMatmulPreferenceDestroy"`
	Heuristic     ffi.Proc `c:"cublasLtMatmulAlgoGetHeuristic"`
	Check         ffi.Proc `c:"cublasLtMatmulAlgoCheck"`
	Matmul        ffi.Proc `c:"cublasLtMatmul"`
}

// Library is the opened library.
type Library struct {
	fn      functions
	path    string
	version int
}

// Open finds the library for a driver, by the newest CUDA version that it has (13000 is 13.0), and a device's compute capability (90 is 9.0). The error
// says where it was looked for.
func Open(driver, capability int) (*Library, error) {
	unix, windows := fileNames(driver, capability)
	l, err := ffi.Open(ffi.Search{
		What: "cuBLASLt (libcublasLt)", Unix: unix, Windows: windows,
		Remedy: "pip install nvidia-cublas (CUDA 13) or nvidia-cublas-cu12, or set CUDA_HOME; without it the device multiplies with its own, slower kernels",
	})
	if err != nil {
		return nil, err
	}
	lib := &Library{path: l.Path()}
	if err := l.Load(&lib.fn); err != nil {
		return nil, err
	}
	lib.version = int(lib.fn.Version.Call())
	return lib, nil
}

// fileNames are those of the driver's major version, then of older ones: code of a newer one does not load. Version 13 has none for devices
// below 7.5. An unknown driver counts as one for CUDA 12.
func fileNames(driver, capability int) (unix, windows []string) {
	for major := 13; major >= 12; major-- {
		if major > 12 && (driver/1000 < major || capability < 75) {
			continue
		}
		unix = append(unix, fmt.Sprintf("libcublasLt.so.%d", major))
		windows = append(windows, fmt.Sprintf("cublasLt64_%d.dll", major))
	}
	return unix, windows
}

// Path is the file that was opened.
func (l *Library) Path() string { return l.path }

// Version is 10000·major + 100·minor + patch up to 12.x ("120304") and the like for later ones ("130002"), as the library gives it.
func (l *Library) Version() int { return l.version }

// Handle is the library ready for one device.
type Handle struct {
	lib *Library
	h   uintptr
}

// Create makes a handle for the device whose context is current on the calling thread.
func (l *Library) Create() (*Handle, error) {
	h := &Handle{lib: l}
	if err := status("cublasLtCreate", l.fn.Create.Call(uintptr(unsafe.Pointer(&h.h)))); err != nil {
		return nil, err
	}
	return h, nil
}

// Close frees the handle.
func (h *Handle) Close() error {
	if h.h == 0 {
		return nil
	}
	err := status("cublasLtDestroy", h.lib.fn.Destroy.Call(h.h))
	h.h = 0
	return err
}

// Library is the library of the handle.
func (h *Handle) Library() *Library { return h.lib }

// Matrix is a stored, row-major matrix of a product.
type Matrix struct {
	Type   DataType
	LD     int   // elements from row to row
	Stride int64 // elements from matrix to matrix of a batch
	Trans  bool  // the product takes the transpose of what is stored
}

// Problem is a product C = alpha·op(A)·op(B) + beta·Add, op(A) (M, K), op(B) (K, N), of Batch pairs of matrices. Add has the layout of C.
type Problem struct {
	M, N, K, Batch int
	A, B, C        Matrix
	Compute        Compute
	Align          int // every address of the operands is a multiple of this many bytes, at most 16
}

// Algorithm is a way to compute a problem; the bytes are good for the same version of the library, device and problem.
type Algorithm struct {
	Data      [8]uint64 // cublasLtMatmulAlgo_t
	Workspace int64     // bytes that it needs
}

// Product is a problem made known to the library.
type Product struct {
	lib     *Library
	handle  uintptr
	desc    uintptr
	a, b, c uintptr // layouts of the library's operands: a is B's, b is A's
	align   uint32
	scale   func(at *[8]byte, v float64)
	block   *block
}

// block is what a call points to, kept in place on the heap.
type block struct {
	alpha, beta [8]byte
	algorithm   [8]uint64
	args        [16]uintptr
}

// New describes a problem. Close frees it.
func (h *Handle) New(p Problem) (*Product, error) {
	x := &Product{lib: h.lib, handle: h.h, align: uint32(min(max(p.Align, 1), 16)), block: new(block)}
	scale := R32F
	x.scale = putFloat32
	switch p.Compute {
	case Compute64F:
		scale, x.scale = R64F, putFloat64
	case Compute32I:
		scale, x.scale = R32I, putInt32
	}
	if err := x.describe(p, scale); err != nil {
		x.Close()
		return nil, err
	}
	return x, nil
}

func (x *Product) describe(p Problem, scale DataType) error {
	fn := &x.lib.fn
	if err := status("cublasLtMatmulDescCreate", fn.DescCreate.Call(uintptr(unsafe.Pointer(&x.desc)), uintptr(p.Compute), uintptr(scale))); err != nil {
		return err
	}
	for attribute, trans := range map[uintptr]bool{descTransA: p.B.Trans, descTransB: p.A.Trans} {
		op := opN
		if trans {
			op = opT
		}
		if err := status("cublasLtMatmulDescSetAttribute", fn.DescSet.Call(x.desc, attribute, uintptr(unsafe.Pointer(&op)), unsafe.Sizeof(op))); err != nil {
			return err
		}
	}
	for _, l := range []struct {
		to         *uintptr
		m          Matrix
		rows, cols int // of the stored matrix
	}{{&x.a, p.B, p.K, p.N}, {&x.b, p.A, p.M, p.K}, {&x.c, p.C, p.M, p.N}} {
		if l.m.Trans {
			l.rows, l.cols = l.cols, l.rows
		}
		if err := x.layout(l.to, l.m, l.rows, l.cols, p.Batch); err != nil {
			return err
		}
	}
	return nil
}

// layout describes a stored matrix; the library's rows are its columns.
func (x *Product) layout(to *uintptr, m Matrix, rows, cols, batch int) error {
	fn := &x.lib.fn
	if err := status("cublasLtMatrixLayoutCreate", fn.LayoutCreate.Call(uintptr(unsafe.Pointer(to)), uintptr(m.Type), uintptr(cols), uintptr(rows), uintptr(m.LD))); err != nil {
		return err
	}
	if batch <= 1 {
		return nil
	}
	n, stride := int32(batch), m.Stride
	if err := status("cublasLtMatrixLayoutSetAttribute(BATCH_COUNT)", fn.LayoutSet.Call(*to, layoutBatch, uintptr(unsafe.Pointer(&n)), unsafe.Sizeof(n))); err != nil {
		return err
	}
	return status("cublasLtMatrixLayoutSetAttribute(STRIDED_BATCH_OFFSET)", fn.LayoutSet.Call(*to, layoutStride, uintptr(unsafe.Pointer(&stride)), unsafe.Sizeof(stride)))
}

// Algorithms asks for up to n algorithms, best first by the library's own estimate, whose workspace is at most `workspace` bytes. None sums
// parts of the inner axis in less than the compute type. An empty list means that the library cannot do the problem.
func (x *Product) Algorithms(n int, workspace int64) ([]Algorithm, error) {
	fn := &x.lib.fn
	var pref uintptr
	if err := status("cublasLtMatmulPreferenceCreate", fn.PrefCreate.Call(uintptr(unsafe.Pointer(&pref)))); err != nil {
		return nil, err
	}
	defer fn.PrefDestroy.Call(pref)
	bytes, mask, align := uint64(workspace), reductionComputeType, x.align
	if err := status("cublasLtMatmulPreferenceSetAttribute", fn.PrefSet.Call(pref, prefWorkspace, uintptr(unsafe.Pointer(&bytes)), unsafe.Sizeof(bytes))); err != nil {
		return nil, err
	}
	if err := status("cublasLtMatmulPreferenceSetAttribute", fn.PrefSet.Call(pref, prefReduction, uintptr(unsafe.Pointer(&mask)), unsafe.Sizeof(mask))); err != nil {
		return nil, err
	}
	for _, a := range []uintptr{prefAlignA, prefAlignB, prefAlignC, prefAlignD} {
		if err := status("cublasLtMatmulPreferenceSetAttribute", fn.PrefSet.Call(pref, a, uintptr(unsafe.Pointer(&align)), unsafe.Sizeof(align))); err != nil {
			return nil, err
		}
	}
	results := make([][resultBytes / 8]uint64, max(n, 1))
	var found int32
	r := fn.Heuristic.Call(x.handle, x.desc, x.a, x.b, x.c, x.c, pref, uintptr(len(results)), uintptr(unsafe.Pointer(&results[0])), uintptr(unsafe.Pointer(&found)))
	if code := int32(r); code == notSupported || code == invalidValue {
		return nil, nil
	}
	if err := status("cublasLtMatmulAlgoGetHeuristic", r); err != nil {
		return nil, err
	}
	var out []Algorithm
	for _, r := range results[:max(min(int(found), len(results)), 0)] {
		a := Algorithm{Workspace: int64(r[8])}
		copy(a.Data[:], r[:8])
		if state := int32(uint32(r[9])); state == 0 && a.Workspace <= workspace {
			out = append(out, a)
		}
	}
	return out, nil
}

// Check asks whether an algorithm, read from a file say, is good for the problem, and sets its workspace.
func (x *Product) Check(a *Algorithm) bool {
	var result [resultBytes / 8]uint64
	algorithm := a.Data
	r := x.lib.fn.Check.Call(x.handle, x.desc, x.a, x.b, x.c, x.c, uintptr(unsafe.Pointer(&algorithm)), uintptr(unsafe.Pointer(&result)))
	if int32(r) != 0 || int32(uint32(result[9])) != 0 {
		return false
	}
	a.Workspace = int64(result[8])
	return true
}

// Set fixes what Run calls with.
func (x *Product) Set(a Algorithm, alpha, beta float64) {
	x.scale(&x.block.alpha, alpha)
	x.scale(&x.block.beta, beta)
	x.block.algorithm = a.Data
}

// Run enqueues the product on a stream (a CUstream). Addresses are on the device; add is what beta multiplies and may be c. It allocates
// nothing and may be captured.
func (x *Product) Run(a, b, add, c, workspace uint64, bytes int64, stream uintptr) error {
	k := x.block
	k.args = [16]uintptr{
		x.handle, x.desc, uintptr(unsafe.Pointer(&k.alpha)), uintptr(b), x.a, uintptr(a), x.b, uintptr(unsafe.Pointer(&k.beta)), uintptr(add), x.c,
		uintptr(c), x.c, uintptr(unsafe.Pointer(&k.algorithm)), uintptr(workspace), uintptr(bytes), stream,
	}
	r := x.lib.fn.Matmul.Call(k.args[:]...)
	runtime.KeepAlive(k)
	return status("cublasLtMatmul", r)
}

// Close frees the descriptions.
func (x *Product) Close() {
	fn := &x.lib.fn
	for _, l := range []*uintptr{&x.a, &x.b, &x.c} {
		if *l != 0 {
			fn.LayoutDestroy.Call(*l)
			*l = 0
		}
	}
	if x.desc != 0 {
		fn.DescDestroy.Call(x.desc)
		x.desc = 0
	}
}
