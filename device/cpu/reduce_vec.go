package cpu

import (
	"math"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/device/cpu/vec"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// vecReduce is a sum, largest or smallest element over one run of axes of a float32, bf16 or f16 tensor: (outer, red, inner) to
// (outer, inner). Work is cut into items by shape alone: an item is a chunk of an output's elements where inner is 1, else a chunk of
// rows of a block of columns. What the chunks give is combined in their order.
type vecReduce struct {
	kind              ops.Reduction
	dt                tensor.DType
	outer, red, inner int
	chunks, blocks    int
}

// columnBlock is how many columns are reduced side by side: their sums in float64 stay in the first-level cache.
const columnBlock = 256

// vecTaskBytes is the scratch of a task: a block of sums and a widened block.
const vecTaskBytes = columnBlock * (8 + 4 + 4)

// newVecReduce returns false for what other kernels must do.
func newVecReduce(op ops.Reduce, t tensor.Type) (v vecReduce, ok bool) {
	switch op.Kind {
	case ops.RedSum, ops.RedMax, ops.RedMin:
	default:
		return v, false
	}
	v = vecReduce{kind: op.Kind, dt: t.DType, outer: 1, red: 1, inner: 1, chunks: 1, blocks: 1}
	if t.Size() == 0 || t.DType != tensor.F32 && !isHalf(t.DType) || !v.split(t, op.Axes) || v.inner > 1 && v.inner < minColumns {
		return v, false
	}
	v.blocks = (v.inner + columnBlock - 1) / columnBlock
	most := v.red / minChunkRows
	if v.inner == 1 {
		most = v.red / sumChunk
	}
	v.chunks = max(min(maxTasks/(v.outer*v.blocks), most, v.outer*v.red*v.inner/sumChunk), 1)
	return v, true
}

const (
	minColumns   = 8  // narrower tensors are not read along columns
	minChunkRows = 16 // rows from which columns are cut into chunks
)

// split finds the extents; false where reduced axes are apart.
func (v *vecReduce) split(t tensor.Type, axes uint16) bool {
	stage := 0
	for i := range t.Rank() {
		n := t.Dim(i)
		if n == 1 {
			continue
		}
		reduced := axes>>i&1 == 1
		switch {
		case reduced && stage <= 1:
			stage, v.red = 1, v.red*n
		case reduced:
			return false
		case stage == 0:
			v.outer *= n
		default:
			stage, v.inner = 2, v.inner*n
		}
	}
	return true
}

func (v vecReduce) kernel(d *Device, s device.Spec) *Kernel {
	items := v.outer * v.chunks * v.blocks
	tasks := max(min(items, maxTasks, v.outer*v.red*v.inner/reduceGrain), 1)
	parts := 0
	if v.chunks > 1 {
		parts = v.outer * v.chunks * v.inner
	}
	return &Kernel{ScratchBytes: int64(8*parts + tasks*vecTaskBytes), Run: func(c *Call) error {
		out := reader{s.Out[0].DType, c.Out[0]}
		part := tensor.View[float64](c.Scratch[:8*parts])
		err := d.parallel(tasks, func(t int) {
			w := newReduceWork(c.Scratch[8*parts+t*vecTaskBytes:])
			for i := items * t / tasks; i < items*(t+1)/tasks; i++ {
				if v.inner == 1 {
					v.row(c, w, i, part, out)
				} else {
					v.columns(c, w, i, part, out)
				}
			}
		})
		for i := range v.outer * v.inner {
			if v.chunks > 1 {
				out.set(i, v.combine(part[i/v.inner*v.chunks*v.inner+i%v.inner:]))
			}
		}
		return err
	}}
}

// reduceWork is the scratch of a task.
type reduceWork struct {
	sums       []float64
	best, wide []float32
}

func newReduceWork(b []byte) reduceWork {
	return reduceWork{
		sums: tensor.View[float64](b[:8*columnBlock]),
		best: tensor.View[float32](b[8*columnBlock : 12*columnBlock]),
		wide: tensor.View[float32](b[12*columnBlock : 16*columnBlock]),
	}
}

// none is the result of no elements.
func (v vecReduce) none() float64 {
	switch v.kind {
	case ops.RedMax:
		return math.Inf(-1)
	case ops.RedMin:
		return math.Inf(1)
	}
	return 0
}

func (v vecReduce) meet(a, b float64) float64 {
	switch v.kind {
	case ops.RedMax:
		return max(a, b)
	case ops.RedMin:
		return min(a, b)
	}
	return a + b
}

// combine takes the chunks of one output together.
func (v vecReduce) combine(part []float64) float64 {
	r := v.none()
	for k := range v.chunks {
		r = v.meet(r, part[k*v.inner])
	}
	return r
}

// row reduces a chunk of adjacent elements.
func (v vecReduce) row(c *Call, w reduceWork, item int, part []float64, out reader) {
	o, k := item/v.chunks, item%v.chunks
	lo, hi := o*v.red+v.red*k/v.chunks, o*v.red+v.red*(k+1)/v.chunks
	var r float64
	if v.dt == tensor.F32 {
		r = v.fold(tensor.View[float32](c.In[0])[lo:hi])
	} else {
		r = v.none()
		for ; lo < hi; lo += columnBlock {
			x := w.wide[:min(columnBlock, hi-lo)]
			vec.Widen(x, c.In[0][2*lo:2*(lo+len(x))], v.dt)
			r = v.meet(r, v.fold(x))
		}
	}
	if v.chunks > 1 {
		part[item] = r
	} else {
		out.set(o, r)
	}
}

func (v vecReduce) fold(x []float32) float64 {
	switch v.kind {
	case ops.RedMax:
		return float64(vec.Highest(x))
	case ops.RedMin:
		return float64(vec.Lowest(x))
	}
	return vec.Sum(x)
}

// columns reduces a chunk of rows of one block of columns.
func (v vecReduce) columns(c *Call, w reduceWork, item int, part []float64, out reader) {
	b, rest := item%v.blocks, item/v.blocks
	o, k := rest/v.chunks, rest%v.chunks
	from := b * columnBlock
	n := min(columnBlock, v.inner-from)
	sums, best := w.sums[:n], w.best[:n]
	for i := range sums {
		sums[i], best[i] = v.none(), float32(v.none())
	}
	for r := v.red * k / v.chunks; r < v.red*(k+1)/v.chunks; r++ {
		x := readRow(v.dt, c.In[0], (o*v.red+r)*v.inner+from, n, w.wide)
		switch v.kind {
		case ops.RedMax:
			vec.OpMax.Run(best, best, x, nil)
		case ops.RedMin:
			vec.OpMin.Run(best, best, x, nil)
		default:
			vec.AddWide(sums, x)
		}
	}
	if v.kind != ops.RedSum {
		for i, x := range best {
			sums[i] = float64(x)
		}
	}
	if v.chunks > 1 {
		copy(part[(o*v.chunks+k)*v.inner+from:], sums)
		return
	}
	for i, x := range sums {
		out.set(o*v.inner+from+i, x)
	}
}
