package main

import (
	"fmt"

	"github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// Rows of w are prefetched at the same place of the next four rows, if these begin at most dotsNext bytes on: shorter rows end before
// what is asked for within them comes. Else dotsAhead bytes ahead of the loads, beyond the end of the processor's own view of a page.
const (
	dotsAhead = 1024
	dotsNext  = 16 << 10
)

// rowDots emits the inner products of 1, 2 or 4 rows of x with four rows of w, whose elements of size bytes load makes float32.
func rowDots(c *build.Context, name, element, what string, size int, load func(m operand.Mem, mask reg.Register, r reg.VecVirtual)) {
	begin(c, name, fmt.Sprintf("func(m, n int, x *float32, ldx int, w *%s, ldw int, out *float32)", element),
		fmt.Sprintf("%s sets out[4*i+r] to the sum of x[i*ldx+k]*w[r*ldw+k], k < n, for i < m and r < 4; w is %s. m is 1, 2 or 4,", name, what),
		"n at least 1.",
		"Needs AVX-512F and BMI2.")
	m, n, x, ldx := param(c, "m"), param(c, "n"), param(c, "x"), param(c, "ldx")
	w, ldw := param(c, "w"), param(c, "ldw")
	c.SHLQ(operand.U8(2), ldx)
	c.IMUL3Q(operand.U8(size), ldw, ldw)
	threeX, threeW, bits, tail := c.GP64(), c.GP64(), c.GP64(), c.K()
	c.LEAQ(operand.Mem{Base: ldx, Index: ldx, Scale: 2}, threeX)
	c.LEAQ(operand.Mem{Base: ldw, Index: ldw, Scale: 2}, threeW)
	// The last step has 1 to 16 elements; the others go first.
	steps := c.GP64()
	c.LEAQ(at(n, -1), steps)
	c.MOVQ(steps, bits)
	c.SHRQ(operand.U8(4), steps)
	c.ANDQ(operand.U8(15), bits)
	c.INCQ(bits)
	ones := c.GP64()
	c.MOVQ(operand.I32(-1), ones)
	c.BZHIQ(bits, ones, ones)
	c.KMOVW(ones.As32(), tail)
	next := c.GP64()
	c.LEAQ(operand.Mem{Base: threeW, Index: ldw, Scale: 1}, next)
	c.CMPQ(next, operand.I32(dotsNext))
	c.JLE(operand.LabelRef("ahead"))
	c.MOVQ(operand.I32(dotsAhead), next)
	c.Label("ahead")
	c.ADDQ(w, next)
	rowX, rowW, rowNext := fourRows(x, ldx, threeX), fourRows(w, ldw, threeW), fourRows(next, ldw, threeW)
	for _, rows := range []int{4, 2, 1} {
		other := fmt.Sprintf("not%d", rows)
		c.CMPQ(m, operand.U8(rows))
		c.JNE(operand.LabelRef(other))
		dotsOf(c, rows, size, x, w, next, steps, tail, rowX, rowW, rowNext, load)
		c.Label(other)
	}
	c.RET()
}

func dotsOf(c *build.Context, rows, size int, x, w, next, steps reg.GPVirtual, tail reg.OpmaskVirtual, rowX, rowW, rowNext func(r, disp int) operand.Mem,
	load func(m operand.Mem, mask reg.Register, r reg.VecVirtual)) {
	acc := make([][4]reg.VecVirtual, rows)
	for i := range acc {
		for r := range acc[i] {
			acc[i][r] = c.ZMM()
			c.VPXORD(acc[i][r], acc[i][r], acc[i][r])
		}
	}
	step := func(mask reg.Register) {
		var v [4]reg.VecVirtual
		for r := range v {
			v[r] = c.ZMM()
			load(rowW(r, 0), mask, v[r])
		}
		for i := range acc {
			xs := c.ZMM()
			if mask == nil {
				c.VMOVUPS(rowX(i, 0), xs)
			} else {
				c.VMOVUPS_Z(rowX(i, 0), mask, xs)
			}
			for r := range v {
				c.VFMADD231PS(v[r], xs, acc[i][r])
			}
		}
	}
	loop, last := fmt.Sprintf("loop%d", rows), fmt.Sprintf("last%d", rows)
	c.TESTQ(steps, steps)
	c.JZ(operand.LabelRef(last))
	c.Label(loop)
	for r := range 4 {
		c.PREFETCHT0(rowNext(r, 0))
	}
	step(nil)
	c.ADDQ(operand.U8(64), x)
	c.ADDQ(operand.U8(16*size), w)
	c.ADDQ(operand.U8(16*size), next)
	c.DECQ(steps)
	c.JNZ(operand.LabelRef(loop))
	c.Label(last)
	step(tail)
	out := param(c, "out")
	for i := range acc {
		c.VMOVUPS(sumsOfFour(c, acc[i]), at(out, 16*i))
	}
	c.VZEROUPPER()
	c.RET()
}

// sumsOfFour leaves the sum of each of four registers in an element of the result.
func sumsOfFour(c *build.Context, a [4]reg.VecVirtual) reg.Register {
	var pair [2]reg.VecVirtual
	for i := range pair {
		low, high := c.ZMM(), c.ZMM()
		c.VUNPCKLPS(a[2*i+1], a[2*i], low)
		c.VUNPCKHPS(a[2*i+1], a[2*i], high)
		c.VADDPS(high, low, low)
		pair[i] = low
	}
	low, high := c.ZMM(), c.ZMM()
	c.VUNPCKLPD(pair[1], pair[0], low)
	c.VUNPCKHPD(pair[1], pair[0], high)
	c.VADDPS(high, low, low)
	c.VEXTRACTF64X4(operand.U8(1), low, high.AsY())
	c.VADDPS(high.AsY(), low.AsY(), low.AsY())
	c.VEXTRACTF128(operand.U8(1), low.AsY(), high.AsX())
	c.VADDPS(high.AsX(), low.AsX(), low.AsX())
	return low.AsX()
}

func dotsF32(c *build.Context) {
	rowDots(c, "dotsF32AVX512", "float32", "float32", 4, func(m operand.Mem, mask reg.Register, r reg.VecVirtual) {
		if mask == nil {
			c.VMOVUPS(m, r)
			return
		}
		c.VMOVUPS_Z(m, mask, r)
	})
}

func dotsBF16(c *build.Context) {
	rowDots(c, "dotsBF16AVX512", "uint16", "bfloat16", 2, func(m operand.Mem, mask reg.Register, r reg.VecVirtual) {
		if mask == nil {
			c.VPMOVZXWD(m, r)
		} else {
			c.VPMOVZXWD_Z(m, mask, r)
		}
		c.VPSLLD(operand.U8(16), r, r)
	})
}

func dotsF16(c *build.Context) {
	rowDots(c, "dotsF16AVX512", "uint16", "binary16", 2, func(m operand.Mem, mask reg.Register, r reg.VecVirtual) {
		if mask == nil {
			c.VCVTPH2PS(m, r)
			return
		}
		c.VCVTPH2PS_Z(m, mask, r)
	})
}
