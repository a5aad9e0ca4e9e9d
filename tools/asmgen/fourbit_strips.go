package main

import (
	"fmt"
	"math/bits"

	"github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// Strips are what a matrix product reads: for each k the values of some lanes, side by side. Where lanes are stored rows, codes are
// transposed as words of eight and decoded after, which moves an eighth of the bytes that transposing values would.

// codeShifts are the bits where the codes of eight consecutive elements start in a word.
var codeShifts = [8]int{4, 0, 12, 8, 20, 16, 28, 24}

// laneArgs are what the two loops over lanes share.
type laneArgs struct {
	v                              vectors
	c                              *build.Context
	dst, ldd, three, codes, stride reg.GPVirtual
	scales                         reg.GPVirtual
	at, scale                      reg.VecVirtual
	lanes                          reg.VecVirtual    // mask of AVX2
	bits                           reg.OpmaskVirtual // mask of AVX-512
	shift                          operand.Op
	values                         book
	round                          rounding
}

const laneDoc = "\nLane l is row l of codes, stride bytes apart; its element 0 is number at[l] of the scales' elements, 1<<shift to a scale. Element k" +
	"\ngoes to dst[k*ldd+l], as values[code]*scale rounded to "

func loadLaneArgs(v vectors, name, dtype string) *laneArgs {
	c := v.c
	l := &laneArgs{v: v, c: c}
	l.dst, l.ldd, l.codes, l.stride = param(c, "dst"), param(c, "ldd"), param(c, "codes"), param(c, "stride")
	l.scales = param(c, "scales")
	l.values, l.round = v.book(at(param(c, "values"), 0)), v.rounding(dtype, name+v.suffix())
	c.SHLQ(operand.U8(2), l.ldd)
	l.three = c.GP64()
	c.LEAQ(operand.Mem{Base: l.ldd, Index: l.ldd, Scale: 2}, l.three)
	l.at, l.scale, l.shift = v.reg(), v.reg(), inMemory(c, "shift")
	c.VMOVUPS(at(param(c, "at"), 0), l.at)
	return l
}

// nextScales loads the scales of the lanes; the next ones are step elements on.
func (l *laneArgs) nextScales(step operand.Op) {
	index := l.v.reg()
	l.c.VPSRLD(l.shift, l.at, index)
	l.v.gather(l.scales, index, 4, l.lanes, l.scale, l.bits)
	l.c.VPBROADCASTD(step, index)
	l.c.VPADDD(index, l.at, l.at)
}

// eight decodes eight elements of every lane.
func (l *laneArgs) eight(word reg.VecVirtual) {
	c := l.c
	for i, shift := range codeShifts {
		x := l.v.reg()
		l.v.pick(l.values, word, shift, x)
		c.VMULPS(l.scale, x, x)
		l.round.apply(x)
		to := operand.Mem{Base: l.dst}
		switch i % 4 {
		case 1, 2:
			to.Index, to.Scale = l.ldd, uint8(i%4)
		case 3:
			to.Index, to.Scale = l.three, 1
		}
		c.VMOVUPS(x, to)
		if i%4 == 3 {
			c.LEAQ(operand.Mem{Base: l.dst, Index: l.ldd, Scale: 4}, l.dst)
		}
	}
}

// laneAhead is how many bytes ahead the codes of a lane are prefetched: about what the next strip of the same lanes reads, while this one is
// multiplied.
const laneAhead = 256

// packLanes takes 32 elements of every row at a time.
func packLanes(v vectors, dtype string) {
	c, name := v.c, "packLanes"+dtype
	v.begin(name, "func(dst *float32, ldd int, codes *byte, stride int, scales *float32, shift int, at *int32, values *float32, rounds int, span int)",
		fmt.Sprintf("NAME decodes %d lanes of 32*rounds elements, one scale to span elements of a lane.", v.lanes())+laneDoc+dtype+
			".\nspan is a multiple of 32.")
	l := loadLaneArgs(v, name, dtype)
	rounds := param(c, "rounds")
	l.bits = v.everyLane()
	l.transposed(rounds)
	v.end()
}

// transposed emits the loops of packLanes. Lanes of a register that are four rows apart are loaded by sixteen bytes, so that the
// transposition stays within lanes.
func (l *laneArgs) transposed(rounds reg.GPVirtual) {
	v, c := l.v, l.c
	rows := []reg.GPVirtual{l.codes}
	three := c.GP64()
	c.LEAQ(operand.Mem{Base: l.stride, Index: l.stride, Scale: 2}, three)
	for range v.lanes()/4 - 1 {
		p := c.GP64()
		c.LEAQ(operand.Mem{Base: rows[len(rows)-1], Index: l.stride, Scale: 4}, p)
		rows = append(rows, p)
	}
	left := c.GP64()
	c.XORQ(left, left)
	loop(c, "round", rounds, 1, func() {
		c.TESTQ(left, left)
		c.JNZ(operand.LabelRef("scaled"))
		c.MOVQ(inMemory(c, "span"), left)
		c.SHRQ(operand.U8(5), left)
		l.nextScales(inMemory(c, "span"))
		c.Label("scaled")
		c.DECQ(left)
		var r [4]reg.VecVirtual
		for i := range r {
			r[i] = v.reg()
			for q, p := range rows {
				m := operand.Mem{Base: p}
				switch i {
				case 1, 2:
					m.Index, m.Scale = l.stride, uint8(i)
				case 3:
					m.Index, m.Scale = three, 1
				}
				next := m
				next.Disp = laneAhead
				c.PREFETCHT0(next)
				switch {
				case q == 0:
					c.VMOVUPS(m, r[i].AsX())
				case v.wide:
					c.VINSERTI32X4(operand.U8(q), m, r[i], r[i])
				default:
					c.VINSERTI128(operand.U8(q), m, r[i], r[i])
				}
			}
		}
		for _, p := range rows {
			c.ADDQ(operand.U8(16), p)
		}
		words := v.transposeWords(r)
		turns := c.GP64()
		c.MOVQ(operand.U32(4), turns)
		loop(c, "word", turns, 1, func() {
			l.eight(words[0])
			for i := range 3 {
				c.VMOVAPS(words[i+1], words[i])
			}
		})
	})
}

// transposeWords transposes 4x4 words within each lane of sixteen bytes.
func (v vectors) transposeWords(r [4]reg.VecVirtual) (out [4]reg.VecVirtual) {
	c := v.c
	var pair [4]reg.VecVirtual
	for i := range pair {
		pair[i] = v.reg()
	}
	c.VUNPCKLPS(r[1], r[0], pair[0])
	c.VUNPCKHPS(r[1], r[0], pair[1])
	c.VUNPCKLPS(r[3], r[2], pair[2])
	c.VUNPCKHPS(r[3], r[2], pair[3])
	for i := range out {
		out[i] = v.reg()
		if i%2 == 0 {
			c.VUNPCKLPD(pair[2+i/2], pair[i/2], out[i])
		} else {
			c.VUNPCKHPD(pair[2+i/2], pair[i/2], out[i])
		}
	}
	return out
}

// packFew takes eight elements of a row at a time, from fewer lanes if asked to: for borders, and for rows that are no multiple of a block.
func packFew(v vectors, dtype string) {
	c, name := v.c, "packFew"+dtype
	v.begin(name, "func(dst *float32, ldd int, codes *byte, stride int, scales *float32, shift int, at *int32, values *float32, rounds int, lanes int)",
		fmt.Sprintf("NAME decodes 8*rounds elements of the given number of lanes, at most %d, and writes zeros beside them.", v.lanes())+
			laneDoc+dtype+".\nThe eight elements of a round have one scale.")
	l := loadLaneArgs(v, name, dtype)
	rounds, lanes := param(c, "rounds"), param(c, "lanes")
	count := make([]uint32, v.lanes())
	for i := range count {
		count[i] = uint32(i)
	}
	numbers, row := v.held(name+v.suffix()+"Lanes", count...), v.reg()
	c.VMOVQ(l.stride, row.AsX())
	c.VPBROADCASTD(row.AsX(), row)
	c.VPMULLD(numbers, row, row)
	if v.wide {
		ones := c.GP64()
		c.MOVQ(operand.I32(-1), ones)
		c.BZHIQ(lanes, ones, ones)
		l.bits = c.K()
		c.KMOVW(ones.As32(), l.bits)
	} else {
		l.lanes = v.reg()
		c.VMOVQ(lanes, l.lanes.AsX())
		c.VPBROADCASTD(l.lanes.AsX(), l.lanes)
		c.VPCMPGTD(numbers, l.lanes, l.lanes)
	}
	step := v.pattern(name+v.suffix()+"Step", 8) // its first word is broadcast
	loop(c, "round", rounds, 1, func() {
		word := v.reg()
		l.nextScales(step)
		v.gather(l.codes, row, 1, l.lanes, word, l.bits)
		c.ADDQ(operand.U8(4), l.codes)
		l.eight(word)
	})
	v.end()
}

// rowsAhead is how many stored rows ahead codes are prefetched, a power of two: rows are often pages apart.
const rowsAhead = 32

// packRows decodes parts of rows, which stay in order.
func packRows(v vectors, dtype string) {
	c, name := v.c, "packRows"+dtype
	v.begin(name, "func(dst *float32, step int, strips int, codes *byte, stride int, rows int, scales *float32, shift int, pos int, cols int, values *float32)",
		fmt.Sprintf("NAME decodes %d*strips columns of rows, stride bytes apart, into strips of %d columns, step floats apart. The first element of row", 2*v.lanes(), 2*v.lanes()),
		fmt.Sprintf("r is number pos+r*cols of the scales' elements, 1<<shift to a scale, and %d columns share one. Values are rounded to %s.", v.lanes(), dtype))
	dst, step, codes, stride := param(c, "dst"), param(c, "step"), param(c, "codes"), param(c, "stride")
	rows, scales, shift, pos := param(c, "rows"), param(c, "scales"), param(c, "shift"), param(c, "pos")
	values, round, order := v.book(at(param(c, "values"), 0)), v.rounding(dtype, name+v.suffix()), v.inOrder(name+v.suffix())
	c.SHLQ(operand.U8(2), step)
	ahead := c.GP64()
	c.MOVQ(stride, ahead)
	c.SHLQ(operand.U8(bits.TrailingZeros(rowsAhead)), ahead)
	c.ADDQ(codes, ahead)
	loop(c, "row", rows, 1, func() {
		from, to, p, left := c.GP64(), c.GP64(), c.GP64(), c.GP64()
		c.PREFETCHT0(at(ahead, 0))
		c.MOVQ(codes, from)
		c.MOVQ(dst, to)
		c.MOVQ(pos, p)
		c.MOVQ(inMemory(c, "strips"), left)
		loop(c, "strip", left, 1, func() {
			for half := range 2 {
				index, scale := c.GP64(), v.reg()
				c.SHRXQ(shift, p, index)
				c.VBROADCASTSS(operand.Mem{Base: scales, Index: index, Scale: 4}, scale)
				scaled := v.timesBook(values, scale, round)
				x := v.reg()
				order.load(at(from, v.lanes()/2*half), scaled, x)
				c.VMOVUPS(x, at(to, 4*v.lanes()*half))
				c.ADDQ(operand.U8(v.lanes()), p)
			}
			c.ADDQ(operand.U8(v.lanes()), from)
			c.ADDQ(step, to)
		})
		c.ADDQ(stride, codes)
		c.ADDQ(stride, ahead)
		c.ADDQ(operand.U8(8*v.lanes()), dst)
		c.ADDQ(inMemory(c, "cols"), pos)
	})
	v.end()
}

// timesBook is a book of one block: values times scale, rounded.
func (v vectors) timesBook(values book, scale reg.VecVirtual, round rounding) book {
	part := func(from operand.Op) operand.Op {
		if from == nil {
			return nil
		}
		x := v.reg()
		v.c.VMULPS(from, scale, x)
		round.apply(x)
		return x
	}
	return book{part(values.low), part(values.high)}
}
