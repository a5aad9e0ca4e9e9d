package main

import (
	"fmt"

	"github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/operand"
)

// widenRows emits the conversion of rows of 16-bit floats, the ones below fetched ahead.
func (f flash) widenRows(kind string) func(*build.Context) {
	return func(c *build.Context) {
		name, needs := "widenRows"+kind+f.suffix, f.needs
		if kind == "F16" {
			needs += " and F16C"
		}
		begin(c, name, "func(rows int, blocks int, dst *float32, ldd int, src *uint16, lds int)",
			fmt.Sprintf("%s sets dst[r*ldd+i], r < rows, i < %d*blocks, to the value of src[r*lds+i]. rows, blocks >= 1. Needs %s.", name, f.lanes, needs))
		rows, blocks, dst, ldd := param(c, "rows"), param(c, "blocks"), param(c, "dst"), param(c, "ldd")
		src, lds := param(c, "src"), param(c, "lds")
		c.SHLQ(operand.U8(2), ldd)
		c.SHLQ(operand.U8(1), lds)
		from, to, n, x := c.GP64(), c.GP64(), c.GP64(), f.vector(c)
		c.Label("row")
		c.MOVQ(src, from)
		c.MOVQ(dst, to)
		c.MOVQ(blocks, n)
		c.Label("block")
		if kind == "F16" {
			c.VCVTPH2PS(at(from, 0), x)
		} else {
			c.VPMOVZXWD(at(from, 0), x)
			c.VPSLLD(operand.U8(16), x, x)
		}
		c.PREFETCHT0(operand.Mem{Base: from, Index: lds, Scale: 8})
		c.VMOVUPS(x, at(to, 0))
		c.ADDQ(operand.U8(2*f.lanes), from)
		c.ADDQ(operand.U8(4*f.lanes), to)
		c.DECQ(n)
		c.JNZ(operand.LabelRef("block"))
		c.ADDQ(lds, src)
		c.ADDQ(ldd, dst)
		c.DECQ(rows)
		c.JNZ(operand.LabelRef("row"))
		c.VZEROUPPER()
		c.RET()
	}
}
