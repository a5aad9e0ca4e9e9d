package main

import (
	"fmt"

	"github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// reciprocal emits quant.Rcp, which explains the arithmetic, for all lanes of a register: about 60 operations and two gathers. vector is
// c.ZMM or c.YMM; table is the address of quant's rcpTable (quant.RcpTable), ones a full mask for ZMM. x must be positive numbers for
// which quant.PlainScale holds; otherwise the result is garbage. x is not changed.
func reciprocal(c *build.Context, x reg.VecVirtual, table reg.GPVirtual, ones reg.OpmaskVirtual, vector func() reg.VecVirtual) reg.VecVirtual {
	wide := x.Size() == 64
	and, broadcast := c.VPAND, vector()
	if wide {
		and = func(a, b, dst operand.Op) { c.VPANDD(a, b, dst) }
	}
	masked := func(bits uint32, from, to reg.VecVirtual) {
		broadcastBits(c, bits, broadcast)
		and(broadcast, from, to)
	}
	index, t, a, square, c0, c12, s := vector(), vector(), vector(), vector(), vector(), vector(), vector()
	c.VPSRLD(operand.U8(16), x, index)
	masked(127, index, index)
	masked(0xffff, x, t)
	for i, to := range []reg.VecVirtual{c0, c12} {
		from := operand.Mem{Base: table, Index: index, Scale: 8, Disp: 4 * i}
		if wide {
			all := c.K()
			c.KMOVW(ones, all)
			c.VPXORD(to, to, to)
			c.VPGATHERDD(from, all, to)
		} else {
			all := vector()
			c.VPCMPEQD(all, all, all)
			c.VPXOR(to, to, to)
			c.VPGATHERDD(all, from, to)
		}
	}
	c.VPSRLD(operand.U8(8), t, a)
	c.VPMULLD(a, a, square)
	c.VPSRLD(operand.U8(1), square, square)
	for i := range 7 { // bit i+1 of t
		m := vector()
		c.VPSLLD(operand.U8(30-i), t, m)
		c.VPSRAD(operand.U8(31), m, m)
		c.VPSRLD(operand.U8(7-i), a, s)
		and(m, s, s)
		c.VPADDD(s, square, square)
	}
	off := vector()
	c.VPSRLD(operand.U8(16), c12, off)
	c.VPMULLD(t, off, off)
	masked(0xffff, c12, c12)
	c.VPMULLD(square, c12, c12)
	c.VPSUBD(c12, off, off)
	masked(3, c0, s)
	c.VPSLLD(operand.U8(13), s, s)
	c.VPSUBD(s, off, off)
	broadcastBits(c, 1<<15-1-2023, s)
	c.VPADDD(s, off, off)
	c.VPSRLD(operand.U8(15), off, off)
	c.VPSRLD(operand.U8(2), c0, c0)
	c.VPSUBD(off, c0, c0)
	// The exponent of the result is 127 plus that of 1/mantissa, less the exponent of x.
	c.VPSRLD(operand.U8(23), x, s)
	c.VPSLLD(operand.U8(23), s, s)
	c.VPSUBD(s, c0, c0)
	broadcastBits(c, (126-1+127)<<23, s)
	c.VPADDD(s, c0, c0)
	return c0
}

// reciprocals are of the scales of many blocks.
func reciprocals(c *build.Context) {
	for _, wide := range []bool{false, true} {
		level, lanes, vector := "AVX2", 8, c.YMM
		if wide {
			level, lanes, vector = "AVX512", 16, c.ZMM
		}
		begin(c, "rcp"+level, "func(n int, r *float32, absmax *float32, table *uint32)",
			fmt.Sprintf("rcp%s sets r[i] to Rcp(absmax[i]) for i < n, n being a positive multiple of %d. It is garbage where PlainScale does", level, lanes),
			"not hold.")
		n, r, absmax, table := param(c, "n"), param(c, "r"), param(c, "absmax"), param(c, "table")
		var ones reg.OpmaskVirtual
		if wide {
			ones = c.K()
			c.KXNORW(ones, ones, ones)
		}
		c.Label("loop")
		x := vector()
		c.VMOVUPS(at(absmax, 0), x)
		c.VMOVUPS(reciprocal(c, x, table, ones, vector), at(r, 0))
		c.ADDQ(operand.U8(4*lanes), absmax)
		c.ADDQ(operand.U8(4*lanes), r)
		c.SUBQ(operand.U8(lanes), n)
		c.JNZ(operand.LabelRef("loop"))
		c.VZEROUPPER()
		c.RET()
	}
}
