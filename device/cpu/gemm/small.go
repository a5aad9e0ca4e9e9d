package gemm

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/device/cpu/pool"
	"github.com/bitsandbyes/bitsandbyes/device/cpu/vec"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Products with few rows (or, transposed, few columns) read the large operand once, unpacked: as dot products if its rows run
// along K, else as sums of its rows.
const (
	smallM     = 8                    // the most rows done this way
	convert    = 1 << 14              // elements of B converted at a time
	dotRows    = 16                   // rows of a transposed B per task
	dotChunk   = 512                  // K at a time, float32 and M > 1: four rows of B and all of A fit the first cache
	loadChunk  = convert / dotRows    // K at a time if B is converted first
	axpyCols   = 1024                 // columns of a plain B per task, a page of float32
	narrowCols = 128                  // the same if N is not many times axpyCols
	smallSums  = smallM*axpyCols + 16 // and room for four more
	smallTemp  = smallSums + convert
)

func isSmall(m, n int) bool { return min(m, n) <= smallM }

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
	var one *pool.Pool
	err := one.RunWorker(1, j.copyFn)
	switch {
	case err != nil:
	case j.B.Trans:
		err = p.RunWorker(ceil(j.N, dotRows), j.dotFn)
	default:
		j.cols = narrowCols
		if j.N >= 2*axpyCols {
			j.cols = axpyCols
		}
		err = p.RunWorker(ceil(j.N, j.cols), j.axpyFn)
	}
	if err != nil {
		return fmt.Errorf("gemm: reading an operand: %w", err)
	}
	return nil
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

// dots computes dotRows columns of C from as many rows of the stored B.
func (j *job) dots(worker, task int) {
	temp := j.workerTemp(worker)
	n0 := task * dotRows
	rows := min(dotRows, j.N-n0)
	sums, buf := temp[:j.M*rows], temp[smallSums:]
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

// dotBlock adds the products of one block of B to sums, [M, rows]. Rows go by fours; packA32 of a pass is reused from the cache.
func (j *job) dotBlock(sums, w []float32, ld, rows, k0, kb int) {
	r := 0
	four := (*[4]float32)(sums[len(sums) : len(sums)+4 : len(sums)+4]) // right after sums; on the stack it would escape
	for ; r+4 <= rows; r += 4 {
		for i := range j.M {
			j.kern.dot4(kb, &j.packA32[i*j.K+k0], &w[r*ld], ld, four)
			s := sums[i*rows+r:][:4]
			for x, v := range four {
				s[x] += v
			}
		}
	}
	for ; r < rows; r++ {
		for i := range j.M {
			sums[i*rows+r] += j.kern.dot(kb, &j.packA32[i*j.K+k0], &w[r*ld])
		}
	}
}

// axpys computes j.cols columns of C from the same columns of B.
func (j *job) axpys(worker, task int) {
	temp := j.workerTemp(worker)
	n0 := task * j.cols
	cols := min(j.cols, j.N-n0)
	sums, buf := temp[:j.M*cols], temp[smallSums:]
	clear(sums)
	step := convert / j.cols
	for k0 := 0; k0 < j.K; k0 += step {
		kb := min(step, j.K-k0)
		b, ld := load(&j.B, buf, n0, cols, k0, kb, false)
		for i := range j.M {
			j.axpyBlock(j.packA32[i*j.K+k0:][:kb], b, ld, sums[i*cols:(i+1)*cols])
		}
	}
	j.store(sums, n0, cols)
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
	size := j.C.DType.Size()
	for i := range j.M {
		part := sums[i*cols : (i+1)*cols]
		for x := range part {
			part[x] *= j.alpha
		}
		if !j.swapped {
			j.storeRow(j.C.Data[(i*j.C.LD+n0)*size:], part)
			continue
		}
		for x := range part {
			j.storeRow(j.C.Data[((n0+x)*j.C.LD+i)*size:], part[x:x+1])
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
