package main

import (
	"fmt"

	"github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// The loops of integer formats and of 8-bit floats.

// decodeInt turns integer codes into values.
func decodeInt(c *build.Context) {
	eachWidth(c, func(w width, kind element) {
		name := "decodeInt" + kind.name + w.level
		begin(c, name, fmt.Sprintf("func(n int, dst *%s, codes *byte, flip int32, zero int32, scale float32, post float32)", kind.goType),
			name+" sets dst[i] to ((codes[i]^flip)-zero)*scale*post for i < n, each product rounded.",
			fmt.Sprintf("n is a positive multiple of %d.", w.lanes))
		n, dst, codes := param(c, "n"), param(c, "dst"), param(c, "codes")
		flip, zero, scale, post := w.vector(), w.vector(), w.vector(), w.vector()
		broadcastParam(c, "flip", flip)
		broadcastParam(c, "zero", zero)
		broadcastParam(c, "scale", scale)
		broadcastParam(c, "post", post)
		out := newRounder(c, kind.name, w.vector)
		out.careForNaN(w.vector)
		whole(c, "loop", n, w.lanes, func() {
			v := w.vector()
			c.VPMOVZXBD(at(codes, 0), v)
			if w.lanes == 16 {
				c.VPXORD(flip, v, v)
			} else {
				c.VPXOR(flip, v, v)
			}
			c.VPSUBD(zero, v, v)
			c.VCVTDQ2PS(v, v)
			c.VMULPS(scale, v, v)
			c.VMULPS(post, v, v)
			out.store(v, at(dst, 0), false)
			c.ADDQ(operand.U8(w.lanes*kind.size), dst)
			c.ADDQ(operand.U8(w.lanes), codes)
		})
		c.VZEROUPPER()
		c.RET()
	})
}

// broadcastDouble puts a float64 or int64 argument in all lanes.
func broadcastDouble(c *build.Context, name string, v reg.VecVirtual) {
	component := c.Param(name)
	mem, err := component.Resolve()
	if err != nil {
		c.Load(component, v)
		return
	}
	c.VBROADCASTSD(mem.Addr, v)
}

const affineArguments = "n int, codes *byte, x *float32, step float64, lowest float64, highest float64, zero int32"

// encodeAffine rounds to integers.
func encodeAffine(c *build.Context) {
	for _, w := range []width{{"AVX512", 8, c.ZMM}, {"AVX2", 4, c.YMM}} {
		name := "encodeAffine" + w.level
		begin(c, name, "func("+affineArguments+")",
			name+" sets codes[i] to x[i]/step in float64, clamped to lowest and highest, rounded to even, plus zero, for i < n.",
			"What is not greater than lowest, NaN included, becomes lowest. n is a positive multiple of 8.")
		affineLoop(c, w, nil)
	}
}

// encodeStochastic rounds up with the probability of the fraction. The random numbers are those of quant.uniform.
func encodeStochastic(c *build.Context) {
	begin(c, "encodeStochasticAVX512", "func("+affineArguments+", base uint64, first uint64)",
		"encodeStochasticAVX512 is encodeAffineAVX512 of floor(x[i]/step + u), u being the upper 53 bits of mix64(base + (first+i)*gamma)",
		"over 2^53.")
	z, gamma, m1, m2, unit, t := c.ZMM(), c.ZMM(), c.ZMM(), c.ZMM(), c.ZMM(), c.ZMM()
	quads := func(bits uint64, v reg.VecVirtual) reg.GPVirtual {
		r := c.GP64()
		c.MOVQ(operand.U64(bits), r)
		c.VPBROADCASTQ(r, v)
		return r
	}
	const golden = 0x9e3779b97f4a7c15
	quads(golden, gamma)
	quads(0xbf58476d1ce4e5b9, m1)
	quads(0x94d049bb133111eb, m2)
	quads(0x0706050403020100, t)
	c.VPMOVZXBQ(t.AsX(), z)
	broadcastDouble(c, "first", t)
	c.VPADDQ(t, z, z)
	c.VPMULLQ(gamma, z, z)
	broadcastDouble(c, "base", t)
	c.VPADDQ(t, z, z)
	eight := uint64(golden)
	quads(8*eight, gamma)
	quads((1023-53)<<52, unit)
	affineLoop(c, width{"AVX512", 8, c.ZMM}, func(q reg.VecVirtual) {
		u := c.ZMM()
		mix := func(from, to reg.VecVirtual, shift uint8) {
			c.VPSRLQ(operand.U8(shift), from, t)
			c.VPXORQ(t, from, to)
		}
		mix(z, u, 30)
		c.VPMULLQ(m1, u, u)
		mix(u, u, 27)
		c.VPMULLQ(m2, u, u)
		mix(u, u, 31)
		c.VPSRLQ(operand.U8(11), u, u)
		c.VCVTUQQ2PD(u, u)
		c.VMULPD(unit, u, u)
		c.VADDPD(u, q, q)
		c.VRNDSCALEPD(operand.U8(1), q, q) // down
		c.VPADDQ(gamma, z, z)
	})
}

// affineLoop emits the loop and the end of the function; change, if given, works on the quotients.
func affineLoop(c *build.Context, w width, change func(q reg.VecVirtual)) {
	n, codes, x := param(c, "n"), param(c, "codes"), param(c, "x")
	step, lowest, highest := w.vector(), w.vector(), w.vector()
	broadcastDouble(c, "step", step)
	broadcastDouble(c, "lowest", lowest)
	broadcastDouble(c, "highest", highest)
	zero, low := c.YMM(), c.YMM()
	broadcastParam(c, "zero", zero)
	broadcastBits(c, 0xff, low)
	round := func(i int, to reg.VecVirtual) {
		q := w.vector()
		c.VCVTPS2PD(at(x, 16*i), q)
		c.VDIVPD(step, q, q)
		if change != nil {
			change(q)
		}
		c.VMAXPD(lowest, q, q) // lowest, if q is NaN
		c.VMINPD(highest, q, q)
		if w.lanes == 8 {
			c.VCVTPD2DQ(q, to)
		} else {
			c.VCVTPD2DQY(q, to)
		}
	}
	whole(c, "loop", n, 8, func() {
		y := c.YMM()
		if w.lanes == 8 {
			round(0, y)
		} else {
			a, b := c.XMM(), c.XMM()
			round(0, a)
			round(1, b)
			c.VINSERTI128(operand.U8(1), b, a.AsY(), y)
		}
		c.VPADDD(zero, y, y)
		storeBytes8(c, y, low, at(codes, 0))
		c.ADDQ(operand.U8(32), x)
		c.ADDQ(operand.U8(8), codes)
	})
	c.VZEROUPPER()
	c.RET()
}

// encodeFloat8 rounds to 8-bit floats, as quant.Float8.Encode with saturation.
func encodeFloat8(c *build.Context) {
	for _, w := range []width{{"AVX512", 16, c.ZMM}, {"AVX2", 8, c.YMM}} {
		for _, f := range []struct {
			name                string
			mantissa, bias, top uint32
		}{{"E4M3", 3, 7, 0x7e}, {"E5M2", 2, 15, 0x7b}} {
			name := "encode" + f.name + w.level
			begin(c, name, "func(n int, codes *byte, x *float32, scale float32)",
				name+fmt.Sprintf(" writes the codes of x[i]/scale, which must not be NaN, for i < n, a positive multiple of %d.", w.lanes))
			n, codes, x := param(c, "n"), param(c, "codes"), param(c, "x")
			constant := func(bits uint32) reg.VecVirtual {
				v := w.vector()
				broadcastBits(c, bits, v)
				return v
			}
			scale := w.vector()
			broadcastParam(c, "scale", scale)
			shift := 23 - f.mantissa
			abs, subnormal, half, one := constant(0x7fffffff), constant((128-f.bias)<<23-1), constant(1<<(shift-1)-1-(127-f.bias)<<23), constant(1)
			tiny, top, sign := constant((127+1-f.bias-f.mantissa+23)<<23), constant(f.top), constant(0x80)
			var low reg.VecVirtual
			if w.lanes == 8 {
				low = constant(0xff)
			}
			whole(c, "loop", n, w.lanes, func() {
				b, a, code, t, small := w.vector(), w.vector(), w.vector(), w.vector(), w.vector()
				c.VMOVUPS(at(x, 0), b)
				c.VDIVPS(scale, b, b)
				and(c, abs, b, a)
				// Subtracting whole exponents changes no bit below, so the last kept bit can be taken before.
				c.VPSRLD(operand.U8(uint8(shift)), a, t)
				and(c, one, t, t)
				c.VPADDD(half, a, code)
				c.VPADDD(t, code, code)
				c.VPSRLD(operand.U8(uint8(shift)), code, code)
				c.VADDPS(tiny, a, small)
				c.VPSUBD(tiny, small, small)
				if w.lanes == 16 {
					k := c.K()
					c.VPCMPD(operand.U8(2), subnormal, a, k) // a <= subnormal
					c.VPBLENDMD(small, code, k, code)
				} else {
					c.VPCMPGTD(subnormal, a, t)
					c.VPBLENDVB(t, code, small, code)
				}
				c.VPMINSD(top, code, code)
				c.VPSRLD(operand.U8(24), b, b)
				and(c, sign, b, b)
				if w.lanes == 16 {
					c.VPORD(b, code, code)
					c.VPMOVDB(code, at(codes, 0))
				} else {
					c.VPOR(b, code, code)
					storeBytes8(c, code, low, at(codes, 0))
				}
				c.ADDQ(operand.U8(4*w.lanes), x)
				c.ADDQ(operand.U8(w.lanes), codes)
			})
			c.VZEROUPPER()
			c.RET()
		}
	}
}
