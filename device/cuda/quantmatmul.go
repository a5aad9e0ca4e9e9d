package cuda

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func init() {
	Register(buildQuantMatMul)
	Register(buildAddQuantMatMul)
	Register(buildQuantGrouped)
}

// buildQuantMatMul multiplies by a weight in 4 bits: see quantProduct.
func buildQuantMatMul(d *Device, o ops.QuantMatMul, s device.Spec) (*Kernel, error) {
	return d.quantProduct(o, s, s.In[0], false)
}

// buildAddQuantMatMul adds the product in the epilogue of the same kernels.
func buildAddQuantMatMul(d *Device, o ops.AddQuantMatMul, s device.Spec) (*Kernel, error) {
	if _, err := o.Product(s.In); err != nil {
		return nil, err
	}
	return d.quantProduct(o.QuantMatMul, s, s.In[1], true)
}

// quantProduct computes few rows of x from the codes as they are stored (quant_thin), some by tiles that are decoded on their way to tensor cores
// (gemm_quant), and more by the whole weight dequantized to the kernel's scratch. Values are the same in all. Between 9 and 64 rows those that can are timed;
// without a trial tiles are taken unless the decoded weight stays in the last cache.
func (d *Device) quantProduct(o ops.QuantMatMul, s device.Spec, x tensor.Type, add bool) (*Kernel, error) {
	if x.DType == tensor.F64 {
		return nil, device.ErrNoKernel
	}
	w := weight4{o.Scheme, o.Blocksize, o.N, o.K, o.Nested}
	m := 1 // also where rows are empty
	for i := range x.Rank() - 1 {
		m *= x.Dim(i)
	}
	var t *thin
	var err error
	if !o.Trans && m > 0 && o.N > 0 && o.K > 0 {
		if t, err = d.thinProduct(w, x.DType, m, add); err != nil {
			return nil, err
		}
	}
	if t != nil && m <= 8 {
		return t.kernel(), nil
	}
	whole := way{"decoded", func() (*Kernel, error) { return d.wholeProduct(w, tensor.T(x.DType, m, x.Dim(-1)), o.Trans, add) }}
	c, err := d.codedProduct(w, x.DType, m, o.Trans, add)
	if err != nil {
		return nil, err
	}
	var ways []way
	if t != nil {
		ways = append(ways, way{"thin", func() (*Kernel, error) { return t.kernel(), nil }})
	}
	tiles := way{"tiles", func() (*Kernel, error) { return c.kernel(), nil }}
	switch {
	case c == nil && t == nil:
		ways = []way{whole}
	case c == nil:
	case t != nil:
		ways = append(ways, tiles)
	case 2*w.size() > d.l2: // the decoded weight, which would go to memory and back
		ways = []way{tiles, whole}
	default:
		ways = []way{whole, tiles}
	}
	// What is found for some rows holds for as many tiles of them.
	tile := 64
	if m <= thinRows {
		tile = 16
	}
	what := fmt.Sprintf("up to %d rows of %v, %v, trans %v, add %v", ceilDiv(m, tile)*tile, x.DType, w, o.Trans, add)
	return d.pick(what, s, ways)
}

// wholeProduct decodes the weight first. rows are those of x, a matrix.
func (d *Device) wholeProduct(w weight4, rows tensor.Type, trans, add bool) (*Kernel, error) {
	n := w.rows
	if trans {
		n = w.cols
	}
	weight, y := tensor.T(rows.DType, w.rows, w.cols), tensor.T(rows.DType, rows.Dim(0), n)
	if add {
		return d.dequantizedProduct(w, rows.DType, device.Spec{Op: ops.AddMatMul{TransB: !trans, Alpha: 1}, In: []tensor.Type{y, rows, weight}, Out: []tensor.Type{y}}, 0, 1, decoded)
	}
	return d.dequantizedProduct(w, rows.DType, device.Spec{Op: ops.MatMul{TransB: !trans}, In: []tensor.Type{rows, weight}, Out: []tensor.Type{y}}, 0, decoded)
}

// decoded stands for the dequantized weight among the operands of dequantizedProduct.
const decoded = -1

// dequantizedProduct makes the kernel of a dense product out of those of two: the weight is written to scratch in the dtype of x, then
// multiplied. operands are the inputs of the dense product by their places in the op, whose last inputs are the parts of the weight.
func (d *Device) dequantizedProduct(w weight4, to tensor.DType, dense device.Spec, operands ...int) (*Kernel, error) {
	product, err := d.inner(dense)
	if err != nil {
		return nil, err
	}
	r, err := d.decoder(w, to)
	if err != nil {
		return nil, err
	}
	bytes := aligned(w.size() * int64(to.Size()))
	call, in := Call{}, make([]Addr, len(operands))
	return &Kernel{Label: "dequantize/" + product.KernelName(), ScratchBytes: bytes + product.ScratchBytes, Enqueue: func(c *Call) error {
		if err := r.enqueue(c, c.In[len(operands)-1:], c.Scratch); err != nil {
			return err
		}
		for i, at := range operands {
			in[i] = c.Scratch
			if at != decoded {
				in[i] = c.In[at]
			}
		}
		call = *c
		call.In, call.Scratch = in, c.Scratch+Addr(bytes)
		return product.Enqueue(&call)
	}}, nil
}

