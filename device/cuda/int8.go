package cuda

import (
	"fmt"
	"slices"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func init() {
	Register(buildQuantizeRows8)
	Register(buildQuantizeColumns8)
	Register(buildDequantizeRows8)
	Register(buildDequantizeProduct8)
}

// int8Program is kernels/int8.cu for values of a dtype, which are rounded to f16 first if half.
func (d *Device) int8Program(t tensor.DType, half bool) Program {
	p := Program{Files: []string{"tensor_core.cuh", "approx.cuh", "eight.cuh", "int8.cu"}, Define: []string{"T " + cType(t), fmt.Sprintf("HALF %d", b2i(half))}, Exact: true}
	if d.multiplies(t) {
		p.Define = append(p.Define, "TENSOR 1")
	}
	return p
}

// functions finds several kernels of a program.
func (d *Device) functions(p Program, to map[string]**Function) error {
	for name, f := range to {
		var err error
		if *f, err = d.Function(p, name); err != nil {
			return err
		}
	}
	return nil
}

// rows8 quantizes a matrix by row, with the columns of outliers cleared and listed where there is a threshold.
type rows8 struct {
	rows, cols  int
	threshold   float32
	strict      int32
	size        int // bytes of an element of x
	threads     int
	packThreads int
	parts       int   // of a row; 1: a block takes a row
	part        int64 // columns of one

	packed                            *Function // of rows that a block holds in registers; nil where it cannot
	whole, partial, code, list, clear *Function
}

// longRow is how many columns a block takes by itself where there are few rows.
const longRow = 1 << 14

func (d *Device) rows8(rows, cols int, o ops.QuantizeRows8, from tensor.DType, half bool) (*rows8, error) {
	q := &rows8{rows: rows, cols: cols, threshold: o.Threshold, strict: int32(b2i(o.Strict)), size: from.Size(), parts: 1, part: int64(cols)}
	q.threads = min(max(ceilDiv(cols, 16), 32), 512) &^ 31
	if rows < d.sms && cols >= 2*longRow {
		q.part = int64(ceilDiv(ceilDiv(cols, min(cols/longRow, 1024)), 8) * 8)
		q.parts = ceilDiv(cols, int(q.part))
	}
	p := d.int8Program(from, half && from != tensor.F16)
	want := map[string]**Function{"quantize_rows": &q.whole}
	if q.parts > 1 {
		want = map[string]**Function{"row_parts": &q.partial, "row_codes": &q.code}
	}
	if packs := ceilDiv(cols, 8); q.parts == 1 && from.Size() == 2 && cols%8 == 0 && packs <= 4*1024 {
		each := 2 // packs of a thread
		if packs > 1024 {
			each = 4
		}
		q.packThreads = max(ceilDiv(ceilDiv(packs, each), WarpSize), 1) * WarpSize
		rows := p
		rows.Files = append(slices.Clone(p.Files[:len(p.Files)-1]), "largest.cuh", "int8.cu", "int8_rows.cu")
		rows.Define = append(slices.Clone(p.Define), fmt.Sprint("ROW_PACKS ", each), fmt.Sprint("ROW_THREADS ", q.packThreads), fmt.Sprint("ROW_BLOCKS ", min(max(1536/q.packThreads, 1), 24)))
		if err := d.functions(rows, map[string]**Function{"quantize_rows_packed": &q.packed}); err != nil {
			return nil, err
		}
	}
	if q.threshold > 0 {
		want["list_columns"], want["clear_columns"] = &q.list, &q.clear
	}
	return q, d.functions(p, want)
}

// listBytes is the room for the list of outlier columns: their number, then the columns, i32.
func (q *rows8) listBytes() int64 { return aligned(4 * int64(q.cols+1)) }

// scratch is the list, where there is a threshold, and then the statistics of parts of rows.
func (q *rows8) scratch() int64 {
	n := int64(0)
	if q.threshold > 0 {
		n = q.listBytes()
	}
	if q.parts > 1 {
		n += aligned(4 * int64(q.parts) * int64(q.rows))
	}
	return n
}

// enqueue writes codes, statistics, marks (one byte a column) and, with a threshold, the list at the start of scratch.
func (q *rows8) enqueue(c *Call, x, codes, stats, marks, scratch Addr) error {
	if marks != 0 {
		if err := c.Zero(marks, int64(q.cols)); err != nil {
			return err
		}
	}
	if q.rows == 0 {
		if q.threshold > 0 {
			return c.Zero(scratch, 4)
		}
		return nil
	}
	if q.cols == 0 {
		return c.Zero(stats, 4*int64(q.rows))
	}
	wide := int32(b2i(q.cols%8 == 0 && x%16 == 0 && codes%8 == 0))
	if err := q.quantize(c, x, codes, stats, marks, scratch, wide); err != nil || q.threshold == 0 {
		return err
	}
	if err := c.Launch(q.list, Rows(1, 1024), marks, scratch, int32(q.cols)); err != nil || q.rows == 1 {
		return err
	}
	return c.Launch(q.clear, Rows(512, 256), codes, scratch, int64(q.rows), int64(q.cols))
}

func (q *rows8) quantize(c *Call, x, codes, stats, marks, scratch Addr, wide int32) error {
	cols := int64(q.cols)
	if q.packed != nil && wide != 0 {
		return c.Launch(q.packed, Rows(q.rows, q.packThreads), x, codes, stats, marks, cols, q.threshold, q.strict)
	}
	if q.parts == 1 {
		return c.Launch(q.whole, Rows(q.rows, q.threads), x, codes, stats, marks, cols, q.threshold, q.strict, wide)
	}
	tops := scratch
	if q.threshold > 0 {
		tops += Addr(q.listBytes())
	}
	g := Geometry{Grid: [3]int{q.parts, q.rows}, Block: [3]int{512}}
	if err := c.Launch(q.partial, g, x, tops, marks, cols, q.part, q.threshold, wide); err != nil {
		return err
	}
	return c.Launch(q.code, g, x, tops, codes, stats, cols, q.part, q.threshold, q.strict, wide)
}

func buildQuantizeRows8(d *Device, o ops.QuantizeRows8, s device.Spec) (*Kernel, error) {
	q, err := d.rows8(s.Out[1].Size(), s.In[0].Dim(-1), o, s.In[0].DType, false)
	if err != nil {
		return nil, err
	}
	return &Kernel{ScratchBytes: q.scratch(), Enqueue: func(c *Call) error {
		return q.enqueue(c, c.In[0], c.Out[0], c.Out[1], c.Out[2], c.Scratch)
	}}, nil
}

func buildQuantizeColumns8(d *Device, o ops.QuantizeColumns8, s device.Spec) (*Kernel, error) {
	rows, cols := int64(s.In[0].Dim(0)), int64(s.In[0].Dim(1))
	var tops, stats, codes *Function
	if err := d.functions(d.int8Program(s.In[0].DType, false), map[string]**Function{"column_tops": &tops, "column_stats": &stats, "column_codes": &codes}); err != nil {
		return nil, err
	}
	parts := max(min(int(rows)/64, 4*d.sms/max(ceilDiv(int(cols), 128), 1), 256), 1)
	part := int64(ceilDiv(int(rows), parts))
	parts = max(ceilDiv(int(rows), int(max(part, 1))), 1)
	partial := aligned(4 * int64(parts) * cols)
	return &Kernel{ScratchBytes: partial + aligned(4*cols), Enqueue: func(c *Call) error {
		if cols == 0 {
			return nil
		}
		g := Over(cols, 128, 1)
		g.Grid[1] = parts
		clean := c.Scratch + Addr(partial)
		if err := c.Launch(tops, g, c.In[0], c.Scratch, rows, cols, part, o.Threshold); err != nil {
			return err
		}
		if err := c.Launch(stats, Over(cols, 128, 1), c.Scratch, clean, c.Out[1], cols, int32(parts), int32(b2i(o.Strict))); err != nil {
			return err
		}
		if rows == 0 {
			return nil
		}
		return c.Launch(codes, Over(rows*cols, 256, 8), c.In[0], clean, c.Out[0], rows, cols, o.Threshold)
	}}, nil
}

// decoder8 turns the codes of rows into values.
type decoder8 struct {
	fn         *Function
	rows, cols int64
	scaleFirst int32
}

func (d *Device) decoder8(rows, cols int, to tensor.DType, scaleFirst bool) (*decoder8, error) {
	f, err := d.Function(d.int8Program(to, false), "dequantize_rows")
	return &decoder8{fn: f, rows: int64(rows), cols: int64(cols), scaleFirst: int32(b2i(scaleFirst))}, err
}

func (w *decoder8) enqueue(c *Call, codes, stats, y Addr) error {
	if w.rows*w.cols == 0 {
		return nil
	}
	wide := w.cols%8 == 0 && codes%8 == 0 && y%16 == 0
	return c.Launch(w.fn, Over(w.rows*w.cols, 256, 16), codes, stats, y, w.rows, w.cols, w.scaleFirst, int32(b2i(wide)))
}

func buildDequantizeRows8(d *Device, o ops.DequantizeRows8, s device.Spec) (*Kernel, error) {
	if o.To == tensor.F64 {
		return nil, device.ErrNoKernel
	}
	w, err := d.decoder8(s.In[1].Size(), s.In[0].Dim(-1), o.To, o.ScaleFirst)
	if err != nil {
		return nil, err
	}
	return &Kernel{Enqueue: func(c *Call) error { return w.enqueue(c, c.In[0], c.In[1], c.Out[0]) }}, nil
}

// product8 is struct Linear8 of kernels/int8.cu.
type product8 struct {
	sums, rowStats, columnStats Addr
	bias, x, codes, list, y     Addr
	kept, weight                Addr
	rows, n, k                  int64
}

// launch writes the values of sums.
func (p *product8) launch(c *Call, f *Function) error {
	if p.rows*p.n == 0 {
		return nil
	}
	return c.Launch(f, Geometry{Grid: [3]int{ceilDiv(int(p.n), 128), ceilDiv(int(p.rows), 128)}, Block: [3]int{256}}, p)
}

func buildDequantizeProduct8(d *Device, o ops.DequantizeProduct8, s device.Spec) (*Kernel, error) {
	f, err := d.Function(d.int8Program(o.To, false), "dequantize_product")
	if err != nil {
		return nil, err
	}
	p := &product8{rows: int64(s.In[0].Dim(0)), n: int64(s.In[0].Dim(1))}
	if ceilDiv(int(p.rows), 128) > maxGridYZ {
		return nil, fmt.Errorf("product of %d rows: at most %d at once", p.rows, maxGridYZ*128)
	}
	return &Kernel{Enqueue: func(c *Call) error {
		p.sums, p.rowStats, p.columnStats, p.bias, p.y = c.In[0], c.In[1], c.In[2], c.In[3], c.Out[0]
		return p.launch(c, f)
	}}, nil
}
