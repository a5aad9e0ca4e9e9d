package gemm

import (
	"unsafe"

	"github.com/bitsandbyes/bitsandbyes/device/cpu/vec"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// packA implements inner.
func (j *job) packA(dst []float32, lane, w, k0, kb int, temp []float32) {
	j.kern.strip(dst, w, &j.A, !j.A.Trans, lane, w, k0, kb, temp)
}

// packB implements inner. Quantized weights are decoded a group of strips at a time.
func (j *job) packB(dst []float32, lane, lanes, k0, kb int, temp []float32) {
	w := j.nr
	x, first, k := &j.B, lane, k0
	var decoded Mat
	if x.Source != nil {
		done := j.packWhole(dst, lane, lanes, k0, kb)
		if dst, lane, lanes = dst[min(done*kb, len(dst)):], lane+done, lanes-done; lanes <= 0 {
			return
		}
		for lanes > group {
			j.packB(dst, lane, group, k0, kb, temp)
			dst, lane, lanes = dst[group*kb:], lane+group, lanes-group
		}
		src, ld := load(x, temp, lane, lanes, k0, kb, x.Trans)
		decoded = Mat{Data: tensor.AsBytes(src), DType: tensor.F32, LD: ld, Trans: x.Trans}
		x, first, k = &decoded, 0, 0
	}
	for s := 0; s < lanes; s += w {
		j.kern.strip(dst[s*kb:][:w*kb], w, x, x.Trans, first+s, min(w, lanes-s), k, kb, temp)
	}
}

// packWhole lets B pack itself and returns how many lanes it did: all, or all whole strips of columns, or none.
func (j *job) packWhole(dst []float32, lane, lanes, k0, kb int) int {
	p, ok := j.B.Source.(Packer)
	whole := lanes
	if !j.B.Trans {
		whole = lanes / j.nr * j.nr
	}
	if !ok || whole == 0 || !p.Pack(dst, j.nr, lane, whole, k0, kb, j.B.Trans) {
		return 0
	}
	return whole
}

// strip packs lanes [lane0, lane0+have) for k0 <= k < k0+kb: for each k, w lanes side by side. What lies in missing lanes is not
// defined, but it is written. laneRows says that lanes are the stored rows, otherwise they are the columns.
func (k *kernel) strip(dst []float32, w int, x *Mat, laneRows bool, lane0, have, k0, kb int, temp []float32) {
	if x.Source == nil && k.stripFast(dst, w, x, laneRows, lane0, have, k0, kb) {
		return
	}
	src, ld := load(x, temp, lane0, have, k0, kb, laneRows)
	switch {
	case x.Source != nil && k.rowsF32 != nil:
		decoded := Mat{Data: tensor.AsBytes(src), DType: tensor.F32, LD: ld}
		if k.stripFast(dst, w, &decoded, laneRows, 0, have, 0, kb) {
			return
		}
		fallthrough
	default:
		k.stripPlain(dst, w, src, ld, laneRows, have, kb)
	}
}

// stripFast packs with assembly and reports whether it could.
func (k *kernel) stripFast(dst []float32, w int, x *Mat, laneRows bool, lane0, have, k0, kb int) bool {
	if k.rowsF32 == nil || laneRows && kb < 64/x.DType.Size() {
		return false
	}
	if !laneRows {
		at := unsafe.Pointer(&x.Data[(k0*x.LD+lane0)*x.DType.Size()])
		switch x.DType {
		case tensor.F32:
			k.colsF32(kb, &dst[0], w, (*float32)(at), x.LD, have)
		case tensor.BF16:
			k.colsBF16(kb, &dst[0], w, (*uint16)(at), x.LD, have)
		default:
			k.colsF16(kb, &dst[0], w, (*uint16)(at), x.LD, have)
		}
		return true
	}
	for r := 0; r < w; r += 16 {
		first, put := min(r, have-1), min(16, w-r)
		lanes := max(min(put, have-r), 1)
		at := unsafe.Pointer(&x.Data[((lane0+first)*x.LD+k0)*x.DType.Size()])
		switch x.DType {
		case tensor.F32:
			k.rowsF32(kb, &dst[r], w, put, (*float32)(at), x.LD, lanes)
		case tensor.BF16:
			k.rowsBF16(kb, &dst[r], w, put, (*uint16)(at), x.LD, lanes)
		default:
			k.rowsF16(kb, &dst[r], w, put, (*uint16)(at), x.LD, lanes)
		}
	}
	return true
}

// stripPlain packs float32 with what all kernels have.
func (k *kernel) stripPlain(dst []float32, w int, src []float32, ld int, laneRows bool, have, kb int) {
	switch {
	case laneRows && have == w:
		k.transposeStrip(dst, w, src, ld, kb)
	case laneRows:
		clear(dst[:w*kb])
		transposeGo(dst, w, src, ld, have, 0, kb)
	case have == w:
		copyStrip(dst, w, kb, src, ld)
	default:
		for i := range kb {
			row := dst[i*w : (i+1)*w]
			clear(row[copy(row, src[i*ld:i*ld+have]):])
		}
	}
}

// load returns lanes of a block of x as float32 and the row stride: in place if x is float32, otherwise converted into temp.
func load(x *Mat, temp []float32, lane0, lanes, k0, kb int, laneRows bool) (src []float32, ld int) {
	r0, rows, c0, cols := k0, kb, lane0, lanes
	if laneRows {
		r0, rows, c0, cols = c0, cols, r0, rows
	}
	if x.Source != nil {
		x.Source.Block(temp[:rows*cols], cols, r0, r0+rows, c0, c0+cols)
		return temp[:rows*cols], cols
	}
	if x.DType == tensor.F32 {
		return tensor.View[float32](x.Data)[r0*x.LD+c0:], x.LD
	}
	for r := range rows {
		vec.Widen(temp[r*cols:(r+1)*cols], x.Data[((r0+r)*x.LD+c0)*x.DType.Size():], x.DType)
	}
	return temp[:rows*cols], cols
}

// transposeStrip turns w rows into a strip. The assembly writes eight lanes at a time, so parts that are not eight wide spill
// into the lanes right of them: they are done last part first, and the last k in Go.
func (k *kernel) transposeStrip(dst []float32, w int, src []float32, ld, kc int) {
	full := w / 8 * 8
	blocks := (kc - 1) / 8
	if w == full {
		blocks = kc / 8
	}
	if k.transpose8 == nil || blocks == 0 || w-full != 0 && w-full != 6 {
		transposeGo(dst, w, src, ld, w, 0, kc)
		return
	}
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

// copyStrip fills a strip of width w from kc rows. Copies of a size known to the compiler are a few vector moves each.
func copyStrip(dst []float32, w, kc int, src []float32, ld int) {
	switch w {
	case 4:
		copyRows[[4]float32](dst, kc, src, ld)
	case 6:
		copyRows[[6]float32](dst, kc, src, ld)
	case 16:
		copyRows[[16]float32](dst, kc, src, ld)
	default:
		for i := range kc {
			copy(dst[i*w:(i+1)*w], src[i*ld:])
		}
	}
}

func copyRows[R [4]float32 | [6]float32 | [16]float32](dst []float32, kc int, src []float32, ld int) {
	var r R
	to := unsafe.Slice((*R)(unsafe.Pointer(&dst[:len(r)*kc][0])), kc)
	for i := range to {
		to[i] = *(*R)(unsafe.Pointer(&src[i*ld:][:len(r)][0]))
	}
}
