package gemm

import (
	"fmt"
	"unsafe"

	"github.com/bitsandbyes/bitsandbyes/device/cpu/pool"
)

// Mat8 is an int8 operand. The zero LD means that rows follow each other without gaps.
type Mat8 struct {
	Data  []int8 // row-major
	LD    int    // elements from one stored row to the next
	Trans bool   // multiply by the transpose of the stored matrix
}

// Int8Args describes one product: op(A) is [M,K], op(B) is [K,N], C is [M,N] row-major.
type Int8Args struct {
	M, N, K    int
	A, B       Mat8
	C          []int32
	LDC        int    // elements from one row of C to the next, 0 for N
	Accumulate bool   // add to C instead of replacing it
	Kernel     Kernel // force an implementation; the zero value takes the fastest one
}

// MaxInt8K is the largest K of a product whose int32 sums cannot overflow: 128² times it is below 2^31.
const MaxInt8K = 1<<17 - 1

// job8 is one call of Int8.
type job8 struct {
	Int8Args
	blocks
	kern  *kernel8
	dotFn func(worker, task int)
}

// idle8 keeps finished jobs, as idle does.
var idle8 = make(chan *job8, 16)

func newJob8() *job8 {
	select {
	case j := <-idle8:
		return j
	default:
	}
	j := &job8{}
	j.in = j
	j.packFn, j.blockFn, j.loopFn, j.dotFn = j.packShare, j.partShared, j.loop, j.dots
	return j
}

func (j *job8) release() {
	j.Int8Args, j.mem = Int8Args{}, nil
	select {
	case idle8 <- j:
	default:
	}
}

// Int8 computes C = op(A)·op(B), plus C if args.Accumulate, exactly in int32. scratch must have at least Int8ScratchBytes(M, N, K,
// p.Threads()) bytes; its content is lost. A nil pool computes on the calling goroutine.
func Int8(p *pool.Pool, scratch []byte, args Int8Args) error {
	if err := args.check(); err != nil {
		return fmt.Errorf("gemm: int8: %w", err)
	}
	if args.M == 0 || args.N == 0 {
		return nil
	}
	if args.K == 0 {
		for i := range args.M {
			if !args.Accumulate {
				clear(args.C[i*args.LDC : i*args.LDC+args.N])
			}
		}
		return nil
	}
	j := newJob8()
	defer j.release()
	j.Int8Args, j.kern = args, args.Kernel.int8Kernel()
	if j.small() {
		return j.runSmall(p)
	}
	j.plan(j.M, j.N, ceil(j.K, j.kern.per), j.choice(p.Threads()))
	floats := j.floats(p.Threads())
	if len(scratch) < 4*floats+line {
		return fmt.Errorf("gemm: int8: product M=%d N=%d K=%d on %d threads needs %d bytes of scratch, got %d; size it with Int8ScratchBytes",
			j.M, j.N, j.K, p.Threads(), 4*floats+line, len(scratch))
	}
	j.place(alignedFloats(scratch)[:floats], p.Threads())
	return j.run(p)
}

func (g *Int8Args) check() error {
	for _, d := range [...]int{g.M, g.N, g.K} {
		if d < 0 || d > maxDim {
			return fmt.Errorf("sizes M=%d N=%d K=%d: each must be in [0, %d]", g.M, g.N, g.K, maxDim)
		}
	}
	switch {
	case g.K > MaxInt8K:
		return fmt.Errorf("over K=%d int32 sums may overflow, the most is %d; cut the product and add the parts in a wider type", g.K, MaxInt8K)
	case !g.Kernel.Available():
		return fmt.Errorf("kernel %v does not run on this processor or is not in this build; use Auto", g.Kernel)
	}
	if err := g.A.check("A", g.M, g.K); err != nil {
		return err
	}
	if err := g.B.check("B", g.K, g.N); err != nil {
		return err
	}
	return checkRows("C", len(g.C), g.M, g.N, &g.LDC)
}

func (x *Mat8) check(name string, rows, cols int) error {
	if x.Trans {
		rows, cols = cols, rows
	}
	return checkRows(name, len(x.Data), rows, cols, &x.LD)
}

// checkRows checks that rows of cols elements, ld apart, lie in size elements, and sets ld if it is zero.
func checkRows(name string, size, rows, cols int, ld *int) error {
	if *ld == 0 {
		*ld = max(cols, 1)
	}
	if *ld < cols || *ld > maxDim {
		return fmt.Errorf("%s [%d,%d] has row stride %d; want at least the columns and at most %d", name, rows, cols, *ld, maxDim)
	}
	if rows == 0 || cols == 0 {
		return nil
	}
	if need := (rows-1)**ld + cols; need > size {
		return fmt.Errorf("%s [%d,%d] with row stride %d needs %d elements, the data has %d", name, rows, cols, *ld, need, size)
	}
	return nil
}

// Int8ScratchBytes is how much scratch Int8 needs at most for products of these or smaller extents, whatever the kernel.
func Int8ScratchBytes(m, n, k, threads int) int64 {
	most := 0
	for _, kern := range kernels8 {
		if kern != nil {
			most = max(most, boundFloats(m, n, ceil(k, kern.per), kern.choice(threads)))
		}
	}
	return 4*int64(most) + line
}

func (k *kernel8) choice(threads int) choice {
	return choice{threads: threads, extra: 1, mr: k.mr, nr: k.nr}
}

func (j *job8) choice(threads int) choice {
	c := j.kern.choice(threads)
	c.wideB, c.lanesA, c.lanesB = j.kern.packWide != nil && !j.B.Trans, !j.A.Trans, j.B.Trans
	return c
}

func (j *job8) open(_, _, _, _ int) {}

func (j *job8) close(_, _, _, _ int) {}

// raw implements inner.
func (j *job8) raw(ofB bool, lane, lanes, k0, kb int) region {
	x, laneRows := &j.A, !j.A.Trans
	if ofB {
		x, laneRows = &j.B, j.B.Trans
	}
	k0, kb = k0*j.kern.per, min(kb*j.kern.per, j.K-k0*j.kern.per)
	if laneRows {
		return region{unsafe.Pointer(&x.Data[lane*x.LD+k0]), x.LD, lanes, kb}
	}
	return region{unsafe.Pointer(&x.Data[k0*x.LD+lane]), x.LD, kb, lanes}
}

// tile implements inner. What the sums of the rows begin at lies behind the strip of A.
func (j *job8) tile(i, n, rows, cols, kb int, a, b panel, add bool, next uintptr, step int) {
	pa := unsafe.Slice((*uint32)(unsafe.Pointer(a.at)), rows*(kb+1))
	j.kern.tile(rows, kb, &pa[0], a.lane, a.k, (*uint32)(unsafe.Pointer(b.at)), b.k, &j.C[i*j.LDC+n], j.LDC, cols,
		(*int32)(unsafe.Pointer(&pa[rows*kb])), add || j.Accumulate, next, step)
}
