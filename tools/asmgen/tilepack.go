package main

import (
	"fmt"

	"github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// Rows of B are asked for into the second cache and then, as rows a power of two apart share few sets of the first one, into that shortly before
// they are multiplied: so many rows ahead.
const (
	packAhead = 32
	packNear  = 4
)

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
	strip, far, near := param(c, "to"), c.GP64(), c.GP64()
	c.SHLQ(operand.U8(2), t.bs)
	c.SHLQ(operand.U8(2), t.ldc)
	c.LEAQ(operand.Mem{Base: t.bs, Index: t.bs, Scale: 2}, t.three)
	c.MOVQ(t.bs, far)
	c.IMUL3Q(operand.U8(packAhead), far, far)
	c.ADDQ(t.b, far)
	c.MOVQ(t.bs, near)
	c.IMUL3Q(operand.U8(packNear), near, near)
	c.ADDQ(t.b, near)
	s.rounds(c, t)
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
			c.PREFETCHT1(row(far, j))
			c.PREFETCHT0(row(near, j))
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
	c.LEAQ(operand.Mem{Base: near, Index: t.bs, Scale: 4}, near)
	c.DECQ(t.kc)
	c.JZ(operand.LabelRef("done"))
	c.DECQ(t.left)
	c.JNZ(operand.LabelRef("steps"))
	c.JMP(operand.LabelRef("fetch"))
	c.Label("done")
	s.storeAll(c, t)
}

// storeAll ends a tile that has all its rows.
func (s *tileSpec) storeAll(c *build.Context, t tileRegs) {
	c.IMUL3Q(operand.U8(s.mr-1), t.ldc, t.to)
	c.ADDQ(param(c, "c"), t.to)
	s.ready()
	add, err := c.Param("add").Resolve()
	if err != nil {
		return // the context has recorded it
	}
	c.CMPB(add.Addr, operand.U8(0))
	c.JEQ(operand.LabelRef(fmt.Sprintf("set%d", s.mr)))
	s.chain(c, "add", t.to, t.ldc)
	s.chain(c, "set", t.to, t.ldc)
}

// turnAhead is how many bytes ahead of the products the rows of A are asked for.
const turnAhead = 192

// tileTurn is a full tile of tileAVX512 whose A lies in rows. The elements are in registers anyway, so it writes them to the strip as well:
// every second row, the even ones or the odd ones, as more than one store in two cycles would hold up the products.
func tileTurn(name string, odd int) func(c *build.Context) {
	return func(c *build.Context) { turnRows(c, name, odd) }
}

func turnRows(c *build.Context, name string, odd int) {
	s := tileSpec{name: name, mr: 14, lanes: 16, zero: func(r reg.VecPhysical) { c.VPXORD(r, r, r) },
		signature: "func(kc int, a *float32, rs int, to *float32, b *float32, c *float32, ldc int, alpha float32, add bool, next uintptr, step int)",
		doc: []string{
			"sets a tile of c, 14 rows of 32 columns, to alpha times the product of A and B, or adds it, and copies " + []string{"even", "odd"}[odd],
			"rows of A to their places in a strip at to. B is packed, row r of A begins at a[r*rs]; rs and ldc are in elements of four bytes, kc is a",
			"multiple of 64 and not 0. While it sums it asks for 128 bytes at next and at each step bytes on, 16 times. Needs AVX-512F."}}
	s.registers(zmm)
	s.begin(c)
	s.floats(c)
	t := tileRegs{kc: param(c, "kc"), a: param(c, "a"), rs: param(c, "rs"), b: param(c, "b"), ahead: param(c, "c"), ldc: param(c, "ldc"),
		next: param(c, "next"), three: c.GP64(), five: c.GP64(), upper: c.GP64(), left: c.GP64(), to: param(c, "to"), every: c.AllocLocal(8)}
	far, back := c.GP64(), c.AllocLocal(8)
	c.SHLQ(operand.U8(2), t.rs)
	c.SHLQ(operand.U8(2), t.ldc)
	c.LEAQ(operand.Mem{Base: t.rs, Index: t.rs, Scale: 2}, t.three)
	c.LEAQ(operand.Mem{Base: t.rs, Index: t.rs, Scale: 4}, t.five)
	c.LEAQ(operand.Mem{Base: t.five, Index: t.rs, Scale: 2}, t.upper)
	c.ADDQ(t.a, t.upper)
	c.LEAQ(at(t.a, turnAhead), far)
	c.MOVQ(t.rs, t.left)
	c.SHLQ(operand.U8(4), t.left)
	c.SUBQ(operand.U8(64), t.left)
	c.MOVQ(t.left, back) // from sixteen rows down to the next line of the first
	s.rounds(c, t)
	for u := range unroll {
		for j := range s.b {
			s.load(at(t.b, 4*s.lanes*(2*u+j)), s.b[j])
		}
		c.PREFETCHT0(at(far, 0))
		c.ADDQ(t.rs, far)
		for n := range s.mr {
			// Rows a power of two apart share a set of the first cache that has not room for all: up and down, most are found.
			i := n
			if u%2 == 1 {
				i = s.mr - 1 - n
			}
			m := sevenRows(t.a, t.rs, t.three, t.five, i)
			if i >= 7 {
				m = sevenRows(t.upper, t.rs, t.three, t.five, i-7)
			}
			m.Disp += 4 * u
			s.step(i, m)
			if i%2 == odd {
				c.VMOVSS(s.x[i&1].AsX(), at(t.to, 4*(s.mr*u+i)))
			}
		}
	}
	c.ADDQ(operand.U32(4*unroll*s.mr), t.to)
	c.ADDQ(operand.U32(8*unroll*s.lanes), t.b)
	c.ADDQ(operand.U8(4*unroll), t.a)
	c.ADDQ(operand.U8(4*unroll), t.upper)
	c.DECQ(t.kc)
	c.JZ(operand.LabelRef("done"))
	c.TESTQ(operand.U32(3), t.kc)
	c.JNZ(operand.LabelRef("same"))
	c.SUBQ(back, far)
	c.Label("same")
	c.DECQ(t.left)
	c.JNZ(operand.LabelRef("steps"))
	c.JMP(operand.LabelRef("fetch"))
	c.Label("done")
	s.storeAll(c, t)
}

// rounds begins the loops of a tile that packs. kc becomes rounds of four steps, cut into sixteen parts of which each fetches first.
func (s *tileSpec) rounds(c *build.Context, t tileRegs) {
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
}
