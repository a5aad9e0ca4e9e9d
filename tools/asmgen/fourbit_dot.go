package main

import (
	"fmt"
	"math/bits"

	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// Products of few vectors by the codes as they are stored. A unit is a register of 16-bit words of codes, one word a lane: four codes
// each. The vectors are rearranged once to match: first the elements of the words' lowest codes, then of the next, and so on.

// codesAhead is how many bytes ahead codes are prefetched.
const codesAhead = 4096

// dots emits dot1, dot2, dot4 and dotScaled. Four vectors are often more than the first cache holds: two rows share what is read of them, where there
// are registers enough.
func dots(v vectors) {
	v.dot(1, 1)
	v.dot(2, 1)
	if v.wide {
		v.dot(4, 2)
	} else {
		v.dot(4, 1)
	}
	v.dotScaled("dotScaledF32", "in float32")
	if v.wide {
		v.dotScaled("dotScaledBF16", "rounded to bfloat16, for scales and values that are ordinary")
	}
}

// dotScaled is dot1 with tables that are made on the way, in few instructions a block.
func (v vectors) dotScaled(name, elements string) {
	c := v.c
	v.begin(name, "func(rows int, codes *byte, scales *float32, values *float32, blocks int, units int, x *float32, out *float32)",
		"NAME sets out[r] to the sum of row r of the weight times x. A row is blocks scales, which multiply the 16 values, of units of",
		fmt.Sprintf("%d codes, %s; rows and their scales follow each other. rows, blocks and units are at least 1.", 4*v.lanes(), elements))
	rows, codes, scales, blocks := param(c, "rows"), param(c, "codes"), param(c, "scales"), param(c, "blocks")
	units, x, out, from := param(c, "units"), param(c, "x"), param(c, "out"), c.GP64()
	values := v.book(at(param(c, "values"), 0))
	d := &dotLoop{v: v, m: 1, codes: codes, vector: func(_, disp int) operand.Mem { return at(from, disp) }}
	round := func(reg.VecVirtual) {}
	if name == "dotScaledBF16" {
		round = v.near(name)
	}
	c.Label("row")
	d.clear(1)
	block, unit := c.GP64(), c.GP64()
	c.MOVQ(x, from)
	c.MOVQ(blocks, block)
	c.Label("block")
	b := book{low: v.reg()}
	v.times(values.low, at(scales, 0), b.low.(reg.VecVirtual))
	if !v.wide {
		b.high = v.reg()
		v.times(values.high, at(scales, 0), b.high.(reg.VecVirtual))
	}
	round(b.low.(reg.VecVirtual))
	d.books = []book{b}
	c.ADDQ(operand.U8(4), scales)
	c.MOVQ(units, unit)
	c.Label("unit")
	d.unit(nil)
	c.ADDQ(operand.U8(2*v.lanes()), codes)
	c.ADDQ(operand.I32(16*v.lanes()), from)
	c.DECQ(unit)
	c.JNZ(operand.LabelRef("unit"))
	c.DECQ(block)
	c.JNZ(operand.LabelRef("block"))
	v.storeSums(1, d.sums[0], out, nil)
	c.ADDQ(operand.U8(4), out)
	c.DECQ(rows)
	c.JNZ(operand.LabelRef("row"))
	v.end()
}

// clear begins sums of so many rows.
func (d *dotLoop) clear(rows int) {
	d.sums = make([][]reg.VecVirtual, rows)
	for r := range d.sums {
		d.sums[r] = make([]reg.VecVirtual, max(4/rows, d.m))
		for i := range d.sums[r] {
			d.sums[r][i] = d.v.reg()
			d.v.c.VXORPS(d.sums[r][i], d.sums[r][i], d.sums[r][i])
		}
	}
}

// dot is the product by m vectors, together rows at a time.
func (v vectors) dot(m, together int) {
	c := v.c
	v.begin(fmt.Sprintf("dot%d", m), "func(rows int, codes *byte, tables *uint32, blocks int, units int, x *float32, ldx int, out *float32, ldo int)",
		fmt.Sprintf("NAME sets out[m*ldo+r], m < %d, to the sum of row r of the weight times vector m, which begins at x[m*ldx]. A row is blocks", m),
		fmt.Sprintf("tables of units of %d codes; rows and their tables follow each other. rows, a multiple of %d, blocks and units are at least 1.",
			4*v.lanes(), together))
	codes, tabs, blocks := param(c, "codes"), param(c, "tables"), param(c, "blocks")
	ldx, out, ldo := param(c, "ldx"), param(c, "out"), param(c, "ldo")
	c.SHLQ(operand.U8(2), ldx)
	c.SHLQ(operand.U8(2), ldo)
	three, from := c.GP64(), c.GP64()
	c.LEAQ(operand.Mem{Base: ldx, Index: ldx, Scale: 2}, three)
	d := &dotLoop{v: v, m: m, codes: codes, vector: fourRows(from, ldx, three)}
	rows, rowCodes, rowTables := param(c, "rows"), c.GP64(), c.GP64()
	if together > 1 {
		c.MOVQ(blocks, rowTables)
		c.MOVQ(blocks, rowCodes)
		c.IMULQ(inMemory(c, "units"), rowCodes)
		c.SHLQ(operand.U8(bits.TrailingZeros(uint(2*v.lanes()))), rowCodes)
		c.SHLQ(operand.U8(6), rowTables)
	}
	c.Label("row")
	d.clear(together)
	block := c.GP64()
	c.MOVQ(inMemory(c, "x"), from)
	c.MOVQ(blocks, block)
	c.Label("block")
	d.books = []book{v.book(at(tabs, 0))}
	if together > 1 {
		d.books = append(d.books, v.book(indexed(tabs, rowTables)))
	}
	unit := c.GP64()
	c.MOVQ(inMemory(c, "units"), unit)
	c.Label("unit")
	d.unit(rowCodes)
	c.ADDQ(operand.U8(2*v.lanes()), codes)
	c.ADDQ(operand.I32(16*v.lanes()), from)
	c.DECQ(unit)
	c.JNZ(operand.LabelRef("unit"))
	c.ADDQ(operand.U8(64), tabs)
	c.DECQ(block)
	c.JNZ(operand.LabelRef("block"))
	for _, sums := range d.sums {
		v.storeSums(m, sums, out, ldo)
		c.ADDQ(operand.U8(4), out)
	}
	if together > 1 {
		c.ADDQ(rowCodes, codes)
		c.ADDQ(rowTables, tabs)
	}
	c.SUBQ(operand.U8(together), rows)
	c.JNZ(operand.LabelRef("row"))
	v.end()
}

// dotLoop is what the inner loop of dot needs.
type dotLoop struct {
	v      vectors
	m      int
	codes  reg.GPVirtual
	vector func(r, disp int) operand.Mem
	books  []book
	sums   [][]reg.VecVirtual // of each row
}

// unit multiplies a unit of each row.
func (d *dotLoop) unit(rowCodes reg.GPVirtual) {
	v, c := d.v, d.v.c
	words := make([]reg.VecVirtual, len(d.books))
	for r := range words {
		from := at(d.codes, 0)
		if r > 0 {
			from = indexed(d.codes, rowCodes)
		}
		words[r] = v.reg()
		c.VPMOVZXWD(from, words[r])
		from.Disp = codesAhead
		c.PREFETCHT0(from)
	}
	for t := range 4 {
		values := make([]reg.VecVirtual, len(words))
		for r := range values {
			values[r] = v.reg()
			v.pick(d.books[r], words[r], 4*t, values[r])
		}
		for i := range d.m {
			x := operand.Op(d.vector(i, 4*v.lanes()*t))
			if len(words) > 1 {
				shared := v.reg()
				c.VMOVUPS(x, shared)
				x = shared
			}
			for r, w := range values {
				c.VFMADD231PS(x, w, d.sums[r][(d.m*t+i)%len(d.sums[r])])
			}
		}
	}
}

// storeSums writes the sum of the registers i, i+m, ... to out[i*ldo].
func (v vectors) storeSums(m int, acc []reg.VecVirtual, out, ldo reg.GPVirtual) {
	c := v.c
	to := c.GP64()
	c.MOVQ(out, to)
	for i := range m {
		var parts []reg.VecVirtual
		for k := i; k < len(acc); k += m {
			parts = append(parts, acc[k])
		}
		for n := len(parts); n > 1; n /= 2 {
			for k := range n / 2 {
				c.VADDPS(parts[k+n/2], parts[k], parts[k])
			}
		}
		if v.wide {
			half := c.YMM()
			c.VEXTRACTF64X4(operand.U8(1), parts[0], half)
			c.VADDPS(parts[0].AsY(), half, half)
			parts[0] = half
		}
		c.VMOVSS(sum(c, parts[:1]), at(to, 0))
		if i < m-1 {
			c.ADDQ(ldo, to)
		}
	}
}

// sumRows emits sum4 and sum1.
func sumRows(v vectors) {
	for _, rows := range []int{4, 1} {
		v.sumRows(rows)
	}
}

// sumRows adds rows of the weight times a number each.
func (v vectors) sumRows(rows int) {
	c := v.c
	v.begin(fmt.Sprintf("sum%d", rows), "func(x *float32, codes *byte, stride int, tables *uint32, ldt int, blocks int, units int, y *float32)",
		fmt.Sprintf("NAME adds x[r] times row r of the weight, r < %d, to y, whose elements are in the order of a unit. A row is blocks tables of", rows),
		fmt.Sprintf("units of %d codes; codes are stride bytes apart, tables ldt words. blocks and units are at least 1.", 4*v.lanes()))
	x, codes, stride, tabs, ldt := param(c, "x"), param(c, "codes"), param(c, "stride"), param(c, "tables"), param(c, "ldt")
	blocks, units, y := param(c, "blocks"), param(c, "units"), param(c, "y")
	c.SHLQ(operand.U8(2), ldt)
	three, threeTables := c.GP64(), c.GP64()
	c.LEAQ(operand.Mem{Base: stride, Index: stride, Scale: 2}, three)
	c.LEAQ(operand.Mem{Base: ldt, Index: ldt, Scale: 2}, threeTables)
	row, table := fourRows(codes, stride, three), fourRows(tabs, ldt, threeTables)
	ahead := c.GP64()
	c.LEAQ(operand.Mem{Base: codes, Index: stride, Scale: 4}, ahead)
	next := fourRows(ahead, stride, three)
	factor := make([]reg.VecVirtual, rows)
	for r := range factor {
		factor[r] = v.reg()
		c.VBROADCASTSS(at(x, 4*r), factor[r])
	}
	c.Label("block")
	unit := c.GP64()
	c.MOVQ(units, unit)
	c.Label("unit")
	var acc [4]reg.VecVirtual
	for t := range acc {
		acc[t] = v.reg()
		c.VMOVUPS(at(y, 4*v.lanes()*t), acc[t])
	}
	for r := range rows {
		word := v.reg()
		c.VPMOVZXWD(row(r, 0), word)
		c.PREFETCHT0(next(r, 0))
		for t := range acc {
			w := v.reg()
			v.pick(v.bookAt(table(r, 0)), word, 4*t, w)
			c.VFMADD231PS(factor[r], w, acc[t])
		}
	}
	for t := range acc {
		c.VMOVUPS(acc[t], at(y, 4*v.lanes()*t))
	}
	c.ADDQ(operand.U8(2*v.lanes()), codes)
	c.ADDQ(operand.U8(2*v.lanes()), ahead)
	c.ADDQ(operand.I32(16*v.lanes()), y)
	c.DECQ(unit)
	c.JNZ(operand.LabelRef("unit"))
	c.ADDQ(operand.U8(64), tabs)
	c.DECQ(blocks)
	c.JNZ(operand.LabelRef("block"))
	v.end()
}
