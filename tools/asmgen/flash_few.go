package main

import (
	"fmt"

	"github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// dots emits the scores of one query: keys are read once, four at a time, so that one reduction serves four sums.
func (f flash) dots(c *build.Context) {
	begin(c, "dots"+f.suffix, "func(keys int, blocks int, k *float32, ldk int, q *float32, out *float32, ahead *float32, share int)",
		fmt.Sprintf("dots%s sets out[j], j < keys, to the sum of k[j*ldk+i]*q[i], i < %d*blocks, blocks >= 1,", f.suffix, f.lanes),
		fmt.Sprintf("and fetches into the cache, from ahead on, share bytes for each %d it reads. Needs %s.", 4*f.lanes, f.needs))
	keys, blocks, k, ldk := param(c, "keys"), param(c, "blocks"), param(c, "k"), param(c, "ldk")
	q, out := param(c, "q"), param(c, "out")
	ahead, share := param(c, "ahead"), param(c, "share")
	c.SHLQ(operand.U8(2), ldk)
	c.SHLQ(operand.U8(2), share)
	three := c.GP64()
	c.LEAQ(operand.Mem{Base: ldk, Index: ldk, Scale: 2}, three)
	p, pq, n := c.GP64(), c.GP64(), c.GP64()
	group := func(label string, width int, store func(acc []reg.VecVirtual)) {
		c.Label(label)
		c.CMPQ(keys, operand.U8(width))
		c.JLT(operand.LabelRef(label + "done"))
		c.MOVQ(k, p)
		c.MOVQ(q, pq)
		c.MOVQ(blocks, n)
		acc := make([]reg.VecVirtual, width)
		for i := range acc {
			acc[i] = f.vector(c)
			f.zero(c, acc[i])
		}
		x := f.vector(c)
		c.Label(label + "block")
		c.VMOVUPS(at(pq, 0), x)
		for i := range acc {
			m := []operand.Mem{at(p, 0), indexed(p, ldk), {Base: p, Index: ldk, Scale: 2}, indexed(p, three)}[i]
			c.VFMADD231PS(m, x, acc[i])
		}
		if width > 1 {
			for line := 0; line < width*4*f.lanes; line += 64 {
				c.PREFETCHT0(at(ahead, line))
			}
			c.ADDQ(share, ahead)
		}
		c.ADDQ(operand.I32(4*f.lanes), p)
		c.ADDQ(operand.I32(4*f.lanes), pq)
		c.DECQ(n)
		c.JNZ(operand.LabelRef(label + "block"))
		store(acc)
		c.ADDQ(operand.U8(4*width), out)
		for range width {
			c.ADDQ(ldk, k)
		}
		c.SUBQ(operand.U8(width), keys)
		c.JMP(operand.LabelRef(label))
		c.Label(label + "done")
	}
	group("four", 4, func(acc []reg.VecVirtual) { c.VMOVUPS(f.sumFour(c, acc), at(out, 0)) })
	group("one", 1, func(acc []reg.VecVirtual) {
		c.VMOVSS(sum(c, []reg.VecVirtual{f.half(c, acc[0])}), at(out, 0))
	})
	c.VZEROUPPER()
	c.RET()
}

// half adds the upper half of a register of 16 to the lower.
func (f flash) half(c *build.Context, r reg.VecVirtual) reg.VecVirtual {
	if f.lanes == 8 {
		return r
	}
	y := c.YMM()
	c.VEXTRACTF64X4(operand.U8(1), r, y)
	c.VADDPS(r.AsY(), y, y)
	return y
}

// sumFour returns the sums of four registers in the lanes of one.
func (f flash) sumFour(c *build.Context, acc []reg.VecVirtual) reg.Register {
	var y [4]reg.VecVirtual
	for i := range y {
		y[i] = f.half(c, acc[i])
	}
	c.VHADDPS(y[1], y[0], y[0])
	c.VHADDPS(y[3], y[2], y[2])
	c.VHADDPS(y[2], y[0], y[0])
	x := c.XMM()
	c.VEXTRACTF128(operand.U8(1), y[0], x)
	c.VADDPS(y[0].AsX(), x, x)
	return x
}

// weigh emits the weighted sum of values for one query, up to eight registers wide at a time.
func (f flash) weigh(c *build.Context) {
	begin(c, "weigh"+f.suffix, "func(keys int, blocks int, v *float32, ldv int, p *float32, out *float32, ahead *float32, share int)",
		fmt.Sprintf("weigh%s adds to out[i], i < %d*blocks, the sum of p[j]*v[j*ldv+i], j < keys, keys >= 1,", f.suffix, f.lanes),
		fmt.Sprintf("and fetches into the cache, from ahead on, share bytes for each %d it reads. Needs %s.", 4*f.lanes, f.needs))
	keys, blocks, v, ldv := param(c, "keys"), param(c, "blocks"), param(c, "v"), param(c, "ldv")
	p, out := param(c, "p"), param(c, "out")
	c.SHLQ(operand.U8(2), ldv)
	ahead, share := param(c, "ahead"), param(c, "share")
	row, pp, n, step := c.GP64(), c.GP64(), c.GP64(), c.GP64()
	for _, width := range []int{8, 4, 1} {
		label := fmt.Sprintf("wide%d", width)
		c.Label(label)
		c.CMPQ(blocks, operand.U8(width))
		c.JLT(operand.LabelRef(label + "done"))
		acc := make([]reg.VecVirtual, width)
		for i := range acc {
			acc[i] = f.vector(c)
			c.VMOVUPS(at(out, 4*f.lanes*i), acc[i])
		}
		c.MOVQ(v, row)
		c.MOVQ(p, pp)
		c.MOVQ(keys, n)
		c.IMUL3Q(operand.U8(width), share, step)
		x := f.vector(c)
		if width == 1 {
			f.quads(c, acc[0], n, row, ldv, pp, ahead, step)
			c.TESTQ(n, n)
			c.JZ(operand.LabelRef(label + "store"))
		}
		c.Label(label + "key")
		c.VBROADCASTSS(at(pp, 0), x)
		for i := range acc {
			c.VFMADD231PS(at(row, 4*f.lanes*i), x, acc[i])
			if 4*f.lanes*i%64 == 0 {
				c.PREFETCHT0(at(ahead, 4*f.lanes*i))
			}
		}
		c.ADDQ(step, ahead)
		c.ADDQ(ldv, row)
		c.ADDQ(operand.U8(4), pp)
		c.DECQ(n)
		c.JNZ(operand.LabelRef(label + "key"))
		c.Label(label + "store")
		for i := range acc {
			c.VMOVUPS(acc[i], at(out, 4*f.lanes*i))
		}
		c.ADDQ(operand.I32(4*f.lanes*width), v)
		c.ADDQ(operand.I32(4*f.lanes*width), out)
		c.SUBQ(operand.U8(width), blocks)
		c.JMP(operand.LabelRef(label))
		c.Label(label + "done")
	}
	c.VZEROUPPER()
	c.RET()
}

// quads takes four keys at a time into sums of their own, so that none waits for the one before: narrow heads have one register.
func (f flash) quads(c *build.Context, acc reg.VecVirtual, n, row, ldv, p, ahead, step reg.GPVirtual) {
	three := c.GP64()
	c.LEAQ(operand.Mem{Base: ldv, Index: ldv, Scale: 2}, three)
	sums := []reg.VecVirtual{acc, f.vector(c), f.vector(c), f.vector(c)}
	for _, s := range sums[1:] {
		f.zero(c, s)
	}
	x := f.vector(c)
	loop(c, "quad", n, 4, func() {
		c.PREFETCHT0(at(ahead, 0))
		for i, s := range sums {
			c.VBROADCASTSS(at(p, 4*i), x)
			c.VFMADD231PS([]operand.Mem{at(row, 0), indexed(row, ldv), {Base: row, Index: ldv, Scale: 2}, indexed(row, three)}[i], x, s)
		}
		c.LEAQ(operand.Mem{Base: row, Index: ldv, Scale: 4}, row)
		c.LEAQ(operand.Mem{Base: ahead, Index: step, Scale: 4}, ahead)
		c.ADDQ(operand.U8(16), p)
	})
	c.VADDPS(sums[1], sums[0], sums[0])
	c.VADDPS(sums[3], sums[2], sums[2])
	c.VADDPS(sums[2], sums[0], acc)
}
