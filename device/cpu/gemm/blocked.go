package gemm

import (
	"math"
	"sync/atomic"
	"unsafe"

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
	in               inner
	mr, nr           int // rows and columns of a micro-tile
	extra            int // elements a row that packA writes behind a strip
	m, n, k          int
	streamB          bool // A is resident and B streams, else the other way round
	shared           bool // the resident operand is packed once, in tasks of its own
	directA          bool // the operand is multiplied where it lies
	directB          bool
	nearB            bool // see choice
	regionM, regionN int  // extents of the parts of C that are done one after the other: all of it, or as much as scratch has sums of
	teams            int  // of threads, each with a part of the resident lanes
	lanes            int  // resident lanes of a block, at most
	phase            int  // steps of a block: a multiple of kc or all of K
	kc               int
	unit             int // lanes of the streaming operand a task
	m0, n0, mb, nb   int // present region and its extents
	queues           []queue
	done             []atomic.Int32 // by queue and unit: how many of its tasks are done

	threads  int
	epoch    int    // counts regions
	packed   []spot // that the resident operand of each worker is of
	mem      []float32
	each     int // floats of mem a worker
	resAt    int // of the resident operand in them
	resSize  int
	streamAt int
	tempAt   int
	now      spot // shared: what tasks are parts of
	failed   atomic.Bool

	packFn, blockFn, loopFn func(worker, task int)
}

// choice is what the plan of the blocks depends on beside the extents.
type choice struct {
	threads          int
	mr, nr           int
	extra            int
	costlyA, costlyB bool // decoding the operand costs more than packing the other one again
	directA, directB bool // it can be multiplied where it lies
	packsB           bool // B is decoded straight into strips
	lanesA, lanesB   bool // the lanes of the operand are stored rows
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
	j.regionM, j.regionN = m, n
	if c.narrow {
		j.regionM, j.regionN = even(m, sumCols/c.mr*c.mr, c.mr), even(n, sumCols, group)
	}
	j.nearB = c.nearB
	j.directA = c.directA && (n <= fewColumns || k < fewSteps)
	if j.streamB {
		j.teams = j.team(c, j.regionM, j.regionN, mostA)
		j.lanes = even(ceil(j.regionM, j.teams), mostA, c.mr)
	} else {
		j.teams = j.team(c, j.regionN, j.regionM, mostB)
		j.lanes = roundUp(even(ceil(j.regionN, j.teams), mostB, c.nr), c.nr)
	}
	j.phase = min(max(resident/j.lanes/j.kc, 1)*j.kc, k)
	j.directB = c.directB && j.streamB && j.regionM <= j.mr
	j.unit = j.unitFor(c)
}

// team is how many teams the threads make. Each team packs its part of the resident lanes once a thread, and all of the other operand once
// for each block of them.
func (j *blocks) team(c choice, resident, streaming, most int) int {
	if j.shared || j.m*j.n*j.k < inline {
		return 1
	}
	cost := func(laneRows, costly bool) int {
		switch {
		case costly:
			return 8
		case laneRows:
			return 3 // transposed
		}
		return 2
	}
	each, other := cost(c.lanesA, c.costlyA), cost(c.lanesB, c.costlyB)
	if !j.streamB {
		each, other = other, each
	}
	best, least := 1, math.MaxInt
	for t := 1; t <= c.threads; t++ {
		part := ceil(resident, t)
		if c.threads%t != 0 || part < 2*max(c.mr, c.nr) && t > 1 {
			continue
		}
		if all := each*part + other*ceil(streaming*t, c.threads)*ceil(part, most); all < least {
			best, least = t, all
		}
	}
	return best
}

// unitFor is how many lanes of the streaming operand a task does: few enough that threads get several.
func (j *blocks) unitFor(c choice) int {
	lanes, least, unit := j.regionN, j.nr, group
	switch {
	case !j.streamB:
		lanes, least, unit = j.regionM, j.mr, rowsMax/j.mr*j.mr
	case c.wideB:
		unit = wide
	case c.costlyB && c.packsB && c.lanesB:
		return least // it fits the first cache; columns would be less of a cache line than is read
	case c.costlyB:
		return unit
	}
	for unit > least && ceil(lanes, unit) < 4*c.threads/j.teams {
		unit = max(unit/2/least*least, least)
	}
	return unit
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
		res, stream = j.lanes*rows(j.phase), roundUp(j.unit, j.nr)*j.kc
	} else {
		res, stream = j.lanes*j.phase, j.unit*rows(j.kc)
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
	// A block of one short phase has many lanes, and c.extra beside each.
	res = min(res, max(resident, group*maxKC)/group*(group+1)+2*group*group+c.extra*min(m, n, resident))
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
		j.packed = make([]spot, threads)
	}
}

