package cuda

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// gemmArgs is struct Product of kernels/gemm.cuh.
type gemmArgs struct {
	a, b, add, offsets           Addr
	c, partial                   Addr
	lda, ldb, ldc                int64
	strideA, strideB, strideC    int64
	alpha                        float64
	m, n, k, batch, splits, part int32
	experts, aligned             int32
}

// gemmGroups says which rows or inner indices of a product are whose: the offsets of experts, on the device.
type gemmGroups int

const (
	ungrouped   gemmGroups = iota
	groupRows              // A's rows: GroupedMatMul; B has a matrix for each expert
	groupInside            // the inner axis: GroupedOuter; C has a matrix for each expert
)

// ownKernel is one of the kernels here and how it divides the work.
type ownKernel struct {
	name, file string
	define     []string
	tile       int // rows and columns of C that a block computes
	threads    int
	step       int // inner indices at a time
	wide       int // elements of 16 bytes; rows and addresses that are multiples of it are copied so; 0: no need
	shared     int // bytes of dynamic shared memory
}

// ownGemm is the kernel for any product, without a library.
func (d *Device) ownGemm(s gemmSpec) (*gemm, error) {
	o, err := d.newOwnGemm(s)
	if err != nil {
		return nil, err
	}
	g := &gemm{label: o.kernel.name, enqueue: o.enqueue}
	if n := o.args.splits; n > 1 {
		g.label += fmt.Sprintf("_split%d", n)
		g.scratch = aligned(int64(n) * int64(s.batch) * int64(s.m) * int64(s.n) * int64(s.sums().Size()))
	}
	return g, nil
}

// ownGemm is a product by a kernel here.
type ownGemm struct {
	spec       gemmSpec
	kernel     ownKernel
	args       gemmArgs
	most       int // extent of a grid along z
	fn, reduce *Function
}

func (d *Device) newOwnGemm(s gemmSpec) (*ownGemm, error) {
	o := &ownGemm{spec: s, kernel: d.ownKernel(s, ungrouped), args: s.args(), most: maxGridYZ}
	if n := ceilDiv(s.n, o.kernel.tile); n > maxGridYZ {
		return nil, fmt.Errorf("%d columns: at most %d at once", s.n, maxGridYZ*o.kernel.tile)
	}
	o.splits(d.sms)
	var err error
	if o.fn, err = d.Function(o.kernel.program(s, ungrouped), o.kernel.name); err != nil || o.args.splits == 1 {
		return o, err
	}
	o.reduce, err = d.splitsReducer(s)
	return o, err
}

// splitsReducer is the kernel that adds up the sums of the parts of the inner axis.
func (d *Device) splitsReducer(s gemmSpec) (*Function, error) {
	return d.Function(Program{Files: []string{"gemm.cuh", "gemm_splits.cu"}, Define: []string{"TC " + cType(s.c.dtype), "SUM " + cType(s.sums())}}, "reduce_splits")
}

// args are a spec's numbers, with one part of the inner axis.
func (s gemmSpec) args() gemmArgs {
	return gemmArgs{lda: int64(s.a.ld), ldb: int64(s.b.ld), ldc: int64(s.c.ld), strideA: s.a.stride, strideB: s.b.stride, strideC: s.c.stride,
		alpha: s.alpha, m: int32(s.m), n: int32(s.n), k: int32(s.k), batch: int32(s.batch), splits: 1, part: int32(s.k)}
}

// splits cuts the inner axis where the tiles of C would leave most of the machine idle. The cut depends on the shape and the machine alone, and
// the parts are added up in order, so that results repeat.
func (o *ownGemm) splits(processors int) {
	const shortest = 512 // inner indices of a part that are worth the second pass
	s := o.spec
	blocks := ceilDiv(s.m, o.kernel.tile) * ceilDiv(s.n, o.kernel.tile) * s.batch
	n := min(processors/max(blocks, 1), s.k/shortest, 64, maxGridYZ/s.batch)
	if n < 2 {
		return
	}
	part := ceilDiv(ceilDiv(s.k, n), o.kernel.step) * o.kernel.step
	o.args.splits, o.args.part = int32(ceilDiv(s.k, part)), int32(part)
}

func (o *ownGemm) enqueue(c *Call, at gemmAt) error {
	k, a := o.kernel, &o.args
	a.a, a.b, a.add, a.c, a.partial = at.a, at.b, at.add, at.c, at.scratch
	a.aligned = k.aligned(o.spec, at)
	each := o.most / int(a.splits) // matrices of a launch
	for lo := 0; lo < o.spec.batch; lo += each {
		n := min(each, o.spec.batch-lo)
		a.batch = int32(n)
		grid := [3]int{ceilDiv(o.spec.m, k.tile), ceilDiv(o.spec.n, k.tile), int(a.splits) * n}
		if err := k.launch(c, o.fn, Geometry{Grid: grid, Block: [3]int{k.threads}, Shared: k.shared}, a, at.scales); err != nil {
			return err
		}
		advance(&a.a, o.spec.a, n)
		advance(&a.b, o.spec.b, n)
		advance(&a.c, o.spec.c, n)
		if a.add != 0 {
			advance(&a.add, o.spec.c, n)
		}
	}
	if a.splits == 1 {
		return nil
	}
	a.c, a.add = at.c, at.add
	return c.Launch(o.reduce, Over(int64(o.spec.m)*int64(o.spec.n)*int64(o.spec.batch), 256, 4), a)
}

