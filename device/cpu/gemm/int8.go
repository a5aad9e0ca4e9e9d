package gemm

import (
	"fmt"
	"unsafe"

	"github.com/bitsandbyes/bitsandbyes/device/cpu/pool"
	"github.com/bitsandbyes/bitsandbyes/tensor"
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
	k            *kernel8
	transposer   *kernel
	packA, packB []uint32
	start        []int32 // what the sums of each row of the block begin at
	temp         []int32 // one micro-tile a worker
	dotFn        func(worker, task int)
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
	j.packFn, j.tileFn, j.dotFn = j.pack, j.tiles, j.dots
	return j
}

func (j *job8) release() {
	j.Int8Args, j.packA, j.packB, j.start, j.temp = Int8Args{}, nil, nil, nil, nil
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
	j.Int8Args, j.k, j.transposer = args, args.Kernel.int8Kernel(), kernels[args.Kernel.resolve()]
	j.mr, j.nr, j.maxK = j.k.mr, j.k.nr, maxKC
	units := ceil(j.K, j.k.per)
	if err := j.layout(scratch, units, p.Threads()); err != nil {
		return fmt.Errorf("gemm: int8: %w", err)
	}
	if j.small() {
		return j.runSmall(p)
	}
	return j.run(p, j.M, j.N, units)
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

// Int8ScratchBytes is how much scratch Int8 needs at most for these extents, whatever the kernel.
func Int8ScratchBytes(m, n, k, threads int) int64 {
	var most int64
	for _, kern := range kernels8 {
		if kern != nil {
			a, b, start, temp := kern.sizes(m, n, ceil(k, kern.per), max(threads, 1))
			most = max(most, 4*int64(a+b+start+temp))
		}
	}
	return most + line
}

// sizes are extents in units of 32 bits, each a multiple of a cache line.
func (k *kernel8) sizes(m, n, units, threads int) (a, b, start, temp int) {
	mb, nb, kc := min(roundUp(m, k.mr), maxM/k.mr*k.mr), roundUp(min(n, maxN), k.nr), min(units, maxKC)
	return roundUp(mb*kc, 16), roundUp(nb*kc, 16), roundUp(mb, 16), roundUp(k.mr*k.nr, 16) * threads
}

func (j *job8) layout(scratch []byte, units, threads int) error {
	a, b, start, temp := j.k.sizes(j.M, j.N, units, threads)
	if need := 4*(a+b+start+temp) + line; len(scratch) < need {
		return fmt.Errorf("product M=%d N=%d K=%d on %d threads needs %d bytes of scratch, got %d; size it with Int8ScratchBytes", j.M, j.N, j.K,
			threads, need, len(scratch))
	}
	if rest := int(uintptr(unsafe.Pointer(&scratch[0])) % line); rest != 0 {
		scratch = scratch[line-rest:]
	}
	u := tensor.View[uint32](scratch[:4*(a+b)])
	j.packA, j.packB = u[:a:a], u[a:]
	s := tensor.View[int32](scratch[4*(a+b) : 4*(a+b+start+temp)])
	j.start, j.temp = s[:start:start], s[start:]
	return nil
}

// tiles multiplies one tile of C. Micro-tiles that stick out of C go through temp.
func (j *job8) tiles(worker, task int) {
	i0, i1, c0, c1 := j.tile(task)
	k, add := j.k, !j.first || j.Accumulate
	each := roundUp(k.mr*k.nr, 16)
	temp := j.temp[worker*each:][:each]
	for n := c0; n < c1; n += k.nr {
		b := &j.packB[n*j.kb]
		for i := i0; i < i1; i += k.mr {
			a, at := &j.packA[i*j.kb], (j.m0+i)*j.LDC+j.n0+n
			rows, cols := min(k.mr, i1-i), min(k.nr, c1-n)
			if rows == k.mr && cols == k.nr {
				k.tile(j.kb, a, b, &j.C[at], j.LDC, &j.start[i], add)
				continue
			}
			k.tile(j.kb, a, b, &temp[0], k.nr, &j.start[i], false)
			for r := range rows {
				row := j.C[at+r*j.LDC:][:cols]
				for x, v := range temp[r*k.nr:][:cols] {
					if add {
						v += row[x]
					}
					row[x] = v
				}
			}
		}
	}
}