// buildQuantGrouped dequantizes the matrices of all experts: which have rows is known on the device only.
func buildQuantGrouped(d *Device, o ops.QuantGroupedMatMul, s device.Spec) (*Kernel, error) {
	x, offsets := s.In[0], s.In[1]
	if x.DType == tensor.F64 {
		return nil, device.ErrNoKernel
	}
	w := weight4{o.Scheme, o.Blocksize, o.Experts * o.N, o.K, o.Nested}
	return d.dequantizedProduct(w, x.DType, device.Spec{Op: ops.GroupedMatMul{Trans: o.Trans}, In: []tensor.Type{x,
		tensor.T(x.DType, o.Experts, o.N, o.K), offsets}, Out: s.Out}, 0, decoded, 1)
}

// thin is a product by kernels/quant_thin.cu, without scratch.
type thin struct {
	add        bool // the first operand is what the product is added to
	w          weight4
	m          int
	size       int64     // bytes of an element of x and y
	cores, any *Function // cores is nil where quant_thin does not have the case
	warps      int
	args       scaleArgs
}

// Rows of x that a launch of the kernels takes.
const (
	thinRows    = 32 // quant_thin, eight to a column of tensor-core tiles
	thinRowsAny = 4  // quant_thin_any
)

var thinFiles = []string{"eight.cuh", "fourbit.cuh", "tensor_core.cuh", "quant_thin.cu"}

// thinProduct returns nil where x has too many rows.
func (d *Device) thinProduct(w weight4, dtype tensor.DType, m int, add bool) (*thin, error) {
	cores := m <= thinRows && w.cols%32 == 0 && powerBlock(w.blocksize) && d.multiplies(dtype)
	if !cores && m > thinRowsAny {
		return nil, nil
	}
	t := &thin{add: add, w: w, m: m, size: int64(dtype.Size())}
	p := w.program(dtype, "quant_thin.cu")
	p.Exact = false // values are computed by functions that are never contracted
	if cores {
		p.Files = thinFiles
		t.warps = thinWarps(w.rows, w.cols, m, d.Multiprocessors())
		p.Define = append(p.Define, thinDefines(m, t.warps)...)
		f, err := d.Function(p, "quant_thin")
		if err != nil {
			return nil, err
		}
		t.cores = f
	}
	var err error
	t.any, err = d.Function(p, "quant_thin_any")
	return t, err
}

// multiplies reports whether tensor cores take the dtype: f16 from compute capability 7.5 on, bf16 from 8.0.
func (d *Device) multiplies(dtype tensor.DType) bool {
	return dtype == tensor.F16 && d.Capability() >= 75 || dtype == tensor.BF16 && d.Capability() >= 80
}

// thinColumns is how many tensor-core tiles of eight hold m rows of x: a power of two.
func thinColumns(m int) int {
	columns := 1
	for 8*columns < m {
		columns *= 2
	}
	return columns
}

// thinWarps is how many warps share the inner dimension: so many that the blocks of a multiprocessor have 32 together, if registers allow,
// and each has a step of 128 to do.
func thinWarps(n, k, m, processors int) int {
	warps := 8
	if thinColumns(m) == 1 {
		resident := ((n+15)/16 + processors - 1) / processors
		for warps < 32 && warps*resident < 32 {
			warps *= 2
		}
	}
	for warps > 1 && k/128 < warps {
		warps /= 2
	}
	return warps
}

// thinDefines are the constants of quant_thin. BLOCKS bounds its registers: 64, 80 or 128 a thread by the number of tiles.
func thinDefines(m, warps int) []string {
	columns := thinColumns(m)
	most := map[int]int{1: 32, 2: 24, 4: 16}[columns] // warps of a multiprocessor
	return []string{"TENSOR_CORES", fmt.Sprintf("WARPS %d", warps), fmt.Sprintf("COLUMNS %d", columns), fmt.Sprintf("BLOCKS %d", max(most/warps, 1))}
}

func (t *thin) kernel() *Kernel {
	if t == nil {
		return nil
	}
	if t.cores == nil {
		return &Kernel{Label: "quant_thin_any", Enqueue: t.plain}
	}
	return &Kernel{Label: "quant_thin", Enqueue: t.enqueue}
}

// operands are what the product is added to (0 if nothing), x, and the parts of the weight.
func (t *thin) operands(c *Call) (to, x Addr, weight []Addr) {
	if t.add {
		return c.In[0], c.In[1], c.In[2:]
	}
	return 0, c.In[0], c.In[1:]
}

func (t *thin) enqueue(c *Call) error {
	to, x, weight := t.operands(c)
	if x%16 != 0 || weight[0]%16 != 0 {
		return t.plain(c)
	}
	t.args = t.w.scales(weight)
	return c.Launch(t.cores, Rows((t.w.rows+15)/16, t.warps*WarpSize), x, weight[0], &t.args, to, c.Out[0], int32(t.m), int32(t.w.rows), int32(t.w.cols))
}

// plain takes operands of any alignment, a few rows of x a launch.
func (t *thin) plain(c *Call) error {
	to, x, weight := t.operands(c)
	t.args = t.w.scales(weight)
	row := Addr(int64(t.w.rows) * t.size)
	for r := 0; r < t.m; r += thinRowsAny {
		at := to
		if to != 0 {
			at += Addr(r) * row
		}
		if err := c.Launch(t.any, Rows((t.w.rows+3)/4, 4*WarpSize), x+Addr(int64(r)*int64(t.w.cols)*t.size), weight[0], &t.args, at, c.Out[0]+Addr(r)*row,
			int32(min(t.m-r, thinRowsAny)), int32(t.w.rows), int32(t.w.cols), int32(t.w.blocksize)); err != nil {
			return err
		}
	}
	return nil
}
