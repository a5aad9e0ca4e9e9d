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

// convertAVX512 emits a converter of blocks of eight as the AVX2 ones are, four ZMM registers a round and the rest by rest.
func convertAVX512(c *build.Context, name, signature, doc string, in, out int, body func(src, dst operand.Mem), rest func(src, dst operand.Mem)) {
	begin(c, name, signature, doc)
	n, dst, src := param(c, "blocks"), param(c, "dst"), param(c, "src")
	loop(c, "many", n, 8, func() {
		for i := range 4 {
			body(at(src, 16*in*i), at(dst, 16*out*i))
		}
		c.ADDQ(operand.I32(64*in), src)
		c.ADDQ(operand.I32(64*out), dst)
	})
	loop(c, "single", n, 1, func() {
		rest(at(src, 0), at(dst, 0))
		c.ADDQ(operand.I32(8*in), src)
		c.ADDQ(operand.I32(8*out), dst)
	})
	c.VZEROUPPER()
	c.RET()
}

const (
	widenSignature  = "func(blocks int, dst *float32, src *uint16)"
	narrowSignature = "func(blocks int, dst *uint16, src *float32)"
)

func widenBF16Wide(c *build.Context) {
	convert := func(x reg.VecVirtual) func(src, dst operand.Mem) {
		return func(src, dst operand.Mem) {
			c.VPMOVZXWD(src, x)
			c.VPSLLD(operand.U8(16), x, x)
			c.VMOVUPS(x, dst)
		}
	}
	convertAVX512(c, "widenBF16AVX512", widenSignature, "widenBF16AVX512 converts 8*blocks bfloat16 to float32. Needs AVX-512.", 2, 4,
		convert(c.ZMM()), convert(c.YMM()))
}

func widenF16Wide(c *build.Context) {
	convert := func(x reg.VecVirtual) func(src, dst operand.Mem) {
		return func(src, dst operand.Mem) {
			c.VCVTPH2PS(src, x)
			c.VMOVUPS(x, dst)
		}
	}
	convertAVX512(c, "widenF16AVX512", widenSignature, "widenF16AVX512 converts 8*blocks binary16 to float32. Needs AVX-512.", 2, 4,
		convert(c.ZMM()), convert(c.YMM()))
}

func narrowF16Wide(c *build.Context) {
	convert := func(x reg.VecVirtual) func(src, dst operand.Mem) {
		return func(src, dst operand.Mem) {
			c.VMOVUPS(src, x)
			c.VCVTPS2PH(operand.U8(0), x, dst)
		}
	}
	convertAVX512(c, "narrowF16AVX512", narrowSignature, "narrowF16AVX512 rounds 8*blocks float32 to binary16, ties to even. Needs AVX-512.", 4, 2,
		convert(c.ZMM()), convert(c.YMM()))
}

// narrowBF16Wide has the steps of narrowBF16, with the NaNs of a mask.
func narrowBF16Wide(c *build.Context) {
	l := &lanes{c, true, map[string]operand.Mem{}, "convert"}
	k := func(bits uint32) operand.Mem { return l.bits(bits).Mem }
	convert := func(v func() reg.VecVirtual, short func(x reg.VecVirtual, dst operand.Mem)) func(src, dst operand.Mem) {
		return func(src, dst operand.Mem) {
			x, upper, round, nan := v(), v(), v(), c.K()
			c.VMOVUPS(src, x)
			c.VPSRLD(operand.U8(16), x, upper)
			c.VPANDD_BCST(k(1), upper, round)
			c.VPADDD_BCST(k(0x7fff), round, round)
			c.VPADDD(x, round, round)
			c.VPSRLD(operand.U8(16), round, round)
			c.VCMPPS(operand.U8(cmpUnordered), x, x, nan)
			c.VPORD_BCST(k(0x40), upper, nan, round)
			short(round, dst)
		}
	}
	convertAVX512(c, "narrowBF16AVX512", narrowSignature, "narrowBF16AVX512 rounds 8*blocks float32 to bfloat16, ties to even. Needs AVX-512.", 4, 2,
		convert(func() reg.VecVirtual { return c.ZMM() }, func(x reg.VecVirtual, dst operand.Mem) {
			y := c.YMM() // a store of what VPMOVDW makes is faster than VPMOVDW to memory
			c.VPMOVDW(x, y)
			c.VMOVDQU(y, dst)
		}),
		convert(func() reg.VecVirtual { return c.YMM() }, func(x reg.VecVirtual, dst operand.Mem) {
			y := c.XMM()
			c.VPMOVDW(x, y)
			c.VMOVDQU(y, dst)
		}))
}
