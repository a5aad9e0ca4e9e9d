package cuda

import "github.com/bitsandbyes/bitsandbyes/tensor"

// wideVolume is the multiply-adds from which on it pays to write a 16-bit operand in float32 first.
const wideVolume = 1 << 26

// wideGemm is the product of a float32 operand by one of 16 bits, which the library lacks: the latter is written to scratch in float32. It
// is nil where the product is another, small, or the library is absent; gemm_simt reads mixed operands as they are.
func (d *Device) wideGemm(s gemmSpec) (*gemm, error) {
	narrow := func(m gemmMat) bool { return m.dtype == tensor.BF16 || m.dtype == tensor.F16 }
	mixed := narrow(s.a) && s.b.dtype == tensor.F32 || s.a.dtype == tensor.F32 && narrow(s.b)
	if _, err := d.library(); !mixed || err != nil || s.scaled || int64(s.batch)*int64(s.m)*int64(s.n)*int64(s.k) < wideVolume {
		return nil, nil //nolint:nilerr // doctor shows why there is none
	}
	from, rows := s.b, s.k
	if narrow(s.a) {
		from, rows = s.a, s.m
		if s.a.trans {
			rows = s.k
		}
	} else if s.b.trans {
		rows = s.n
	}
	f, err := d.Function(Program{Files: []string{"eight.cuh", "widen.cu"}, Define: []string{"T " + cType(from.dtype)}}, "widen_all")
	if err != nil {
		return nil, err
	}
	inner := s
	inner.a.dtype, inner.b.dtype = tensor.F32, tensor.F32
	g, err := d.gemm(inner)
	if err != nil {
		return nil, err
	}
	n := int64(s.batch-1)*from.stride + int64(rows)*int64(from.ld)
	bytes := aligned(4 * n)
	return &gemm{label: g.label + "_widened", scratch: bytes + g.scratch, enqueue: func(c *Call, at gemmAt) error {
		x := &at.b
		if narrow(s.a) {
			x = &at.a
		}
		if err := c.Launch(f, Over(n, 256, 16), *x, at.scratch, n, int32(b2i(*x%16 == 0))); err != nil {
			return err
		}
		*x, at.scratch = at.scratch, at.scratch+Addr(bytes)
		return g.enqueue(c, at)
	}}, nil
}
