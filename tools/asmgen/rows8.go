package main

import (
	"fmt"
	"math"

	"github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// The loops of LLM.int8(): statistics and codes of a row of activations, values of a row of a product, and the share of outlier columns.

// width is a level as these loops see it.
type width struct {
	level  string
	lanes  int
	vector func() reg.VecVirtual
}

func eachWidth(c *build.Context, f func(w width, kind element)) {
	for _, w := range []width{{"AVX512", 16, c.ZMM}, {"AVX2", 8, c.YMM}} {
		for _, kind := range elements {
			f(w, kind)
		}
	}
}

// whole emits a loop over n elements, a positive multiple of step.
func whole(c *build.Context, label string, n reg.GPVirtual, step int, body func()) {
	c.Label(label)
	body()
	c.SUBQ(operand.U8(step), n)
	c.JNZ(operand.LabelRef(label))
}

// and emits a bitwise and of whole registers.
func and(c *build.Context, a, b, dst reg.VecVirtual) {
	if dst.Size() == 64 {
		c.VPANDD(a, b, dst)
	} else {
		c.VPAND(a, b, dst)
	}
}

// limits finds the statistic of a row with outliers.
func limits(c *build.Context) {
	eachWidth(c, func(w width, kind element) {
		name := "limits" + kind.name + w.level
		begin(c, name, fmt.Sprintf("func(n int, x *%s, threshold float32, mask *bool) float32", kind.goType),
			name+" returns the largest of |x[i]| below threshold, i < n, and sets mask[i] where |x[i]| is not below it. NaN is neither.",
			fmt.Sprintf("n is a positive multiple of %d.", w.lanes))
		n, x, mask := param(c, "n"), param(c, "x"), param(c, "mask")
		threshold, abs, most := w.vector(), w.vector(), w.vector()
		broadcastParam(c, "threshold", threshold)
		broadcastBits(c, 0x7fffffff, abs)
		one := c.XMM()
		broadcastBits(c, 0x01010101, one)
		if w.lanes == 16 {
			c.VPXORD(most, most, most)
		} else {
			c.VXORPS(most, most, most)
		}
		whole(c, "loop", n, w.lanes, func() {
			v := w.vector()
			kind.load(c, at(x, 0), v)
			and(c, abs, v, v)
			if w.lanes == 16 {
				below, above := c.K(), c.K()
				c.VCMPPS(operand.U8(1), threshold, v, below) // v < threshold
				c.VCMPPS(operand.U8(13), threshold, v, above)
				c.VMAXPS(v, most, below, most)
				c.KORTESTW(above, above)
				c.JZ(operand.LabelRef("inliers"))
				b := c.XMM()
				c.VPMOVM2B(above, b)
				c.VPAND(one, b, b)
				c.VPOR(at(mask, 0), b, b)
				c.VMOVDQU(b, at(mask, 0))
			} else {
				below, above, some := c.YMM(), c.YMM(), c.GP32()
				c.VCMPPS(operand.U8(1), threshold, v, below)
				c.VCMPPS(operand.U8(13), threshold, v, above)
				c.VPAND(below, v, v)
				c.VMAXPS(v, most, most)
				c.VMOVMSKPS(above, some)
				c.TESTL(some, some)
				c.JZ(operand.LabelRef("inliers"))
				b, old := c.XMM(), c.XMM()
				c.VEXTRACTI128(operand.U8(1), above, b)
				c.VPACKSSDW(b, above.AsX(), b)
				c.VPACKSSWB(b, b, b)
				c.VPAND(one, b, b)
				c.VMOVQ(at(mask, 0), old)
				c.VPOR(old, b, b)
				c.VMOVQ(b, at(mask, 0))
			}
			c.Label("inliers")
			c.ADDQ(operand.U8(w.lanes*kind.size), x)
			c.ADDQ(operand.U8(w.lanes), mask)
		})
		if w.lanes == 16 {
			high := c.YMM()
			c.VEXTRACTF64X4(operand.U8(1), most, high)
			c.VMAXPS(high, most.AsY(), high)
			most = high
		}
		half, low := c.XMM(), c.XMM()
		c.VEXTRACTF128(operand.U8(1), most, half)
		c.VMAXPS(half, most.AsX(), low)
		for _, order := range []uint8{0x4e, 0xb1} {
			c.VPSHUFD(operand.U8(order), low, half)
			c.VMAXPS(half, low, low)
		}
		c.Store(low, c.ReturnIndex(0))
		c.VZEROUPPER()
		c.RET()
	})
}

// rowCodes rounds a row to int8.
func rowCodes(c *build.Context) {
	eachWidth(c, func(w width, kind element) {
		name, step := "rowCodes"+kind.name+w.level, 16
		if w.lanes == 8 {
			step = 32
		}
		begin(c, name, fmt.Sprintf("func(n int, codes *int8, x *%s, r float32, threshold float32)", kind.goType),
			name+" sets codes[i] to rint(x[i]*r), which must fit, for i < n, or to 0 where |x[i]| is not below threshold.",
			fmt.Sprintf("n is a positive multiple of %d.", step))
		n, codes, x := param(c, "n"), param(c, "codes"), param(c, "x")
		r, threshold, abs := w.vector(), w.vector(), w.vector()
		broadcastParam(c, "r", r)
		broadcastParam(c, "threshold", threshold)
		broadcastBits(c, 0x7fffffff, abs)
		rounded := func(i int) reg.VecVirtual {
			v, a := w.vector(), w.vector()
			kind.load(c, at(x, i*w.lanes*kind.size), v)
			and(c, abs, v, a)
			c.VMULPS(r, v, v)
			if w.lanes == 16 {
				below := c.K()
				c.VCMPPS(operand.U8(1), threshold, a, below)
				c.VCVTPS2DQ_Z(v, below, v)
				return v
			}
			c.VCMPPS(operand.U8(1), threshold, a, a)
			c.VCVTPS2DQ(v, v)
			c.VPAND(a, v, v)
			return v
		}
		order := c.YMM()
		if w.lanes == 8 {
			spread(c, order)
		}
		whole(c, "loop", n, step, func() {
			if w.lanes == 16 {
				c.VPMOVDB(rounded(0), at(codes, 0))
			} else {
				var v [4]reg.VecVirtual
				for i := range v {
					v[i] = rounded(i)
				}
				c.VPACKSSDW(v[1], v[0], v[0])
				c.VPACKSSDW(v[3], v[2], v[2])
				c.VPACKSSWB(v[2], v[0], v[0])
				c.VPERMD(v[0], order, v[0])
				c.VMOVDQU(v[0], at(codes, 0))
			}
			c.ADDQ(operand.I32(step*kind.size), x)
			c.ADDQ(operand.U8(step), codes)
		})
		c.VZEROUPPER()
		c.RET()
	})
}

// spread makes the order 0, 4, 1, 5, 2, 6, 3, 7, which undoes the interleaving of four packed registers.
func spread(c *build.Context, order reg.VecVirtual) {
	bits, x := c.GP64(), c.XMM()
	c.MOVQ(operand.U64(0x0703060205010400), bits)
	c.VMOVQ(bits, x)
	c.VPMOVZXBD(x, order)
}

// productRow turns the sums of a row into values, as quant.productRowGo does.
func productRow(c *build.Context) {
	eachWidth(c, func(w width, kind element) {
		name := "productRow" + kind.name + w.level
		begin(c, name, fmt.Sprintf("func(n int, dst *%s, acc *int32, row float32, cols *float32, bias *%s)", kind.goType, kind.goType),
			name+" sets dst[i] to the value of acc[i] for i < n, given the statistic of its row and those of the columns, with a bias or nil.",
			fmt.Sprintf("n is a positive multiple of %d.", w.lanes))
		n, dst, acc, cols, bias := param(c, "n"), param(c, "dst"), param(c, "acc"), param(c, "cols"), param(c, "bias")
		row, scale, out := w.vector(), w.vector(), newRounder(c, kind.name, w.vector)
		out.careForNaN(w.vector)
		broadcastParam(c, "row", row)
		broadcastBits(c, math.Float32bits(6.200012e-05), scale)
		half := func(v reg.VecVirtual) {
			h := narrowed(c, v)
			c.VCVTPH2PS(h, v)
		}
		c.TESTQ(bias, bias)
		c.JNZ(operand.LabelRef("withBias"))
		for _, label := range []string{"plain", "withBias"} {
			biased := label == "withBias"
			whole(c, label, n, w.lanes, func() {
				v, b := w.vector(), w.vector()
				c.VCVTDQ2PS(at(acc, 0), v)
				c.VMULPS(row, v, v)
				c.VMULPS(at(cols, 0), v, v)
				if biased {
					kind.load(c, at(bias, 0), b)
				}
				switch {
				case biased && kind.name == "F16": // product and sum are rounded together
					c.VFMADD213PS(b, scale, v)
				case kind.name == "F16":
					c.VMULPS(scale, v, v)
				default:
					c.VMULPS(scale, v, v)
					half(v)
					if biased {
						c.VADDPS(b, v, v)
						half(v)
					}
				}
				out.store(v, at(dst, 0), false)
				c.ADDQ(operand.U8(w.lanes*kind.size), dst)
				c.ADDQ(operand.U8(w.lanes*4), acc)
				c.ADDQ(operand.U8(w.lanes*4), cols)
				if biased {
					c.ADDQ(operand.U8(w.lanes*kind.size), bias)
				}
			})
			c.VZEROUPPER()
			c.RET()
		}
	})
}

// narrowed is v in binary16.
func narrowed(c *build.Context, v reg.VecVirtual) reg.VecVirtual {
	h := c.XMM()
	if v.Size() == 64 {
		h = c.YMM()
	}
	c.VCVTPS2PH(operand.U8(0), v, h)
	return h
}

// outlierRow adds the products of outlier columns to a row of the result, 16 columns at a time.
func outlierRow(c *build.Context) {
	eachWidth(c, func(w width, kind element) {
		const strip = 16
		name := "outlierRow" + kind.name + w.level
		begin(c, name, fmt.Sprintf("func(strips int, found int, dst *%s, kept *float32, weight *float32)", kind.goType),
			name+" adds the sum over j < found of kept[j]*weight[(s*found+j)*16+c], in that order and each operation rounded, to dst[s*16+c]",
			"for s < strips and c < 16. strips and found are positive.")
		strips, found, dst, kept, from := param(c, "strips"), param(c, "found"), param(c, "dst"), param(c, "kept"), param(c, "weight")
		out := newRounder(c, kind.name, w.vector)
		out.careForNaN(w.vector)
		parts := make([]reg.VecVirtual, strip/w.lanes)
		left, element, x, p := c.GP64(), c.GP64(), w.vector(), w.vector()
		c.Label("strip")
		for i := range parts {
			parts[i] = w.vector()
			if w.lanes == 16 {
				c.VPXORD(parts[i], parts[i], parts[i])
			} else {
				c.VXORPS(parts[i], parts[i], parts[i])
			}
		}
		c.MOVQ(found, left)
		c.MOVQ(kept, element)
		whole(c, "column", left, 1, func() {
			c.VBROADCASTSS(at(element, 0), x)
			for i, sum := range parts {
				c.VMULPS(at(from, 4*w.lanes*i), x, p)
				c.VADDPS(p, sum, sum)
			}
			c.ADDQ(operand.U8(4), element)
			c.ADDQ(operand.U8(4*strip), from)
		})
		for i, sum := range parts {
			v, to := w.vector(), at(dst, w.lanes*kind.size*i)
			kind.load(c, to, v)
			c.VADDPS(sum, v, v)
			out.store(v, to, false)
		}
		c.ADDQ(operand.U8(strip*kind.size), dst)
		c.DECQ(strips)
		c.JNZ(operand.LabelRef("strip"))
		c.VZEROUPPER()
		c.RET()
	})
}
