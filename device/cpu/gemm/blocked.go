package gemm

import (
	"fmt"
	"unsafe"

	"github.com/bitsandbyes/bitsandbyes/device/cpu/pool"
	"github.com/bitsandbyes/bitsandbyes/device/cpu/vec"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Block sizes in elements. A strip of B (maxKC x nr) stays in the first cache while strips of A stream past it from the second;
// the packed blocks (maxM x maxKC, maxKC x maxN) live in the last cache.
const (
	maxKC    = 320  // K per packed block
	maxM     = 1920 // rows of C per packed block of A; a multiple of 6 and 4
	maxN     = 1024 // columns of C per packed block of B
	group    = 64   // lanes (rows of A, columns of B) per packing task, about
	tileRows = 120  // rows of C per multiplying task
	tileCols = 256  // columns of C per multiplying task, at most
	line     = 64   // bytes; parts of the scratch start at multiples
)

// job is one call of Gemm. The func fields are method values made once, so that handing them to the pool allocates nothing.
type job struct {
	Args
	alpha   float32
	alpha64 float64
	k       *kernel
	small   bool
	swapped bool // small: computing the transpose of C
	cols    int  // small: columns of a task if B is not transposed

	packA, packB, sums, temp []float32 // parts of the scratch
	tempEach                 int       // floats of temp per worker

	blocks
	copyFn, dotFn, axpyFn, f64Fn func(worker, task int)
}

// blocks goes over the blocks of a product: it packs a block of A and one of B, then multiplies them.
type blocks struct {
	mr, nr         int // rows and columns of a micro-tile
	maxK           int // of a block
	kc             int // extent of K blocks
	m0, n0, k0     int // present block
	mb, nb, kb     int // its extents
	tm, tn         int // extents of a tile task
	first, last    bool
	skipB          bool
	packFn, tileFn func(worker, task int)
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
	j.packFn, j.tileFn, j.f64Fn = j.pack, j.tiles, j.block64
	j.copyFn, j.dotFn, j.axpyFn = j.copyA, j.dots, j.axpys
	return j
}

// release drops the references to the caller's memory.
func (j *job) release() {
	j.Args, j.packA, j.packB, j.sums, j.temp = Args{}, nil, nil, nil, nil
	select {
	case idle <- j:
	default:
	}
}

// ScratchBytes is how much scratch Gemm needs at most for these extents, whatever the types and the kernel.
func ScratchBytes(m, n, k, threads int) int64 {
	var most int64
	for _, kern := range kernels {
		if kern != nil {
			s := sizesOf(kern, m, n, k, isSmall(m, n))
			most = max(most, 4*int64(s.packA+s.packB+s.sums+s.temp*max(threads, 1)))
		}
	}
	return most + line
}

// sizes are extents in floats, each a multiple of a cache line.
type sizes struct{ packA, packB, sums, temp int }

func sizesOf(k *kernel, m, n, kk int, small bool) sizes {
	if small {
		return sizes{packA: roundUp(min(m, n)*kk, 16), temp: smallTemp}
	}
	mb, nb, kc := min(roundUp(m, k.mr), blockM(k)), roundUp(min(n, maxN), k.nr), min(kk, maxKC)
	return sizes{
		packA: roundUp(mb*kc, 16),
		packB: roundUp(nb*kc, 16),
		sums:  roundUp(mb*nb, 16),
		temp:  roundUp(maxKC*(group+k.nr)+k.mr*k.nr, 16),
	}
}

func roundUp(n, to int) int { return (n + to - 1) / to * to }

// blockM is maxM rounded to whole strips.
func blockM(k *kernel) int { return maxM / k.mr * k.mr }

// layout cuts up the scratch.
func (j *job) layout(scratch []byte, threads int) error {
	j.small, j.swapped = isSmall(j.M, j.N), false
	if j.small && j.M > j.N {
		j.swap()
	}
	s := sizesOf(j.k, j.M, j.N, j.K, j.small)
	if need := 4*(s.packA+s.packB+s.sums+s.temp*threads) + line; len(scratch) < need {
		return fmt.Errorf("product M=%d N=%d K=%d on %d threads needs %d bytes of scratch, got %d; size it with ScratchBytes", j.M, j.N, j.K,
			threads, need, len(scratch))
	}
	if rest := int(uintptr(unsafe.Pointer(&scratch[0])) % line); rest != 0 {
		scratch = scratch[line-rest:]
	}
	f := tensor.View[float32](scratch)
	take := func(n int) []float32 {
		part := f[:n:n]
		f = f[n:]
		return part
	}
	j.packA, j.packB, j.sums, j.temp = take(s.packA), take(s.packB), take(s.sums), take(s.temp*threads)
	j.tempEach = s.temp
	return nil
}

// workerTemp is the part of temp that belongs to a worker.
func (j *job) workerTemp(worker int) []float32 {
	return j.temp[worker*j.tempEach : (worker+1)*j.tempEach]
}

// run multiplies blocks until C [m,n] holds sums over k products.
func (j *blocks) run(p *pool.Pool, m, n, k int) error {
	count := ceil(k, j.maxK)
	j.kc = min(j.maxK, roundUp(ceil(k, count), group))
	whole := maxM / j.mr * j.mr
	for j.n0 = 0; j.n0 < n; j.n0 += maxN {
		j.nb = min(maxN, n-j.n0)
		for j.m0 = 0; j.m0 < m; j.m0 += whole {
			j.mb = min(whole, m-j.m0)
			j.tileShape(p.Threads())
			for j.k0 = 0; j.k0 < k; j.k0 += j.kc {
				j.kb = min(j.kc, k-j.k0)
				j.first, j.last = j.k0 == 0, j.k0+j.kb == k
				j.skipB = j.m0 > 0 && j.first && j.last // still packed from the rows above
				if err := j.block(p); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// block multiplies the present blocks of A and B.
func (j *blocks) block(p *pool.Pool) error {
	tasks := ceil(j.mb, j.groupA())
	if !j.skipB {
		tasks += ceil(j.nb, group)
	}
	if err := p.RunWorker(tasks, j.packFn); err != nil {
		return fmt.Errorf("gemm: reading an operand: %w", err)
	}
	if err := p.RunWorker(ceil(j.mb, j.tm)*ceil(j.nb, j.tn), j.tileFn); err != nil {
		return fmt.Errorf("gemm: %w", err)
	}
	return nil
}

func ceil(n, by int) int { return (n + by - 1) / by }

// groupA is how many rows of A one packing task does: whole strips, about group.
func (j *blocks) groupA() int { return group / j.mr * j.mr }

// tileShape cuts C into tasks: narrow enough that each thread gets several. The micro-tiles, and so the results, are the same
// for every cut.
func (j *blocks) tileShape(threads int) {
	j.tm, j.tn = tileRows/j.mr*j.mr, tileCols
	if threads == 1 {
		return
	}
	for ceil(j.mb, j.tm)*ceil(j.nb, j.tn) < 4*threads && j.tn > 2*j.nr {
		j.tn /= 2
	}
}

// tile is the part of C that a task multiplies, within the present block.
func (j *blocks) tile(task int) (i0, i1, c0, c1 int) {
	across := ceil(j.nb, j.tn)
	i0, c0 = task/across*j.tm, task%across*j.tn
	return i0, min(i0+j.tm, j.mb), c0, min(c0+j.tn, j.nb)
}

// tiles multiplies one tile of C.
func (j *job) tiles(worker, task int) {
	i0, i1, c0, c1 := j.tile(task)
	if j.C.DType == tensor.F32 {
		j.direct(j.workerTemp(worker), i0, i1, c0, c1)
		return
	}
	j.indirect(i0, i1, c0, c1)
}

// direct works on a float32 C in place. Micro-tiles that stick out of C go through temp.
func (j *job) direct(temp []float32, i0, i1, c0, c1 int) {
	k, c := j.k, tensor.View[float32](j.C.Data)
	add := !j.first || j.Accumulate
	for n := c0; n < c1; n += k.nr {
		b := &j.packB[n*j.kb]
		for i := i0; i < i1; i += k.mr {
			a, at := &j.packA[i*j.kb], (j.m0+i)*j.C.LD+j.n0+n
			rows, cols := min(k.mr, i1-i), min(k.nr, c1-n)
			if rows == k.mr && cols == k.nr {
				k.tile(j.kb, a, b, &c[at], j.C.LD, j.alpha, add)
				continue
			}
			k.tile(j.kb, a, b, &temp[0], k.nr, j.alpha, false)
			for r := range rows {
				row := c[at+r*j.C.LD:][:cols]
				part := temp[r*k.nr:][:cols]
				if !add {
					copy(row, part)
					continue
				}
				for x, v := range part {
					row[x] += v
				}
			}
		}
	}
}

// indirect keeps the float32 sums of a narrower C in scratch from the first block of K to the last. The sums have whole
// micro-tiles, so nothing sticks out.
func (j *job) indirect(i0, i1, c0, c1 int) {
	k, ld, size := j.k, roundUp(j.nb, j.k.nr), j.C.DType.Size()
	out := func(i int) []byte { return j.C.Data[((j.m0+i)*j.C.LD+j.n0+c0)*size:] }
	if j.first && j.Accumulate {
		for i := i0; i < i1; i++ {
			vec.Widen(j.sums[i*ld+c0:i*ld+c1], out(i), j.C.DType)
		}
	}
	for n := c0; n < c1; n += k.nr {
		for i := i0; i < i1; i += k.mr {
			k.tile(j.kb, &j.packA[i*j.kb], &j.packB[n*j.kb], &j.sums[i*ld+n], ld, j.alpha, !j.first || j.Accumulate)
		}
	}
	if j.last {
		for i := i0; i < i1; i++ {
			vec.Narrow(out(i), j.sums[i*ld+c0:i*ld+c1], j.C.DType)
		}
	}
}
