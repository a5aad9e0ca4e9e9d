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
	r, err := d.decoder(w, rows.DType)
	if err != nil {
		return nil, err
	}
	return d.decodedProduct(decoded4{w, "dequantize", r.enqueue}, rows, trans, add)
}

// decoded4 is how a weight in 4 bits comes to its values: enqueue takes the op's inputs from the codes on and writes them all.
type decoded4 struct {
	w       weight4
	label   string
	enqueue func(c *Call, in []Addr, y Addr) error
}

// decodedProduct multiplies rows by a weight that is decoded first.
func (d *Device) decodedProduct(w decoded4, rows tensor.Type, trans, add bool) (*Kernel, error) {
	n := w.w.rows
	if trans {
		n = w.w.cols
	}
	weight, y := tensor.T(rows.DType, w.w.rows, w.w.cols), tensor.T(rows.DType, rows.Dim(0), n)
	if add {
		return d.dequantizedProduct(w, rows.DType, device.Spec{Op: ops.AddMatMul{TransB: !trans, Alpha: 1}, In: []tensor.Type{y, rows, weight}, Out: []tensor.Type{y}}, 0, 1, decoded)
	}
	return d.dequantizedProduct(w, rows.DType, device.Spec{Op: ops.MatMul{TransB: !trans}, In: []tensor.Type{rows, weight}, Out: []tensor.Type{y}}, 0, decoded)
}

// decoded stands for the dequantized weight among the operands of dequantizedProduct.
const decoded = -1

// dequantizedProduct makes the kernel of a dense product out of those of two: the weight is written to scratch in the dtype of x, then
// multiplied. operands are the inputs of the dense product by their places in the op, whose last inputs, from the codes on, make the weight.
func (d *Device) dequantizedProduct(w decoded4, to tensor.DType, dense device.Spec, operands ...int) (*Kernel, error) {
	product, err := d.inner(dense)
	if err != nil {
		return nil, err
	}
	bytes := aligned(w.w.size() * int64(to.Size()))
	call, in := Call{}, make([]Addr, len(operands))
	return &Kernel{Label: w.label + "/" + product.KernelName(), ScratchBytes: bytes + product.ScratchBytes, Enqueue: func(c *Call) error {
		if err := w.enqueue(c, c.In[len(operands)-1:], c.Scratch); err != nil {
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
	r, err := d.decoder(w, x.DType)
	if err != nil {
		return nil, err
	}
	return d.dequantizedProduct(decoded4{w, "dequantize", r.enqueue}, x.DType, device.Spec{Op: ops.GroupedMatMul{Trans: o.Trans}, In: []tensor.Type{x,
		tensor.T(x.DType, o.Experts, o.N, o.K), offsets}, Out: s.Out}, 0, decoded, 1)
}
