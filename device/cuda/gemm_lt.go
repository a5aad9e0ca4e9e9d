package cuda

import (
	"fmt"
	"sync"
	"time"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/device/cuda/cublaslt"
	"github.com/bitsandbyes/bitsandbyes/device/cuda/nvrtc"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// blas is cuBLASLt on a device.
type blas struct {
	opening  sync.Mutex
	tried    bool
	handle   *cublaslt.Handle
	err      error // why there is none
	mu       sync.Mutex
	products []*cublaslt.Product // to be closed with the device
	chosen   map[string]cublaslt.Algorithm
	cache    *nvrtc.Cache
}

// library is the handle of cuBLASLt, or the reason that there is none. What it lacked memory for is tried again the next time.
func (d *Device) library() (*cublaslt.Handle, error) {
	b := &d.blas
	b.opening.Lock()
	defer b.opening.Unlock()
	if !b.tried {
		began := time.Now()
		b.handle, b.err = d.openLibrary()
		d.spent.since(spentOpening, began)
		b.tried = !passing(b.err)
	}
	return b.handle, b.err
}

func (d *Device) openLibrary() (h *cublaslt.Handle, err error) {
	lib, err := cublaslt.Open(d.api.CUDA(), d.capability)
	if err != nil {
		return nil, err
	}
	err = d.enter(func() (err error) {
		h, err = lib.Create()
		return err
	})
	if err != nil {
		return nil, err
	}
	d.blas.mu.Lock()
	defer d.blas.mu.Unlock()
	d.blas.chosen, d.blas.cache = map[string]cublaslt.Algorithm{}, nvrtc.NewCacheOf("cublaslt")
	return h, nil
}

// close frees what cuBLASLt holds. The device's context is current.
func (b *blas) close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, x := range b.products {
		x.Close()
	}
	b.products = nil
	if b.handle == nil {
		return nil
	}
	return b.handle.Close()
}

func init() {
	describers = append(describers, func(d *Device) []device.Fact {
		h, err := d.library()
		if err != nil {
			return []device.Fact{{Topic: "matrix products", Text: "own kernels: " + err.Error()}}
		}
		l := h.Library()
		return []device.Fact{{Topic: "matrix products", Text: fmt.Sprintf("cuBLASLt %d, %s; own kernels where it lacks a case", l.Version(), l.Path())}}
	})
}

// dataTypes are the library's names of dtypes.
var dataTypes = map[tensor.DType]cublaslt.DataType{tensor.F64: cublaslt.R64F, tensor.F32: cublaslt.R32F, tensor.F16: cublaslt.R16F,
	tensor.BF16: cublaslt.R16BF, tensor.I8: cublaslt.R8I, tensor.I32: cublaslt.R32I}

// ltAlign is what addresses must be multiples of: the library chooses its kernels for that.
const ltAlign = 16

// problem puts a product to the library; false: it has no such product. Of i8 it has only those whose inner axis is contiguous on both sides, and is,
// as are the columns of the result and the lengths of all rows, a multiple of 4 (cuBLAS documentation, cublasLtMatmul, integer tensor cores).
func (s gemmSpec) problem(tf32 bool) (cublaslt.Problem, bool) {
	p := cublaslt.Problem{M: s.m, N: s.n, K: s.k, Batch: s.batch, Compute: cublaslt.Compute32F, Align: ltAlign}
	for to, m := range map[*cublaslt.Matrix]gemmMat{&p.A: s.a, &p.B: s.b, &p.C: s.c} {
		*to = cublaslt.Matrix{Type: dataTypes[m.dtype], LD: m.ld, Stride: m.stride, Trans: m.trans}
	}
	a, c := s.a.dtype, s.c.dtype
	switch {
	case a != s.b.dtype || s.scaled || s.k == 0:
		return p, false
	case a == tensor.F64 && c == a:
		p.Compute = cublaslt.Compute64F
	case a == tensor.F32 && c == a:
		if tf32 {
			p.Compute = cublaslt.ComputeTF32
		}
	case (a == tensor.BF16 || a == tensor.F16) && (c == a || c == tensor.F32):
	case a == tensor.I8 && c == tensor.I32:
		p.Compute = cublaslt.Compute32I
		return p, !s.a.trans && s.b.trans && !s.add && s.alpha == 1 && (s.n|s.k|s.a.ld|s.b.ld|s.c.ld)%4 == 0
	default:
		return p, false
	}
	return p, true
}

// libraryGemm is a product by cuBLASLt, or nil where that is absent or has no algorithm. Operands that are views may lie at addresses that
// the timed algorithm does not allow; they get the library's first suggestion for any address, or the own kernel.
func (d *Device) libraryGemm(s gemmSpec) (*gemm, error) {
	p, ok := s.problem(d.TF32())
	if !ok {
		return nil, nil
	}
	if _, err := d.library(); err != nil {
		return nil, ended(err) // doctor shows others; the own kernels stand in
	}
	if left := d.drafting(); left != nil {
		return d.draftGemm(p, s, left)
	}
	g, err := d.ltGemm(p, s)
	if g == nil || err != nil {
		return nil, err
	}
	p.Align = s.a.dtype.Size()
	odd, err := d.ltGemm(p, s)
	if odd == nil && err == nil {
		odd, err = seldom(d, func() (*gemm, error) { return d.ownGemm(s) })
	}
	if err != nil {
		return nil, err
	}
	return &gemm{label: g.label, scratch: max(g.scratch, odd.scratch), enqueue: func(c *Call, at gemmAt) error {
		if (at.a|at.b|at.c|at.add)%ltAlign != 0 {
			return odd.enqueue(c, at)
		}
		return g.enqueue(c, at)
	}}, nil
}

