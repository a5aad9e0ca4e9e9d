package cpu

import (
	"math"
	"unsafe"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/device/cpu/vec"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func init() {
	Register(buildQuantizeRows8)
	Register(buildQuantizeColumns8)
	Register(buildDequantizeRows8)
	Register(buildDequantizeProduct8)
}

// scratchCut hands out aligned parts of a kernel's scratch; with nothing to cut from it counts the bytes that would be needed.
type scratchCut struct {
	b    []byte
	used int64
}

const carveLine = 64

func cutScratch[E tensor.Element](c *scratchCut, n int) []E {
	var e E
	size := (int64(n)*int64(unsafe.Sizeof(e)) + carveLine - 1) / carveLine * carveLine
	c.used += size
	if c.b == nil {
		return nil
	}
	part := c.b[c.used-size:][:n*int(unsafe.Sizeof(e))]
	return tensor.View[E](part)
}

// rows8 quantizes a matrix by row, as quant.QuantizeRows does, in parallel and without allocating.
type rows8 struct {
	rows, cols int
	threshold  float32
	from       tensor.DType
	half       bool // round to f16 first
	strict     bool // NaN in a row makes its statistic NaN

	tasks    int
	masks    []bool    // tasks × cols: outlier columns that a task has seen
	wide     []float32 // tasks × cols: a row in float32
	halves   []uint16  // tasks × cols: a row in f16
	outliers []bool    // cols
	columns  []int32   // the outlier columns, ascending: the first found entries
	found    int       // number of outlier columns
}

func newRows8(rows, cols int, o ops.QuantizeRows8, from tensor.DType, half bool) *rows8 {
	tasks := min(max(rows*cols/quantGrain, 1), maxTasks, max(rows, 1))
	return &rows8{rows: rows, cols: cols, threshold: o.Threshold, strict: o.Strict, from: from, half: half && from != tensor.F16, tasks: tasks}
}

func (q *rows8) carve(c *scratchCut) {
	if q.threshold > 0 {
		q.masks, q.outliers = cutScratch[bool](c, q.tasks*q.cols), cutScratch[bool](c, q.cols)
		q.columns = cutScratch[int32](c, q.cols)
	}
	if q.half {
		q.halves = cutScratch[uint16](c, q.tasks*q.cols)
	}
	if q.half || q.from != tensor.F32 {
		q.wide = cutScratch[float32](c, q.tasks*q.cols)
	}
}

func (q *rows8) release() { q.masks, q.wide, q.halves, q.outliers, q.columns = nil, nil, nil, nil, nil }

// run writes the codes and statistics of x, and to columns which columns hold outliers.
func (q *rows8) run(d *Device, codes []int8, stats []float32, x []byte) error {
	q.found = 0
	if q.rows*q.cols == 0 {
		clear(stats)
		clear(q.outliers)
		return nil
	}
	clear(q.masks)
	err := d.parallel(q.tasks, func(t int) {
		for r := q.rows * t / q.tasks; r < q.rows*(t+1)/q.tasks; r++ {
			stats[r] = q.row(codes[r*q.cols:][:q.cols], x, r, t)
			if q.strict && hasNaN(q.from, x, r*q.cols, q.cols) {
				stats[r] = float32(math.NaN())
			}
		}
	})
	if err != nil || q.threshold <= 0 {
		return err
	}
	for c := range q.cols {
		q.outliers[c] = false
		for t := range q.tasks {
			q.outliers[c] = q.outliers[c] || q.masks[t*q.cols+c]
		}
		if q.outliers[c] {
			q.columns[q.found] = int32(c)
			q.found++
		}
	}
	if q.rows == 1 || q.found == 0 {
		return nil
	}
	return d.ranges(q.rows, max(quantGrain/q.found, 1), func(lo, hi int) {
		for r := lo; r < hi; r++ {
			for _, c := range q.columns[:q.found] {
				codes[r*q.cols+int(c)] = 0
			}
		}
	})
}

func (q *rows8) row(codes []int8, x []byte, r, task int) float32 {
	var mask []bool
	if q.threshold > 0 {
		mask = q.masks[task*q.cols:][:q.cols]
	}
	size := q.from.Size()
	row := x[r*q.cols*size : (r+1)*q.cols*size]
	if q.wide == nil {
		return quant.QuantizeRow(codes, tensor.View[float32](row), q.threshold, mask)
	}
	wide := q.wide[task*q.cols:][:q.cols]
	vec.Widen(wide, row, q.from)
	if q.half {
		half := tensor.AsBytes(q.halves[task*q.cols:][:q.cols])
		vec.Narrow(half, wide, tensor.F16)
		vec.Widen(wide, half, tensor.F16)
	}
	return quant.QuantizeRow(codes, wide, q.threshold, mask)
}

