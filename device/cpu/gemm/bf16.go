package gemm

import (
	"encoding/binary"
	"unsafe"

	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// On processors that multiply pairs of bfloat16 faster than float32, a product of two bfloat16 matrices is not widened: its panels hold two
// neighbours along K in an element, and K is counted in pairs. Sums are float32 all the same; products of bfloat16 are exact in
// float32, so what differs is that of each pair the second product is added before the first, and that VDPBF16PS takes denormal numbers
// for zero.

// pairKernel has the loops for pairs.
type pairKernel struct {
	tile func(rows, kc int, a *uint32, rs, ks int, b *uint32, bs int, c *float32, ldc, cols int, alpha float32, add bool, next uintptr, step int)
	// rows and cols pack whole pairs as packRowsInt8AVX512 and packColsPairsAVX512 do; nil: in Go.
	rows func(kc int, dst *uint32, w, put int, src *int8, lds, lanes int, flip uint32)
	cols func(kc int, dst *uint32, w int, src *uint16, lds, have int)
}

// pairJob is a job that multiplies pairs.
type pairJob struct{ *job }

// usesPairs says that the product is one of pairs.
func (j *job) usesPairs() bool {
	return j.kern.pairs != nil && j.A.Source == nil && j.B.Source == nil && j.A.DType == tensor.BF16 && j.B.DType == tensor.BF16
}

func (j pairJob) packA(dst []float32, lane, w, k0, kb int, _ []float32) {
	j.strip(dst, w, &j.A, !j.A.Trans, lane, w, k0, kb)
}

func (j pairJob) packB(dst []float32, lane, lanes, k0, kb int, _ []float32) {
	for s := 0; s < lanes; s += j.nr {
		j.strip(dst[s*kb:], j.nr, &j.B, j.B.Trans, lane+s, min(j.nr, lanes-s), k0, kb)
	}
}

func (j pairJob) tile(i, n, rows, cols, kb int, a, b panel, add bool, next uintptr, step int) {
	c, ld := j.target(i, n)
	j.kern.pairs.tile(rows, kb, (*uint32)(unsafe.Pointer(a.at)), a.lane, a.k, (*uint32)(unsafe.Pointer(b.at)), b.k, c, ld, cols, j.alpha,
		add || j.Accumulate, next, step)
}

// strip packs `have` lanes from lane0 on into a strip of w, kb pairs from pair k0 on. Beyond K there are zeros; what is in missing lanes
// is not defined.
func (j pairJob) strip(dst []float32, w int, x *Mat, laneRows bool, lane0, have, k0, kb int) {
	p := j.kern.pairs
	out := unsafe.Slice((*uint32)(unsafe.Pointer(&dst[0])), w*kb)
	data, size := tensor.View[uint16](x.Data), 2*x.LD
	first, whole := 0, min(kb, j.K/2-k0) // pairs that do not stick out of K
	switch {
	case laneRows && p.rows != nil && whole >= 16:
		for r := 0; r < w; r += 16 {
			from, put := min(r, have-1), min(16, w-r)
			at := (*int8)(unsafe.Pointer(&data[(lane0+from)*x.LD+2*k0]))
			p.rows(whole, &out[r], w, put, at, size, max(min(put, have-r), 1), 0)
		}
		first = whole
	case !laneRows && p.cols != nil && whole > 0:
		p.cols(whole, &out[0], w, &data[2*k0*x.LD+lane0], x.LD, have)
		first = whole
	}
	for i := first; i < kb; i++ {
		k := 2 * (k0 + i)
		for l := range w {
			lane := lane0 + min(l, have-1)
			var pair [4]byte
			for h := range min(2, j.K-k) {
				at := lane*x.LD + k + h
				if !laneRows {
					at = (k+h)*x.LD + lane
				}
				binary.LittleEndian.PutUint16(pair[2*h:], data[at])
			}
			out[i*w+l] = binary.LittleEndian.Uint32(pair[:])
		}
	}
}