// draftGemm is the library's product in a draft, nil if it has no algorithm to suggest. That it refuses all that it suggests shows only when they run.
func (d *Device) draftGemm(p cublaslt.Problem, s gemmSpec, left *pending) (*gemm, error) {
	key := d.productKey(p, s)
	if !d.blas.keeps(key) {
		if any, err := d.suggests(p); err != nil || !any {
			return nil, err
		}
		if !d.Deterministic() {
			left.products = append(left.products, key)
		}
	}
	left.open = true
	return &gemm{label: "cublaslt", enqueue: func(*Call, gemmAt) error { return errDraft }}, nil
}

// suggests tells whether the library has an algorithm for a problem, which takes it some microseconds.
func (d *Device) suggests(p cublaslt.Problem) (any bool, err error) {
	err = d.enter(func() error {
		x, err := d.blas.handle.New(p)
		if err != nil {
			return err
		}
		defer x.Close()
		list, err := x.Algorithms(1, d.workspaceMax())
		any = len(list) > 0
		return err
	})
	return any, err
}

// ltGemm is the library's product for one alignment of addresses, nil if it has none.
func (d *Device) ltGemm(p cublaslt.Problem, s gemmSpec) (*gemm, error) {
	var x *cublaslt.Product
	var a cublaslt.Algorithm
	var ok bool
	err := d.enter(func() (err error) {
		if x, err = d.blas.handle.New(p); err != nil {
			return err
		}
		if a, ok, err = d.algorithm(x, p, s); err != nil || !ok {
			x.Close()
		}
		return err
	})
	if err != nil || !ok {
		return nil, err
	}
	beta := 0.0
	if s.add {
		beta = 1
	}
	x.Set(a, s.alpha, beta)
	d.blas.mu.Lock()
	d.blas.products = append(d.blas.products, x)
	d.blas.mu.Unlock()
	return &gemm{label: "cublaslt", scratch: aligned(a.Workspace), enqueue: func(c *Call, at gemmAt) error {
		add := at.add
		if add == 0 {
			add = at.c
		}
		return x.Run(uint64(at.a), uint64(at.b), uint64(add), uint64(at.c), uint64(at.scratch), a.Workspace, uintptr(c.Stream.Handle()))
	}}, nil
}

// workspaceMax is what an algorithm may ask for: what the library's own guide gives Hopper and newer, and a quarter of it before.
func (d *Device) workspaceMax() int64 {
	if d.capability >= 90 {
		return 32 << 20
	}
	return 8 << 20
}

// candidates is how many algorithms are timed.
const candidates = 10

// algorithm chooses how the library computes a problem: what was chosen before for it on this kind of device and version, else the fastest
// of its first suggestions. A deterministic device takes the first suggestion, untimed, and so do operands at odd addresses.
func (d *Device) algorithm(x *cublaslt.Product, p cublaslt.Problem, s gemmSpec) (cublaslt.Algorithm, bool, error) {
	if d.Deterministic() || p.Align < ltAlign {
		list, err := x.Algorithms(1, d.workspaceMax())
		if err != nil || len(list) == 0 {
			return cublaslt.Algorithm{}, false, err
		}
		return list[0], true, nil
	}
	key := d.productKey(p, s)
	if a, ok := d.remembered(key, x); ok {
		return a, true, nil
	}
	began := time.Now()
	list, err := x.Algorithms(candidates, d.workspaceMax())
	if err != nil || len(list) == 0 {
		return cublaslt.Algorithm{}, false, err
	}
	times, err := d.timeAlgorithms(x, s, list)
	d.spent.since(spentProducts, began)
	d.spent.one(spentProducts, fmt.Sprintf("%d x %d x %d", s.m, s.n, s.k), time.Since(began))
	switch {
	case outOfMemory(err):
		return list[0], true, nil // not kept: next time there may be room
	case err != nil:
		return cublaslt.Algorithm{}, false, fmt.Errorf("timing algorithms of the library for a product of %d x %d x %d: %w", s.m, s.n, s.k, err)
	}
	best := fastest(times)
	if best < 0 {
		return cublaslt.Algorithm{}, false, nil
	}
	d.keep(key, list[best])
	return list[best], true, nil
}

// productKey is what a choice of an algorithm is kept under.
func (d *Device) productKey(p cublaslt.Problem, s gemmSpec) string {
	return fmt.Sprintf("cublaslt %d in turns, %s, %d processors, %d bytes: %v, compute %d", d.blas.handle.Library().Version(), d.name, d.sms, d.workspaceMax(), s, p.Compute)
}

// keeps tells whether a choice was made before. It may still turn out to be of no use.
func (b *blas) keeps(key string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, ok := b.chosen[key]; ok {
		return true
	}
	_, ok := b.cache.Get(choiceKey(key))
	return ok
}

// remembered finds a choice in memory or on disk.
func (d *Device) remembered(key string, x *cublaslt.Product) (cublaslt.Algorithm, bool) {
	b := &d.blas
	b.mu.Lock()
	defer b.mu.Unlock()
	if a, ok := b.chosen[key]; ok {
		return a, true
	}
	image, ok := b.cache.Get(choiceKey(key))
	if !ok {
		return cublaslt.Algorithm{}, false
	}
	a, ok := decodeChoice(image, key)
	if !ok || !x.Check(&a) || a.Workspace > d.workspaceMax() {
		return cublaslt.Algorithm{}, false
	}
	b.chosen[key] = a
	return a, true
}

func (d *Device) keep(key string, a cublaslt.Algorithm) {
	b := &d.blas
	b.mu.Lock()
	defer b.mu.Unlock()
	b.chosen[key] = a
	b.cache.Put(choiceKey(key), encodeChoice(a, key))
}
