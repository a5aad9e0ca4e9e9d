package cpu

import (
	"cmp"
	"math"
	"slices"
	"unsafe"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func init() { Register(buildSort) }

// sortItem is an element under a key whose unsigned order is the order of the elements, and its position.
type sortItem struct {
	key uint64
	pos int32
	_   int32
}

const sortItemBytes = 16

// buildSort orders lanes one by one. A lane is copied to scratch with keys, so any element type sorts by the same code; equal
// keys are ordered by position, which makes it stable. For few of many elements a heap of K keeps the best, in n·log K.
func buildSort(d *Device, op ops.SortOp, s device.Spec) (*Kernel, error) {
	typ, l := s.In[0].DType, lanesOf(s.In[0].Shape, int(op.Axis))
	k := int(op.K)
	held := l.n
	heap := k <= l.n/4
	if heap {
		held = k
	}
	tasks := max(min(l.count, 4*d.threads, l.count*l.n/laneGrain), 1)
	per := int64(held) * sortItemBytes
	if k == 0 || l.count == 0 {
		return &Kernel{Run: func(*Call) error { return nil }}, nil
	}
	return &Kernel{ScratchBytes: per * int64(tasks), Run: func(c *Call) error {
		return d.parallel(tasks, func(t int) {
			items := unsafe.Slice((*sortItem)(unsafe.Pointer(&c.Scratch[int64(t)*per])), held)
			for lane := l.count * t / tasks; lane < l.count*(t+1)/tasks; lane++ {
				from := lane/l.inner*l.n*l.inner + lane%l.inner
				to := lane/l.inner*k*l.inner + lane%l.inner
				best := orderLane(items, typ, c.In[0], from, l.inner, l.n, op.Descending, heap)
				for i, it := range best[:k] {
					copyRun(c.Out[0][(to+i*l.inner)*typ.Size():][:typ.Size()], c.In[0], from+int(it.pos)*l.inner, 1, typ.Size())
					tensor.View[int32](c.Out[1])[to+i*l.inner] = it.pos
				}
			}
		})
	}}, nil
}

// orderLane returns items in order, the first of them the ones wanted: all n elements of a lane, or with heap as many as items holds.
func orderLane(items []sortItem, typ tensor.DType, b []byte, from, step, n int, descending, heap bool) []sortItem {
	var flip uint64
	if descending {
		flip = math.MaxUint64
	}
	for i := range n {
		it := sortItem{key: sortKey(typ, b, from+i*step) ^ flip, pos: int32(i)}
		switch {
		case i < len(items):
			items[i] = it
			if heap {
				siftUp(items[:i+1])
			}
		case it.key < items[0].key: // an equal key comes later, so it is not among the best
			items[0] = it
			siftDown(items)
		}
	}
	slices.SortFunc(items, func(a, b sortItem) int {
		if a.key != b.key {
			return cmp.Compare(a.key, b.key)
		}
		return cmp.Compare(a.pos, b.pos)
	})
	return items
}

// after orders a heap whose root is the item that leaves first.
func after(a, b sortItem) bool { return a.key > b.key || a.key == b.key && a.pos > b.pos }

func siftUp(h []sortItem) {
	for i := len(h) - 1; i > 0; {
		p := (i - 1) / 2
		if !after(h[i], h[p]) {
			return
		}
		h[i], h[p] = h[p], h[i]
		i = p
	}
}

func siftDown(h []sortItem) {
	for i := 0; ; {
		c := 2*i + 1
		if c >= len(h) {
			return
		}
		if c+1 < len(h) && after(h[c+1], h[c]) {
			c++
		}
		if !after(h[c], h[i]) {
			return
		}
		h[i], h[c] = h[c], h[i]
		i = c
	}
}

// sortKey maps an element to an unsigned number of the same order: signed integers by an offset, floats by their bits with the
// negative ones inverted. NaN is the largest, -0 is 0.
func sortKey(d tensor.DType, b []byte, i int) uint64 {
	const sign = 1 << 63
	if !d.IsFloat() {
		x := uint64(loadInt(d, b, i))
		if d.IsSigned() {
			x ^= sign
		}
		return x
	}
	x := reader{d, b}.get(i)
	if x != x {
		return math.MaxUint64 // flipped it is 0: before everything
	}
	bits := math.Float64bits(x + 0) // -0 + 0 is 0
	if bits&sign != 0 {
		return ^bits
	}
	return bits | sign
}
