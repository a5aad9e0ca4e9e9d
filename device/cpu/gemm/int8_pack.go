package gemm

import (
	"encoding/binary"
	"unsafe"

	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// offset is added to every byte of B, which the processor takes as unsigned; the sums begin at -offset times the sum of the row of A.
const offset = 128

// pack is one packing task of the present block: a group of strips of A or B.
func (j *job8) pack(_, task int) {
	ga := j.groupA()
	groupsA := ceil(j.mb, ga)
	if task < groupsA {
		lane := task * ga
		j.packGroupA(lane, min(ga, j.mb-lane))
		return
	}
	lane := (task - groupsA) * group
	w := j.k.nr
	for s := lane; s < min(lane+group, j.nb); s += w {
		strip := j.packB[s*j.kb:][:w*j.kb]
		j.packStrip(strip, &j.B, j.B.Trans, w, j.n0+s, min(w, j.nb-s))
		if j.k.per == 4 {
			flip(strip)
		}
	}
}

func (j *job8) packGroupA(lane, lanes int) {
	w := j.k.mr
	for s := lane; s < lane+lanes; s += w {
		strip := j.packA[s*j.kb:][:w*j.kb]
		j.packStrip(strip, &j.A, !j.A.Trans, w, j.m0+s, min(w, j.mb-s))
		start := j.start[s:][:w]
		if j.k.per != 4 {
			clear(start)
			continue
		}
		j.k.laneSums(j.kb, &strip[0], &start[0])
		for i := range start {
			start[i] *= -offset
		}
	}
}

// flip adds 128 to every byte, modulo 256. Strips have an even number of units but for the smallest.
func flip(strip []uint32) {
	for i := range strip {
		strip[i] ^= 0x80808080
	}
}

// packStrip packs `have` lanes from lane0 on into a strip of w; missing lanes and what lies beyond K are zero. laneRows says that lanes are
// the stored rows, otherwise they are its columns.
func (j *job8) packStrip(dst []uint32, x *Mat8, laneRows bool, w, lane0, have int) {
	per, k0 := j.k.per, j.k0*j.k.per
	whole := min(j.kb, (j.K-k0)/per) // units that do not stick out of K
	first := 0
	switch {
	case !laneRows:
		clear(dst)
		for i := range j.kb {
			packAcross(dst[i*w:][:have], x, k0+i*per, min(per, j.K-k0-i*per), lane0, per)
		}
		return
	case per == 4 && have == w && whole > 0 && x.LD%4 == 0 && (lane0*x.LD+k0)%4 == 0 && uintptr(unsafe.Pointer(&x.Data[0]))%4 == 0:
		src := unsafe.Slice((*float32)(unsafe.Pointer(&x.Data[lane0*x.LD+k0])), (w-1)*x.LD/4+whole)
		j.transposer.transposeStrip(unsafe.Slice((*float32)(unsafe.Pointer(&dst[0])), w*whole), w, src, x.LD/4, whole)
		first = whole
	}
	clear(dst[first*w:])
	for r := range have {
		row := x.Data[(lane0+r)*x.LD:][:j.K]
		for i := first; i < j.kb; i++ {
			dst[i*w+r] = unit(row[k0+i*per:min(k0+(i+1)*per, j.K)], per)
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
