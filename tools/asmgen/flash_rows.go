package main

import (
	"fmt"
	"math"

	"github.com/mmcloughlin/avo/attr"
	"github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// exp2Poly is 2^r on |r| <= 1/2 within 1.6e-8 of its value, highest power first; a weighted least-squares fit iterated to
// nearly equal extremes, with the constant held at 1.
var exp2Poly = [7]float32{0.00015353361959569156, 0.0013398875016719103, 0.00961843691766262, 0.055503323674201965,
	0.24022647738456726, 0.6931471824645996, 1}

// exp2Least is the least power of two that is not flushed to zero.
const exp2Least = -125

// exp2 holds the constants: registers where there are 32, memory else.
type exp2 struct {
	flash
	poly        [7]operand.Op
	least, most reg.VecVirtual
}

// declareExp2 puts the constants into the file's data; functions refer to them by name.
func declareExp2(c *build.Context) {
	eight := func(name string, v uint32) {
		c.StaticGlobal(name)
		c.DataAttributes(attr.RODATA | attr.NOPTR)
		for range 8 {
			c.AppendDatum(operand.U32(v))
		}
	}
	for i, v := range exp2Poly {
		eight(fmt.Sprintf("exp2Poly%d", 6-i), math.Float32bits(v))
	}
	eight("exp2Least", math.Float32bits(exp2Least))
	eight("exp2Most", math.Float32bits(127))
	eight("oneKey", 1)
	eight("logHalf", math.Float32bits(math.Sqrt2/2))
	eight("logLn2", math.Float32bits(math.Ln2))
	for _, odd := range []int{1, 3, 5, 7, 9} {
		eight(fmt.Sprintf("logOver%d", odd), math.Float32bits(1/float32(odd)))
	}
	eight("minusInf", math.Float32bits(float32(math.Inf(-1))))
}

func (f flash) named(name string) operand.Mem {
	return operand.NewDataAddr(operand.NewStaticSymbol(name), 0)
}

func (f flash) broadcast(c *build.Context, name string) reg.VecVirtual {
	r := f.vector(c)
	c.VBROADCASTSS(f.named(name), r)
	return r
}

func (f flash) exp2(c *build.Context) exp2 {
	e := exp2{flash: f, least: f.broadcast(c, "exp2Least")}
	for i := range e.poly {
		name := fmt.Sprintf("exp2Poly%d", 6-i)
		if f.lanes == 16 {
			e.poly[i] = f.broadcast(c, name)
		} else {
			e.poly[i] = f.named(name)
		}
	}
	if f.lanes == 8 {
		e.most = f.broadcast(c, "exp2Most")
	}
	return e
}

// emit replaces x by 2^x, by zero below exp2Least. A NaN stays one: it is not less than the bound, and it is the second operand
// of min and max in Intel's order. Lanes below the bound are raised to it before: VSCALEFPS takes some hundred cycles where it
// meets infinities or makes subnormal numbers, masked or not. dead, if not nil, is replaced by zero where the result is.
func (e exp2) emit(c *build.Context, x, dead reg.VecVirtual) {
	n, p := e.vector(c), e.vector(c)
	const notLess = 21
	if e.lanes == 16 {
		k := c.K()
		c.VCMPPS(operand.U8(notLess), e.least, x, k)
		c.VMAXPS(x, e.least, x)
		c.VRNDSCALEPS(operand.U8(0), x, n)
		c.VSUBPS(n, x, x)
		e.horner(c, x, p)
		c.VSCALEFPS_Z(n, p, k, x)
		if dead != nil {
			c.VMOVAPS_Z(dead, k, dead)
		}
		return
	}
	live := e.vector(c)
	c.VCMPPS(operand.U8(notLess), e.least, x, live)
	c.VMINPS(x, e.most, x)
	c.VROUNDPS(operand.U8(0), x, n)
	c.VSUBPS(n, x, x)
	e.horner(c, x, p)
	c.VCVTPS2DQ(n, n)
	c.VPSLLD(operand.U8(23), n, n)
	c.VPADDD(n, p, p)
	c.VANDPS(live, p, x)
	if dead != nil {
		c.VANDPS(live, dead, dead)
	}
}

func (e exp2) horner(c *build.Context, x, p reg.VecVirtual) {
	c.VMOVUPS(e.poly[0], p)
	for _, k := range e.poly[1:] {
		c.VFMADD213PS(k, x, p)
	}
}

// softmax emits one block of the online softmax, queries in lanes.
func (f flash) softmax(c *build.Context) {
	begin(c, "softmax"+f.suffix, "func(keys int, s *float32, state *float32)",
		fmt.Sprintf("softmax%s replaces scores s[j][i], i < %d, by 2^(s[j][i]-top[i]), where top[i] is the largest of them and of", f.suffix, f.nr()),
		"the old top[i]. state is top, sum and shrink: shrink becomes 2^(old top-top), sum becomes sum*shrink and the sum of the results.",
		"keys is a positive multiple of 4. Needs "+f.needs+".")
	keys, s, state := param(c, "keys"), param(c, "s"), param(c, "state")
	width := 4 * f.nr()
	e := f.exp2(c)
	top := f.largest(c, keys, s, state)
	n, p := c.GP64(), c.GP64()
	sum := f.pair(c)
	for j := range sum {
		old := f.vector(c)
		c.VMOVUPS(f.column(state, 0, j), old)
		c.VMOVUPS(top[j], f.column(state, 0, j))
		c.VSUBPS(top[j], old, old)
		e.emit(c, old, nil)
		c.VMOVUPS(old, f.column(state, 2*width, j))
		f.zero(c, sum[j])
	}
	c.MOVQ(keys, n)
	c.MOVQ(s, p)
	x := f.pair(c)
	c.Label("exp")
	for j := range x {
		c.VMOVUPS(f.column(p, 0, j), x[j])
		c.VSUBPS(top[j], x[j], x[j])
		e.emit(c, x[j], nil)
		c.VADDPS(x[j], sum[j], sum[j])
		c.VMOVUPS(x[j], f.column(p, 0, j))
	}
	c.ADDQ(operand.U32(width), p)
	c.DECQ(n)
	c.JNZ(operand.LabelRef("exp"))
	for j := range sum {
		shrink := f.vector(c)
		c.VMOVUPS(f.column(state, 2*width, j), shrink)
		c.VFMADD231PS(f.column(state, width, j), shrink, sum[j])
		c.VMOVUPS(sum[j], f.column(state, width, j))
	}
	c.VZEROUPPER()
	c.RET()
}

// largest leaves in registers the largest of the scores and the old top of each lane. Two chains hide the latency.
func (f flash) largest(c *build.Context, keys, s, state reg.GPVirtual) [2]reg.VecVirtual {
	a, b := f.pair(c), f.pair(c)
	for j := range a {
		c.VMOVUPS(f.column(state, 0, j), a[j])
		c.VMOVUPS(a[j], b[j])
	}
	n, p := c.GP64(), c.GP64()
	c.MOVQ(keys, n)
	c.MOVQ(s, p)
	c.Label("max")
	for j := range a {
		c.VMAXPS(f.column(p, 0, j), a[j], a[j])
		c.VMAXPS(f.column(p, 4*f.nr(), j), b[j], b[j])
	}
	c.ADDQ(operand.U32(8*f.nr()), p)
	c.SUBQ(operand.U8(2), n)
	c.JNZ(operand.LabelRef("max"))
	for j := range a {
		c.VMAXPS(b[j], a[j], a[j])
	}
	return a
}

// slopes emits the probabilities of the backward pass and the gradient of the scores.
func (f flash) slopes(c *build.Context) {
	begin(c, "slopes"+f.suffix, "func(keys int, s *float32, dp *float32, state *float32)",
		fmt.Sprintf("slopes%s replaces scores s[j][i], i < %d, by p = 2^(s[j][i]-lse[i]) and dp[j][i] by p*(dp[j][i]-shift[i]), both by zero", f.suffix, f.nr()),
		"where p is zero, whatever dp is. state is lse and shift. keys >= 1. Needs "+f.needs+".")
	keys, s, dp, state := param(c, "keys"), param(c, "s"), param(c, "dp"), param(c, "state")
	e := f.exp2(c)
	lse, shift, x := f.pair(c), f.pair(c), f.pair(c)
	for j := range lse {
		c.VMOVUPS(f.column(state, 0, j), lse[j])
		c.VMOVUPS(f.column(state, 4*f.nr(), j), shift[j])
	}
	c.Label("key")
	for j := range x {
		d := f.vector(c)
		c.VMOVUPS(f.column(s, 0, j), x[j])
		c.VSUBPS(lse[j], x[j], x[j])
		c.VMOVUPS(f.column(dp, 0, j), d)
		c.VSUBPS(shift[j], d, d)
		e.emit(c, x[j], d)
		c.VMULPS(x[j], d, d)
		c.VMOVUPS(x[j], f.column(s, 0, j))
		c.VMOVUPS(d, f.column(dp, 0, j))
	}
	c.ADDQ(operand.U32(4*f.nr()), s)
	c.ADDQ(operand.U32(4*f.nr()), dp)
	c.DECQ(keys)
	c.JNZ(operand.LabelRef("key"))
	c.VZEROUPPER()
	c.RET()
}

// hide emits the mask.
func (f flash) hide(c *build.Context) {
	begin(c, "hide"+f.suffix, "func(keys int, s *float32, first int, seen *int32)",
		fmt.Sprintf("hide%s sets s[j][i], i < %d, to minus infinity where key first+j is not in [lo[i], hi[i]). seen is lo and hi.", f.suffix, f.nr()),
		"keys >= 1. Needs "+f.needs+".")
	keys, s, first, seen := param(c, "keys"), param(c, "s"), param(c, "first"), param(c, "seen")
	lo, hi, x := f.pair(c), f.pair(c), f.pair(c)
	for j := range lo {
		c.VMOVUPS(f.column(seen, 0, j), lo[j])
		c.VMOVUPS(f.column(seen, 4*f.nr(), j), hi[j])
	}
	inf, key, low := f.broadcast(c, "minusInf"), f.vector(c), c.XMM()
	one := f.broadcast(c, "oneKey")
	c.VMOVQ(first, low)
	c.VPBROADCASTD(low, key)
	c.Label("key")
	for j := range x {
		m := f.column(s, 0, j)
		if f.lanes == 16 {
			const notLess, less = 5, 1
			k1, k2 := c.K(), c.K()
			c.VPCMPD(operand.U8(notLess), lo[j], key, k1)
			c.VPCMPD(operand.U8(less), hi[j], key, k1, k2)
			c.VBLENDMPS(m, inf, k2, x[j])
		} else {
			early, within := c.YMM(), c.YMM()
			c.VPCMPGTD(key, lo[j], early)
			c.VPCMPGTD(key, hi[j], within)
			c.VPANDN(within, early, within)
			c.VBLENDVPS(within, m, inf, x[j])
		}
		c.VMOVUPS(x[j], m)
	}
	c.VPADDD(one, key, key)
	c.ADDQ(operand.U32(4*f.nr()), s)
	c.DECQ(keys)
	c.JNZ(operand.LabelRef("key"))
	c.VZEROUPPER()
	c.RET()
}

// scale emits the product of a tile with a row.
func (f flash) scale(c *build.Context) {
	begin(c, "scale"+f.suffix, "func(rows int, x *float32, by *float32)",
		fmt.Sprintf("scale%s multiplies x[j][i] by by[i], i < %d, j < rows. rows >= 1. Needs %s.", f.suffix, f.nr(), f.needs))
	rows, x, by := param(c, "rows"), param(c, "x"), param(c, "by")
	factor, v := f.pair(c), f.pair(c)
	for j := range factor {
		c.VMOVUPS(f.column(by, 0, j), factor[j])
	}
	c.Label("row")
	for j := range v {
		c.VMULPS(f.column(x, 0, j), factor[j], v[j])
		c.VMOVUPS(v[j], f.column(x, 0, j))
	}
	c.ADDQ(operand.U32(4*f.nr()), x)
	c.DECQ(rows)
	c.JNZ(operand.LabelRef("row"))
	c.VZEROUPPER()
	c.RET()
}

// lse emits the logarithm of the sums of exponentials. With x = 2^e*m, m from sqrt(1/2) to sqrt(2), and s = (m-1)/(m+1):
// log x = e*ln2 + 2s*(1 + s^2/3 + s^4/5 + s^6/7 + s^8/9), left out are 4e-10.
func (f flash) lse(c *build.Context) {
	begin(c, "lse"+f.suffix, "func(state *float32, out *float32)",
		fmt.Sprintf("lse%s sets out[i], i < %d, to ln2*top[i] + log(sum[i]) with state as in softmax. A sum is normal or a NaN. Needs %s.", f.suffix, f.nr(), f.needs))
	state, out := param(c, "state"), param(c, "out")
	half, one, two, ln2, y := f.broadcast(c, "logHalf"), f.broadcast(c, "logOver1"), f.vector(c), f.broadcast(c, "logLn2"), f.vector(c)
	c.VADDPS(one, one, two)
	for j := range 2 {
		sum, e, m, p, top := f.vector(c), f.vector(c), f.vector(c), f.vector(c), f.vector(c)
		c.VMOVUPS(f.column(state, 4*f.nr(), j), sum)
		c.VPSUBD(half, sum, e) // as integers: the exponent counts from sqrt(1/2)
		c.VPSRAD(operand.U8(23), e, e)
		c.VPSLLD(operand.U8(23), e, m)
		c.VPSUBD(m, sum, m)
		c.VCVTDQ2PS(e, e)
		c.VADDPS(f.column(state, 0, j), e, top)
		c.VSUBPS(one, m, p)
		c.VADDPS(one, m, m)
		c.VDIVPS(m, p, m)
		c.VMULPS(m, m, y)
		c.VMOVUPS(f.broadcast(c, "logOver9"), p)
		for _, k := range []string{"logOver7", "logOver5", "logOver3"} {
			c.VFMADD213PS(f.broadcast(c, k), y, p)
		}
		c.VFMADD213PS(one, y, p)
		c.VMULPS(two, m, m)
		c.VMULPS(m, p, p)
		c.VFMADD231PS(ln2, top, p)
		f.zero(c, y)
		c.VFMADD231PS(y, sum, p) // a NaN stays one
		c.VMOVUPS(p, f.column(out, 0, j))
	}
	c.VZEROUPPER()
	c.RET()
}
