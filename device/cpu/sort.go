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
// keys are ordered by position, which makes it stable. Long lanes are sorted digit by digit. For few of many elements a heap of
// K keeps the best, in n·log K.
func buildSort(d *Device, op ops.SortOp, s device.Spec) (*Kernel, error) {
	typ, l := s.In[0].DType, lanesOf(s.In[0].Shape, int(op.Axis))
	k := int(op.K)
	held := l.n
	heap := k <= l.n/4
	if heap {
		held = k
	}
	room := held // items of scratch: a radix sort moves them to and fro
	if radix := !heap && l.n >= radixFrom; radix {
		room = 2 * held
	}
	tasks := max(min(l.count, 4*d.threads, l.count*l.n/laneGrain), 1)
	per := int64(room) * sortItemBytes
	if k == 0 || l.count == 0 {
		return &Kernel{Run: func(*Call) error { return nil }}, nil
	}
	return &Kernel{ScratchBytes: per * int64(tasks), Run: func(c *Call) error {
		return d.parallel(tasks, func(t int) {
			items := unsafe.Slice((*sortItem)(unsafe.Pointer(&c.Scratch[int64(t)*per])), room)
			for lane := l.count * t / tasks; lane < l.count*(t+1)/tasks; lane++ {
				from := lane/l.inner*l.n*l.inner + lane%l.inner
				to := lane/l.inner*k*l.inner + lane%l.inner
				best := orderLane(items[:held], items[held:], typ, c.In[0], from, l.inner, l.n, op.Descending, heap)
				for i, it := range best[:k] {
					copyRun(c.Out[0][(to+i*l.inner)*typ.Size():][:typ.Size()], c.In[0], from+int(it.pos)*l.inner, 1, typ.Size())
					tensor.View[int32](c.Out[1])[to+i*l.inner] = it.pos
				}
			}
		})
	}}, nil
}

// orderLane returns the items of a lane in order: all n, or with heap the first of them, as many as items holds. spare is empty
// or as long as items.
func orderLane(items, spare []sortItem, typ tensor.DType, b []byte, from, step, n int, descending, heap bool) []sortItem {
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
	if len(spare) > 0 {
		return radixSort(items, spare)
	}
	comparisonSort(items)
	return items
}

func comparisonSort(items []sortItem) {
	slices.SortFunc(items, func(a, b sortItem) int {
		if a.key != b.key {
			return cmp.Compare(a.key, b.key)
		}
		return cmp.Compare(a.pos, b.pos)
	})
}

// radixFrom is the length from which digits are faster than comparisons.
const radixFrom = 512

// radixSort orders items that lie in the order of their positions by their keys, a byte at a time from the lowest; each pass is
// stable. A byte that is the same in all keys takes no pass. It returns items or spare, whichever the last pass filled.
func radixSort(items, spare []sortItem) []sortItem {
	var count [8][256]int32
	for _, it := range items {
		for d := range count {
			count[d][byte(it.key>>(8*d))]++
		}
	}
	for d := range count {
		c, shift := &count[d], 8*d
		if int(c[byte(items[0].key>>shift)]) == len(items) {
			continue
		}
		sum := int32(0)
		for i, n := range c {
			c[i] = sum
			sum += n
		}
		for _, it := range items {
			at := &c[byte(it.key>>shift)]
			spare[*at] = it
			*at++
		}
		items, spare = spare, items
	}
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
	if d == tensor.F64 {
		bits := math.Float64bits(tensor.View[float64](b)[i] + 0) // -0 + 0 is 0
		switch {
		case bits&^sign > 0x7ff<<52: // NaN; flipped it is 0, before everything
			return math.MaxUint64
		case bits&sign != 0:
			return ^bits
		}
		return bits | sign
	}
	const sign32 = 1 << 31 // 32 bits are enough, and half of the bytes to sort by
	bits := math.Float32bits(load32(d, b, i) + 0)
	switch {
	case bits&^sign32 > 0xff<<23:
		return math.MaxUint64
	case bits&sign32 != 0:
		return uint64(^bits)
	}
	return uint64(bits | sign32)
}