// advance moves an address n matrices further.
func advance(at *Addr, m gemmMat, n int) { *at += Addr(int64(n) * m.stride * int64(m.dtype.Size())) }

func (k ownKernel) launch(c *Call, f *Function, g Geometry, a *gemmArgs, scales Addr) error {
	if k.name == "gemm_simt" {
		return c.Launch(f, g, a, scales)
	}
	return c.Launch(f, g, a)
}

// aligned has bit 0 set if A can be copied by 16 bytes, bit 1 if B can.
func (k ownKernel) aligned(s gemmSpec, at gemmAt) (bits int32) {
	if k.wide == 0 {
		return 0
	}
	fits := func(m gemmMat, p Addr) bool {
		return m.ld%k.wide == 0 && m.stride%int64(k.wide) == 0 && uint64(p)%uint64(k.wide*m.dtype.Size()) == 0
	}
	if fits(s.a, at.a) {
		bits |= 1
	}
	if fits(s.b, at.b) {
		bits |= 2
	}
	return bits
}

// maxGridYZ is the largest extent of a grid along y and z.
const maxGridYZ = 65535

func ceilDiv(a, b int) int { return (a + b - 1) / b }

// ownKernel chooses among the kernels by dtypes, layout and what the machine has.
func (d *Device) ownKernel(s gemmSpec, g gemmGroups) ownKernel {
	define := []string{fmt.Sprintf("TRANS_A %d", b2i(s.a.trans)), fmt.Sprintf("TRANS_B %d", b2i(s.b.trans)), fmt.Sprintf("GROUPED %d", g)}
	if d.mma(s, g) {
		per := 16 / s.a.dtype.Size()
		chunks, stages := d.mmaStages()
		return ownKernel{name: "gemm_mma", file: "gemm_mma.cu", tile: 128, threads: 256, step: chunks * per, wide: per, shared: stages * 2 * 128 * chunks * 16,
			define: append(define, "T "+cType(s.a.dtype), "TC "+cType(s.c.dtype), "SUM "+cType(s.sums()), fmt.Sprintf("CHUNKS %d", chunks), fmt.Sprintf("STAGES %d", stages))}
	}
	if s.c.dtype == tensor.I32 {
		return ownKernel{name: "gemm_i8", file: "gemm_i8.cu", define: define, tile: 64, threads: 256, step: 32, wide: 4}
	}
	k := ownKernel{name: "gemm_simt", file: "gemm_simt.cu", tile: 64, step: 16}
	if g == ungrouped && (s.m <= 32 || s.n <= 32) {
		k.tile = 32
	}
	k.threads = k.tile * k.tile / 16
	k.define = append(define, "TA "+cType(s.a.dtype), "TB "+cType(s.b.dtype), "TC "+cType(s.c.dtype), fmt.Sprintf("TILE %d", k.tile))
	if s.scaled {
		k.define = append(k.define, "QUANTIZED 1")
	}
	return k
}

// mmaStages is how deep gemm_mma's steps are and how many lie in shared memory, so that two blocks fit a multiprocessor: 192 KB on Hopper, 128 on
// Ampere's largest, 96 on others.
func (d *Device) mmaStages() (chunks, stages int) {
	switch {
	case d.shared >= 200<<10:
		return 8, 3
	case d.shared >= 150<<10:
		return 4, 4
	}
	return 4, 3
}

// mma tells whether the tensor-core kernel has the case and the matrices are not much smaller than its tiles.
func (d *Device) mma(s gemmSpec, g gemmGroups) bool {
	cc := d.capability
	if s.a.dtype != s.b.dtype || s.scaled || s.n < 16 || s.k < 16 && g != groupInside || s.m < 16 {
		return false
	}
	switch s.a.dtype {
	case tensor.BF16:
		return cc >= 80 && (s.c.dtype == tensor.BF16 || s.c.dtype == tensor.F32)
	case tensor.F16:
		return cc >= 75 && (s.c.dtype == tensor.F16 || s.c.dtype == tensor.F32)
	case tensor.I8:
		return cc >= 80 && !s.a.trans && s.b.trans
	}
	return false
}

func (k ownKernel) program(s gemmSpec, g gemmGroups) Program {
	files := []string{"gemm.cuh", k.file}
	if k.name == "gemm_mma" {
		files = []string{"tensor_core.cuh", "gemm.cuh", "gemm_tiles.cuh", k.file}
	}
	return Program{Files: files, Define: k.define, Exact: s.scaled}
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}
