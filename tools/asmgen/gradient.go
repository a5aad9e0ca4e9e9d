package main

import (
	"github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// gradients emits the loops over gradients outside of a rule.
func gradients() (out []func(*build.Context)) {
	for _, l := range stepLevels {
		out = append(out, func(c *build.Context) { scaleFinite(c, l) })
	}
	return out
}

// scaleFinite multiplies and looks for what is not finite: the exponent's carry, gathered over the loop.
func scaleFinite(c *build.Context, l level) {
	name := "scale" + l.name
	begin(c, name, "func(blocks int, dst *float32, src *float32, s float32) uint32",
		name+" sets dst[i] to src[i]*s, i < 16*blocks, and returns a number whose highest bit says that one of them is not finite. Needs "+l.needs+".")
	blocks, dst, src := param(c, "blocks"), param(c, "dst"), param(c, "src")
	s := &stepGen{c: c, wide: l.wide}
	factor, carry := s.vec(), s.vec()
	broadcastParam(c, "s", factor)
	c.VXORPS(carry, carry, carry)
	s.holdBits([]uint32{1<<31 - 1, 1 << 23})
	loop(c, "block", blocks, 1, func() {
		for at0 := 0; at0 < 64; at0 += 4 * s.lanes() {
			x := s.vec()
			c.VMULPS(at(src, at0), factor, x)
			c.VMOVUPS(x, at(dst, at0))
			s.and(s.bits(1<<31-1), x, x)
			c.VPADDD(s.bits(1<<23), x, x)
			s.or(x, carry, carry)
		}
		c.ADDQ(operand.U8(64), src)
		c.ADDQ(operand.U8(64), dst)
	})
	y := carry.AsY()
	if s.wide {
		half := c.YMM()
		c.VEXTRACTF64X4(operand.U8(1), carry, half)
		c.VPORD(half, y, y)
	}
	x, half := c.XMM(), c.XMM()
	c.VMOVDQA(s.low(y), x)
	s.upper(y, half)
	c.VPOR(half, x, x)
	for _, order := range []uint8{0x4e, 0xb1} {
		c.VPSHUFD(operand.U8(order), x, half)
		c.VPOR(half, x, x)
	}
	r := c.GP32()
	c.VMOVD(x, r)
	c.VZEROUPPER()
	c.Store(r, c.ReturnIndex(0))
	c.RET()
}

// low and upper are the halves of 256 bits.
func (s *stepGen) low(y reg.Register) reg.Register { return y.(reg.VecVirtual).AsX() }

func (s *stepGen) upper(y reg.Register, half reg.VecVirtual) {
	if s.wide {
		s.c.VEXTRACTF32X4(operand.U8(1), y, half)
	} else {
		s.c.VEXTRACTF128(operand.U8(1), y, half)
	}
}

func (s *stepGen) and(a, b, dst reg.VecVirtual) {
	if s.wide {
		s.c.VPANDD(a, b, dst)
	} else {
		s.c.VPAND(a, b, dst)
	}
}

func (s *stepGen) or(a, b, dst reg.VecVirtual) {
	if s.wide {
		s.c.VPORD(a, b, dst)
	} else {
		s.c.VPOR(a, b, dst)
	}
}
