package main

import (
	"fmt"

	"github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// 4-bit codes are found without a search of memory. With AVX-512 a value's bucket, one of 31 (NF4) or 16 (FP4, of magnitudes) of equal
// width, selects by permutation of registers its threshold, of which no bucket holds two, and the codes on its sides. With AVX2, whose
// permutations have 8 lanes, three or four comparisons walk down a tree of thresholds. quant.vectors4 makes the tables.

// coder4 returns the codes of elements x, given their products q with the reciprocal.
type coder4 func(x, q reg.VecVirtual) (codes reg.VecVirtual)

// packer4 stores registers of codes, one a lane, as nibbles.
type packer4 func(parts []reg.VecVirtual, dst operand.Mem)

// encode4 emits a function for each kind of element: steps are how many elements a round of its loops does, multiples of 32.
func encode4(c *build.Context, name string, steps []int, vector func() reg.VecVirtual, prepare func(table reg.GPVirtual) (coder4, packer4)) {
	for _, kind := range elements {
		full := fmt.Sprintf(name, kind.name)
		begin(c, full, fmt.Sprintf("func(blocks int, n int, codes *byte, x *%s, r *float32, table *uint32)", kind.goType),
			full+" writes the codes of x[b*n+i]*r[b] for b < blocks and i < n, two to a byte with the first in the upper half;",
			"n is a multiple of 32 and neither is 0. r are reciprocals of scales for which PlainScale holds.")
		blocks, n, codes, x, r := param(c, "blocks"), param(c, "n"), param(c, "codes"), param(c, "x"), param(c, "r")
		code, pack := prepare(param(c, "table"))
		scale, left := vector(), c.GP64()
		lanes := int(scale.Size()) / 4
		c.Label("block")
		c.VBROADCASTSS(at(r, 0), scale)
		c.ADDQ(operand.U8(4), r)
		c.MOVQ(n, left)
		for _, step := range steps {
			loop(c, fmt.Sprintf("by%d", step), left, step, func() {
				parts := make([]reg.VecVirtual, step/lanes)
				for line := 0; line < step*kind.size; line += 64 {
					c.PREFETCHT0(at(x, runElements*kind.size+line))
				}
				for i := range parts {
					v, q := vector(), vector()
					kind.load(c, at(x, lanes*kind.size*i), v)
					c.VMULPS(scale, v, q)
					parts[i] = code(v, q)
				}
				pack(parts, at(codes, 0))
				c.ADDQ(operand.I32(step*kind.size), x)
				c.ADDQ(operand.U8(step/2), codes)
			})
		}
		c.DECQ(blocks)
		c.JNZ(operand.LabelRef("block"))
		c.VZEROUPPER()
		c.RET()
	}
}

// Offsets in the tables for AVX-512, in bytes: thresholds and codes by bucket, and the order of pairs of bytes after packing.
const vectors4Codes, vectors4Order = 128, 256

// bucket4 finds a value's bucket: n buckets a unit, rounded to nearest by the addition of 3·2^22, whose sum has the number in its low
// bits. The product is exact before that, so buckets ascend with values.
type bucket4 struct {
	c            *build.Context
	width, magic reg.VecVirtual
}

func newBucket4(c *build.Context, perUnit uint32) bucket4 {
	b := bucket4{c, c.ZMM(), c.ZMM()}
	broadcastBits(c, perUnit, b.width)
	broadcastBits(c, 0x4b400000, b.magic)
	return b
}

func (b bucket4) of(q reg.VecVirtual) reg.VecVirtual {
	i := b.c.ZMM()
	b.c.VMOVAPS(q, i)
	b.c.VFMADD213PS(b.magic, b.width, i)
	return i
}

// load reads consecutive registers.
func load(c *build.Context, from reg.GPVirtual, disp, n int) []reg.VecVirtual {
	out := make([]reg.VecVirtual, n)
	for i := range out {
		out[i] = c.ZMM()
		c.VMOVDQU32(at(from, disp+64*i), out[i])
	}
	return out
}

func encodeNF4AVX512(c *build.Context) {
	encode4(c, "encodeNF4%sAVX512", []int{64, 32}, c.ZMM, func(table reg.GPVirtual) (coder4, packer4) {
		thresholds, counts := load(c, table, 0, 2), load(c, table, vectors4Codes, 2)
		bucket := newBucket4(c, 0x41766666) // 15.4
		return func(_, q reg.VecVirtual) reg.VecVirtual {
			code, t := bucket.of(q), c.ZMM()
			c.VMOVAPS(code, t)
			c.VPERMI2PS(thresholds[1], thresholds[0], t)
			c.VPERMI2D(counts[1], counts[0], code)
			c.VSUBPS(q, t, t) // negative where the value is above
			c.VPSRLD(operand.U8(31), t, t)
			c.VPADDD(t, code, code)
			return code
		}, packAVX512(c, table)
	})
}

// encodeFP4AVX512 sets the sign only where neither the element nor the product is zero or denormal.
func encodeFP4AVX512(c *build.Context) {
	encode4(c, "encodeFP4%sAVX512", []int{64, 32}, c.ZMM, func(table reg.GPVirtual) (coder4, packer4) {
		thresholds, codes := load(c, table, 0, 1)[0], load(c, table, vectors4Codes, 1)[0]
		bucket := newBucket4(c, 0x41700000) // 15
		abs, least, four, seven := c.ZMM(), c.ZMM(), c.ZMM(), c.ZMM()
		broadcastBits(c, 0x7fffffff, abs)
		broadcastBits(c, 1<<23, least)
		broadcastBits(c, 4, four)
		broadcastBits(c, 7, seven)
		return func(x, q reg.VecVirtual) reg.VecVirtual {
			a, t, code, small := c.ZMM(), c.ZMM(), c.ZMM(), c.ZMM()
			c.VPANDD(abs, q, a)
			i := bucket.of(a)
			c.VPERMPS(thresholds, i, t)
			c.VPERMD(codes, i, code)
			c.VSUBPS(a, t, t)
			c.VPSRLD(operand.U8(29), t, t)
			c.VPANDD(four, t, t)
			c.VPSRLVD(t, code, code) // the code below the threshold, or the other, 4 bits higher
			c.VPANDD(abs, x, small)
			c.VPMINUD(a, small, small)
			c.VPSUBD(least, small, small)
			c.VPANDND(q, small, small)
			c.VPSRLD(operand.U8(31), small, small)
			c.VPSLLD(operand.U8(3), small, small)
			c.VPTERNLOGD(operand.U8(0xf8), seven, code, small) // small | code&seven
			return small
		}, packAVX512(c, table)
	})
}

// packAVX512 packs four registers, or two. Packing interleaves their 128-bit lanes, so pairs of bytes are permuted at the end.
func packAVX512(c *build.Context, table reg.GPVirtual) packer4 {
	weights, order := c.ZMM(), c.YMM()
	broadcastBits(c, 0x01100110, weights) // 16 for the first of two codes, 1 for the second
	c.VMOVDQU32(at(table, vectors4Order), order)
	return func(parts []reg.VecVirtual, dst operand.Mem) {
		a := c.ZMM()
		c.VPACKUSDW(parts[1], parts[0], a)
		b := a
		if len(parts) == 4 {
			b = c.ZMM()
			c.VPACKUSDW(parts[3], parts[2], b)
		}
		c.VPACKUSWB(b, a, a)
		c.VPMADDUBSW(weights, a, a)
		bytes := c.YMM()
		c.VPMOVWB(a, bytes)
		c.VPERMW(bytes, order, bytes)
		if len(parts) == 4 {
			c.VMOVDQU32(bytes, dst)
		} else {
			c.VMOVDQU32(bytes.AsX(), dst)
		}
	}
}

// tree4 walks down a tree of thresholds whose levels follow one another in the table, and returns how many of them are below.
func tree4(c *build.Context, table reg.GPVirtual, levels int) func(q reg.VecVirtual) reg.VecVirtual {
	nodes := make([]reg.VecVirtual, levels)
	for i := range nodes {
		nodes[i] = c.YMM()
		c.VMOVUPS(at(table, 32*i), nodes[i])
	}
	return func(q reg.VecVirtual) reg.VecVirtual {
		path := c.YMM()
		c.VPXOR(path, path, path)
		for i, node := range nodes {
			above := c.YMM()
			if i == 0 {
				c.VCMPPS(operand.U8(1), q, node, above) // node < q
			} else {
				c.VPERMPS(node, path, above)
				c.VCMPPS(operand.U8(1), q, above, above)
				c.VPADDD(path, path, path)
			}
			c.VPSUBD(above, path, path)
		}
		return path
	}
}

func encodeNF4AVX2(c *build.Context) {
	encode4(c, "encodeNF4%sAVX2", []int{32}, c.YMM, func(table reg.GPVirtual) (coder4, packer4) {
		count := tree4(c, table, 4)
		return func(_, q reg.VecVirtual) reg.VecVirtual { return count(q) }, packAVX2(c)
	})
}

func encodeFP4AVX2(c *build.Context) {
	encode4(c, "encodeFP4%sAVX2", []int{32}, c.YMM, func(table reg.GPVirtual) (coder4, packer4) {
		count := tree4(c, table, 3)
		order, abs, least := c.YMM(), c.YMM(), c.YMM()
		c.VMOVUPS(at(table, 32*3), order)
		broadcastBits(c, 0x7fffffff, abs)
		broadcastBits(c, 1<<23, least)
		return func(x, q reg.VecVirtual) reg.VecVirtual {
			a, small := c.YMM(), c.YMM()
			c.VPAND(abs, q, a)
			code := count(a)
			c.VPERMD(order, code, code)
			c.VPAND(abs, x, small)
			c.VPMINUD(a, small, small)
			c.VPSUBD(least, small, small)
			c.VPANDN(q, small, small)
			c.VPSRLD(operand.U8(31), small, small)
			c.VPSLLD(operand.U8(3), small, small)
			c.VPOR(small, code, code)
			return code
		}, packAVX2(c)
	})
}

// packAVX2 packs four registers.
func packAVX2(c *build.Context) packer4 {
	weights := c.YMM()
	broadcastBits(c, 0x01100110, weights)
	return func(parts []reg.VecVirtual, dst operand.Mem) {
		a, b, high := c.YMM(), c.YMM(), c.XMM()
		c.VPACKUSDW(parts[1], parts[0], a)
		c.VPACKUSDW(parts[3], parts[2], b)
		c.VPACKUSWB(b, a, a)
		c.VPMADDUBSW(weights, a, a)
		c.VPACKUSWB(a, a, a)
		c.VEXTRACTI128(operand.U8(1), a, high)
		c.VPUNPCKLWD(high, a.AsX(), high) // pairs of bytes of the low and the high lanes in turn
		c.VMOVDQU(high, dst)
	}
}
