package main

import (
	"math"

	"github.com/mmcloughlin/avo/attr"
	"github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// expPoly is the Taylor polynomial of exp, highest power first. On |r| <= ln2/2 what is left out is below 6e-9.
var expPoly = [8]float32{1. / 5040, 1. / 720, 1. / 120, 1. / 24, 1. / 6, 1. / 2, 1, 1}

// constant puts eight copies of v in read-only data.
func constant(c *build.Context, name string, v uint32) operand.Mem {
	m := c.StaticGlobal(name)
	c.DataAttributes(attr.RODATA | attr.NOPTR)
	for range 8 {
		c.AppendDatum(operand.U32(v))
	}
	return m
}

func floats(c *build.Context, name string, v float32) operand.Mem {
	return constant(c, name, math.Float32bits(v))
}

// expTables are the constants in memory; they are declared once per file.
type expTables struct {
	most, least, log2e, high, low, bias, one, minusOne, geluCubic, geluScale operand.Mem
	poly                                                                     [8]operand.Mem
}

func declare(c *build.Context) expTables {
	t := expTables{
		most:      floats(c, "expMost", 89),
		least:     floats(c, "expLeast", -105),
		log2e:     floats(c, "expLog2e", math.Log2E),
		high:      floats(c, "expLn2High", 0.693359375),
		low:       floats(c, "expLn2Low", float32(math.Ln2-0.693359375)),
		bias:      constant(c, "expBias", 127),
		one:       floats(c, "expOne", 1),
		minusOne:  floats(c, "expMinusOne", -1),
		geluCubic: floats(c, "expGeluCubic", 0.044715),
		geluScale: floats(c, "expGeluScale", float32(-2*math.Sqrt(2/math.Pi))),
	}
	for i, v := range expPoly {
		t.poly[i] = floats(c, "expPoly"+string(rune('7'-i)), v)
	}
	return t
}

// emitExp replaces x by exp(x): x = n*ln2 + r, a polynomial in r, times 2^n in two steps so that results may be subnormal. The
// value is the second operand of min and max in Intel's order, the one they return if either is NaN.
func (t expTables) emitExp(c *build.Context, x reg.VecVirtual) {
	n, p, s, bound := c.YMM(), c.YMM(), c.YMM(), c.YMM()
	c.VMOVUPS(t.most, bound)
	c.VMINPS(x, bound, x)
	c.VMOVUPS(t.least, bound)
	c.VMAXPS(x, bound, x)
	c.VMULPS(t.log2e, x, n)
	c.VROUNDPS(operand.U8(0), n, n)
	c.VFNMADD231PS(t.high, n, x)
	c.VFNMADD231PS(t.low, n, x)
	c.VMOVUPS(t.poly[0], p)
	for _, k := range t.poly[1:] {
		c.VFMADD213PS(k, x, p)
	}
	c.VCVTPS2DQ(n, n)
	c.VPSRAD(operand.U8(1), n, s)
	c.VPSUBD(s, n, n)
	for _, e := range []reg.VecVirtual{s, n} {
		c.VPADDD(t.bias, e, e)
		c.VPSLLD(operand.U8(23), e, e)
		c.VMULPS(e, p, p)
	}
	c.VMOVAPS(p, x)
}

// mapped emits a function that applies body to each element of blocks of eight.
func mapped(c *build.Context, name, doc string, body func(x reg.VecVirtual)) {
	begin(c, name, "func(blocks int, dst *float32, src *float32)", doc)
	n, dst, src := param(c, "blocks"), param(c, "dst"), param(c, "src")
	x := c.YMM()
	loop(c, "block", n, 1, func() {
		c.VMOVUPS(at(src, 0), x)
		body(x)
		c.VMOVUPS(x, at(dst, 0))
		c.ADDQ(operand.U8(32), src)
		c.ADDQ(operand.U8(32), dst)
	})
	c.VZEROUPPER()
	c.RET()
}

// tables finds the constants again: a data section is named, so a reference needs only the name.
func tables() expTables {
	ref := func(name string) operand.Mem { return operand.NewDataAddr(operand.NewStaticSymbol(name), 0) }
	t := expTables{
		most: ref("expMost"), least: ref("expLeast"), log2e: ref("expLog2e"), high: ref("expLn2High"), low: ref("expLn2Low"),
		bias: ref("expBias"), one: ref("expOne"), minusOne: ref("expMinusOne"), geluCubic: ref("expGeluCubic"),
		geluScale: ref("expGeluScale"),
	}
	for i := range t.poly {
		t.poly[i] = ref("expPoly" + string(rune('7'-i)))
	}
	return t
}

func exp(c *build.Context) {
	t := declare(c)
	mapped(c, "expAVX2", "expAVX2 sets dst[i] to exp(src[i]), i < 8*blocks. Needs AVX2 and FMA.",
		func(x reg.VecVirtual) { t.emitExp(c, x) })
}

func expSum(c *build.Context) {
	t := tables()
	begin(c, "expSumAVX2", "func(blocks int, dst *float32, src *float32, shift float32) float32",
		"expSumAVX2 sets dst[i] to exp(src[i]-shift), i < 8*blocks, and returns their sum. Needs AVX2 and FMA.")
	n, dst, src := param(c, "blocks"), param(c, "dst"), param(c, "src")
	shift, x, acc := c.YMM(), c.YMM(), zeros(c, 1)
	broadcastParam(c, "shift", shift)
	loop(c, "block", n, 1, func() {
		c.VMOVUPS(at(src, 0), x)
		c.VSUBPS(shift, x, x)
		t.emitExp(c, x)
		c.VMOVUPS(x, at(dst, 0))
		c.VADDPS(x, acc[0], acc[0])
		c.ADDQ(operand.U8(32), src)
		c.ADDQ(operand.U8(32), dst)
	})
	c.Store(sum(c, acc), c.ReturnIndex(0))
	c.VZEROUPPER()
	c.RET()
}

// logistic replaces x by over/(1+exp(u)).
func (t expTables) logistic(c *build.Context, u reg.VecVirtual, over operand.Op, x reg.VecVirtual) {
	t.emitExp(c, u)
	c.VADDPS(t.one, u, u)
	if over == nil {
		over = c.YMM()
		c.VMOVUPS(t.one, over)
	}
	c.VDIVPS(u, over, x)
}

func sigmoid(c *build.Context) {
	t := tables()
	mapped(c, "sigmoidAVX2", "sigmoidAVX2 sets dst[i] to 1/(1+exp(-src[i])), i < 8*blocks. Needs AVX2 and FMA.",
		func(x reg.VecVirtual) {
			c.VMULPS(t.minusOne, x, x)
			t.logistic(c, x, nil, x)
		})
}

func silu(c *build.Context) {
	t := tables()
	mapped(c, "siluAVX2", "siluAVX2 sets dst[i] to src[i]/(1+exp(-src[i])), i < 8*blocks. Needs AVX2 and FMA.",
		func(x reg.VecVirtual) {
			u := c.YMM()
			c.VMULPS(t.minusOne, x, u)
			t.logistic(c, u, x, x)
		})
}

func geluTanh(c *build.Context) {
	t := tables()
	mapped(c, "geluTanhAVX2", "geluTanhAVX2 sets dst[i] to src[i]/(1+exp(-2u)), u = sqrt(2/pi)*(src[i]+0.044715*src[i]^3). Needs AVX2 and FMA.",
		func(x reg.VecVirtual) {
			u := c.YMM()
			c.VMULPS(x, x, u)
			c.VMULPS(t.geluCubic, u, u)
			c.VFMADD213PS(x, x, u)
			c.VMULPS(t.geluScale, u, u)
			t.logistic(c, u, x, x)
		})
}
