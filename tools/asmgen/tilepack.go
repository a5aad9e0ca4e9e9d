package main

import (
	"github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// packAhead is how many rows of B are asked for ahead of the one that is multiplied.
const packAhead = 32

// tilePackAVX512 is a full tile of tileAVX512 whose B lies in rows. It reads them anyway, so it writes the strip as well: no operation of
// the two ports that multiply, and memory is waited for beside products.
func tilePackAVX512(c *build.Context) {
	s := tileSpec{name: "tilePackAVX512", mr: 14, lanes: 16, zero: func(r reg.VecPhysical) { c.VPXORD(r, r, r) },
		signature: "func(kc int, a *float32, b *float32, bs int, to *float32, c *float32, ldc int, alpha float32, add bool, next uintptr, step int)",
		doc: []string{
			"sets a tile of c, 14 rows of 32 columns, to alpha times the product of A and B, or adds it, and copies B to a strip at to.",
			"A is packed, row k of B begins at b[k*bs]; bs and ldc are in elements of four bytes, kc is a multiple of 64 and not 0. While it",
			"sums it asks for 128 bytes at next and at each step bytes on, 16 times. Needs AVX-512F."}}
	s.registers(zmm)
	s.begin(c)
	s.floats(c)
	t := tileRegs{kc: param(c, "kc"), a: param(c, "a"), b: param(c, "b"), bs: param(c, "bs"), ahead: param(c, "c"), ldc: param(c, "ldc"),
		next: param(c, "next"), three: c.GP64(), left: c.GP64(), to: c.GP64(), every: c.AllocLocal(8)}
	strip, far := param(c, "to"), c.GP64()
	c.SHLQ(operand.U8(2), t.bs)
	c.SHLQ(operand.U8(2), t.ldc)
	c.LEAQ(operand.Mem{Base: t.bs, Index: t.bs, Scale: 2}, t.three)
	c.MOVQ(t.bs, far)
	c.IMUL3Q(operand.U8(packAhead), far, far)
	c.ADDQ(t.b, far)
	c.SHRQ(operand.U8(2), t.kc)
	c.MOVQ(t.kc, t.left)
	c.SHRQ(operand.U8(4), t.left)
	c.MOVQ(t.left, t.every)
	for _, sums := range s.acc {
		s.zero(sums[0])
		s.zero(sums[1])
	}
	c.Label("fetch")
	s.fetch(c, t)
	c.MOVQ(t.every, t.left)
	c.Label("steps")
	for u := range unroll {
		row := func(base reg.GPVirtual, j int) operand.Mem {
			m := operand.Mem{Base: base, Disp: 64 * j}
			switch u {
			case 1, 2:
				m.Index, m.Scale = t.bs, uint8(u)
			case 3:
				m.Index, m.Scale = t.three, 1
			}
			return m
		}
		for j := range s.b {
			s.load(row(t.b, j), s.b[j])
			c.PREFETCHT0(row(far, j))
			c.VMOVUPS(s.b[j], at(strip, 64*(2*u+j)))
		}
		for i := range s.mr {
			s.step(i, at(t.a, 4*(s.mr*u+i)))
		}
	}
	c.ADDQ(operand.U32(4*unroll*s.mr), t.a)
	c.ADDQ(operand.U32(128*unroll), strip)
	c.LEAQ(operand.Mem{Base: t.b, Index: t.bs, Scale: 4}, t.b)
	c.LEAQ(operand.Mem{Base: far, Index: t.bs, Scale: 4}, far)
	c.DECQ(t.kc)
	c.JZ(operand.LabelRef("done"))
	c.DECQ(t.left)
	c.JNZ(operand.LabelRef("steps"))
	c.JMP(operand.LabelRef("fetch"))
	c.Label("done")
	c.IMUL3Q(operand.U8(s.mr-1), t.ldc, t.to)
	c.ADDQ(param(c, "c"), t.to)
	s.ready()
	add, err := c.Param("add").Resolve()
	if err != nil {
		return // the context has recorded it
	}
	c.CMPB(add.Addr, operand.U8(0))
	c.JEQ(operand.LabelRef("set14"))
	s.chain(c, "add", t.to, t.ldc)
	s.chain(c, "set", t.to, t.ldc)
}
