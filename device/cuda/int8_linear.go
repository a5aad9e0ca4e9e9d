package cuda

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func init() {
	Register(buildInt8MatMul)
	Register(buildInt8WeightMatMul)
	Register(buildInt8Linear)
}

func buildInt8MatMul(d *Device, o ops.Int8MatMul, s device.Spec) (*Kernel, error) {
	m, n, a, b := s.Out[0].Dim(0), s.Out[0].Dim(1), s.In[0], s.In[1]
	spec := dense(m, n, a.Dim(1), tensor.I8, tensor.I8, tensor.I32, o.TransB)
	if o.TransA {
		spec.k = a.Dim(0)
		spec.a.trans = true
	}
	spec.a.ld, spec.b.ld = a.Dim(1), b.Dim(1)
	g, err := d.gemm(spec)
	if err != nil {
		return nil, err
	}
	return &Kernel{Label: "int8_" + g.label, ScratchBytes: g.scratch, Enqueue: func(c *Call) error {
		return g.enqueue(c, gemmAt{a: c.In[0], b: c.In[1], c: c.Out[0], scratch: c.Scratch})
	}}, nil
}

// buildInt8WeightMatMul decodes the weight into scratch and multiplies by that.
func buildInt8WeightMatMul(d *Device, o ops.Int8WeightMatMul, s device.Spec) (*Kernel, error) {
	x, w, y := s.In[0], s.In[1], s.Out[0]
	if x.DType == tensor.F64 {
		return nil, device.ErrNoKernel
	}
	m := 1
	for i := range x.Rank() - 1 {
		m *= x.Dim(i)
	}
	decode, err := d.decoder8(w.Dim(0), w.Dim(1), x.DType, true)
	if err != nil {
		return nil, err
	}
	g, err := d.gemm(dense(m, y.Dim(-1), x.Dim(-1), x.DType, x.DType, y.DType, !o.Trans))
	if err != nil {
		return nil, err
	}
	values := aligned(int64(w.Size()) * int64(x.DType.Size()))
	return &Kernel{Label: "int8_weight_" + g.label, ScratchBytes: values + g.scratch, Enqueue: func(c *Call) error {
		if err := decode.enqueue(c, c.In[1], c.In[2], c.Scratch); err != nil {
			return err
		}
		return g.enqueue(c, gemmAt{a: c.In[0], b: c.Scratch, c: c.Out[0], scratch: c.Scratch + Addr(values)})
	}}, nil
}

// linear8 is LLM.int8() for a frozen weight: rows are quantized by one kernel, which marks the columns of outliers, int8 products are summed
// for some rows at a time, so that the sums stay in the cache until a last kernel turns them into values and adds what the outlier
// columns contribute. How many those are is only known, and only read, on the device.
type linear8 struct {
	m, n, k int
	size    int // bytes of an element
	rows    *rows8
	chunk   int   // rows whose sums exist at once
	body    *gemm // the product of a chunk
	rest    *gemm // that of the last rows
	out     *Function
	gather  [2]*Function // of the columns of outliers, from x and from the weight; nil where the last kernel does it
	args    product8

	// Offsets in scratch; the list of columns is at 0.
	codes, stats, marks, sums, kept, weight, gemmAt int64
}

// sumsInFlight is how many bytes of int32 sums exist at once. Fewer, that stay in the last cache, cost the product more than they save: on an
// H100 8192×4096→14336 took 1100 µs with 56 MB, 940 with 112, 913 with 224 and 898 with all 448.
const sumsInFlight = 256 << 20

// gathered is GATHERED of kernels/int8.cu.
const gathered = 64

func buildInt8Linear(d *Device, o ops.Int8Linear, s device.Spec) (*Kernel, error) {
	return d.linear8(o, s, sumsInFlight)
}

