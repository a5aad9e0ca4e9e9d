package main

import (
	"fmt"
	"strings"

	"github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// tiles emits a transposition of tiles in registers, one after another along rows of src that are lds bytes apart. read loads all rows,
// turn makes a register of each column, store writes one.
func tiles(c *build.Context, name string, rows, cols, elem int, needs string, read func(next func() operand.Mem) []reg.VecVirtual,
	turn func(r []reg.VecVirtual) []reg.VecVirtual, store func(x reg.VecVirtual, k int, dst operand.Mem)) {
	begin(c, name, "func(tiles int, dst *byte, ldd int, src *byte, lds int)",
		fmt.Sprintf("%s turns %d rows of %d*tiles elements of %d bytes: dst[k][r] = src[r][k]. Strides are in bytes. Needs %s.",
			name, rows, cols, elem, needs))
	n, dst, ldd, src, lds := param(c, "tiles"), param(c, "dst"), param(c, "ldd"), param(c, "src"), param(c, "lds")
	loop(c, "tile", n, 1, func() {
		p := c.GP64()
		c.MOVQ(src, p)
		first := true
		next := func() operand.Mem {
			if !first {
				c.ADDQ(lds, p)
			}
			first = false
			c.PREFETCHT0(at(p, transposeAhead))
			return at(p, 0)
		}
		for k, x := range turn(read(next)) {
			store(x, k, at(dst, 0))
			c.ADDQ(ldd, dst)
		}
		c.ADDQ(operand.I32(cols*elem), src)
	})
	if strings.Contains(name, "Stream") {
		c.SFENCE()
	}
	c.VZEROUPPER()
	c.RET()
}

func transposeTiles(c *build.Context) {
	whole := func(x reg.VecVirtual, _ int, dst operand.Mem) { c.VMOVUPS(x, dst) }
	past := func(x reg.VecVirtual, _ int, dst operand.Mem) { c.VMOVNTPS(x, dst) }
	turn16 := func(r []reg.VecVirtual) []reg.VecVirtual { return transpose16(c, r) }
	rows := func(n int, vector func() reg.VecVirtual) func(next func() operand.Mem) []reg.VecVirtual {
		return func(next func() operand.Mem) (r []reg.VecVirtual) {
			for range n {
				x := vector()
				c.VMOVUPS(next(), x)
				r = append(r, x)
			}
			return r
		}
	}
	ymm, zmm := func() reg.VecVirtual { return c.YMM() }, func() reg.VecVirtual { return c.ZMM() }
	const lines = "AVX-512, dst and ldd multiples of 64"
	tiles(c, "transpose32AVX2", 8, 8, 4, "AVX2", rows(8, ymm), func(r []reg.VecVirtual) []reg.VecVirtual {
		out := transpose8(c, [8]reg.VecVirtual(r))
		return out[:]
	}, whole)
	tiles(c, "transpose32AVX512", 16, 16, 4, "AVX-512", rows(16, zmm), turn16, whole)
	tiles(c, "transpose32StreamAVX512", 16, 16, 4, lines, rows(16, zmm), turn16, past)
	tiles(c, "transpose16AVX2", 8, 16, 2, "AVX2", rows(8, ymm), func(r []reg.VecVirtual) []reg.VecVirtual { return transposeWords(c, r) },
		func(x reg.VecVirtual, k int, dst operand.Mem) { // columns 0 to 7 in the lower halves, 8 to 15 in the upper ones
			if k < 8 {
				c.VMOVDQU(x.AsX(), dst)
			} else {
				c.VEXTRACTI128(operand.U8(1), x, dst)
			}
		})
	pairs := func(next func() operand.Mem) []reg.VecVirtual { return wordPairs(c, next) }
	tiles(c, "transpose16AVX512", 32, 16, 2, "AVX-512", pairs, turn16, whole)
	tiles(c, "transpose16StreamAVX512", 32, 16, 2, lines, pairs, turn16, past)
}

// wordPairs loads 32 rows of 16-bit elements as 16 rows of pairs, each of one column of two rows: elements of 32 bits.
func wordPairs(c *build.Context, next func() operand.Mem) (r []reg.VecVirtual) {
	for range 16 {
		low, high := c.ZMM(), c.ZMM()
		c.VPMOVZXWD(next(), low)
		c.VPMOVZXWD(next(), high)
		c.VPSLLD(operand.U8(16), high, high)
		c.VPORD(high, low, low)
		r = append(r, low)
	}
	return r
}

// transpose16 transposes a 16x16 matrix of 32-bit elements: within blocks of four by unpacking, then the blocks.
func transpose16(c *build.Context, r []reg.VecVirtual) []reg.VecVirtual {
	two := func(f func(...operand.Op), a, b reg.VecVirtual) reg.VecVirtual {
		z := c.ZMM()
		f(b, a, z)
		return z
	}
	blocks := func(order uint8, a, b reg.VecVirtual) reg.VecVirtual {
		z := c.ZMM()
		c.VSHUFF32X4(operand.U8(order), b, a, z)
		return z
	}
	u := make([]reg.VecVirtual, 16) // u[4g+j]: in block l, column 4l+j of rows 4g to 4g+3
	for g := 0; g < 16; g += 4 {
		lo0, hi0 := two(c.VUNPCKLPS, r[g], r[g+1]), two(c.VUNPCKHPS, r[g], r[g+1])
		lo1, hi1 := two(c.VUNPCKLPS, r[g+2], r[g+3]), two(c.VUNPCKHPS, r[g+2], r[g+3])
		u[g], u[g+1] = two(c.VUNPCKLPD, lo0, lo1), two(c.VUNPCKHPD, lo0, lo1)
		u[g+2], u[g+3] = two(c.VUNPCKLPD, hi0, hi1), two(c.VUNPCKHPD, hi0, hi1)
	}
	const even, odd = 0x88, 0xdd // blocks 0 and 2, 1 and 3, of both operands
	out := make([]reg.VecVirtual, 16)
	for j := range 4 {
		top, bottom := blocks(even, u[j], u[4+j]), blocks(even, u[8+j], u[12+j])
		top1, bottom1 := blocks(odd, u[j], u[4+j]), blocks(odd, u[8+j], u[12+j])
		out[j], out[8+j] = blocks(even, top, bottom), blocks(odd, top, bottom)
		out[4+j], out[12+j] = blocks(even, top1, bottom1), blocks(odd, top1, bottom1)
	}
	return out
}

// transposeWords transposes two 8x8 matrices of 16-bit elements, in the lower and the upper halves of eight registers, and returns the
// result twice: what is stored of each is up to the caller.
func transposeWords(c *build.Context, r []reg.VecVirtual) []reg.VecVirtual {
	two := func(f func(...operand.Op), a, b reg.VecVirtual) reg.VecVirtual {
		z := c.YMM()
		f(b, a, z)
		return z
	}
	var quad [2][4]reg.VecVirtual // columns 2i and 2i+1 of four rows
	for h := range quad {
		q := r[4*h:]
		lo0, hi0 := two(c.VPUNPCKLWD, q[0], q[1]), two(c.VPUNPCKHWD, q[0], q[1])
		lo1, hi1 := two(c.VPUNPCKLWD, q[2], q[3]), two(c.VPUNPCKHWD, q[2], q[3])
		quad[h] = [4]reg.VecVirtual{two(c.VPUNPCKLDQ, lo0, lo1), two(c.VPUNPCKHDQ, lo0, lo1), two(c.VPUNPCKLDQ, hi0, hi1), two(c.VPUNPCKHDQ, hi0, hi1)}
	}
	var out []reg.VecVirtual
	for i := range 4 {
		out = append(out, two(c.VPUNPCKLQDQ, quad[0][i], quad[1][i]), two(c.VPUNPCKHQDQ, quad[0][i], quad[1][i]))
	}
	return append(out, out...)
}
