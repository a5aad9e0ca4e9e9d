package main

import (
	"github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

func cpuid(c *build.Context) {
	begin(c, "cpuid", "func(leaf uint32, word *[3]uint32)",
		"cpuid writes EBX, EDX and ECX of a leaf (subleaf 0), the order in which leaf 0 spells the maker's name.")
	word := param(c, "word")
	c.Load(c.Param("leaf"), reg.EAX)
	c.XORL(reg.ECX, reg.ECX)
	c.CPUID()
	for i, r := range []reg.Register{reg.EBX, reg.EDX, reg.ECX} {
		c.MOVL(r, operand.Mem{Base: word, Disp: 4 * i})
	}
	c.RET()
}