func (d *Device) linear8(o ops.Int8Linear, s device.Spec, inFlight int) (*Kernel, error) {
	x := s.In[0]
	l := &linear8{m: x.Size() / max(x.Dim(-1), 1), n: s.In[1].Dim(0), k: s.In[1].Dim(1), size: x.DType.Size()}
	if l.k == 0 {
		return nil, device.ErrNoKernel
	}
	var err error
	if l.rows, err = d.rows8(l.m, l.k, ops.QuantizeRows8{Threshold: o.Threshold, Strict: true}, x.DType, true); err != nil {
		return nil, err
	}
	name := "dequantize_product"
	if o.Threshold > 0 {
		name = "add_product"
	}
	program := d.int8Program(x.DType, false)
	if l.out, err = d.Function(program, name); err != nil {
		return nil, err
	}
	if o.Threshold > 0 && d.multiplies(x.DType) {
		if err = d.functions(program, map[string]**Function{"gather_rows": &l.gather[0], "gather_weight": &l.gather[1]}); err != nil {
			return nil, err
		}
	}
	l.chunk = min(l.m, max(inFlight/(4*max(l.n, 1))&^255, 256))
	if l.body, err = d.gemm(dense(l.chunk, l.n, l.k, tensor.I8, tensor.I8, tensor.I32, true)); err != nil {
		return nil, err
	}
	scratch := l.body.scratch
	if last := l.m % max(l.chunk, 1); last > 0 {
		if l.rest, err = d.gemm(dense(last, l.n, l.k, tensor.I8, tensor.I8, tensor.I32, true)); err != nil {
			return nil, err
		}
		scratch = max(scratch, l.rest.scratch)
	}
	return &Kernel{Label: fmt.Sprintf("int8_linear_%s", l.body.label), ScratchBytes: l.layout() + scratch, Enqueue: l.enqueue}, nil
}

// layout gives the parts of scratch their places and returns where the product's own begins.
func (l *linear8) layout() int64 {
	at := l.rows.scratch()
	kept, weight := int64(0), int64(0)
	if l.gather[0] != nil {
		kept, weight = gathered*int64(l.m)*int64(l.size), gathered*int64(l.n)*int64(l.size)
	}
	for _, part := range []struct {
		to    *int64
		bytes int64
	}{{&l.codes, int64(l.m) * int64(l.k)}, {&l.stats, 4 * int64(l.m)}, {&l.marks, int64(l.k)}, {&l.sums, 4 * int64(l.chunk) * int64(l.n)},
		{&l.kept, kept}, {&l.weight, weight}} {
		*part.to = at
		at += aligned(part.bytes)
	}
	l.gemmAt = at
	return at
}

func (l *linear8) enqueue(c *Call) error {
	if l.m == 0 || l.n == 0 {
		return nil
	}
	at := func(offset int64) Addr { return c.Scratch + Addr(offset) }
	marks := Addr(0)
	l.args = product8{columnStats: c.In[2], codes: c.In[1], bias: c.In[3], sums: at(l.sums), n: int64(l.n), k: int64(l.k)}
	if l.rows.threshold > 0 {
		marks, l.args.list = at(l.marks), c.Scratch
	}
	if err := l.rows.enqueue(c, c.In[0], at(l.codes), at(l.stats), marks, c.Scratch); err != nil {
		return err
	}
	if l.gather[0] != nil {
		if err := c.Launch(l.gather[0], Over(int64(l.m)*16, 256, 1), c.In[0], c.Scratch, at(l.kept), int64(l.m), int64(l.k)); err != nil {
			return err
		}
		if err := c.Launch(l.gather[1], Over(int64(l.n)*16, 256, 1), c.In[1], c.In[2], c.Scratch, at(l.weight), int64(l.n), int64(l.k)); err != nil {
			return err
		}
		l.args.weight = at(l.weight)
	}
	for first := 0; first < l.m; first += l.chunk {
		g, rows := l.body, l.chunk
		if l.m-first < l.chunk {
			g, rows = l.rest, l.m-first
		}
		if err := g.enqueue(c, gemmAt{a: at(l.codes + int64(first)*int64(l.k)), b: c.In[1], c: at(l.sums), scratch: at(l.gemmAt)}); err != nil {
			return err
		}
		l.args.rows, l.args.rowStats = int64(rows), at(l.stats+4*int64(first))
		l.args.x = c.In[0] + Addr(int64(first)*int64(l.k)*int64(l.size))
		l.args.kept = at(l.kept + gathered*int64(first)*int64(l.size))
		l.args.y = c.Out[0] + Addr(int64(first)*int64(l.n)*int64(l.size))
		if err := l.args.launch(c, l.out); err != nil {
			return err
		}
	}
	return nil
}
