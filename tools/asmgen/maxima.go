package main

import (
	"fmt"

	"github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// maxima finds the largest magnitude of each block, as bits: those of 16-bit floats are compared without being widened.
func maxima(c *build.Context) {
	for _, kind := range elements {
		lanes := 32 / kind.size
		name := "maxima" + kind.name + "AVX2"
		begin(c, name, fmt.Sprintf("func(blocks int, n int, largest *float32, x *%s)", kind.goType),
			name+" sets largest[b] to the largest of the bit patterns of |x[b*n+i]|, i < n, as a float32; a NaN is the largest.",
			fmt.Sprintf("n is a multiple of %d and neither is 0. Needs AVX2.", lanes))
		blocks, n, largest, x := param(c, "blocks"), param(c, "n"), param(c, "largest"), param(c, "x")
		and, most, ones := c.YMM(), c.VPMAXUD, c.XMM()
		broadcastBits(c, 0x7fffffff, and)
		if kind.size == 2 {
			broadcastBits(c, 0x7fff7fff, and)
			most = c.VPMAXUW
			c.VPCMPEQD(ones, ones, ones)
		}
		left := c.GP64()
		c.Label("block")
		acc := zeros(c, 4)
		c.MOVQ(n, left)
		for _, vectors := range []int{4, 1} {
			loop(c, fmt.Sprintf("by%d", vectors), left, vectors*lanes, func() {
				for i := range vectors {
					v := c.YMM()
					c.VPAND(at(x, 32*i), and, v)
					most(v, acc[i], acc[i])
				}
				c.ADDQ(operand.I32(32*vectors), x)
			})
		}
		most(acc[1], acc[0], acc[0])
		most(acc[3], acc[2], acc[2])
		most(acc[2], acc[0], acc[0])
		low, half := acc[0].AsX(), c.XMM()
		c.VEXTRACTI128(operand.U8(1), acc[0], half)
		most(half, low, low)
		reduceMaxima(c, kind, low, half, ones)
		c.VMOVD(low, at(largest, 0))
		c.ADDQ(operand.U8(4), largest)
		c.DECQ(blocks)
		c.JNZ(operand.LabelRef("block"))
		c.VZEROUPPER()
		c.RET()
	}
}

// reduceMaxima leaves the largest of the lanes of x in lane 0, as a float32.
func reduceMaxima(c *build.Context, kind element, x, t, ones reg.Register) {
	switch kind.name {
	case "F32":
		for _, order := range []uint8{0x4e, 0xb1} {
			c.VPSHUFD(operand.U8(order), x, t)
			c.VPMAXUD(t, x, x)
		}
		return
	}
	// There is an instruction for the least of eight.
	c.VPXOR(ones, x, x)
	c.VPHMINPOSUW(x, x)
	c.VPXOR(ones, x, x)
	if kind.name == "F16" {
		c.VCVTPH2PS(x, x)
	} else {
		c.VPSLLD(operand.U8(16), x, x)
	}
}
