package cpu

import (
	"slices"

	"github.com/bitsandbyes/bitsandbyes/device/cpu/vec"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// strided copies a tensor of shape dims into contiguous dst, reading src at the given strides (in elements).
type strided struct {
	dims    []int
	strides []int
	elem    int // bytes
	start   int // first element in src
}

// kernel chooses how to move the elements, once the axes are merged: rows that lie together are copied, planes whose rows lie along
// another axis are transposed, rows of one element are filled, and what remains is picked one by one.
func (s strided) kernel(d *Device) *Kernel {
	if slices.Contains(s.dims, 0) {
		return &Kernel{Run: func(*Call) error { return nil }}
	}
	s.merge()
	last := len(s.dims) - 1
	move := s.rows
	if plane := s.unitAxis(); s.strides[last] > 1 && plane >= 0 {
		move = func(d *Device, dst, src []byte) error { return s.planes(d, plane, dst, src) }
	}
	return &Kernel{Run: func(c *Call) error { return move(d, c.Out[0], c.In[0]) }}
}

// merge drops axes of one element, joins neighbours that src holds without a gap, and takes a short innermost run as one larger element.
func (s *strided) merge() {
	var dims, strides []int
	for i, n := range s.dims {
		if n == 1 {
			continue
		}
		if k := len(dims) - 1; k >= 0 && strides[k] == s.strides[i]*n {
			dims[k], strides[k] = dims[k]*n, s.strides[i]
			continue
		}
		dims, strides = append(dims, n), append(strides, s.strides[i])
	}
	if len(dims) == 0 {
		dims, strides = []int{1}, []int{1}
	}
	s.dims, s.strides = dims, strides
	s.widen()
}

// widen makes pairs or quadruples of elements that stay together one element.
func (s *strided) widen() {
	last := len(s.dims) - 1
	n := s.dims[last]
	if last == 0 || s.strides[last] != 1 || n*s.elem > 8 || n&(n-1) != 0 || s.start%n != 0 {
		return
	}
	for _, st := range s.strides[:last] {
		if st%n != 0 {
			return
		}
	}
	s.dims, s.strides, s.elem, s.start = s.dims[:last], s.strides[:last], s.elem*n, s.start/n
	for i := range s.strides {
		s.strides[i] /= n
	}
}

// unitAxis is the axis along which elements of src are adjacent, -1 for none.
func (s strided) unitAxis() int {
	for i, st := range s.strides {
		if st == 1 {
			return i
		}
	}
	return -1
}

// outer is the extents and strides without the last axis and the one given, and the product of the extents.
func (s strided) outer(without int) (dims, strides []int, n int) {
	n = 1
	for i := range len(s.dims) - 1 {
		if i != without {
			dims, strides, n = append(dims, s.dims[i]), append(strides, s.strides[i]), n*s.dims[i]
		}
	}
	return dims, strides, n
}

// rows copies, fills or picks rows of the innermost axis.
func (s strided) rows(d *Device, dst, src []byte) error {
	last := len(s.dims) - 1
	inner, step := s.dims[last], s.strides[last]
	outer := len(dst) / (inner * s.elem)
	row := inner * s.elem
	if outer == 1 && step == 1 { // one run
		return d.ranges(row, copyGrain, func(lo, hi int) { copy(dst[lo:hi], src[s.start*s.elem+lo:]) })
	}
	return d.ranges(outer, max(shapeGrain/row, 1), func(lo, hi int) {
		w := newWalk(s.dims[:last], s.strides[:last], lo)
		for r := lo; r < hi; r++ {
			copyRun(dst[r*row:(r+1)*row], src, s.start+w.off, step, s.elem)
			w.next()
		}
	})
}

// planeWidth is how many of m rows of dst a task transposes: long runs of src, but enough tasks to share.
func planeWidth(m int) int { return min(max(m/8&^63, 64), 512) }

// planes transposes the planes of the innermost axis and of axis u, whose elements are adjacent in src. A task has some rows of dst.
func (s strided) planes(d *Device, u int, dst, src []byte) error {
	last := len(s.dims) - 1
	n, m := s.dims[last], s.dims[u]
	apart := 1 // rows of dst along axis u
	for _, k := range s.dims[u+1:] {
		apart *= k
	}
	dims, strides, count := s.outer(u)
	width := planeWidth(m)
	panels := (m + width - 1) / width
	return d.ranges(count*panels, max(shapeGrain/(n*min(m, width)*s.elem), 1), func(lo, hi int) {
		for lo < hi {
			plane, from := lo/panels, lo%panels
			to := min(panels, from+hi-lo)
			w := newWalk(dims, strides, plane)
			a, b := from*width, min(to*width, m)
			at := s.outOffset(u, plane) + a*apart
			vec.Transpose(s.elem, dst[at*s.elem:], apart, src[(s.start+w.off+a)*s.elem:], s.strides[last], n, b-a, len(dst))
			lo += to - from
		}
	})
}

// outOffset is the element of dst where a plane begins.
func (s strided) outOffset(u, plane int) (off int) {
	unit := 1
	for i := len(s.dims) - 1; i >= 0; i-- {
		if i != u && i != len(s.dims)-1 {
			off += plane % s.dims[i] * unit
			plane /= s.dims[i]
		}
		unit *= s.dims[i]
	}
	return off
}

// walk steps through the elements of outer axes in row-major order and knows the offset of each.
type walk struct {
	dims, strides []int
	at            [tensor.MaxRank]int
	off           int
}

func newWalk(dims, strides []int, k int) walk {
	w := walk{dims: dims, strides: strides}
	for i := len(dims) - 1; i >= 0; i-- {
		w.at[i] = k % dims[i]
		w.off += w.at[i] * strides[i]
		k /= dims[i]
	}
	return w
}

func (w *walk) next() {
	for i := len(w.dims) - 1; i >= 0; i-- {
		w.at[i]++
		w.off += w.strides[i]
		if w.at[i] < w.dims[i] {
			return
		}
		w.off -= w.at[i] * w.strides[i]
		w.at[i] = 0
	}
}

// copyRun fills dst with elements src[off], src[off+step], ...
func copyRun(dst, src []byte, off, step, elem int) {
	switch {
	case step == 1:
		copy(dst, src[off*elem:])
		return
	case step == 0:
		repeat(dst, src[off*elem:(off+1)*elem])
		return
	}
	switch elem {
	case 1:
		runOf(dst, src, off, step)
	case 2:
		runOf(tensor.View[uint16](dst), tensor.View[uint16](src), off, step)
	case 4:
		runOf(tensor.View[uint32](dst), tensor.View[uint32](src), off, step)
	case 8:
		runOf(tensor.View[uint64](dst), tensor.View[uint64](src), off, step)
	}
}

func runOf[E any](dst, src []E, off, step int) {
	for i := range dst {
		dst[i] = src[off+i*step]
	}
}
