package cpu

import (
	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/device/cpu/gemm"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func init() {
	Register(func(d *Device, op ops.MatMul, s device.Spec) (*Kernel, error) {
		return buildProduct(d, op, 1, s.In, s.Out[0], s.Out[0])
	})
	Register(func(d *Device, op ops.AddMatMul, s device.Spec) (*Kernel, error) {
		t, err := op.Product(s.In)
		if err != nil {
			return nil, err
		}
		return buildProduct(d, ops.MatMul{TransA: op.TransA, TransB: op.TransB}, op.Alpha, s.In, t, s.Out[0])
	})
	Register(func(d *Device, op ops.ScaleMatMul, s device.Spec) (*Kernel, error) {
		return buildProduct(d, op.MatMul, op.Alpha, s.In, s.Out[0], s.Out[0])
	})
	Register(func(d *Device, op ops.WideMatMul, s device.Spec) (*Kernel, error) {
		if s.Out[0].DType != tensor.F32 {
			return nil, device.ErrNoKernel
		}
		return buildProduct(d, op.MatMul, 1, s.In, s.Out[0], s.Out[0])
	})
}

// smallProduct is the multiply-adds of one matrix of a batch below which the batch, not the matrix, is spread over threads.
const smallProduct = 1 << 20

// buildProduct makes the kernel of a product of type t, added to the first of three inputs.
func buildProduct(d *Device, op ops.MatMul, alpha float32, in []tensor.Type, t, out tensor.Type) (*Kernel, error) {
	p := product{alpha: float64(alpha), first: len(in) - 2}
	a, b := in[p.first], in[p.first+1]
	p.m, p.n = t.Dim(-2), t.Dim(-1)
	if p.k = a.Dim(-1); op.TransA {
		p.k = a.Dim(-2)
	}
	p.each = gemm.Args{M: p.m, N: p.n, K: p.k, Accumulate: p.first == 1, C: gemm.Out{DType: out.DType, LD: p.n},
		A: gemm.Mat{DType: a.DType, LD: a.Dim(-1), Trans: op.TransA}, B: gemm.Mat{DType: b.DType, LD: b.Dim(-1), Trans: op.TransB}}
	p.batch = 1
	for i := range t.Rank() - 2 {
		p.batch *= t.Dim(i)
	}
	if p.batch > 1 && p.m*p.n*p.k < smallProduct {
		lanes := min(d.threads, p.batch)
		each := (gemm.ScratchBytes(p.m, p.n, p.k, 1) + 63) &^ 63
		p.errs = make([]error, lanes)
		return &Kernel{ScratchBytes: each * int64(lanes), Run: func(c *Call) error {
			p.begin(c)
			return p.runBatch(d, c, each)
		}}, nil
	}
	return &Kernel{ScratchBytes: gemm.ScratchBytes(p.m, p.n, p.k, d.threads), Run: func(c *Call) error {
		p.begin(c)
		for i := range p.batch {
			if err := gemm.Gemm(d.pool, c.Scratch, p.alpha, p.args(c, i)); err != nil {
				return err
			}
		}
		return nil
	}}, nil
}

// product is a batch of matrix products of one shape.
type product struct {
	alpha          float64
	first          int // input A; what the product is added to lies before it
	batch, m, n, k int
	each           gemm.Args // of one matrix, without its bytes
	errs           []error   // by lane, where the batch is spread over threads
}

// begin puts what the product is added to where the sum goes, unless it is there.
func (p *product) begin(c *Call) {
	if out := c.Out[0]; p.first == 1 && len(out) > 0 && &out[0] != &c.In[0][0] {
		copy(out, c.In[0])
	}
}

func (p *product) args(c *Call, i int) gemm.Args {
	part := func(x []byte) []byte {
		n := len(x) / p.batch
		return x[i*n : (i+1)*n]
	}
	args := p.each
	args.A.Data, args.B.Data, args.C.Data = part(c.In[p.first]), part(c.In[p.first+1]), part(c.Out[0])
	return args
}

// runBatch gives each lane a range of the matrices. scratch is that of one lane.
func (p *product) runBatch(d *Device, c *Call, scratch int64) error {
	clear(p.errs)
	lanes := len(p.errs)
	if err := d.parallel(lanes, func(lane int) {
		for i := p.batch * lane / lanes; i < p.batch*(lane+1)/lanes && p.errs[lane] == nil; i++ {
			p.errs[lane] = gemm.Gemm(nil, c.Scratch[int64(lane)*scratch:int64(lane+1)*scratch], p.alpha, p.args(c, i))
		}
	}); err != nil {
		return err
	}
	for _, err := range p.errs {
		if err != nil {
			return err
		}
	}
	return nil
}
