package main

import (
	"fmt"
	"slices"

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
func b8Lanes(j int) int  { return 132 + 64*j }

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
	lag                      int      // vectors that parameters move behind their moments
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
	for j := range r.moments {
		g.reduce(j)
	}
	p, grad := param(c, "p"), param(c, "grad")
	g.m, g.before, g.next, g.k = param(c, "m"), param(c, "before"), param(c, "next"), param(c, "k")
	if l.wide && r.moments == 2 {
		g.lag = 1
	}
	g.hold(g.near(), r.flags)
	g.holdBits(r.bits)
	g.prepare()
	if l.wide {
		g.pipeline(p, grad)
	} else {
		g.loop(p, grad)
	}
	g.finish()
	c.VZEROUPPER()
	c.RET()
	for _, emit := range g.aside {
		emit()
	}
}

// near are the factors that are kept in registers: where parameters lag those of their moments.
func (g *gen8) near() []factor {
	all := append([]factor{fGScale, fRate}, g.rule.factors...)
	if g.lag == 0 {
		return all
	}
	return slices.DeleteFunc(all, func(f factor) bool {
		return f == fRate || f == fBefore || f == fAfter || f == fC2 || f == fOverC2 || f == fEps
	})
}

// loop emits a vector of every part and goes over the block.
func (g *gen8) loop(p, grad reg.GPVirtual) {
	c := g.c
	g.i = c.GP64()
	c.XORQ(g.i, g.i)
	c.Label("loop")
	for j := range g.rule.moments {
		g.encodeMoment(j, 0)
	}
	m, x, to := g.loads(p, grad, 0)
	g.stepNarrow(x, m, to)
	for j := range m {
		c.VMOVUPS(m[j], g.room(g.m, j, 0))
	}
	for j := range g.rule.moments {
		g.decodeMoment(j, 0)
	}
	c.ADDQ(operand.U8(g.lanes()), g.i)
	c.CMPQ(g.i, operand.U32(blockSize8))
	c.JLT(operand.LabelRef("loop"))
}

// pipeline emits the whole block, a vector of every part in turn. Where there are registers for it parameters move a vector behind their
// moments: the scheduler of the processor holds less than two vectors, and would be full of what waits for roots.
func (g *gen8) pipeline(p, grad reg.GPVirtual) {
	const vectors = blockSize8 / 16
	var moves []func()
	for n := range vectors + g.lag {
		if n < vectors {
			for j := range g.rule.moments {
				g.encodeMoment(j, 16*n)
			}
			m, x, to := g.loads(p, grad, 16*n)
			moves = append(moves, g.stepWide(x, m, to, 16*n))
		}
		if n >= g.lag {
			moves[n-g.lag]()
		}
		if n < vectors {
			for j := range g.rule.moments {
				if n%4 == j*4/g.rule.moments {
					g.decodeMoment(j, n/4*64)
				}
			}
		}
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
	return g.place(base, 4, 4*blockSize8*j+4*lane)
}

// place is memory at disp and, in a loop, the present element of some bytes each.
func (g *gen8) place(base reg.GPVirtual, size uint8, disp int) operand.Mem {
	m := operand.Mem{Base: base, Disp: disp}
	if g.i != nil {
		m.Index, m.Scale = g.i, size
	}
	return m
}

// loads emits the loads of a vector: its moments, the scaled gradient, and where the parameters are.
func (g *gen8) loads(p, grad reg.GPVirtual, lane int) (m []reg.VecVirtual, x reg.VecVirtual, to operand.Mem) {
	c := g.c
	m = make([]reg.VecVirtual, g.rule.moments)
	for j := range m {
		m[j] = g.vec()
		c.VMOVUPS(g.room(g.m, j, lane), m[j])
	}
	for _, base := range []reg.GPVirtual{p, grad} {
		c.PREFETCHT0(g.place(base, 4, 4*lane+step8Ahead))
	}
	x = g.vec()
	c.VMULPS(g.place(grad, 4, 4*lane), g.f(fGScale), x)
	return m, x, g.place(p, 4, 4*lane)
}

// load is a vector in a new register.
func (g *gen8) load(from operand.Mem) loader {
	return func() reg.VecVirtual {
		v := g.vec()
		g.c.VMOVUPS(from, v)
		return v
	}
}

// decodeMoment dequantizes a vector of the next block, or four.
func (g *gen8) decodeMoment(j, lane int) {
	c := g.c
	codes := g.place(g.table(g.codes, b8Codes, j), 1, lane)
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
		c.VMOVUPS(v[n], g.room(g.next, j, lane+n*g.lanes()))
	}
}

