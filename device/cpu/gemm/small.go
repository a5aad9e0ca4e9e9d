package gemm

import (
	"fmt"
	"unsafe"

	"github.com/bitsandbyes/bitsandbyes/device/cpu/pool"
	"github.com/bitsandbyes/bitsandbyes/device/cpu/vec"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Products with few rows (or, transposed, few columns) read the large operand once, unpacked: as dot products if its rows run
// along K, else as sums of its rows, which micro-tiles read where they lie.
const (
	smallM     = 8                    // the most rows done this way
	wideM      = 16                   // the same where there are wide dot products, and the large operand needs no decoding
	convert    = 1 << 14              // elements of B converted at a time
	dotRows    = 16                   // rows of a transposed B per task
	dotMany    = 64                   // the same where they are many and need no conversion
	dotChunk   = 512                  // K at a time without wide dot products: four rows of B and all of A fit the first cache
	loadChunk  = convert / dotRows    // K at a time if B is converted first
	axpyCols   = 1024                 // columns of a plain B per task, a page of float32
	narrowCols = 128                  // the same if N is not many times axpyCols
	tileCols   = 256                  // the same if there are several rows
	smallSums  = smallM*axpyCols + 16 // and room for sixteen more
	smallTemp  = smallSums + convert
	smallWork  = 1 << 16 // elements of B below which a product of little work stays on the calling goroutine
)

// isSmall says that a product is done without packing. decoded says that the operand with the many rows or columns is a Source.
func (k *kernel) isSmall(m, n int, decoded bool) bool {
	return min(m, n) <= smallM || min(m, n) <= wideM && k.dotsF32 != nil && !decoded
}

// smallFloats is the scratch of a product that is not packed.
func smallFloats(m, n, k, threads int) int { return roundUp(min(m, n)*k, 16) + threads*smallTemp }

// workerTemp is the part of the scratch that belongs to a worker.
func (j *job) workerTemp(worker int) []float32 {
	return j.work[worker*j.workEach : (worker+1)*j.workEach]
}

// swap turns the product into that of the transposes, so that M is the small extent.
func (j *job) swap() {
	j.A, j.B = j.B, j.A
	j.A.Trans, j.B.Trans = !j.A.Trans, !j.B.Trans
	j.M, j.N = j.N, j.M
	j.swapped = true
}

func (j *job) runSmall(p *pool.Pool) error {
	if j.M*j.N*j.K < inline && j.N*j.K < smallWork {
		p = nil
	}
	err := j.placeA()
	switch {
	case err != nil:
	case j.B.Trans:
		j.cols = dotRows
		if j.kern.dotsOf(&j.B) && j.N >= 16*dotMany {
			j.cols = dotMany
		}
		err = p.RunWorker(ceil(j.N, j.cols), j.dotFn)
	default:
		j.cols = narrowCols
		switch {
		case j.byTiles():
			j.cols = tileCols
			for j.cols > j.kern.nr && ceil(j.N, j.cols) < 2*p.Threads() {
				j.cols /= 2
			}
		case j.N >= 2*axpyCols:
			j.cols = axpyCols
		}
		err = p.RunWorker(ceil(j.N, j.cols), j.axpyFn)
	}
	if err != nil {
		return fmt.Errorf("gemm: reading an operand: %w", err)
	}
	return nil
}

// byTiles says that a B that is not transposed is read by micro-tiles.
func (j *job) byTiles() bool { return j.M > 1 && j.kern.direct }

// placeA finds op(A) as float32: where it lies if its rows can be used there, otherwise as [M,K] in packA32.
func (j *job) placeA() error {
	plain := j.A.Source == nil && j.A.DType == tensor.F32
	switch {
	case plain && !j.A.Trans:
		j.x = panel{at: j.A.float(0, 0), lane: j.A.LD, k: 1}
	case plain && !j.B.Trans && j.byTiles():
		j.x = panel{at: j.A.float(0, 0), lane: 1, k: j.A.LD}
	default:
		j.x = panel{at: &j.packA32[0], lane: j.K, k: 1}
		var one *pool.Pool
		return one.RunWorker(1, j.copyFn)
	}
	return nil
}

// row is row i of op(A) from step k on; j.x.k is one.
func (j *job) row(i, k, n int) []float32 { return unsafe.Slice(j.x.from(i, k), n) }

// from is the address of an element.
func (p *panel) from(lane, k int) *float32 {
	return (*float32)(unsafe.Add(unsafe.Pointer(p.at), 4*(lane*p.lane+k*p.k)))
}

// copyA puts op(A) into packA32 as float32, [M,K].
func (j *job) copyA(worker, _ int) {
	temp := j.workerTemp(worker)
	step := len(temp) / j.M
	for k0 := 0; k0 < j.K; k0 += step {
		kb := min(step, j.K-k0)
		if j.A.Trans {
			src, ld := load(&j.A, temp, 0, j.M, k0, kb, false)
			for i := range j.M {
				row := j.packA32[i*j.K+k0:][:kb]
				for x := range row {
					row[x] = src[x*ld+i]
				}
			}
			continue
		}
		src, ld := load(&j.A, temp, 0, j.M, k0, kb, true)
		for i := range j.M {
			copy(j.packA32[i*j.K+k0:][:kb], src[i*ld:])
		}
	}
}

// dots computes j.cols columns of C from as many rows of the stored B.
func (j *job) dots(worker, task int) {
	temp := j.workerTemp(worker)
	n0 := task * j.cols
	rows := min(j.cols, j.N-n0)
	sums, buf := temp[:j.M*rows], temp[smallSums:]
	if j.kern.dotsOf(&j.B) {
		j.wideDots(sums, temp[len(sums):][:16], n0, rows)
		j.store(sums, n0, rows)
		return
	}
	clear(sums)
	chunk := loadChunk
	if j.B.Source == nil && j.B.DType == tensor.F32 {
		chunk = dotChunk
		if j.M == 1 {
			chunk = j.K
		}
	}
	for k0 := 0; k0 < j.K; k0 += chunk {
		kb := min(chunk, j.K-k0)
		w, ld := load(&j.B, buf, n0, rows, k0, kb, true)
		j.dotBlock(sums, w, ld, rows, k0, kb)
	}
	j.store(sums, n0, rows)
}

// wideDots sets sums, [M, rows], by fours of rows of B and of A. Where rows are no multiple of four, the last four overlap others.
func (j *job) wideDots(sums, out []float32, n0, rows int) {
	for r := 0; r < rows; r += 4 {
		first, n, ld := min(r, max(rows-4, 0)), 4, j.B.LD
		if rows < 4 { // one row, four times
			first, n, ld = r, 1, 0
			r -= 3
		}
		for i := 0; i < j.M; {
			m := 4
			for m > j.M-i {
				m /= 2
			}
			j.kern.dots(m, j.K, j.x.from(i, 0), j.x.lane, &j.B, n0+first, ld, out)
			for x := range m {
				copy(sums[(i+x)*rows+first:][:n], out[4*x:])
			}
			i += m
		}
	}
}

// dotsOf says that there are wide dot products for rows of x.
func (k *kernel) dotsOf(x *Mat) bool { return k.dotsF32 != nil && x.Source == nil }

// dots multiplies m rows of a with four rows of w, ldw apart, from row r on.
func (k *kernel) dots(m, n int, a *float32, lda int, w *Mat, r, ldw int, out []float32) {
	at := unsafe.Pointer(&w.Data[r*w.LD*w.DType.Size()])
	switch w.DType {
	case tensor.F32:
		k.dotsF32(m, n, a, lda, (*float32)(at), ldw, &out[0])
	case tensor.BF16:
		k.dotsBF16(m, n, a, lda, (*uint16)(at), ldw, &out[0])
	default:
		k.dotsF16(m, n, a, lda, (*uint16)(at), ldw, &out[0])
	}
}

// dotBlock adds the products of one block of B to sums, [M, rows]. Rows go by fours; op(A) of a pass is reused from the cache.
func (j *job) dotBlock(sums, w []float32, ld, rows, k0, kb int) {
	r := 0
	four := (*[4]float32)(sums[len(sums) : len(sums)+4 : len(sums)+4]) // right after sums; on the stack it would escape
	for ; r+4 <= rows; r += 4 {
		for i := range j.M {
			j.kern.dot4(kb, j.x.from(i, k0), &w[r*ld], ld, four)
			s := sums[i*rows+r:][:4]
			for x, v := range four {
				s[x] += v
			}
		}
	}
	for ; r < rows; r++ {
		for i := range j.M {
			sums[i*rows+r] += j.kern.dot(kb, j.x.from(i, k0), &w[r*ld])
		}
	}
}

// axpys computes j.cols columns of C from the same columns of B.
func (j *job) axpys(worker, task int) {
	temp := j.workerTemp(worker)
	n0 := task * j.cols
	cols := min(j.cols, j.N-n0)
	sums, rest, buf := temp[:j.M*cols], temp[j.M*cols:smallSums], temp[smallSums:]
	step := convert / j.cols
	if j.byTiles() {
		step = convert / tileCols // whatever the columns of this task, so that the sums are the same
	} else {
		clear(sums)
	}
	for k0 := 0; k0 < j.K; k0 += step {
		kb := min(step, j.K-k0)
		b, ld := load(&j.B, buf, n0, cols, k0, kb, false)
		if j.byTiles() {
			j.tileBlock(sums, b, ld, cols, k0, kb, rest)
			continue
		}
		for i := range j.M {
			j.axpyBlock(j.row(i, k0, kb), b, ld, sums[i*cols:(i+1)*cols])
		}
	}
	j.store(sums, n0, cols)
}

// tileBlock adds the products of a block of B to sums, [M, cols], or sets them from the first block. Columns that do not fill a tile are
// copied to rest, as tiles read in full.
func (j *job) tileBlock(sums, b []float32, ld, cols, k0, kb int, rest []float32) {
	nr := j.kern.nr
	for n := 0; n < cols; n += nr {
		part, lb := &b[n], ld
		have := min(nr, cols-n)
		if have < nr {
			part, lb = &rest[0], nr
			for k := range kb {
				row := rest[k*nr : (k+1)*nr]
				clear(row[copy(row, b[k*ld+n:][:have]):])
			}
		}
		for i := 0; i < j.M; {
			height := ceil(j.M-i, ceil(j.M-i, j.kern.mr))
			j.kern.tile(height, kb, j.x.from(i, k0), j.x.lane, j.x.k, part, lb, &sums[i*cols+n], cols, have, 1, k0 > 0,
				uintptr(unsafe.Pointer(part)), 0)
			i += height
		}
	}
}

// axpyBlock adds x[k] times row k of b to sums, rows by fours.
func (j *job) axpyBlock(x, b []float32, ld int, sums []float32) {
	k := 0
	for ; k+4 <= len(x); k += 4 {
		j.kern.axpy4(len(sums), (*[4]float32)(x[k:]), &b[k*ld], ld, &sums[0])
	}
	for ; k < len(x); k++ {
		j.kern.axpy(len(sums), x[k], &b[k*ld], &sums[0])
	}
}

// store writes alpha*sums, [M, cols], to the columns of C from n0 on; to its rows if the product was swapped.
func (j *job) store(sums []float32, n0, cols int) {
	if j.alpha != 1 {
		for x := range sums {
			sums[x] *= j.alpha
		}
	}
	if j.swapped && j.C.DType == tensor.F32 {
		j.storeAcross(sums, n0, cols)
		return
	}
	size := j.C.DType.Size()
	for i := range j.M {
		part := sums[i*cols : (i+1)*cols]
		if !j.swapped {
			j.storeRow(j.C.Data[(i*j.C.LD+n0)*size:], part)
			continue
		}
		for x := range part {
			j.storeRow(j.C.Data[((n0+x)*j.C.LD+i)*size:], part[x:x+1])
		}
	}
}

// storeAcross stores float32 sums whose columns are rows of C.
func (j *job) storeAcross(sums []float32, n0, cols int) {
	c := tensor.View[float32](j.C.Data)
	for x := range cols {
		row := c[(n0+x)*j.C.LD:][:j.M]
		at := x
		for i := range row {
			v := sums[at]
			if j.Accumulate {
				v += row[i]
			}
			row[i] = v
			at += cols
		}
	}
}

// storeRow writes vals, plus what is there if Accumulate is set.
func (j *job) storeRow(dst []byte, vals []float32) {
	if j.Accumulate {
		switch j.C.DType {
		case tensor.F32:
			for x, v := range tensor.View[float32](dst)[:len(vals)] {
				vals[x] += v
			}
		case tensor.BF16:
			for x, v := range tensor.View[tensor.BFloat16](dst)[:len(vals)] {
				vals[x] += v.Float32()
			}
		default:
			for x, v := range tensor.View[tensor.Float16](dst)[:len(vals)] {
				vals[x] += v.Float32()
			}
		}
	}
	vec.Narrow(dst, vals, j.C.DType)
}
