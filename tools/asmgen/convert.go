package main

import (
	"fmt"

	"github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// The converters handle eight elements a round; the callers do the rest in Go.

func widen(c *build.Context, name, doc string, body func(src operand.Mem, y reg.VecVirtual)) {
	begin(c, name, "func(blocks int, dst *float32, src *uint16)", doc)
	n, dst, src := param(c, "blocks"), param(c, "dst"), param(c, "src")
	for _, blocks := range []int{4, 1} {
		loop(c, fmt.Sprintf("blocks%d_", blocks), n, blocks, func() {
			for i := range blocks {
				y := c.YMM()
				body(at(src, 16*i), y)
				c.VMOVUPS(y, at(dst, 32*i))
			}
			c.ADDQ(operand.I32(32*blocks), dst)
			c.ADDQ(operand.I32(16*blocks), src)
		})
	}
	c.VZEROUPPER()
	c.RET()
}

func widenBF16(c *build.Context) {
	widen(c, "widenBF16AVX2", "widenBF16AVX2 converts 8*blocks bfloat16 to float32. Needs AVX2.",
		func(src operand.Mem, y reg.VecVirtual) {
			c.VPMOVZXWD(src, y)
			c.VPSLLD(operand.U8(16), y, y)
		})
}

func widenF16(c *build.Context) {
	widen(c, "widenF16AVX2", "widenF16AVX2 converts 8*blocks binary16 to float32. Needs AVX and F16C.",
		func(src operand.Mem, y reg.VecVirtual) { c.VCVTPH2PS(src, y) })
}

func narrow(c *build.Context, name, doc string, prepare func() func(y reg.VecVirtual, dst operand.Mem)) {
	begin(c, name, "func(blocks int, dst *uint16, src *float32)", doc)
	n, dst, src := param(c, "blocks"), param(c, "dst"), param(c, "src")
	body := prepare()
	for _, blocks := range []int{4, 1} {
		loop(c, fmt.Sprintf("blocks%d_", blocks), n, blocks, func() {
			for i := range blocks {
				y := c.YMM()
				c.VMOVUPS(at(src, 32*i), y)
				body(y, at(dst, 16*i))
			}
			c.ADDQ(operand.I32(32*blocks), src)
			c.ADDQ(operand.I32(16*blocks), dst)
		})
	}
	c.VZEROUPPER()
	c.RET()
}

func narrowF16(c *build.Context) {
	narrow(c, "narrowF16AVX2", "narrowF16AVX2 rounds 8*blocks float32 to binary16, ties to even. Needs AVX and F16C.",
		func() func(reg.VecVirtual, operand.Mem) {
			return func(y reg.VecVirtual, dst operand.Mem) { c.VCVTPS2PH(operand.U8(0), y, dst) }
		})
}

// narrowBF16 adds 0x7fff plus the lowest kept bit and keeps the upper half; a NaN gets its quiet bit set instead.
func narrowBF16(c *build.Context) {
	narrow(c, "narrowBF16AVX2", "narrowBF16AVX2 rounds 8*blocks float32 to bfloat16, ties to even. Needs AVX2.",
		func() func(reg.VecVirtual, operand.Mem) {
			half, one, quiet := broadcast(c, 0x7fff), broadcast(c, 1), broadcast(c, 0x40)
			return func(y reg.VecVirtual, dst operand.Mem) {
				upper, round, nan := c.YMM(), c.YMM(), c.YMM()
				c.VPSRLD(operand.U8(16), y, upper)
				c.VPAND(one, upper, round)
				c.VPADDD(half, round, round)
				c.VPADDD(y, round, round)
				c.VPSRLD(operand.U8(16), round, round)
				c.VCMPPS(operand.U8(3), y, y, nan) // unordered
				c.VPOR(quiet, upper, upper)
				c.VBLENDVPS(nan, upper, round, round)
				x := c.XMM()
				c.VEXTRACTI128(operand.U8(1), round, x)
				c.VPACKUSDW(x, round.AsX(), x)
				c.VMOVDQU(x, dst)
			}
		})
}

func broadcast(c *build.Context, v uint32) reg.VecVirtual {
	r, y := c.GP32(), c.YMM()
	c.MOVL(operand.U32(v), r)
	c.VMOVD(r, y.AsX())
	c.VPBROADCASTD(y.AsX(), y)
	return y
}
