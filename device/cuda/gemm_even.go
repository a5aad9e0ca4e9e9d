package cuda

import "github.com/bitsandbyes/bitsandbyes/tensor"

// evenColumns is what the library wants an extent along neighbouring elements of 16 bits to be a multiple of: without, as for the 50257
// classes of GPT-2, its products took eight times as long.
const evenColumns = 8

// evenGemm is d.gemm with the extents along which operands of 16 bits are contiguous cut to multiples of evenColumns: what remains is a
// small product of its own. Where the inner axis is cut, C is rounded once more.
func (d *Device) evenGemm(s gemmSpec) (*gemm, error) {
	odd := func(n int) bool { return n > evenColumns && n%evenColumns != 0 }
	switch {
	case s.c.dtype.Size() > 2 && s.a.dtype.Size() > 2:
	case odd(s.n):
		main, rest := s, s
		main.n, rest.n = s.n/evenColumns*evenColumns, s.n%evenColumns
		return d.gemmPair(main, rest, gemmMoves{b: step(s.b, !s.b.trans, main.n), c: int64(main.n)})
	case odd(s.m) && s.a.trans:
		main, rest := s, s
		main.m, rest.m = s.m/evenColumns*evenColumns, s.m%evenColumns
		return d.gemmPair(main, rest, gemmMoves{a: int64(main.m), c: int64(main.m) * int64(s.c.ld)})
	case odd(s.k) && (!s.a.trans || s.b.trans):
		main, rest := s, s
		main.k, rest.k, rest.add = s.k/evenColumns*evenColumns, s.k%evenColumns, true
		return d.gemmPair(main, rest, gemmMoves{a: step(s.a, !s.a.trans, main.k), b: step(s.b, s.b.trans, main.k), inner: true})
	}
	return d.gemm(s)
}

// step is how many elements n columns, or rows, of an operand are.
func step(m gemmMat, columns bool, n int) int64 {
	if columns {
		return int64(n)
	}
	return int64(n) * int64(m.ld)
}

// gemmMoves is how many elements further the operands of the second of two products are. inner: it is added to the first.
type gemmMoves struct {
	a, b, c int64
	inner   bool
}

func (d *Device) gemmPair(main, rest gemmSpec, m gemmMoves) (*gemm, error) {
	first, err := d.evenGemm(main)
	if err != nil {
		return nil, err
	}
	second, err := d.evenGemm(rest)
	if err != nil {
		return nil, err
	}
	move := func(p Addr, n int64, t tensor.DType) Addr {
		if p == 0 {
			return 0
		}
		return at(p, n, t)
	}
	return &gemm{label: first.label, scratch: max(first.scratch, second.scratch), enqueue: func(c *Call, o gemmAt) error {
		if err := first.enqueue(c, o); err != nil {
			return err
		}
		o.a, o.b = move(o.a, m.a, main.a.dtype), move(o.b, m.b, main.b.dtype)
		if m.inner {
			o.add = o.c
		} else {
			o.add, o.c = move(o.add, m.c, main.c.dtype), move(o.c, m.c, main.c.dtype)
		}
		return second.enqueue(c, o)
	}}, nil
}
