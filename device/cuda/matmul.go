package cuda

import (
	"github.com/bitsandbyes/bitsandbyes/device"
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

// buildProduct makes the kernel of a product of type t, added to the first of three inputs.
func buildProduct(d *Device, op ops.MatMul, alpha float32, in []tensor.Type, t, out tensor.Type) (*Kernel, error) {
	first := len(in) - 2
	a, b := in[first], in[first+1]
	s := gemmSpec{m: t.Dim(-2), n: t.Dim(-1), k: a.Dim(-1), batch: 1, alpha: float64(alpha), add: first == 1}
	if op.TransA {
		s.k = a.Dim(-2)
	}
	for i := range t.Rank() - 2 {
		s.batch *= t.Dim(i)
	}
	s.a = gemmMat{dtype: a.DType, ld: a.Dim(-1), stride: int64(s.m) * int64(s.k), trans: op.TransA}
	s.b = gemmMat{dtype: b.DType, ld: b.Dim(-1), stride: int64(s.k) * int64(s.n), trans: op.TransB}
	s.c = gemmMat{dtype: out.DType, ld: s.n, stride: int64(s.m) * int64(s.n)}
	g, err := d.gemm(s)
	if err != nil {
		return nil, err
	}
	return &Kernel{Label: g.label, ScratchBytes: g.scratch, Enqueue: func(c *Call) error {
		at := gemmAt{a: c.In[first], b: c.In[first+1], c: c.Out[0], scratch: c.Scratch}
		if s.add {
			at.add = c.In[0]
		}
		return g.enqueue(c, at)
	}}, nil
}
