package cuda

import "github.com/bitsandbyes/bitsandbyes/tensor"

// wideVolume is the multiply-adds from which on it pays to write a 16-bit operand in float32 first.
const wideVolume = 1 << 26

// widens tells whether a product is of a float32 operand by one of 16 bits, which the library lacks, and large enough for the latter to be
// written in float32 first. Without the library gemm_simt reads mixed operands as they are.
func (d *Device) widens(s gemmSpec) bool {
	mixed := narrow(s.a) && s.b.dtype == tensor.F32 || s.a.dtype == tensor.F32 && narrow(s.b)
	_, err := d.library() // doctor shows why there is none
	return mixed && err == nil && !s.scaled && int64(s.batch)*int64(s.m)*int64(s.n)*int64(s.k) >= wideVolume
}

func narrow(m gemmMat) bool { return m.dtype == tensor.BF16 || m.dtype == tensor.F16 }

// widening writes 16-bit values in float32.
type widening struct{ f *Function }

func (d *Device) widening(from tensor.DType) (w widening, err error) {
	w.f, err = d.Function(Program{Files: []string{"eight.cuh", "widen.cu"}, Define: []string{"T " + cType(from)}}, "widen_all")
	return w, err
}

func (w widening) enqueue(c *Call, from, to Addr, n int64) error {
	return c.Launch(w.f, Over(n, 256, 16), from, to, n, int32(b2i(from%16 == 0)))
}

// wideGemm is such a product, nil for another. The operand is written to scratch.
func (d *Device) wideGemm(s gemmSpec) (*gemm, error) {
	if !d.widens(s) {
		return nil, nil
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
	w, err := d.widening(from.dtype)
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
		if err := w.enqueue(c, *x, at.scratch, n); err != nil {
			return err
		}
		*x, at.scratch = at.scratch, at.scratch+Addr(bytes)
		return g.enqueue(c, at)
	}}, nil
}
