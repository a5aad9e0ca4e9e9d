package main

import (
	"fmt"

	"github.com/mmcloughlin/avo/attr"
	"github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// Places in step.block8, which the loops over 8-bit moments read, of the entries of moment j.
func b8Codes(j int) int  { return 8 * j }
func b8Values(j int) int { return 24 + 8*j }
func b8To(j int) int     { return 48 + 8*j }
func b8Cells(j int) int  { return 72 + 8*j }
func b8Absmax(j int) int { return 96 + 4*j }
func b8R(j int) int      { return 108 + 4*j }
func b8Maxima(j int) int { return 120 + 4*j }

// step8Ahead is how many bytes ahead parameters and gradients are asked for: two blocks.
const step8Ahead = 2 * 4 * blockSize8

// blockSize8 is the elements of a block of 8-bit moments.
const blockSize8 = 256

// updates8 emits the loops over blocks of 8-bit moments of every rule that has moments, at every level.
func updates8() (out []func(*build.Context)) {
	out = append(out, func(c *build.Context) {
		words64(c, "step8Magnitude", 1<<31-1)
		words64(c, "step8LowByte", 0xff)
		words64(c, "step8Order", decodeInOrder[:]...)
		words64(c, "step8LowBytes", 0x0c080400, 0x1c181410, 0x2c282420, 0x3c383430) // of each lane
	})
	for _, r := range stepRules {
		for _, l := range stepLevels {
			if r.moments > 0 {
				out = append(out, func(c *build.Context) { update8(c, r, l) })
			}
		}
	}
	return out
}

// staticData is the address of data that the first function of a file declares.
func staticData(name string) operand.Mem {
	return operand.NewDataAddr(operand.NewStaticSymbol(name), 0)
}

// words64 puts sixteen words in read-only data, those given over and over.
func words64(c *build.Context, name string, words ...uint32) {
	c.StaticGlobal(name)
	c.DataAttributes(attr.RODATA | attr.NOPTR)
	for i := range 16 {
		c.AppendDatum(operand.U32(words[i%len(words)]))
	}
}

// gen8 emits one loop over a block. It updates and measures the moments of this block, quantizes those of a block before, whose scales are
// known by now, and dequantizes those of the next: three chains that do not wait for each other, so that the lookups run beside the
// divisions. In one chain they take half as long again, as it is longer than the processor looks ahead.
type gen8 struct {
	stepGen
	rule                     stepRule
	a, m, before, next, i    reg.GPVirtual
	codes, values, to, cells [3]reg.GPVirtual
	absmax, r, maxima        [3]reg.VecVirtual
	order, lowBytes          reg.VecVirtual
	encode                   encoder8
	aside                    []func() // code behind the function's end
	fewer                    bool     // too many moments for the registers: addresses and scales are read where they are used
}

func update8(c *build.Context, r stepRule, l level) {
	name := r.name + "8" + l.name
	needs := l.needs
	begin(c, name, "func(b *byte, p *float32, grad *float32, m *float32, before *float32, next *float32, k *float32)",
		fmt.Sprintf("%s advances %s by a block of 256 elements with 8-bit moments: those at m, dequantized, and the parameters p, with the", name, r.formula),
		"operations of the Go twin one by one. Elements whose scaled gradient is not finite keep p and get moments of 0. The largest magnitudes of",
		"the moments are left in the block8 at b. Beside that the moments at before, times r, are quantized, and codes are dequantized to next. Moment j",
		"of a block is at 256*j. k points at the first of Factors. Needs "+needs+".")
	g := &gen8{stepGen: stepGen{c: c, wide: l.wide, idle: true}, rule: r, fewer: r.moments > 2 || !l.wide && r.moments > 1}
	g.a = param(c, "b")
	p, grad := param(c, "p"), param(c, "grad")
	g.m, g.before, g.next, g.k = param(c, "m"), param(c, "before"), param(c, "next"), param(c, "k")
	g.hold(append([]factor{fGScale, fRate}, r.factors...), r.flags)
	g.holdBits(r.bits)
	g.prepare()
	g.i = c.GP64()
	c.XORQ(g.i, g.i)
	c.Label("loop")
	vectors := g.vectors()
	for n := range vectors {
		g.block(p, grad, n*g.lanes())
		for j := range r.moments {
			if n == j*vectors/r.moments {
				g.decodeMoment(j)
			}
		}
	}
	c.ADDQ(operand.U8(vectors*g.lanes()), g.i)
	c.CMPQ(g.i, operand.U32(blockSize8))
	c.JLT(operand.LabelRef("loop"))
	g.finish()
	c.VZEROUPPER()
	c.RET()
	for _, emit := range g.aside {
		emit()
	}
}

// prepare loads what lives through the loop.
func (g *gen8) prepare() {
	c := g.c
	pointer := func(disp int) reg.GPVirtual {
		r := c.GP64()
		c.MOVQ(at(g.a, disp), r)
		return r
	}
	for j := range g.rule.moments {
		if !g.fewer {
			g.codes[j], g.values[j], g.to[j], g.cells[j] = pointer(b8Codes(j)), pointer(b8Values(j)), pointer(b8To(j)), pointer(b8Cells(j))
		}
		g.maxima[j] = g.vec()
		if !g.wide {
			c.VXORPS(g.maxima[j], g.maxima[j], g.maxima[j])
			continue
		}
		c.VXORPS(g.maxima[j], g.maxima[j], g.maxima[j])
		if !g.fewer {
			g.absmax[j], g.r[j] = g.scale(g.absmax, b8Absmax, j), g.scale(g.r, b8R, j)
		}
	}
	g.encode = encoder8{c: c}
	if !g.wide {
		return
	}
	g.encode = newEncoder8AVX512(c, nil)
	g.order, g.lowBytes = c.ZMM(), c.ZMM()
	c.VMOVDQU32(staticData("step8Order"), g.order)
	c.VMOVDQU32(staticData("step8LowBytes"), g.lowBytes)
}

// vectors are those of one round of the loop: wide loops dequantize 64 codes at once.
func (g *gen8) vectors() int {
	if g.wide {
		return 4
	}
	return 1
}

// table is an address that belongs to moment j.
func (g *gen8) table(held [3]reg.GPVirtual, disp func(int) int, j int) reg.GPVirtual {
	if held[j] != nil {
		return held[j]
	}
	r := g.c.GP64()
	g.c.MOVQ(at(g.a, disp(j)), r)
	return r
}

// scale is a scale of moment j in all lanes.
func (g *gen8) scale(held [3]reg.VecVirtual, disp func(int) int, j int) reg.VecVirtual {
	if held[j] != nil {
		return held[j]
	}
	v := g.vec()
	g.c.VBROADCASTSS(at(g.a, disp(j)), v)
	return v
}

// room is where a vector of moment j lies.
func (g *gen8) room(base reg.GPVirtual, j, lane int) operand.Mem {
	return operand.Mem{Base: base, Index: g.i, Scale: 4, Disp: 4*blockSize8*j + 4*lane}
}

// block emits one vector of every part.
func (g *gen8) block(p, grad reg.GPVirtual, lane int) {
	c := g.c
	for j := range g.rule.moments {
		g.encodeMoment(j, lane)
	}
	m := make([]reg.VecVirtual, g.rule.moments)
	for j := range m {
		m[j] = g.vec()
		c.VMOVUPS(g.room(g.m, j, lane), m[j])
	}
	memory := func(base reg.GPVirtual) operand.Mem {
		return operand.Mem{Base: base, Index: g.i, Scale: 4, Disp: 4 * lane}
	}
	for _, base := range []reg.GPVirtual{p, grad} {
		ahead := memory(base)
		ahead.Disp += step8Ahead
		c.PREFETCHT0(ahead)
	}
	x, param := g.vec(), g.vec()
	c.VMULPS(memory(grad), g.f(fGScale), x)
	c.VMOVUPS(memory(p), param)
	if g.wide {
		g.stepWide(x, param, m, memory(p))
	} else {
		g.stepNarrow(x, param, m, memory(p))
	}
	for j := range m {
		c.VMOVUPS(m[j], g.room(g.m, j, lane))
	}
}

// decodeMoment dequantizes a vector of the next block, or four.
func (g *gen8) decodeMoment(j int) {
	c := g.c
	codes := operand.Mem{Base: g.table(g.codes, b8Codes, j), Index: g.i, Scale: 1}
	values := g.table(g.values, b8Values, j)
	var v []reg.VecVirtual
	if g.wide {
		d := decoder8{c: c, order: g.order}
		for p := range d.planes {
			for i := range d.planes[p] {
				d.planes[p][i] = at(values, 256*p+64*i)
			}
		}
		four := d.vbmi(codes)
		v = four[:]
	} else {
		v = []reg.VecVirtual{decode8Gather(c, codes, values, nil, g.vec)}
	}
	scale := g.scale(g.absmax, b8Absmax, j)
	for n := range v {
		c.VMULPS(scale, v[n], v[n])
		c.VMOVUPS(v[n], g.room(g.next, j, n*g.lanes()))
	}
}

// encodeMoment writes the codes of a vector of the block before.
func (g *gen8) encodeMoment(j, lane int) {
	c := g.c
	q := g.vec()
	to := operand.Mem{Base: g.table(g.to, b8To, j), Index: g.i, Scale: 1, Disp: lane}
	g.encode.cells = g.table(g.cells, b8Cells, j)
	c.VMULPS(g.room(g.before, j, lane), g.scale(g.r, b8R, j), q)
	if g.wide {
		code := g.encode.avx512(q)
		c.VPERMB(code, g.lowBytes, code)
		c.VMOVDQU32(code.AsX(), to)
		return
	}
	low := g.vec()
	c.VMOVUPS(staticData("step8LowByte"), low)
	storeBytes8(c, g.encode.avx2(q), low, to)
}

// stepWide advances, and leaves the loop for gradients that are not finite.
func (g *gen8) stepWide(x, p reg.VecVirtual, m []reg.VecVirtual, to operand.Mem) {
	c := g.c
	const nanOrInf = 0x01 | 0x08 | 0x10 | 0x80
	gone, label := c.K(), fmt.Sprintf("gone%d", len(g.aside))
	c.VFPCLASSPSZ(operand.U8(nanOrInf), x, gone)
	c.KORTESTW(gone, gone)
	g.rule.step(&g.stepGen, x, p, m)
	c.JNZ(operand.LabelRef(label))
	c.Label(label + "back")
	c.VMOVUPS(p, to)
	const largerMagnitude = 0b1011
	for j := range m {
		c.VRANGEPS(operand.U8(largerMagnitude), m[j], g.maxima[j], g.maxima[j])
	}
	g.aside = append(g.aside, func() {
		c.Label(label)
		c.VMOVUPS(to, gone, p)
		c.KNOTW(gone, gone)
		for j := range m {
			c.VMOVAPS_Z(m[j], gone, m[j])
		}
		c.JMP(operand.LabelRef(label + "back"))
	})
}

// stepNarrow is stepWide without masks and VRANGEPS.
func (g *gen8) stepNarrow(x, p reg.VecVirtual, m []reg.VecVirtual, to operand.Mem) {
	c := g.c
	gone, magnitude := g.vec(), g.vec()
	c.VSUBPS(x, x, gone)
	c.VCMPPS(operand.U8(3), gone, gone, gone) // unordered
	g.rule.step(&g.stepGen, x, p, m)
	c.VBLENDVPS(gone, to, p, p)
	c.VMOVUPS(p, to)
	for j := range m {
		c.VANDNPS(m[j], gone, m[j])
		c.VMOVUPS(staticData("step8Magnitude"), magnitude)
		c.VPAND(m[j], magnitude, magnitude)
		c.VPMAXUD(magnitude, g.maxima[j], g.maxima[j])
	}
}

// finish writes the largest magnitudes.
func (g *gen8) finish() {
	c := g.c
	a := param(c, "b")
	for j := range g.rule.moments {
		v := g.maxima[j]
		if g.wide {
			y := c.YMM()
			c.VEXTRACTF64X4(operand.U8(1), v, y)
			c.VPMAXUD(y, v.AsY(), v.AsY())
		}
		x := c.XMM()
		if g.wide {
			c.VEXTRACTF32X4(operand.U8(1), v.AsY(), x)
		} else {
			c.VEXTRACTI128(operand.U8(1), v, x)
		}
		c.VPMAXUD(v.AsX(), x, x)
		for _, order := range []uint8{0x4e, 0xb1} {
			t := c.XMM()
			c.VPSHUFD(operand.U8(order), x, t)
			c.VPMAXUD(t, x, x)
		}
		c.VMOVD(x, at(a, b8Maxima(j)))
	}
}