func (j *blocks) stream(worker int) []float32 {
	at := worker*j.each + j.streamAt
	return j.mem[at : at+j.tempAt-j.streamAt]
}

func (j *blocks) temp(worker int) []float32 {
	return j.mem[worker*j.each+j.tempAt : (worker+1)*j.each]
}

// packResident packs lanes [lo,hi) of a block of the resident operand for all blocks of K of the phase.
func (j *blocks) packResident(dst []float32, s *spot, lo, hi int, temp []float32) {
	for k := 0; k < s.kp; k += j.kc {
		j.packSteps(dst, s, lo, hi, k, temp)
	}
}

// packSteps is packResident for the block of K that begins k steps into the phase.
func (j *blocks) packSteps(dst []float32, s *spot, lo, hi, k int, temp []float32) {
	kb := min(j.kc, s.kp-k)
	if j.streamB {
		j.packRows(dst[j.resident(s, k)+lo*(kb+j.extra):], s.lane+lo, s.lane+hi, s.lane+s.lanes, s.k0+k, kb, temp)
	} else {
		j.in.packB(dst[j.resident(s, k)+lo*kb:], s.lane+lo, hi-lo, s.k0+k, kb, temp)
	}
}

// resident is where the strips of a block of K begin in the resident operand.
func (j *blocks) resident(s *spot, k int) int {
	if j.streamB {
		return s.lanes * (k + k/j.kc*j.extra)
	}
	return roundUp(s.lanes, j.nr) * k
}

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

// residentOf is the packed operand of a worker, and whether it is still to be packed.
func (j *blocks) residentOf(worker int, s *spot) (res []float32, fresh bool) {
	if j.shared {
		return j.mem[j.resAt:][:j.resSize], false
	}
	res = j.mem[worker*j.each:][:j.resSize]
	if j.packed[worker] == *s || j.streamB && j.directA {
		return res, false
	}
	j.packed[worker] = *s
	return res, true
}

// part multiplies a block of the resident operand with the streaming lanes of unit u.
func (j *blocks) part(worker int, s *spot, u int) {
	res, fresh := j.residentOf(worker, s)
	stream, temp := j.stream(worker), j.temp(worker)
	i0, n0 := s.lane, j.n0+u*j.unit
	i1, n1 := i0+s.lanes, min(n0+j.unit, j.n0+j.nb)
	if !j.streamB {
		i0, n0 = j.m0+u*j.unit, s.lane
		i1, n1 = min(i0+j.unit, j.m0+j.mb), n0+s.lanes
	}
	if s.k0 == 0 {
		j.in.open(i0, i1, n0, n1)
	}
	for k := 0; k < s.kp; k += j.kc {
		kb := min(j.kc, s.kp-k)
		a, b := res[j.resident(s, k):], stream
		turn := fresh && j.turns(i1-i0, n1-n0, kb)
		if fresh && !turn {
			j.packSteps(res, s, 0, s.lanes, k, temp)
		}
		switch {
		case j.streamB:
			if !j.directB && !j.packsAlong(i1-i0, kb) {
				j.in.packB(b, n0, n1-n0, s.k0+k, kb, temp)
			} else if rest := (n1 - n0) % j.nr; rest > 0 {
				j.in.packB(b[(n1-n0-rest)*kb:], n1-rest, rest, s.k0+k, kb, temp)
			}
		default:
			if a, b = stream, a; !j.directA {
				j.packRows(a, i0, i1, i1, s.k0+k, kb, temp)
			}
		}
		ahead, add := j.nextStream(s, u, k+kb), s.k0+k > 0
		n := n0
		if turn {
			j.turnTiles(i0, i1, n, s.k0+k, kb, a, b, add, &ahead, temp)
			b, n = b[2*j.nr*kb:], n+2*j.nr
		}
		j.tiles(i0, i1, n, n1, s.k0+k, kb, a, b, add, &ahead)
	}
	if s.k0+s.kp == j.k {
		j.in.close(i0, i1, n0, n1)
	}
}

// tiles multiplies packed strips of rows [i0,i1) and columns [n0,n1).
func (j *blocks) tiles(i0, i1, n0, n1, k, kb int, a, b []float32, add bool, ahead *fetch) {
	along := j.streamB && !j.directB && j.packsAlong(i1-i0, kb)
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