// encodeMoment writes the codes of a vector of the block before.
func (g *gen8) encodeMoment(j, lane int) {
	c := g.c
	q := g.vec()
	to := g.place(g.table(g.to, b8To, j), 1, lane)
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

// stepWide advances the moments, and returns what moves the parameters. It leaves the way for gradients that are not finite.
func (g *gen8) stepWide(x reg.VecVirtual, m []reg.VecVirtual, to operand.Mem, lane int) func() {
	c := g.c
	const nanOrInf = 0x01 | 0x08 | 0x10 | 0x80
	gone, label := c.K(), fmt.Sprintf("gone%d", lane)
	c.VFPCLASSPSZ(operand.U8(nanOrInf), x, gone)
	c.KORTESTW(gone, gone)
	move := g.rule.step(&g.stepGen, x, g.load(to), m)
	c.JNZ(operand.LabelRef(label))
	c.Label(label + "back")
	const largerMagnitude = 0b1011
	for j := range m {
		c.VMOVUPS(m[j], g.room(g.m, j, lane))
		c.VRANGEPS(operand.U8(largerMagnitude), m[j], g.maxima[j], g.maxima[j])
	}
	g.aside = append(g.aside, func() {
		c.Label(label)
		c.KNOTW(gone, gone)
		for j := range m {
			c.VMOVAPS_Z(m[j], gone, m[j])
		}
		c.KNOTW(gone, gone)
		c.JMP(operand.LabelRef(label + "back"))
	})
	return func() {
		p := move()
		c.KORTESTW(gone, gone)
		c.JNZ(operand.LabelRef(label + "p"))
		c.Label(label + "pback")
		c.VMOVUPS(p, to)
		g.aside = append(g.aside, func() {
			c.Label(label + "p")
			c.VMOVUPS(to, gone, p)
			c.JMP(operand.LabelRef(label + "pback"))
		})
	}
}

// stepNarrow is stepWide without masks and VRANGEPS.
func (g *gen8) stepNarrow(x reg.VecVirtual, m []reg.VecVirtual, to operand.Mem) {
	c := g.c
	gone, magnitude := g.vec(), g.vec()
	c.VSUBPS(x, x, gone)
	c.VCMPPS(operand.U8(3), gone, gone, gone) // unordered
	p := g.rule.step(&g.stepGen, x, g.load(to), m)()
	c.VBLENDVPS(gone, to, p, p)
	c.VMOVUPS(p, to)
	for j := range m {
		c.VANDNPS(m[j], gone, m[j])
		c.VMOVUPS(staticData("step8Magnitude"), magnitude)
		c.VPAND(m[j], magnitude, magnitude)
		c.VPMAXUD(magnitude, g.maxima[j], g.maxima[j])
	}
}

// finish leaves the largest magnitudes of each lane for the next call to reduce: that waits for them, and nothing waits for it.
func (g *gen8) finish() {
	for j := range g.rule.moments {
		g.c.VMOVUPS(g.maxima[j], at(g.a, b8Lanes(j)))
	}
}

// reduce writes the largest magnitude of moment j of the block that the call before updated.
func (g *gen8) reduce(j int) {
	c := g.c
	x := c.XMM()
	c.VMOVUPS(at(g.a, b8Lanes(j)), x)
	for part := 16; part < 4*g.lanes(); part += 16 {
		c.VPMAXUD(at(g.a, b8Lanes(j)+part), x, x)
	}
	for _, order := range []uint8{0x4e, 0xb1} {
		t := c.XMM()
		c.VPSHUFD(operand.U8(order), x, t)
		c.VPMAXUD(t, x, x)
	}
	c.VMOVD(x, at(g.a, b8Maxima(j)))
}
