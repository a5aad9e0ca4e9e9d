package vec

import (
	"unsafe"

	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// tileLoop turns tiles of rows x cols elements along rows of src; strides are in bytes.
type tileLoop struct {
	rows, cols int
	turn       func(tiles int, dst *byte, ldd int, src *byte, lds int)
	stream     func(tiles int, dst *byte, ldd int, src *byte, lds int) // past the caches, for lines of 64 bytes
}

// StreamBytes is the size from which results are written past the caches: by then they would push out more than they are worth there.
const StreamBytes = 16 << 20

// transposePanel is how many columns of the source are turned before the next rows: as many pages of the result are in use.
const transposePanel = 512

// Transpose sets dst[k·ldd+r] to src[r·lds+k] for r < rows and k < cols. Elements have elem bytes, 1, 2, 4 or 8; strides are in
// elements. total is the size in bytes of what dst is a part of: much is written past the caches.
func Transpose(elem int, dst []byte, ldd int, src []byte, lds, rows, cols, total int) {
	fast.transpose(elem, dst, ldd, src, lds, rows, cols, total)
}

func (l *loops) transpose(elem int, dst []byte, ldd int, src []byte, lds, rows, cols, total int) {
	if rows == 0 || cols == 0 {
		return
	}
	_, _ = src[((rows-1)*lds+cols)*elem-1], dst[((cols-1)*ldd+rows)*elem-1] // the last elements are there
	var t tileLoop
	switch elem {
	case 2:
		t = l.transpose16
	case 4:
		t = l.transpose32
	}
	fullRows, fullCols := 0, 0
	if t.turn != nil {
		fullRows, fullCols = rows-rows%t.rows, cols-cols%t.cols
	}
	turn := t.turn
	if t.stream != nil && total >= StreamBytes && fullRows*fullCols > 0 && uintptr(unsafe.Pointer(&dst[0]))%64 == 0 && ldd*elem%64 == 0 {
		turn = t.stream
	}
	for c := 0; c < fullCols; c += transposePanel {
		n := min(transposePanel, fullCols-c)
		for r := 0; r < fullRows; r += t.rows {
			turn(n/t.cols, &dst[(c*ldd+r)*elem], ldd*elem, &src[(r*lds+c)*elem], lds*elem)
		}
	}
	turnRest(elem, dst, ldd, src, lds, 0, fullRows, fullCols, cols)
	turnRest(elem, dst, ldd, src, lds, fullRows, rows, 0, cols)
}

// turnRest is Transpose in Go for rows [r0, r1) and columns [c0, c1).
func turnRest(elem int, dst []byte, ldd int, src []byte, lds, r0, r1, c0, c1 int) {
	switch elem {
	case 1:
		turnIn(dst, ldd, src, lds, r0, r1, c0, c1)
	case 2:
		turnIn(tensor.View[uint16](dst), ldd, tensor.View[uint16](src), lds, r0, r1, c0, c1)
	case 4:
		turnIn(tensor.View[uint32](dst), ldd, tensor.View[uint32](src), lds, r0, r1, c0, c1)
	case 8:
		turnIn(tensor.View[uint64](dst), ldd, tensor.View[uint64](src), lds, r0, r1, c0, c1)
	}
}

// turnIn works in blocks whose rows and columns stay in the first-level cache.
func turnIn[E any](dst []E, ldd int, src []E, lds, r0, r1, c0, c1 int) {
	const block = 32
	for ; r0 < r1; r0 += block {
		rows := min(block, r1-r0)
		for c := c0; c < c1; c++ {
			to := dst[c*ldd+r0 : c*ldd+r0+rows]
			for i := range to {
				to[i] = src[(r0+i)*lds+c]
			}
		}
	}
}
