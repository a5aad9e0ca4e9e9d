package gemm

import (
	"unsafe"

	"github.com/bitsandbyes/bitsandbyes/device/cpu/vec"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// pack is one packing task of the present block: a group of strips of A or B. A strip of width w holds, for each k, w lanes
// (rows of A or columns of B); missing lanes of the last strip are zero.
func (j *job) pack(worker, task int) {
	temp, ga := j.workerTemp(worker), j.groupA()
	groupsA := ceil(j.mb, ga)
	if task < groupsA {
		lane := task * ga
		j.packGroup(j.packA[lane*j.kb:], &j.A, !j.A.Trans, j.k.mr, j.m0+lane, min(ga, j.mb-lane), temp)
		return
	}
	lane := (task - groupsA) * group
	j.packGroup(j.packB[lane*j.kb:], &j.B, j.B.Trans, j.k.nr, j.n0+lane, min(group, j.nb-lane), temp)
}

// packGroup packs lanes [lane0, lane0+lanes). laneRows says that lanes are the stored rows, otherwise they are its columns.
func (j *job) packGroup(dst []float32, x *Mat, laneRows bool, w, lane0, lanes int, temp []float32) {
	r0, rows, c0, cols := j.k0, j.kb, lane0, lanes
	if laneRows {
		r0, rows, c0, cols = c0, cols, r0, rows
	}
	src, ld := load(x, temp, r0, rows, c0, cols)
	first := 0
	if !laneRows {
		first = lanes / w * w
		copyStrips(dst, w, lanes/w, j.kb, src, ld)
	}
	for s := first; s < lanes; s += w {
		strip := dst[s*j.kb : (s+w)*j.kb]
		have := min(w, lanes-s)
		switch {
		case !laneRows:
			for i := range j.kb {
				row := strip[i*w : (i+1)*w]
				clear(row[copy(row, src[i*ld+s:i*ld+s+have]):])
			}
		case have == w:
			j.k.transposeStrip(strip, w, src[s*ld:], ld, j.kb)
		default:
			clear(strip)
			transposeGo(strip, w, src[s*ld:], ld, have, 0, j.kb)
		}
	}
}

// load returns a block of x as float32 and its row stride: in place if x is float32, otherwise converted into temp.
func load(x *Mat, temp []float32, r0, rows, c0, cols int) (src []float32, ld int) {
	if x.Source != nil {
		x.Source.Block(temp[:rows*cols], cols, r0, r0+rows, c0, c0+cols)
		return temp, cols
	}
	if x.DType == tensor.F32 {
		return tensor.View[float32](x.Data)[r0*x.LD+c0:], x.LD
	}
	for r := range rows {
		vec.Widen(temp[r*cols:(r+1)*cols], x.Data[((r0+r)*x.LD+c0)*x.DType.Size():], x.DType)
	}
	return temp, cols
}

// transposeStrip turns w rows into a strip. The assembly writes eight lanes at a time, so parts that are not eight wide spill
// into the lanes right of them: they are done last part first, and the last k in Go.
func (k *kernel) transposeStrip(dst []float32, w int, src []float32, ld, kc int) {
	blocks := (kc - 1) / 8
	if w%8 == 0 {
		blocks = kc / 8
	}
	if k.transpose8 == nil || blocks == 0 {
		transposeGo(dst, w, src, ld, w, 0, kc)
		return
	}
	full := w / 8 * 8
	if w-full == 6 {
		k.transpose6(&dst[full], w, &src[full*ld], ld, blocks)
	}
	for r := 0; r < full; r += 8 {
		k.transpose8(&dst[r], w, &src[r*ld], ld, blocks)
	}
	transposeGo(dst, w, src, ld, w, 8*blocks, kc)
}

// transposeGo writes src[r][i], r < have, k0 <= i < k1, to dst[i][r].
func transposeGo(dst []float32, w int, src []float32, ld, have, k0, k1 int) {
	if k0 == k1 {
		return
	}
	for r := range have {
		at := k0*w + r
		for _, v := range src[r*ld+k0 : r*ld+k1] {
			dst[at] = v
			at += w
		}
	}
}

// copyStrips fills whole strips of width w from kc rows. Copies of a size known to the compiler are a few vector moves each.
func copyStrips(dst []float32, w, strips, kc int, src []float32, ld int) {
	switch {
	case strips == 0:
	case w == 4:
		copyRows[[4]float32](dst, strips, kc, src, ld)
	case w == 6:
		copyRows[[6]float32](dst, strips, kc, src, ld)
	case w == 14:
		copyRows[[14]float32](dst, strips, kc, src, ld)
	case w == 16:
		copyRows[[16]float32](dst, strips, kc, src, ld)
	case w == 32:
		copyRows[[32]float32](dst, strips, kc, src, ld)
	}
}

// copyRows goes row by row through all strips: the rows are often on pages of their own, which should be visited once.
func copyRows[R [4]float32 | [6]float32 | [14]float32 | [16]float32 | [32]float32](dst []float32, strips, kc int, src []float32, ld int) {
	var r R
	n := strips * len(r)
	to := unsafe.Slice((*R)(unsafe.Pointer(&dst[:n*kc][0])), strips*kc)
	for i := range kc {
		row := unsafe.Slice((*R)(unsafe.Pointer(&src[i*ld:][:n][0])), strips)
		for s := range row {
			to[s*kc+i] = row[s]
		}
	}
}
