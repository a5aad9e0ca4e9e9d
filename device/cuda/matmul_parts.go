package cuda

import (
	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
)

func init() { Register(buildProductParts) }

// productParts is how many tensors one launch adds rows of a product to.
const productParts = 8

// partsArgs is struct Parts of kernels/gemm_parts.cu.
type partsArgs struct {
	y, c [productParts]Addr
	end  [productParts]int64
}

// buildProductParts makes the product in scratch, in the type that it is summed in, and adds its rows to the parts.
func buildProductParts(d *Device, op ops.AddMatMulParts, s device.Spec) (*Kernel, error) {
	if len(s.Out) > productParts {
		return nil, device.ErrNoKernel
	}
	t, err := op.Product(s.In)
	if err != nil {
		return nil, err
	}
	n := int64(t.Size())
	if n == 0 {
		return nothing(), nil
	}
	a, b := s.In[0], s.In[1]
	spec := gemmSpec{m: t.Dim(0), n: t.Dim(1), k: a.Dim(1), batch: 1, alpha: float64(op.Alpha)}
	if op.TransA {
		spec.k = a.Dim(0)
	}
	spec.c = gemmMat{dtype: t.DType, ld: spec.n}
	spec.c.dtype = spec.sums()
	spec.a = gemmMat{dtype: a.DType, ld: a.Dim(1), trans: op.TransA}
	spec.b = gemmMat{dtype: b.DType, ld: b.Dim(1), trans: op.TransB}
	g, err := d.gemm(spec)
	if err != nil {
		return nil, err
	}
	add, err := d.Function(Program{Files: []string{"gemm_parts.cu"}, Define: []string{"TC " + cType(t.DType), "SUM " + cType(spec.c.dtype)}}, "add_parts")
	if err != nil {
		return nil, err
	}
	var parts partsArgs
	at := int64(0)
	for i, c := range s.Out {
		at += int64(c.Size())
		parts.end[i] = at
	}
	product := aligned(n * int64(spec.c.dtype.Size()))
	return &Kernel{Label: g.label + "/parts", ScratchBytes: product + g.scratch, Enqueue: func(c *Call) error {
		if err := g.enqueue(c, gemmAt{a: c.In[0], b: c.In[1], c: c.Scratch, scratch: c.Scratch + Addr(product)}); err != nil {
			return err
		}
		for i, y := range c.Out {
			parts.y[i], parts.c[i] = y, c.In[2+i]
		}
		return c.Launch(add, Over(n, 256, 2), c.Scratch, &parts, n, int32(len(c.Out)))
	}}, nil
}
