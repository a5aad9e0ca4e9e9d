package cpu

import (
	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func init() { Register(buildMatMul) }

func buildMatMul(d *Device, op ops.MatMul, s device.Spec) (*Kernel, error) {
	a, b := s.In[0], s.In[1]
	m, n := s.Out[0].Dim(-2), s.Out[0].Dim(-1)
	k := a.Dim(-1)
	if op.TransA {
		k = a.Dim(-2)
	}
	batch := s.Out[0].Size() / max(m*n, 1)
	lda, ldb := a.Dim(-1), b.Dim(-1)
	return &Kernel{Run: func(c *Call) error {
		at := func(i, r, cc int) float64 {
			if op.TransA {
				r, cc = cc, r
			}
			return reader{a.DType, c.In[0]}.get(i*m*k + r*lda + cc)
		}
		bt := func(i, r, cc int) float64 {
			if op.TransB {
				r, cc = cc, r
			}
			return reader{b.DType, c.In[1]}.get(i*k*n + r*ldb + cc)
		}
		out := reader{s.Out[0].DType, c.Out[0]}
		return d.ranges(batch*m, 8, func(lo, hi int) {
			for r := lo; r < hi; r++ {
				for j := range n {
					var sum float64
					for q := range k {
						sum += at(r/m, r%m, q) * bt(r/m, q, j)
					}
					out.set(r*n+j, sum)
				}
			}
		})
	}}, nil
}

var _ = tensor.F32
