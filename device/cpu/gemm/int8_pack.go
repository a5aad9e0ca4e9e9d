package gemm

import (
	"encoding/binary"
	"unsafe"

	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// offset is added to every byte of B, which the processor takes as unsigned; the sums begin at -offset times the sum of the row of A.
const offset = 128

// flips is offset in every byte.
const flips = 0x80808080

// packA implements inner: a strip, and behind it what the sums of its rows begin at.
func (j *job8) packA(dst []float32, lane, w, k0, kb int, _ []float32) {
	strip := unsafe.Slice((*uint32)(unsafe.Pointer(&dst[0])), w*(kb+1))
	start := unsafe.Slice((*int32)(unsafe.Pointer(&strip[w*kb])), w)
	j.strip(strip[:w*kb], &j.A, !j.A.Trans, w, lane, w, 0, k0, kb, 0)
	if j.kern.per != 4 {
		clear(start)
		return
	}
	j.kern.laneSums(kb, &strip[0], w, &start[0])
	for i := range start {
		start[i] *= -offset
	}
}

// packB implements inner.
func (j *job8) packB(dst []float32, lane, lanes, k0, kb int, _ []float32) {
	w, flip := j.nr, uint32(0)
	if j.kern.per == 4 {
		flip = flips
	}
	done := j.packWhole(dst, lane, lanes/w, k0, kb, flip)
	for s := 0; s < lanes; s += w {
		strip := unsafe.Slice((*uint32)(unsafe.Pointer(&dst[s*kb])), w*kb)
		have, first := min(w, lanes-s), done
		if have < w {
			first = 0
		}
		j.strip(strip, &j.B, j.B.Trans, w, lane+s, have, first, k0, kb, flip)
	}
}

// packWhole packs whole strips side by side and returns how many units of each it did: those that do not stick out of K, or none.
func (j *job8) packWhole(dst []float32, lane, strips, k0, kb int, flip uint32) int {
	units := min(kb, j.K/j.kern.per-k0)
	if j.kern.packWide == nil || j.B.Trans || strips == 0 || units <= 0 {
		return 0
	}
	src := &j.B.Data[k0*j.kern.per*j.B.LD+lane]
	j.kern.packWide(units, (*uint32)(unsafe.Pointer(&dst[0])), strips, j.nr*kb, src, j.B.LD, flip)
	return units
}

// strip packs `have` lanes from lane0 on into a strip of w, kb units from k0 on, of which the first ones are done. What lies beyond K is zero
// but for flip, what is in missing lanes is not defined. laneRows says that lanes are the stored rows, otherwise they are its columns.
func (j *job8) strip(dst []uint32, x *Mat8, laneRows bool, w, lane0, have, first, k0, kb int, flip uint32) {
	per := j.kern.per
	k0 *= per
	whole := min(kb, (j.K-k0)/per) // units that do not stick out of K
	switch {
	case first > 0:
	case !laneRows && j.kern.packCols != nil && whole > 0:
		j.kern.packCols(whole, &dst[0], w, &x.Data[k0*x.LD+lane0], x.LD, have, flip)
		first = whole
	case laneRows && j.kern.packRows != nil && whole >= 16:
		for r := 0; r < w; r += 16 {
			from, put := min(r, have-1), min(16, w-r)
			j.kern.packRows(whole, &dst[r], w, put, &x.Data[(lane0+from)*x.LD+k0], x.LD, max(min(put, have-r), 1), flip)
		}
		first = whole
	}
	for i := first; i < kb; i++ {
		part := dst[i*w : (i+1)*w]
		clear(part)
		at, n := k0+i*per, min(per, j.K-k0-i*per)
		if laneRows {
			for r := range have {
				part[r] = unit(x.Data[(lane0+r)*x.LD+at:][:n], per)
			}
		} else {
			packAcross(part[:have], x, at, n, lane0, per)
		}
		if flip != 0 {
			for r := range part {
				part[r] ^= flip
			}
		}
	}
}

// unit packs up to per neighbours along K.
func unit(v []int8, per int) uint32 {
	if per == 4 && len(v) == 4 {
		return binary.LittleEndian.Uint32(tensor.AsBytes(v))
	}
	var u uint32
	for i, b := range v {
		u |= lift(b, i, per)
	}
	return u
}

// lift is element i of a unit, in its place.
func lift(b int8, i, per int) uint32 {
	if per == 4 {
		return uint32(uint8(b)) << (8 * i)
	}
	return uint32(uint16(int16(b))) << (16 * i)
}

// packAcross packs one unit of each lane where K runs over the stored rows: rows k to k+rows-1, columns from lane0 on.
func packAcross(dst []uint32, x *Mat8, k, rows, lane0, per int) {
	for i := range rows {
		row := x.Data[(k+i)*x.LD+lane0:][:len(dst)]
		for l, b := range row {
			dst[l] |= lift(b, i, per)
		}
	}
}
