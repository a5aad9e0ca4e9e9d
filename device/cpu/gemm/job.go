package gemm

import (
	"fmt"
	"unsafe"

	"github.com/bitsandbyes/bitsandbyes/device/cpu/vec"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// job is one call of Gemm. The func fields are method values made once, so that handing them to the pool allocates nothing.
type job struct {
	Args
	blocks
	plain, pairs inner // the job as either kind of product
	alpha        float32
	alpha64      float64
	kern         *kernel
	sums         []float32 // of the present block where C is not float32
	lds          int       // elements from one row of sums to the next

	small                        bool
	swapped                      bool  // small: computing the transpose of C
	cols                         int   // small: columns of C a task
	x                            panel // small: op(A) as float32
	packA32, work                []float32
	workEach                     int
	copyFn, dotFn, axpyFn, f64Fn func(worker, task int)
}

// idle keeps finished jobs for later calls. A sync.Pool would forget them at every garbage collection.
var idle = make(chan *job, 16)

func newJob() *job {
	select {
	case j := <-idle:
		return j
	default:
	}
	j := &job{}
	j.plain, j.pairs = j, pairJob{j}
	j.packFn, j.blockFn, j.loopFn, j.f64Fn = j.packShare, j.partShared, j.loop, j.block64
	j.copyFn, j.dotFn, j.axpyFn = j.copyA, j.dots, j.axpys
	return j
}

// release drops the references to the caller's memory.
func (j *job) release() {
	j.Args, j.mem, j.sums, j.packA32, j.work, j.x = Args{}, nil, nil, nil, nil, panel{}
	select {
	case idle <- j:
	default:
	}
}

func (j *job) choice(threads int) choice {
	_, packs := j.B.Source.(Packer)
	plain := func(x *Mat) bool { return x.Source == nil && x.DType == tensor.F32 && j.kern.direct }
	return choice{threads: threads, costlyA: j.A.Source != nil, costlyB: j.B.Source != nil, narrow: j.C.DType != tensor.F32,
		packsB: packs, lanesA: !j.A.Trans, lanesB: j.B.Trans, nearB: j.nearB(),
		directA: plain(&j.A), directB: plain(&j.B) && !j.B.Trans, mr: j.kern.mr, nr: j.kern.nr}
}

// nearB says that B is copied along its rows and small enough to be in the last cache.
func (j *job) nearB() bool {
	return j.kern.rowsF32 != nil && j.B.Source == nil && !j.B.Trans && j.K*j.N*j.B.DType.Size() <= nearBytes
}

// ScratchBytes is how much scratch Gemm needs at most for products of these or smaller extents, whatever the types and the kernel.
func ScratchBytes(m, n, k, threads int) int64 {
	if min(m, n) <= smallM {
		return 4*int64(smallFloats(min(m, smallM), n, k, max(threads, 1))) + line
	}
	return PackedScratchBytes(m, n, k, threads)
}

// PackedScratchBytes is ScratchBytes for products that are packed even if they have few rows or columns: B is a Packer.
func PackedScratchBytes(m, n, k, threads int) int64 {
	most := smallFloats(min(m, wideM), n, k, max(threads, 1))
	for _, kern := range kernels {
		if kern != nil {
			sums := min(m, sumCols) * roundUp(min(n, sumCols), 16)
			most = max(most, boundFloats(m, n, k, choice{threads: threads, mr: kern.mr, nr: kern.nr})+sums)
		}
	}
	return 4*int64(most) + line
}

// sumsFloats is the size of the sums of a block.
func sumsFloats(j *blocks) int { return min(j.m, j.regionM) * roundUp(min(j.n, j.regionN), 16) }

// layout plans the product and cuts up the scratch.
func (j *job) layout(scratch []byte, threads int) error {
	_, packs := j.B.Source.(Packer)
	large := &j.B
	if j.M > j.N {
		large = &j.A
	}
	j.small, j.swapped = !packs && j.kern.isSmall(j.M, j.N, large.Source != nil), false
	var need int
	if j.small {
		if j.M > j.N {
			j.swap()
		}
		need = smallFloats(j.M, j.N, j.K, threads)
	} else {
		steps := j.K
		if j.in = j.plain; j.usesPairs() {
			j.in, steps = j.pairs, ceil(j.K, 2)
		}
		j.plan(j.M, j.N, steps, j.choice(threads))
		need = j.floats(threads)
		if j.C.DType != tensor.F32 {
			need += sumsFloats(&j.blocks)
		}
	}
	if len(scratch) < 4*need+line {
		return fmt.Errorf("product M=%d N=%d K=%d on %d threads needs %d bytes of scratch, got %d; size it with ScratchBytes", j.M, j.N, j.K,
			threads, 4*need+line, len(scratch))
	}
	f := alignedFloats(scratch)
	if j.small {
		a := roundUp(j.M*j.K, 16)
		j.packA32, j.work, j.workEach = f[:a], f[a:need], smallTemp
		return nil
	}
	size := j.floats(threads)
	j.place(f[:size], threads)
	if j.C.DType != tensor.F32 {
		j.sums, j.lds = f[size:need], roundUp(min(j.n, j.regionN), 16)
	}
	return nil
}

// open loads what sums are added to.
func (j *job) open(i0, i1, n0, n1 int) {
	if j.C.DType == tensor.F32 || !j.Accumulate {
		return
	}
	for i := i0; i < i1; i++ {
		vec.Widen(j.sumRow(i, n0, n1), j.out(i, n0), j.C.DType)
	}
}

// close rounds sums to the type of C.
func (j *job) close(i0, i1, n0, n1 int) {
	if j.C.DType == tensor.F32 {
		return
	}
	for i := i0; i < i1; i++ {
		vec.Narrow(j.out(i, n0), j.sumRow(i, n0, n1), j.C.DType)
	}
}

func (j *job) sumRow(i, n0, n1 int) []float32 { return j.sums[(i-j.m0)*j.lds+n0-j.n0:][:n1-n0] }

func (j *job) out(i, n int) []byte { return j.C.Data[(i*j.C.LD+n)*j.C.DType.Size():] }

// target is where the sums of an element of C are, and the step to the next row.
func (j *job) target(i, n int) (c *float32, ld int) {
	if j.C.DType == tensor.F32 {
		return (*float32)(unsafe.Pointer(&j.C.Data[4*(i*j.C.LD+n)])), j.C.LD
	}
	return &j.sums[(i-j.m0)*j.lds+n-j.n0], j.lds
}

// tile implements inner.
func (j *job) tile(i, n, rows, cols, kb int, a, b panel, add bool, next uintptr, step int) {
	c, ld := j.target(i, n)
	j.kern.tile(rows, kb, a.at, a.lane, a.k, b.at, b.k, c, ld, cols, j.alpha, add || j.Accumulate, next, step)
}

// packsAlong implements alongPacker.
func (j *job) packsAlong(kb int) bool {
	return j.in == j.plain && j.kern.tilePack != nil && j.B.Source == nil && j.B.DType == tensor.F32 && !j.B.Trans && kb%64 == 0
}

// tilePack implements alongPacker.
func (j *job) tilePack(i, n, k, kb int, a, to *float32, add bool, next uintptr, step int) {
	c, ld := j.target(i, n)
	j.kern.tilePack(kb, a, j.B.float(k, n), j.B.LD, to, c, ld, j.alpha, add || j.Accumulate, next, step)
}

// turnsAlong implements alongPacker.
func (j *job) turnsAlong(kb int) bool {
	return j.in == j.plain && j.kern.tileTurn[0] != nil && j.A.Source == nil && j.A.DType == tensor.F32 && !j.A.Trans && kb%64 == 0
}

// tileTurn implements alongPacker.
func (j *job) tileTurn(odd, i, n, k, kb int, to, b *float32, add bool, next uintptr, step int) {
	c, ld := j.target(i, n)
	j.kern.tileTurn[odd](kb, j.A.float(i, k), j.A.LD, to, b, c, ld, j.alpha, add || j.Accumulate, next, step)
}

// raw implements inner.
func (j *job) raw(ofB bool, lane, lanes, k0, kb int) region {
	x, laneRows := &j.A, !j.A.Trans
	if ofB {
		x, laneRows = &j.B, j.B.Trans
	}
	if x.Source != nil {
		return region{}
	}
	if j.in == j.pairs {
		k0, kb = 2*k0, min(2*kb, j.K-2*k0)
	}
	size := x.DType.Size()
	if laneRows {
		return region{unsafe.Pointer(&x.Data[(lane*x.LD+k0)*size]), x.LD * size, lanes, kb * size}
	}
	return region{unsafe.Pointer(&x.Data[(k0*x.LD+lane)*size]), x.LD * size, kb, lanes * size}
}

func (j *job) directA(i, k int) panel {
	if j.A.Trans {
		return panel{at: j.A.float(k, i), lane: 1, k: j.A.LD}
	}
	return panel{at: j.A.float(i, k), lane: j.A.LD, k: 1}
}

func (j *job) directB(n, k int) panel { return panel{at: j.B.float(k, n), k: j.B.LD} }

// float is the address of a stored float32.
func (x *Mat) float(r, c int) *float32 { return (*float32)(unsafe.Pointer(&x.Data[4*(r*x.LD+c)])) }
