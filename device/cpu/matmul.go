package cpu

import (
	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/device/cpu/gemm"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func init() { Register(buildMatMul) }

// smallProduct is the multiply-adds of one matrix of a batch below which the batch, not the matrix, is spread over threads.
const smallProduct = 1 << 20

func buildMatMul(d *Device, op ops.MatMul, s device.Spec) (*Kernel, error) {
	p := product{op: op, a: s.In[0], b: s.In[1], out: s.Out[0]}
	p.m, p.n = s.Out[0].Dim(-2), s.Out[0].Dim(-1)
	if p.k = p.a.Dim(-1); op.TransA {
		p.k = p.a.Dim(-2)
	}
	p.batch = 1
	for i := range s.Out[0].Rank() - 2 {
		p.batch *= s.Out[0].Dim(i)
	}
	if p.batch > 1 && p.m*p.n*p.k < smallProduct {
		lanes := min(d.threads, p.batch)
		each := (gemm.ScratchBytes(p.m, p.n, p.k, 1) + 63) &^ 63
		return &Kernel{ScratchBytes: each * int64(lanes), Run: func(c *Call) error { return p.runBatch(d, c, lanes, each) }}, nil
	}
	return &Kernel{ScratchBytes: gemm.ScratchBytes(p.m, p.n, p.k, d.threads), Run: func(c *Call) error {
		for i := range p.batch {
			if err := gemm.Gemm(d.pool, c.Scratch, 1, p.args(c, i)); err != nil {
				return err
			}
		}
		return nil
	}}, nil
}

// product is a batch of matrix products of one shape.
type product struct {
	op             ops.MatMul
	a, b, out      tensor.Type
	batch, m, n, k int
}

func (p *product) args(c *Call, i int) gemm.Args {
	mat := func(x []byte, t tensor.Type, trans bool) gemm.Mat {
		each := len(x) / p.batch
		return gemm.Mat{Data: x[i*each : (i+1)*each], DType: t.DType, LD: t.Dim(-1), Trans: trans}
	}
	each := len(c.Out[0]) / p.batch
	return gemm.Args{M: p.m, N: p.n, K: p.k, A: mat(c.In[0], p.a, p.op.TransA), B: mat(c.In[1], p.b, p.op.TransB),
		C: gemm.Out{Data: c.Out[0][i*each : (i+1)*each], DType: p.out.DType, LD: p.n}}
}

func (p *product) runBatch(d *Device, c *Call, lanes int, scratch int64) error {
	errs := make([]error, lanes)
	if err := d.parallel(lanes, func(lane int) {
		for i := p.batch * lane / lanes; i < p.batch*(lane+1)/lanes && errs[lane] == nil; i++ {
			errs[lane] = gemm.Gemm(nil, c.Scratch[int64(lane)*scratch:int64(lane+1)*scratch], 1, p.args(c, i))
		}
	}); err != nil {
		return err
	}
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
