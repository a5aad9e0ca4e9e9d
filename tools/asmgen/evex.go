package main

import (
	"github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/ir"
	"github.com/mmcloughlin/avo/operand"
)

// dotBF16 emits VDPBF16PS Za, Zb, Zdst, which neither avo nor Go's assembler knows, as bytes: each number of Zdst += the two products of
// pairs of bfloat16 of Za and Zb. The registers are numbers 0 to 31; avo does not see them, so a function that uses this names all of
// its vector registers itself.
func dotBF16(c *build.Context, a, b, dst int) {
	var v [6]uint32
	for i, b := range encodeDotBF16(a, b, dst) {
		v[i] = uint32(b)
	}
	c.Instruction(&ir.Instruction{Opcode: "LONG", Operands: []operand.Op{operand.U32(v[0] | v[1]<<8 | v[2]<<16 | v[3]<<24)}})
	c.Instruction(&ir.Instruction{Opcode: "WORD", Operands: []operand.Op{operand.U16(v[4] | v[5]<<8)}})
}

func encodeDotBF16(a, b, dst int) []byte {
	inverted := func(n, bit int) int { return 1 - n>>bit&1 }
	var out []byte
	for _, v := range []int{
		0x62, // EVEX
		inverted(dst, 3)<<7 | inverted(a, 4)<<6 | inverted(a, 3)<<5 | inverted(dst, 4)<<4 | 0b010, // map 0F38
		(^b&15)<<3 | 1<<2 | 0b10,    // W0, prefix F3
		0b10<<5 | inverted(b, 4)<<3, // 512 bits, no mask
		0x52,
		0b11<<6 | dst&7<<3 | a&7,
	} {
		out = append(out, byte(v))
	}
	return out
}
