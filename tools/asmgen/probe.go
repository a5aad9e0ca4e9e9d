package main

import (
	"fmt"

	"github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// The loops of internal/probe do nothing but what they measure: arithmetic on registers, loads, or loads and stores.

// probeWidth is what differs between the levels.
type probeWidth struct {
	name, needs string
	lanes       int // float32 numbers of a register
	sums        int // independent sums: enough to hide the latency of an FMA on two ports
	register    func(c *build.Context) reg.VecVirtual
}

var (
	probeYMM = probeWidth{"AVX2", "AVX2 and FMA", 8, 12, func(c *build.Context) reg.VecVirtual { return c.YMM() }}
	probeZMM = probeWidth{"AVX512", "AVX-512F", 16, 16, func(c *build.Context) reg.VecVirtual { return c.ZMM() }}
)

func (w probeWidth) bytes() int { return 4 * w.lanes }

func (w probeWidth) registers(c *build.Context, n int) []reg.VecVirtual {
	out := make([]reg.VecVirtual, n)
	for i := range out {
		out[i] = w.register(c)
	}
	return out
}

// clear sets registers to zero.
func (w probeWidth) clear(c *build.Context, rs []reg.VecVirtual) {
	for _, r := range rs {
		if w.lanes == 16 {
			c.VPXORD(r, r, r)
		} else {
			c.VPXOR(r, r, r)
		}
	}
}

// fold adds registers to the first by pairs.
func fold(rs []reg.VecVirtual, add func(from, to reg.VecVirtual)) {
	for n := len(rs); n > 1; n = (n + 1) / 2 {
		for i := range n / 2 {
			add(rs[n-1-i], rs[i])
		}
	}
}

func counted(c *build.Context, n reg.Register, body func()) {
	c.Label("loop")
	body()
	c.DECQ(n)
	c.JNZ(operand.LabelRef("loop"))
}

func probeFMA(w probeWidth) func(*build.Context) {
	return func(c *build.Context) {
		begin(c, "fma"+w.name, "func(n int, a float32, b float32, sums *float32)",
			fmt.Sprintf("fma%s repeats x = x*a + b on %d registers of %d numbers that begin at 0, n >= 1 times, and stores the %d sums of", w.name, w.sums, w.lanes, w.lanes),
			"the registers. Needs "+w.needs+".")
		n, out := param(c, "n"), param(c, "sums")
		scalar := [2]reg.VecVirtual{c.XMM(), c.XMM()}
		c.Load(c.Param("a"), scalar[0])
		c.Load(c.Param("b"), scalar[1])
		ab := w.registers(c, 2)
		for i, r := range ab {
			c.VBROADCASTSS(scalar[i], r)
		}
		acc := w.registers(c, w.sums)
		w.clear(c, acc)
		counted(c, n, func() {
			for _, r := range acc {
				c.VFMADD213PS(ab[1], ab[0], r)
			}
		})
		fold(acc, func(from, to reg.VecVirtual) { c.VADDPS(from, to, to) })
		c.VMOVUPS(acc[0], at(out, 0))
		c.VZEROUPPER()
		c.RET()
	}
}

func probeDot8(c *build.Context) {
	w := probeZMM
	begin(c, "dot8VNNI", "func(n int, quads uint32, sums *int32)",
		fmt.Sprintf("dot8VNNI adds the dot product of the four bytes of quads with themselves to each number of %d registers of 16, n >= 1 times, and", w.sums),
		"stores the 16 sums of the registers. Needs AVX-512F and AVX512-VNNI.")
	n, out := param(c, "n"), param(c, "sums")
	quads := c.GP32()
	c.Load(c.Param("quads"), quads)
	x, acc := w.register(c), w.registers(c, w.sums)
	c.VPBROADCASTD(quads, x)
	w.clear(c, acc)
	counted(c, n, func() {
		for _, r := range acc {
			c.VPDPBUSD(x, x, r)
		}
	})
	fold(acc, func(from, to reg.VecVirtual) { c.VPADDD(from, to, to) })
	c.VMOVUPS(acc[0], at(out, 0))
	c.VZEROUPPER()
	c.RET()
}

// probeDotBF16 has its sums in registers 0 to 15 and its operands in two of the others.
func probeDotBF16(c *build.Context) {
	const sums, x, y = 16, 30, 23
	z := [32]reg.VecPhysical{reg.Z0, reg.Z1, reg.Z2, reg.Z3, reg.Z4, reg.Z5, reg.Z6, reg.Z7, reg.Z8, reg.Z9, reg.Z10, reg.Z11, reg.Z12, reg.Z13, reg.Z14,
		reg.Z15, x: reg.Z30, y: reg.Z23}
	begin(c, "dotBF16", "func(n int, pair uint32, sums *float32)",
		fmt.Sprintf("dotBF16 adds the dot product of the two bfloat16 of pair with themselves to each number of %d registers of 16, n >= 1 times,", sums),
		"and stores the 16 sums of the registers. Needs AVX-512F and AVX512-BF16.")
	n, out := param(c, "n"), param(c, "sums")
	pair := c.GP32()
	c.Load(c.Param("pair"), pair)
	c.VPBROADCASTD(pair, z[x])
	c.VPBROADCASTD(pair, z[y])
	for i := range sums {
		c.VPXORD(z[i], z[i], z[i])
	}
	counted(c, n, func() {
		for i := range sums {
			dotBF16(c, x, y, i)
		}
	})
	for width := sums / 2; width > 0; width /= 2 {
		for i := range width {
			c.VADDPS(z[i+width], z[i], z[i])
		}
	}
	c.VMOVUPS(z[0], at(out, 0))
	c.VZEROUPPER()
	c.RET()
}

// probeBlock is how many bytes a round of the loops over memory takes.
const probeBlock = 512

func probeRead(w probeWidth) func(*build.Context) {
	return func(c *build.Context) {
		begin(c, "read"+w.name, "func(n int, p *byte, sums *uint64)",
			fmt.Sprintf("read%s stores %d sums of the 64-bit numbers of n >= 1 blocks of %d bytes. Needs %s.", w.name, w.lanes/2, probeBlock, w.needs))
		n, p, out := param(c, "n"), param(c, "p"), param(c, "sums")
		acc := w.registers(c, 8)
		w.clear(c, acc)
		counted(c, n, func() {
			for i := range probeBlock / w.bytes() {
				r := acc[i%len(acc)]
				c.VPADDQ(at(p, i*w.bytes()), r, r)
			}
			c.ADDQ(operand.U32(probeBlock), p)
		})
		fold(acc, func(from, to reg.VecVirtual) { c.VPADDQ(from, to, to) })
		c.VMOVUPS(acc[0], at(out, 0))
		c.VZEROUPPER()
		c.RET()
	}
}

func probeCopy(w probeWidth) func(*build.Context) {
	return func(c *build.Context) {
		begin(c, "stream"+w.name, "func(n int, dst *byte, src *byte)",
			fmt.Sprintf("stream%s copies n >= 1 blocks of %d bytes past the caches. dst is aligned to %d bytes. Needs %s.", w.name, probeBlock, w.bytes(), w.needs))
		n, dst, src := param(c, "n"), param(c, "dst"), param(c, "src")
		regs := w.registers(c, 8)
		counted(c, n, func() {
			for from := 0; from < probeBlock; from += 8 * w.bytes() {
				for i, r := range regs {
					c.VMOVUPS(at(src, from+i*w.bytes()), r)
				}
				for i, r := range regs {
					c.VMOVNTPS(r, at(dst, from+i*w.bytes()))
				}
			}
			c.ADDQ(operand.U32(probeBlock), src)
			c.ADDQ(operand.U32(probeBlock), dst)
		})
		c.SFENCE()
		c.VZEROUPPER()
		c.RET()
	}
}
