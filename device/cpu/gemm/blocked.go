package gemm

import (
	"fmt"
	"unsafe"

	"github.com/bitsandbyes/bitsandbyes/device/cpu/pool"
	"github.com/bitsandbyes/bitsandbyes/internal/isa"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Sizes that the blocks are made of. What is computed depends on maxKC and shortKC alone: they cut the sums over K.
const (
	maxKC   = 512 // K per packed block: long enough that reading and writing C between blocks costs little
	shortKC = 128 // the same where B packs itself and shortM rows or fewer do not make up for a strip that leaves the first cache
	shortM  = 48
	group   = 64   // columns of B that are packed at a time, and what blocks of K are rounded to
	wide    = 128  // the same where a column is one byte
	rowsMax = 112  // rows of A that are packed at a time where A streams, at most
	sumCols = 1024 // lanes of a block where the sums of a narrower C are kept in scratch, at most
	line    = 64   // bytes; parts of the scratch start at multiples
	// fewColumns is N up to which float32 rows of A are multiplied where they lie: packing them would cost more than it gains.
	fewColumns = 64
	// fewSteps is K below which that holds for any N: the assembly transposes 16 steps at a time.
	fewSteps  = 16
	copies    = 4       // threads up to which each packs the resident operand for itself
	nearBytes = 8 << 20 // of an operand up to which asking for it ahead costs more than it gains
	inline    = 1 << 19 // multiply-adds below which a product stays on the calling goroutine
)

// resident is how many floats of a packed operand stay in the second cache of a core: a little over half of it, so that 512 x 512 fit 2 MiB
// with room to spare for whole strips. Results do not depend on it.
var resident = min(max(isa.L2()/4*9/16, 1<<16), 9<<15)

// inner is a kind of product: what the elements of panels are and how strips are multiplied. Elements have four bytes; K is counted in
// them.
type inner interface {
	// packA packs w rows of op(A) from row lane on, k0 <= k < k0+kb, as one strip. temp is free memory of the worker.
	packA(dst []float32, lane, w, k0, kb int, temp []float32)
	// packB packs columns [lane, lane+lanes) of op(B), k0 <= k < k0+kb, as strips as wide as a micro-tile.
	packB(dst []float32, lane, lanes, k0, kb int, temp []float32)
	// open and close are called before the first and after the last block of K of a part of C.
	open(i0, i1, n0, n1 int)
	close(i0, i1, n0, n1 int)
	// raw is where lanes of op(A) or op(B) lie for k0 <= k < k0+kb, as rows of bytes; none if that is not known.
	raw(ofB bool, lane, lanes, k0, kb int) region
	// tile multiplies rows from i and columns from n over kb steps and stores them, or adds them to what is there; on the way it
	// prefetches from next on.
	tile(i, n, rows, cols, kb int, a, b panel, add bool, next uintptr, step int)
}

// panel is an operand of a micro-tile, packed or where it lies. Strides are in elements; the step of B from column to column is one.
type panel struct {
	at      *float32
	lane, k int
}

// blocks goes over the blocks of a product. One operand is packed for a block of its lanes and stays in the second cache (it is
// resident), the other streams past it in tasks of a few strips, each packed by the task that multiplies it. Where the threads are few
// each packs the resident operand for itself: that costs less than fetching what another core has just written.
type blocks struct {
	in          inner
	mr, nr      int // rows and columns of a micro-tile
	extra       int // elements a row that packA writes behind a strip
	m, n, k     int
	streamB     bool // A is resident and B streams, else the other way round
	shared      bool // the resident operand is packed once, in tasks of its own
	directA     bool // the operand is multiplied where it lies
	directB     bool
	nearB       bool // see choice
	blockM      int  // extents of blocks of C and K
	blockN      int
	phase       int // of K, a multiple of kc or all of it
	kc          int
	unit        int // lanes of the streaming operand a task
	m0, n0, k0  int // present block
	mb, nb, kp  int // its extents
	first, last bool

	threads         int
	epoch           int   // counts blocks
	packed          []int // epoch of the resident operand of each worker
	mem             []float32
	each            int // floats of mem a worker
	resAt, resSize  int // of the resident operand in them
	streamAt        int
	tempAt          int
	packFn, blockFn func(worker, task int)
}

// choice is what the plan of the blocks depends on beside the extents.
type choice struct {
	threads          int
	mr, nr           int
	extra            int
	costlyA, costlyB bool // decoding the operand costs more than packing the other one again
	directA, directB bool // it can be multiplied where it lies
	packsB           bool // B is decoded straight into strips
	lanesB           bool // the lanes of B are stored rows
	narrow           bool // C is not of the type of the sums, which are kept in scratch
	wideB            bool // tasks have more columns of B: a line of its rows holds two strips
	nearB            bool // B streams well enough without asking for it ahead
}

// plan cuts a product of m x n x k into blocks.
func (j *blocks) plan(m, n, k int, c choice) {
	j.m, j.n, j.k, j.mr, j.nr, j.extra = m, n, k, c.mr, c.nr, c.extra
	most := maxKC
	if c.packsB && m <= shortM {
		most = shortKC
	}
	j.kc = min(most, roundUp(ceil(k, ceil(k, most)), group), k)
	most = max(resident/j.kc, group)
	mostA, mostB := most/c.mr*c.mr, most/c.nr*c.nr
	j.streamB = m <= n
	switch {
	case c.costlyB:
		j.streamB = m <= mostA
	case c.costlyA:
		j.streamB = n > mostB
	}
	j.shared = c.threads > copies || c.threads > 1 && (j.streamB && c.costlyA || !j.streamB && c.costlyB)
	var lanes int // that are resident
	if j.streamB {
		lanes = even(m, mostA, c.mr)
		j.blockM, j.blockN = lanes, n
	} else {
		j.blockM, j.blockN = m, even(n, mostB, c.nr)
		lanes = roundUp(j.blockN, c.nr)
	}
	j.phase = min(max(resident/lanes/j.kc, 1)*j.kc, k)
	if c.narrow {
		j.blockM, j.blockN = even(j.blockM, sumCols/c.mr*c.mr, c.mr), even(j.blockN, sumCols, group)
	}
	j.nearB = c.nearB
	j.directA = c.directA && (n <= fewColumns || k < fewSteps)
	j.directB = c.directB && j.streamB && j.blockM <= j.mr
	j.units(c)
}

// units sets how many lanes of the streaming operand a task does: few enough that threads get several.
func (j *blocks) units(c choice) {
	lanes := min(j.n, j.blockN)
	least := j.nr
	j.unit = group
	if !j.streamB {
		lanes, least = min(j.m, j.blockM), j.mr
		j.unit = rowsMax / j.mr * j.mr
	} else if c.wideB {
		j.unit = wide
	} else if c.costlyB {
		if c.packsB && c.lanesB {
			j.unit = least // it fits the first cache; columns would be less of a cache line than is read
		}
		return
	}
	for j.unit > least && ceil(lanes, j.unit) < 4*c.threads {
		j.unit = max(j.unit/2/least*least, least)
	}
}

// even is the extent of the fewest blocks of at most `most`, about equal, that n is cut into: a multiple of `of`, or n itself.
func even(n, most, of int) int {
	if n <= most {
		return n
	}
	return roundUp(ceil(n, ceil(n, most)), of)
}

// sizes are the floats of the resident operand, and of a worker's strips of the other one and its free memory.
func (j *blocks) sizes() (res, stream, temp int) {
	rows := func(k int) int { return k + ceil(k, j.kc)*j.extra }
	if j.streamB {
		res, stream = j.blockM*rows(j.phase), roundUp(j.unit, j.nr)*j.kc
	} else {
		res, stream = roundUp(j.blockN, j.nr)*j.phase, j.unit*rows(j.kc)
	}
	return roundUp(res, 16), roundUp(stream, 16), group * j.kc
}

// floats is how much memory the plan needs.
func (j *blocks) floats(threads int) int {
	res, stream, temp := j.sizes()
	if j.shared {
		return res + threads*(stream+temp)
	}
	return threads * (res + stream + temp)
}

// boundFloats is at least floats for every plan of extents up to these.
func boundFloats(m, n, k int, c choice) int {
	steps := min(k, maxKC)
	steps += c.extra
	res := max(m, roundUp(n, c.nr)) * (k + (k/group+1)*c.extra)
	res = min(res, max(resident, group*maxKC)/group*(group+1)+2*group*group)
	return max(min(c.threads, copies), 1)*(res+16) + max(c.threads, 1)*(max(rowsMax, wide)*steps+group*steps+16)
}

// place cuts up mem, of floats() floats.
func (j *blocks) place(mem []float32, threads int) {
	res, stream, _ := j.sizes()
	j.mem, j.resSize, j.threads = mem, res, threads
	shared := 0
	if j.shared {
		shared, res = res, 0
	}
	j.each = (len(mem) - shared) / threads
	j.resAt, j.streamAt, j.tempAt = 0, res, res+stream
	if j.shared {
		j.resAt = threads * j.each
	}
	if len(j.packed) < threads {
		j.packed = make([]int, threads)
	}
}

func (j *blocks) stream(worker int) []float32 {
	at := worker*j.each + j.streamAt
	return j.mem[at : at+j.tempAt-j.streamAt]
}

func (j *blocks) temp(worker int) []float32 {
	return j.mem[worker*j.each+j.tempAt : (worker+1)*j.each]
}

// run multiplies block by block.
func (j *blocks) run(p *pool.Pool) error {
	if j.m*j.n*j.k < inline {
		p = nil
	}
	for j.n0 = 0; j.n0 < j.n; j.n0 += j.blockN {
		j.nb = min(j.blockN, j.n-j.n0)
		for j.m0 = 0; j.m0 < j.m; j.m0 += j.blockM {
			j.mb = min(j.blockM, j.m-j.m0)
			for j.k0 = 0; j.k0 < j.k; j.k0 += j.phase {
				j.kp = min(j.phase, j.k-j.k0)
				j.first, j.last = j.k0 == 0, j.k0+j.kp == j.k
				if err := j.block(p); err != nil {
					return fmt.Errorf("gemm: reading an operand: %w", err)
				}
			}
		}
	}
	return nil
}

func (j *blocks) block(p *pool.Pool) error {
	j.epoch++
	lanes := j.nb
	if !j.streamB {
		lanes = j.mb
	}
	if j.shared {
		if err := p.RunWorker(j.shares(), j.packFn); err != nil {
			return err
		}
	}
	return p.RunWorker(ceil(lanes, j.unit), j.blockFn)
}

// shares is how many tasks pack the shared operand: some four strips each.
func (j *blocks) shares() int {
	if j.streamB {
		return ceil(ceil(j.mb, j.mr), 4)
	}
	return ceil(j.nb, group)
}

// packShare packs a part of the shared operand.
func (j *blocks) packShare(worker, task int) {
	lo, hi := task*group, min((task+1)*group, j.nb)
	if j.streamB {
		lo, hi = j.stripAt(4*task), j.stripAt(4*task+4)
	}
	j.packResident(j.mem[j.resAt:], lo, hi, j.temp(worker))
}

// stripAt is the first row of strip s of the block, or its end.
func (j *blocks) stripAt(s int) int {
	at := 0
	for ; s > 0 && at < j.mb; s-- {
		at += j.rows(j.mb - at)
	}
	return at
}

// packResident packs lanes [lo,hi) of the present block of the resident operand for all blocks of K of the phase.
func (j *blocks) packResident(dst []float32, lo, hi int, temp []float32) {
	for k := 0; k < j.kp; k += j.kc {
		kb := min(j.kc, j.kp-k)
		if j.streamB {
			j.packRows(dst[j.aAt(k)+lo*(kb+j.extra):], j.m0+lo, j.m0+hi, j.m0+j.mb, j.k0+k, kb, temp)
		} else {
			j.in.packB(dst[roundUp(j.nb, j.nr)*k+lo*kb:], j.n0+lo, hi-lo, j.k0+k, kb, temp)
		}
	}
}

// aAt is where the strips of a block of K begin in the resident A.
func (j *blocks) aAt(k int) int { return j.mb * (k + k/j.kc*j.extra) }

// packRows packs rows [i0,i1) of A, which end at a strip's end, strip by strip; the strips are those of the rows up to end.
func (j *blocks) packRows(dst []float32, i0, i1, end, k0, kb int, temp []float32) {
	for i := i0; i < i1; {
		w := j.rows(end - i)
		j.in.packA(dst[(i-i0)*(kb+j.extra):][:w*(kb+j.extra)], i, w, k0, kb, temp)
		i += w
	}
}

// rows is the width of the next strip of A: the last two are of about one height.
func (j *blocks) rows(left int) int {
	if left > j.mr && left < 2*j.mr && j.mr > 4 {
		return (left + 1) / 2
	}
	return min(left, j.mr)
}

// residentOf is the packed operand of a worker.
func (j *blocks) residentOf(worker int) []float32 {
	if j.shared {
		return j.mem[j.resAt:][:j.resSize]
	}
	dst := j.mem[worker*j.each:][:j.resSize]
	if j.packed[worker] == j.epoch || j.streamB && j.directA {
		return dst
	}
	lanes := j.mb
	if !j.streamB {
		lanes = j.nb
	}
	j.packResident(dst, 0, lanes, j.temp(worker))
	j.packed[worker] = j.epoch
	return dst
}

// part multiplies the lanes of one task with the resident operand.
func (j *blocks) part(worker, task int) {
	res, stream, temp := j.residentOf(worker), j.stream(worker), j.temp(worker)
	i0, i1, n0, n1 := j.m0, j.m0+j.mb, j.n0, j.n0+j.nb
	if j.streamB {
		n0 += task * j.unit
		n1 = min(n0+j.unit, n1)
	} else {
		i0 += task * j.unit
		i1 = min(i0+j.unit, i1)
	}
	if j.first {
		j.in.open(i0, i1, n0, n1)
	}
	for k := 0; k < j.kp; k += j.kc {
		kb := min(j.kc, j.kp-k)
		a, b := res, stream
		switch {
		case j.streamB:
			a = res[j.aAt(k):]
			if !j.directB && !j.packsAlong(kb) {
				j.in.packB(b, n0, n1-n0, j.k0+k, kb, temp)
			} else if rest := (n1 - n0) % j.nr; rest > 0 {
				j.in.packB(b[(n1-n0-rest)*kb:], n1-rest, rest, j.k0+k, kb, temp)
			}
		default:
			a, b = stream, res[roundUp(j.nb, j.nr)*k:]
			if !j.directA {
				j.packRows(a, i0, i1, i1, j.k0+k, kb, temp)
			}
		}
		ahead := j.nextStream(task, k+kb)
		j.tiles(i0, i1, n0, n1, j.k0+k, kb, a, b, k > 0 || !j.first, &ahead)
	}
	if j.last {
		j.in.close(i0, i1, n0, n1)
	}
}

// tiles multiplies packed strips of rows [i0,i1) and columns [n0,n1).
func (j *blocks) tiles(i0, i1, n0, n1, k, kb int, a, b []float32, add bool, ahead *fetch) {
	along := j.streamB && !j.directB && j.packsAlong(kb)
	for n := n0; n < n1; n += j.nr {
		cols := min(j.nr, n1-n)
		pb := panel{k: j.nr}
		if j.directB && cols == j.nr {
			pb = j.in.(director).directB(n, k)
		} else {
			pb.at = &b[(n-n0)*kb]
		}
		for i := i0; i < i1; {
			rows := j.rows(i1 - i)
			pa := panel{lane: 1, k: rows}
			if j.directA {
				pa = j.in.(director).directA(i, k)
			} else {
				pa.at = &a[(i-i0)*(kb+j.extra)]
			}
			next, step := ahead.some(pb.at)
			if along && i == i0 && cols == j.nr {
				j.in.(alongPacker).tilePack(i, n, k, kb, pa.at, pb.at, add, next, step)
				i += rows
				continue
			}
			j.in.tile(i, n, rows, cols, kb, pa, pb, add, next, step)
			i += rows
		}
	}
}

// packsAlong says that the first tile of each whole strip of B packs it for the others.
func (j *blocks) packsAlong(kb int) bool {
	p, ok := j.in.(alongPacker)
	return ok && !j.directA && j.extra == 0 && j.rows(j.mb) == j.mr && p.packsAlong(kb)
}

// alongPacker is an inner whose tiles may pack B from where it lies while they multiply it.
type alongPacker interface {
	packsAlong(kb int) bool
	// tilePack is tile for a full tile with packed A, that reads B from column n and step k on and writes a strip to.
	tilePack(i, n, k, kb int, a, to *float32, add bool, next uintptr, step int)
}

// director is an inner that can multiply operands where they lie.
type director interface {
	directA(i, k int) panel
	directB(n, k int) panel
}

func roundUp(n, to int) int { return (n + to - 1) / to * to }

func ceil(n, by int) int { return (n + by - 1) / by }

// alignedFloats is the scratch from its first multiple of a cache line on, as floats.
func alignedFloats(scratch []byte) []float32 {
	if rest := int(uintptr(unsafe.Pointer(&scratch[0])) % line); rest != 0 {
		scratch = scratch[line-rest:]
	}
	return tensor.View[float32](scratch[:len(scratch)/4*4])
}
