package main

import (
	"fmt"
	"math"
	"strings"

	"github.com/mmcloughlin/avo/attr"
	"github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// The loops over 4-bit codes. A code picks one of 16 values, which are one register with AVX-512 and two with AVX2; picking looks at the
// lowest four bits of a lane and ignores the rest, so a code only has to be shifted to the bottom of its lane.

// vectors emits for one width of registers.
type vectors struct {
	c    *build.Context
	wide bool // AVX-512, otherwise AVX2
}

func (v vectors) lanes() int {
	if v.wide {
		return 16
	}
	return 8
}

// suffix ends the names of functions.
func (v vectors) suffix() string {
	if v.wide {
		return "AVX512"
	}
	return "AVX2"
}

func (v vectors) needs() string {
	if v.wide {
		return "Needs AVX-512 F, BW and DQ."
	}
	return "Needs AVX2, FMA and F16C."
}

func (v vectors) reg() reg.VecVirtual {
	if v.wide {
		return v.c.ZMM()
	}
	return v.c.YMM()
}

// narrow is a register of half the width.
func (v vectors) narrow() reg.VecVirtual {
	if v.wide {
		return v.c.YMM()
	}
	return v.c.XMM()
}

// begin starts a function; the signature's name is that of the loop and its dtype.
func (v vectors) begin(name, signature string, doc ...string) {
	full := name + v.suffix()
	text := strings.Split(strings.ReplaceAll(strings.Join(doc, "\n"), "NAME", full), "\n")
	begin(v.c, full, signature, append(text, v.needs())...)
}

func (v vectors) end() {
	v.c.VZEROUPPER()
	v.c.RET()
}

// pattern is a register's worth of read-only words of four bytes, repeated as often as they fit; it belongs to the present function.
func (v vectors) pattern(name string, words ...uint32) operand.Mem {
	m := v.c.StaticGlobal(name)
	v.c.DataAttributes(attr.RODATA | attr.NOPTR)
	for i := range v.lanes() {
		v.c.AppendDatum(operand.U32(words[i%len(words)]))
	}
	return m
}

// held is pattern, in a register.
func (v vectors) held(name string, words ...uint32) reg.VecVirtual {
	r, m := v.reg(), v.pattern(name, words...)
	v.c.VMOVUPS(m, r)
	return r
}

// book is the 16 values that codes pick from.
type book struct{ low, high operand.Op }

// book loads the values that start at m.
func (v vectors) book(m operand.Mem) book {
	b := book{low: v.reg()}
	v.c.VMOVUPS(m, b.low)
	if !v.wide {
		m.Disp += 32
		b.high = v.reg()
		v.c.VMOVUPS(m, b.high)
	}
	return b
}

// bookAt uses the values where they lie.
func (v vectors) bookAt(m operand.Mem) book {
	high := m
	high.Disp += 32
	return book{m, high}
}

// pick sets out to the values of the codes that start at bit shift of each lane of x.
func (v vectors) pick(b book, x reg.VecVirtual, shift int, out reg.VecVirtual) {
	c, at := v.c, x
	if shift != 0 {
		at = v.reg()
		c.VPSRLD(operand.U8(shift), x, at)
	}
	if v.wide {
		c.VPERMPS(b.low, at, out)
		return
	}
	sign := x
	if shift != 28 {
		sign = v.reg()
		c.VPSLLD(operand.U8(28-shift), x, sign)
	}
	v.pickBy(b, at, sign, out)
}

// pickBy is pick for AVX2 with the code's lowest bits in at and its highest in the sign of sign.
func (v vectors) pickBy(b book, at, sign, out reg.VecVirtual) {
	low, high := v.reg(), v.reg()
	v.c.VPERMPS(b.low, at, low)
	v.c.VPERMPS(b.high, at, high)
	v.c.VBLENDVPS(sign, high, low, out)
}

// rounding turns float32 into the float32 nearest to it that a dtype has, ties to even; it changes nothing for F32.
type rounding struct {
	v                      vectors
	dtype                  string
	one, half, quiet, mask operand.Op
}

var dtypes = []string{"F32", "BF16", "F16"}

func (v vectors) rounding(dtype, function string) rounding {
	r := rounding{v: v, dtype: dtype}
	if dtype != "BF16" {
		return r
	}
	load := func(name string, x uint32) operand.Op {
		if v.wide {
			return v.held(function+name, x)
		}
		return v.pattern(function+name, x) // registers are scarce
	}
	r.one, r.half, r.quiet, r.mask = load("One", 1), load("Half", 0x7fff), load("Quiet", 0x400000), load("Mask", 0xffff0000)
	return r
}

func (r rounding) apply(x reg.VecVirtual) {
	c := r.v.c
	switch r.dtype {
	case "F16":
		h := r.v.narrow()
		c.VCVTPS2PH(operand.U8(0), x, h)
		c.VCVTPH2PS(h, x)
	case "BF16":
		t := r.v.reg()
		c.VPSRLD(operand.U8(16), x, t)
		c.VANDPS(r.one, t, t)
		c.VPADDD(r.half, t, t)
		c.VPADDD(x, t, t)
		r.keepNaN(x, t)
		c.VANDPS(r.mask, t, x)
	}
}

// keepNaN replaces lanes of t whose x is not a number by x made quiet.
func (r rounding) keepNaN(x, t reg.VecVirtual) {
	c := r.v.c
	const unordered = 3
	if r.v.wide {
		k := c.K()
		c.VCMPPS(operand.U8(unordered), x, x, k)
		c.VORPS(r.quiet, x, k, t)
		return
	}
	nan, q := r.v.reg(), r.v.reg()
	c.VCMPPS(operand.U8(unordered), x, x, nan)
	c.VORPS(r.quiet, x, q)
	c.VBLENDVPS(nan, q, t, t)
}

// widenBytes sets x to the bytes at m, one a lane.
func (v vectors) widenBytes(m operand.Mem, x reg.VecVirtual) { v.c.VPMOVZXBD(m, x) }

// gather sets out to the words of four bytes at base+scale*index, in the lanes of bits with AVX-512 and of the signs of mask with AVX2,
// where nil is every lane.
func (v vectors) gather(base reg.Register, index reg.VecVirtual, scale uint8, mask, out reg.VecVirtual, bits reg.OpmaskVirtual) {
	c, m := v.c, operand.Mem{Base: base, Index: index, Scale: scale}
	c.VXORPS(out, out, out)
	if v.wide {
		k := c.K()
		c.KMOVW(bits, k)
		c.VGATHERDPS(m, k, out)
		return
	}
	used := v.reg()
	if mask == nil {
		c.VPCMPEQD(used, used, used)
	} else {
		c.VMOVUPS(mask, used)
	}
	c.VGATHERDPS(used, m, out)
}

// everyLane is the bits for gather that have all lanes.
func (v vectors) everyLane() reg.OpmaskVirtual {
	if !v.wide {
		return nil
	}
	all, bits := v.c.GP32(), v.c.K()
	v.c.MOVL(operand.U32(0xffff), all)
	v.c.KMOVW(all, bits)
	return bits
}

// inMemory is an argument where the caller left it, for loops that run out of registers.
func inMemory(c *build.Context, name string) operand.Op {
	component := c.Param(name)
	mem, err := component.Resolve()
	if err != nil {
		return param(c, name) // records the error
	}
	return mem.Addr
}

// both returns the emitters of a family at both levels, dtypes inside.
func both(emit ...func(v vectors)) (out []func(*build.Context)) {
	for _, wide := range []bool{true, false} {
		for _, e := range emit {
			out = append(out, func(c *build.Context) { e(vectors{c, wide}) })
		}
	}
	return out
}

// eachDType repeats a family for every dtype.
func eachDType(dtypes []string, emit func(v vectors, dtype string)) func(v vectors) {
	return func(v vectors) {
		for _, d := range dtypes {
			emit(v, d)
		}
	}
}

// restoreScales decodes second-level scales.
func restoreScales(v vectors) {
	c := v.c
	v.begin("scales", "func(rounds int, dst *float32, codes *byte, book *float32, nested float32, offset float32)",
		fmt.Sprintf("NAME sets dst[i] to book[codes[i]]*nested + offset, product and sum each rounded, for i < %d*rounds.", v.lanes()))
	n, dst, codes, from := param(c, "rounds"), param(c, "dst"), param(c, "codes"), param(c, "book")
	nested, offset := v.reg(), v.reg()
	broadcastParam(c, "nested", nested)
	broadcastParam(c, "offset", offset)
	bits := v.everyLane()
	loop(c, "round", n, 1, func() {
		index, x := v.reg(), v.reg()
		v.widenBytes(at(codes, 0), index)
		v.gather(from, index, 4, nil, x, bits)
		c.VMULPS(nested, x, x)
		c.VADDPS(offset, x, x)
		c.VMOVUPS(x, at(dst, 0))
		c.ADDQ(operand.U8(v.lanes()), codes)
		c.ADDQ(operand.U8(4*v.lanes()), dst)
	})
	v.end()
}

// blockTables multiplies the values by the scales of blocks.
func blockTables(v vectors, dtype string) {
	name := "tables" + dtype
	v.begin(name, "func(n int, dst *uint32, scales *float32, values *float32)",
		"NAME writes n tables of 16 words: values[code]*scales[block] rounded to "+dtype+", as float32.")
	v.eachTable(name, dtype, func(reg.VecVirtual) {})
}

// Bounds of ordinary scales and values: products of two are normal numbers, and so are they times 1.5*2^16.
const (
	leastScale, mostScale = 27 << 23, 227 << 23 // 2^-100 and 2^100
	leastValue, mostValue = 117 << 23, 129 << 23
)

// ordinary looks whether nearTables may be used.
func ordinary(v vectors) {
	if !v.wide {
		return // the tables are a small part of what AVX2 takes
	}
	c := v.c
	v.begin("ordinary", "func(rounds int, scales *float32, values *float32) bool",
		"NAME reports whether the 16*rounds scales are from 2^-100 to 2^100, and the 16 values +0 or from 2^-10 to 4 in size.")
	n, scales := param(c, "rounds"), param(c, "scales")
	value, size, most := v.reg(), v.reg(), v.reg()
	c.VMOVUPS(at(param(c, "values"), 0), value)
	c.VPSLLD(operand.U8(1), value, size)
	c.VPSRLD(operand.U8(1), size, size)
	c.VPSUBD(v.held("ordinaryLeastValue", leastValue), size, size)
	const greater = 6
	strange, used, large := c.K(), c.K(), c.K()
	c.VPTESTMD(value, value, used)
	c.VPCMPUD(operand.U8(greater), v.held("ordinaryValues", mostValue-leastValue), size, used, strange)
	c.VPXORD(most, most, most)
	least := v.held("ordinaryLeastScale", leastScale)
	loop(c, "round", n, 1, func() {
		x := v.reg()
		c.VMOVUPS(at(scales, 0), x)
		c.VPSUBD(least, x, x)
		c.VPMAXUD(x, most, most)
		c.ADDQ(operand.U8(64), scales)
	})
	c.VPCMPUD(operand.U8(greater), v.held("ordinaryScales", mostScale-leastScale), most, large)
	c.KORTESTW(strange, large)
	result := c.GP8()
	c.SETEQ(result)
	c.VZEROUPPER()
	c.Store(result, c.ReturnIndex(0))
	c.RET()
}

// nearTables rounds to bfloat16 by adding 1.5*2^16 times the power of two below a product, and taking it off: what is added has its last bit
// where bfloat16 has its own, and an even quotient by it.
func nearTables(v vectors) {
	if !v.wide {
		return
	}
	v.begin("nearBF16", "func(n int, dst *uint32, scales *float32, values *float32)",
		"NAME is tablesBF16AVX512 in half the instructions, for scales and values that are ordinary.")
	v.tableLoops(v.near("near"))
}

// near returns what rounds ordinary products to bfloat16.
func (v vectors) near(function string) func(x reg.VecVirtual) {
	factor, power := v.held(function+"Factor", math.Float32bits(1.5*(1<<16))), v.held(function+"Power", 0xff800000)
	return func(x reg.VecVirtual) {
		e := v.reg()
		v.c.VANDPS(power, x, e)
		v.c.VFMADD231PS(factor, e, x)
		v.c.VFNMADD231PS(factor, e, x)
	}
}

// tablePairs is blockTables for outputs of 16 bits.
func tablePairs(v vectors, dtype string) {
	c, name := v.c, "pairs"+dtype
	v.begin(name, "func(n int, dst *uint32, scales *float32, values *float32)",
		"NAME writes n tables of 16 words: values[code]*scales[block] rounded to "+dtype+", in both halves of the word.")
	v.eachTable(name, dtype, func(x reg.VecVirtual) {
		t := v.reg()
		if dtype == "F16" {
			h := v.narrow()
			c.VCVTPS2PH(operand.U8(0), x, h)
			c.VPMOVZXWD(h, x)
			c.VPSLLD(operand.U8(16), x, t)
		} else {
			c.VPSRLD(operand.U8(16), x, t)
		}
		c.VORPS(t, x, x)
	})
}

// eachTable emits the loop over tables; finish changes a register of rounded values before it is stored.
func (v vectors) eachTable(name, dtype string, finish func(x reg.VecVirtual)) {
	round := v.rounding(dtype, name+v.suffix())
	v.tableLoops(func(x reg.VecVirtual) {
		round.apply(x)
		finish(x)
	})
}

// tableLoops emits the loops over tables; finish changes a register of products before it is stored.
func (v vectors) tableLoops(finish func(x reg.VecVirtual)) {
	c := v.c
	n, dst, scales, from := param(c, "n"), param(c, "dst"), param(c, "scales"), param(c, "values")
	values := v.book(at(from, 0))
	parts := []operand.Op{values.low}
	if !v.wide {
		parts = append(parts, values.high)
	}
	for _, together := range []int{4, 1} {
		loop(c, fmt.Sprintf("tables%d_", together), n, together, func() {
			for t := range together {
				for i, p := range parts {
					x := v.reg()
					v.times(p, at(scales, 4*t), x)
					finish(x)
					c.VMOVUPS(x, at(dst, 64*t+4*v.lanes()*i))
				}
			}
			c.ADDQ(operand.U8(4*together), scales)
			c.ADDQ(operand.I32(64*together), dst)
		})
	}
	v.end()
}

// times sets x to p times the number at m.
func (v vectors) times(p operand.Op, m operand.Mem, x reg.VecVirtual) {
	if v.wide {
		v.c.VMULPS_BCST(m, p, x)
		return
	}
	v.c.VBROADCASTSS(m, x)
	v.c.VMULPS(p, x, x)
}

const decodeSignature = "func(dst *%s, codes *byte, tables *uint32, blocks int, groups int)"

// inOrder decodes codes of consecutive elements, one register of them at a time.
type inOrder struct {
	v                 vectors
	spread, down, top reg.VecVirtual
}

func (v vectors) inOrder(function string) inOrder {
	o := inOrder{v: v}
	if v.wide {
		// Eight bytes are broadcast; each quarter of the register takes its two, every byte twice.
		o.spread = v.held(function+"Spread", 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7)
		o.down = v.held(function+"Down", 4, 0)
		return o
	}
	o.down = v.held(function+"Down", 4, 0, 12, 8, 20, 16, 28, 24)
	o.top = v.held(function+"Top", 24, 28, 16, 20, 8, 12, 0, 4)
	return o
}

// load decodes the bytes at m.
func (o inOrder) load(m operand.Mem, b book, out reg.VecVirtual) {
	c, v := o.v.c, o.v
	x := v.reg()
	if v.wide {
		c.VPBROADCASTQ(m, x)
		c.VPSHUFB(o.spread, x, x)
		c.VPSRLVD(o.down, x, x)
		c.VPERMPS(b.low, x, out)
		return
	}
	sign := v.reg()
	c.VPBROADCASTD(m, x)
	c.VPSLLVD(o.top, x, sign)
	c.VPSRLVD(o.down, x, x)
	v.pickBy(b, x, sign, out)
}

// decode32 writes whole blocks as float32.
func decode32(v vectors) {
	v.decode32("decode32", "", func(x, m operand.Op) { v.c.VMOVUPS(x, m) })
}

func decode32Stream(v vectors) { v.decode32("stream32", streamDoc(v), v.c.VMOVNTPS) }

func streamDoc(v vectors) string {
	return fmt.Sprintf("\nIt writes past the caches, and a fence has to follow; dst must be a multiple of %d.", 4*v.lanes())
}

func (v vectors) decode32(name, doc string, store func(x, m operand.Op)) {
	c := v.c
	v.begin(name, fmt.Sprintf(decodeSignature, "uint32"),
		"NAME writes the table entries of blocks of 16*groups codes; groups is at least 1."+doc)
	order := v.inOrder(name + v.suffix())
	v.eachBlock(func(dst, codes reg.Register, b book) func(unroll int) {
		return func(unroll int) {
			for i := range unroll * 16 / v.lanes() {
				x := v.reg()
				order.load(at(codes, v.lanes()/2*i), b, x)
				store(x, at(dst, 4*v.lanes()*i))
			}
			c.ADDQ(operand.U8(8*unroll), codes)
			c.ADDQ(operand.I32(64*unroll), dst)
		}
	})
	v.end()
}

// decode16 writes whole blocks of 16-bit elements.
func decode16(v vectors) {
	v.decode16("decode16", "", func(x, m operand.Op) { v.c.VMOVUPS(x, m) })
}

func decode16Stream(v vectors) { v.decode16("stream16", streamDoc(v), v.c.VMOVNTDQ) }

// streamFence ends a series of calls that write past the caches: a fence in each call would wait for the memory every time.
func streamFence(c *build.Context) {
	begin(c, "fence", "func()", "fence waits until what was written past the caches is seen by other threads.")
	c.SFENCE()
	c.RET()
}

func (v vectors) decode16(name, doc string, store func(x, m operand.Op)) {
	c, size := v.c, 2*v.lanes()
	v.begin(name, fmt.Sprintf(decodeSignature, "uint16"),
		fmt.Sprintf("NAME writes halves of the table entries of blocks of %d*groups codes; groups is at least 1.", size)+doc)
	odd := c.K()
	if v.wide {
		bits := c.GP32()
		c.MOVL(operand.U32(0xaaaaaaaa), bits)
		c.KMOVD(bits, odd)
	}
	v.eachBlock(func(dst, codes reg.Register, b book) func(unroll int) {
		return func(unroll int) {
			for i := range unroll {
				x, even, other := v.reg(), v.reg(), v.reg()
				v.widenBytes(at(codes, v.lanes()*i), x)
				v.pick(b, x, 4, even)
				v.pick(b, x, 0, other)
				if v.wide {
					c.VPBLENDMW(other, even, odd, even)
				} else {
					c.VPBLENDW(operand.U8(0xaa), other, even, even)
				}
				store(even, at(dst, 4*v.lanes()*i))
			}
			c.ADDQ(operand.I32(v.lanes()*unroll), codes)
			c.ADDQ(operand.I32(4*v.lanes()*unroll), dst)
		}
	})
	v.end()
}

// eachBlock emits the loops over blocks and their groups.
func (v vectors) eachBlock(prepare func(dst, codes reg.Register, b book) func(unroll int)) {
	c := v.c
	dst, codes, tabs, blocks, groups := param(c, "dst"), param(c, "codes"), param(c, "tables"), param(c, "blocks"), param(c, "groups")
	loop(c, "block", blocks, 1, func() {
		b := v.book(at(tabs, 0))
		group := prepare(dst, codes, b)
		left := c.GP64()
		c.MOVQ(groups, left)
		loop(c, "four", left, 4, func() { group(4) })
		loop(c, "one", left, 1, func() { group(1) })
		c.ADDQ(operand.U8(64), tabs)
	})
}