// hasNaN reports whether one of n elements from lo on is NaN.
func hasNaN(d tensor.DType, x []byte, lo, n int) bool {
	switch d {
	case tensor.BF16:
		for _, v := range tensor.View[tensor.BFloat16](x)[lo:][:n] {
			if v&0x7fff > 0x7f80 {
				return true
			}
		}
	case tensor.F16:
		for _, v := range tensor.View[tensor.Float16](x)[lo:][:n] {
			if v&0x7fff > 0x7c00 {
				return true
			}
		}
	default:
		for _, v := range tensor.View[float32](x)[lo:][:n] {
			if v != v {
				return true
			}
		}
	}
	return false
}

func buildQuantizeRows8(d *Device, o ops.QuantizeRows8, s device.Spec) (*Kernel, error) {
	cols := s.In[0].Dim(-1)
	q := newRows8(s.Out[1].Size(), cols, o, s.In[0].DType, false)
	var need scratchCut
	q.carve(&need)
	return &Kernel{ScratchBytes: need.used, Run: func(c *Call) error {
		q.carve(&scratchCut{b: c.Scratch})
		defer q.release()
		if err := q.run(d, tensor.View[int8](c.Out[0]), tensor.View[float32](c.Out[1]), c.In[0]); err != nil {
			return err
		}
		clear(c.Out[2])
		copy(tensor.View[bool](c.Out[2]), q.outliers)
		return nil
	}}, nil
}

// buildQuantizeColumns8 copies groups of columns together, so that package quant sees a matrix, and cuts the work between groups.
func buildQuantizeColumns8(d *Device, o ops.QuantizeColumns8, s device.Spec) (*Kernel, error) {
	rows, cols, size := s.In[0].Dim(0), s.In[0].Dim(1), s.In[0].DType.Size()
	groups := min(max(rows*cols/quantGrain, 1), maxTasks, max(cols, 1))
	var need scratchCut
	cutScratch[byte](&need, rows*cols*size)
	cutScratch[int8](&need, rows*cols)
	return &Kernel{ScratchBytes: need.used, Run: func(c *Call) error {
		cut := scratchCut{b: c.Scratch}
		values, packed := cutScratch[byte](&cut, rows*cols*size), cutScratch[int8](&cut, rows*cols)
		codes, stats := tensor.View[int8](c.Out[0]), tensor.View[float32](c.Out[1])
		return d.firstError(groups, 1, func(from, to int) error {
			lo, hi := cols*from/groups, cols*to/groups
			w := hi - lo
			part, out := values[rows*lo*size:rows*hi*size], packed[rows*lo:rows*hi]
			for r := range rows {
				copy(part[r*w*size:(r+1)*w*size], c.In[0][(r*cols+lo)*size:])
			}
			if err := quantizeColumns(out, stats[lo:hi], part, s.In[0].DType, rows, w, o.Threshold); err != nil {
				return err
			}
			if o.Strict && hasNaN(s.In[0].DType, part, 0, rows*w) {
				markColumns(stats[lo:hi], part, s.In[0].DType)
			}
			for r := range rows {
				copy(codes[r*cols+lo:r*cols+hi], out[r*w:])
			}
			return nil
		})
	}}, nil
}

// markColumns makes the statistics of columns that hold NaN NaN.
func markColumns(stats []float32, x []byte, d tensor.DType) {
	for i := range len(x) / d.Size() {
		if v := load32(d, x, i); v != v {
			stats[i%len(stats)] = v
		}
	}
}

func quantizeColumns(codes []int8, stats []float32, x []byte, d tensor.DType, rows, cols int, threshold float32) error {
	switch d {
	case tensor.BF16:
		return quant.QuantizeColumns(codes, stats, tensor.View[tensor.BFloat16](x), rows, cols, threshold)
	case tensor.F16:
		return quant.QuantizeColumns(codes, stats, tensor.View[tensor.Float16](x), rows, cols, threshold)
	}
	return quant.QuantizeColumns(codes, stats, tensor.View[float32](x), rows, cols, threshold)
}

