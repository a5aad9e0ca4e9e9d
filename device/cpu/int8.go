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
	stride   int       // of masks
	masks    []bool    // tasks × stride: outlier columns that a task has seen
	wide     []float32 // tasks × cols: a row of bf16 in float32, on its way to f16
	halves   []uint16  // tasks × cols: a row in f16
	outliers []bool    // stride
	columns  []int32   // the outlier columns, ascending: the first found entries
	found    int       // number of outlier columns
}

func newRows8(rows, cols int, o ops.QuantizeRows8, from tensor.DType, half bool) *rows8 {
	tasks := min(max(rows*cols/quantGrain, 1), maxTasks, max(rows, 1))
	return &rows8{rows: rows, cols: cols, threshold: o.Threshold, strict: o.Strict, from: from, half: half && from != tensor.F16, tasks: tasks,
		stride: (cols + carveLine - 1) / carveLine * carveLine}
}

func (q *rows8) carve(c *scratchCut) {
	if q.threshold > 0 {
		q.masks, q.outliers = cutScratch[bool](c, q.tasks*q.stride), cutScratch[bool](c, q.stride)
		q.columns = cutScratch[int32](c, q.cols)
	}
	if q.half {
		q.halves = cutScratch[uint16](c, q.tasks*q.cols)
	}
	if q.half && q.from == tensor.BF16 {
		q.wide = cutScratch[float32](c, q.tasks*q.cols)
	}
}

func (q *rows8) release() { q.masks, q.wide, q.halves, q.outliers, q.columns = nil, nil, nil, nil, nil }

// run writes the codes and statistics of x, and to columns which columns hold outliers.
func (q *rows8) run(d *Device, codes []int8, stats []float32, x []byte) error {
	q.found = 0
	clear(q.outliers)
	if q.rows*q.cols == 0 {
		clear(stats)
		return nil
	}
	clear(q.masks)
	err := d.parallel(q.tasks, func(t int) {
		for r := q.rows * t / q.tasks; r < q.rows*(t+1)/q.tasks; r++ {
			stats[r] = q.row(codes[r*q.cols:][:q.cols], x, r, t)
		}
	})
	if err != nil || q.threshold <= 0 {
		return err
	}
	q.collect()
	if q.rows == 1 || q.found == 0 {
		return nil
	}
	return d.ranges(q.rows, max(quantGrain/q.found, 1), func(lo, hi int) {
		for r := lo; r < hi; r++ {
			row := codes[r*q.cols:][:q.cols]
			for _, c := range q.columns[:q.found] {
				row[c] = 0
			}
		}
	})
}

// collect makes the list of outlier columns of what the tasks have seen, eight columns at a time.
func (q *rows8) collect() {
	all := tensor.View[uint64](tensor.AsBytes(q.outliers))
	for t := range q.tasks {
		for i, seen := range tensor.View[uint64](tensor.AsBytes(q.masks[t*q.stride:][:q.stride])) {
			all[i] |= seen
		}
	}
	for i, eight := range all {
		if eight == 0 {
			continue
		}
		for c := 8 * i; c < 8*i+8; c++ {
			if q.outliers[c] {
				q.columns[q.found] = int32(c)
				q.found++
			}
		}
	}
}

func (q *rows8) row(codes []int8, x []byte, r, task int) float32 {
	var mask []bool
	if q.threshold > 0 {
		mask = q.masks[task*q.stride:][:q.cols]
	}
	size := q.from.Size()
	row := x[r*q.cols*size : (r+1)*q.cols*size]
	switch {
	case q.half:
		return quantizeRow8(q, codes, tensor.View[tensor.Float16](q.narrow(row, task)), mask)
	case q.from == tensor.BF16:
		return quantizeRow8(q, codes, tensor.View[tensor.BFloat16](row), mask)
	case q.from == tensor.F16:
		return quantizeRow8(q, codes, tensor.View[tensor.Float16](row), mask)
	}
	return quantizeRow8(q, codes, tensor.View[float32](row), mask)
}

// narrow rounds a row to f16.
func (q *rows8) narrow(row []byte, task int) []byte {
	half := tensor.AsBytes(q.halves[task*q.cols:][:q.cols])
	if q.from == tensor.F32 {
		vec.Narrow(half, tensor.View[float32](row), tensor.F16)
		return half
	}
	wide := q.wide[task*q.cols:][:q.cols]
	vec.Widen(wide, row, q.from)
	vec.Narrow(half, wide, tensor.F16)
	return half
}

func quantizeRow8[E quant.Real](q *rows8, codes []int8, x []E, mask []bool) float32 {
	stat := quant.QuantizeRow(codes, x, q.threshold, mask)
	if q.strict && quant.HasNaN(x) {
		return float32(math.NaN())
	}
	return stat
}

// hasNaN reports whether an element of x is NaN.
func hasNaN(d tensor.DType, x []byte) bool {
	switch d {
	case tensor.BF16:
		return quant.HasNaN(tensor.View[tensor.BFloat16](x))
	case tensor.F16:
		return quant.HasNaN(tensor.View[tensor.Float16](x))
	}
	return quant.HasNaN(tensor.View[float32](x))
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
		copy(tensor.View[bool](c.Out[2]), q.outliers[:min(cols, len(q.outliers))])
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
			if o.Strict && hasNaN(s.In[0].DType, part) {
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
	p := &product8{to: o.To, cols: cols}
	return &Kernel{Run: func(c *Call) error {
		p.bind(tensor.View[float32](c.In[1]), tensor.View[float32](c.In[2]), c.In[3])
		defer p.release()
		return p.run(d, c.Out[0], tensor.View[int32](c.In[0]), 0, rows)
	}}, nil
}

// product8 turns int32 sums into values, as quant.DequantizeProduct does.
type product8 struct {
	to   tensor.DType
	cols int

	rowStats, colStats []float32
	bias               []byte // cols elements of dtype to; nil = none
}

func (p *product8) bind(rowStats, colStats []float32, bias []byte) {
	p.rowStats, p.colStats, p.bias = rowStats, colStats, bias
}

func (p *product8) release() { p.rowStats, p.colStats, p.bias = nil, nil, nil }

// run writes rows first to first+rows-1 of the result from their sums in acc.
func (p *product8) run(d *Device, dst []byte, acc []int32, first, rows int) error {
	if rows*p.cols == 0 {
		return nil
	}
	return d.firstError(rows, max(quantGrain/p.cols, 1), func(lo, hi int) error {
		size := p.cols * p.to.Size()
		to, sums, stats := dst[(first+lo)*size:(first+hi)*size], acc[lo*p.cols:hi*p.cols], p.rowStats[first+lo:first+hi]
		switch p.to {
		case tensor.BF16:
			return productOf[tensor.BFloat16](p, to, sums, stats)
		case tensor.F16:
			return productOf[tensor.Float16](p, to, sums, stats)
		}
		return productOf[float32](p, to, sums, stats)
	})
}

func productOf[E quant.Real](p *product8, dst []byte, acc []int32, stats []float32) error {
	var bias []E
	if p.bias != nil {
		bias = tensor.View[E](p.bias)
	}
	return quant.DequantizeProduct(tensor.View[E](dst), acc, stats, p.colStats, bias, len(stats), p.cols)
}