func buildDequantizeRows8(d *Device, o ops.DequantizeRows8, s device.Spec) (*Kernel, error) {
	if o.To == tensor.F64 || o.ScaleFirst {
		return nil, device.ErrNoKernel
	}
	cols, rows, size := s.In[0].Dim(-1), s.In[1].Size(), o.To.Size()
	return &Kernel{Run: func(c *Call) error {
		codes, stats := tensor.View[int8](c.In[0]), tensor.View[float32](c.In[1])
		return d.firstError(rows, max(quantGrain/max(cols, 1), 1), func(lo, hi int) error {
			dst, part := c.Out[0][lo*cols*size:hi*cols*size], codes[lo*cols:hi*cols]
			switch o.To {
			case tensor.BF16:
				return quant.DequantizeRows(tensor.View[tensor.BFloat16](dst), part, stats[lo:hi], hi-lo, cols)
			case tensor.F16:
				return quant.DequantizeRows(tensor.View[tensor.Float16](dst), part, stats[lo:hi], hi-lo, cols)
			}
			return quant.DequantizeRows(tensor.View[float32](dst), part, stats[lo:hi], hi-lo, cols)
		})
	}}, nil
}

func buildDequantizeProduct8(d *Device, o ops.DequantizeProduct8, s device.Spec) (*Kernel, error) {
	rows, cols := s.In[0].Dim(0), s.In[0].Dim(1)
	p := newProduct8(rows, cols, o.To)
	var need scratchCut
	p.carve(&need)
	return &Kernel{ScratchBytes: need.used, Run: func(c *Call) error {
		p.carve(&scratchCut{b: c.Scratch})
		p.bind(tensor.View[float32](c.In[1]), tensor.View[float32](c.In[2]), c.In[3])
		defer p.release()
		return p.run(d, c.Out[0], tensor.View[int32](c.In[0]), 0, rows)
	}}, nil
}

// product8 turns int32 sums into values, as quant.DequantizeProduct does.
type product8 struct {
	to          tensor.DType
	cols, tasks int

	rowStats, colStats []float32
	bias               []byte    // cols elements of dtype to; nil = none
	wide               []float32 // tasks × cols
	halves             []uint16  // tasks × cols
}

func newProduct8(rows, cols int, to tensor.DType) *product8 {
	return &product8{to: to, cols: cols, tasks: min(max(rows*cols/quantGrain, 1), maxTasks, max(rows, 1))}
}

func (p *product8) carve(c *scratchCut) {
	p.wide, p.halves = cutScratch[float32](c, p.tasks*p.cols), cutScratch[uint16](c, p.tasks*p.cols)
}

func (p *product8) bind(rowStats, colStats []float32, bias []byte) {
	p.rowStats, p.colStats, p.bias = rowStats, colStats, bias
}

func (p *product8) release() {
	p.rowStats, p.colStats, p.bias, p.wide, p.halves = nil, nil, nil, nil, nil
}

// run writes rows first to first+rows-1 of the result from their sums in acc.
func (p *product8) run(d *Device, dst []byte, acc []int32, first, rows int) error {
	if rows*p.cols == 0 {
		return nil
	}
	size := p.cols * p.to.Size()
	if p.to == tensor.F16 && p.bias != nil { // product and sum are rounded together
		return d.firstError(rows, max(quantGrain/p.cols, 1), func(lo, hi int) error {
			return quant.DequantizeProduct(tensor.View[tensor.Float16](dst[(first+lo)*size:(first+hi)*size]), acc[lo*p.cols:hi*p.cols],
				p.rowStats[first+lo:first+hi], p.colStats, tensor.View[tensor.Float16](p.bias), hi-lo, p.cols)
		})
	}
	return d.parallel(p.tasks, func(t int) {
		for r := rows * t / p.tasks; r < rows*(t+1)/p.tasks; r++ {
			p.row(dst[(first+r)*size:(first+r+1)*size], acc[r*p.cols:][:p.cols], p.rowStats[first+r], t)
		}
	})
}

// row writes the values of one row.
func (p *product8) row(dst []byte, acc []int32, stat float32, task int) {
	wide, half := p.wide[task*p.cols:][:p.cols], tensor.AsBytes(p.halves[task*p.cols:][:p.cols])
	cols := p.colStats[:len(acc)]
	for i, v := range acc {
		wide[i] = float32(float32(float32(v)*stat)*cols[i]) * quant.Int8ProductScale
	}
	if p.to == tensor.F16 {
		vec.Narrow(dst, wide, tensor.F16)
		return
	}
	vec.Narrow(half, wide, tensor.F16)
	vec.Widen(wide, half, tensor.F16)
	if p.bias != nil {
		for i := range wide {
			wide[i] += load32(p.to, p.bias, i)
		}
		vec.Narrow(half, wide, tensor.F16)
		vec.Widen(wide, half, tensor.F16)
	}
	vec.Narrow(dst, wide, p.to)
}
