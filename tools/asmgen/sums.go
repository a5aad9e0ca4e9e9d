package main

import (
	"fmt"
	"math"

	"github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// sumLanes is how many float64 sums a row is added up in: element i goes to sum i modulo sumLanes, and the sums are folded in halves.
// The order is the same at every level, so the bits are.
const sumLanes = 32

// rowSum is a sum over a row: of what term makes of a vector of each operand, in float32 or, with wide, in float64 for each half.
type rowSum struct {
	name, doc string
	rows      []string // operands
	scalars   []string // float32 arguments
	pad       int      // 1 + the scalar that an incomplete vector is filled up with; 0 for zeros
	term      func(l *lanes, x, k []reg.VecVirtual) reg.VecVirtual
	wide      func(d doubles, acc reg.VecVirtual, x, k []reg.VecVirtual)
}

var rowSums = []rowSum{
	{name: "sum", doc: "x[i]", rows: []string{"x"}, term: func(_ *lanes, x, _ []reg.VecVirtual) reg.VecVirtual { return x[0] }},
	{name: "sumProducts", doc: "x[i]*y[i] in float64", rows: []string{"x", "y"},
		wide: func(d doubles, acc reg.VecVirtual, x, _ []reg.VecVirtual) { d.VFMADD231PD(x[0], x[1], acc) }},
	{name: "sumSquares", doc: "(x[i]-m)^2 in float64", rows: []string{"x"}, scalars: []string{"m"}, pad: 1,
		wide: func(d doubles, acc reg.VecVirtual, x, k []reg.VecVirtual) {
			u := d.two(d.VSUBPD, nil, x[0], k[0])
			d.VADDPD(d.mul(u, u), acc, acc)
		}},
	{name: "sumRounded", doc: "x[i]*y[i] in float32", rows: []string{"x", "y"},
		term: func(l *lanes, x, _ []reg.VecVirtual) reg.VecVirtual { return l.mul(x[0], x[1]) }},
	{name: "sumNormal", doc: "gy[i]*(x[i]-m)*r in float32", rows: []string{"x", "gy"}, scalars: []string{"m", "r"},
		term: func(l *lanes, x, k []reg.VecVirtual) reg.VecVirtual {
			return l.mul(x[1], l.mul(l.sub(x[0], k[0]), k[1]))
		}},
	{name: "sumWeighted", doc: "gy[i]*w[i]*(x[i]-m)*r in float32", rows: []string{"x", "gy", "w"}, scalars: []string{"m", "r"},
		term: func(l *lanes, x, k []reg.VecVirtual) reg.VecVirtual {
			return l.mul(l.mul(x[1], x[2]), l.mul(l.sub(x[0], k[0]), k[1]))
		}},
}

func sums(c *build.Context) {
	sets := map[string]operand.Mem{}
	for _, s := range rowSums {
		for _, wide := range []bool{false, true} {
			emitSum(&lanes{c, wide, sets, "sums"}, s)
		}
	}
	for _, wide := range []bool{false, true} {
		l := &lanes{c, wide, sets, "sums"}
		peak(l, "peak", "the largest element that is a number, -Inf if there is none", math.Inf(-1), l.most, false)
		peak(l, "highest", "the largest element, NaN if any is", math.Inf(-1), l.most, true)
		peak(l, "lowest", "the smallest element, NaN if any is", math.Inf(1), l.least, true)
	}
}

// signature lists n, the rows and the scalars.
func signature(rows, scalars []string, result string) string {
	s := "func(n int"
	for _, r := range rows {
		s += ", " + r + " *float32"
	}
	for _, k := range scalars {
		s += ", " + k + " float32"
	}
	return s + ") " + result
}

func emitSum(l *lanes, s rowSum) {
	name := s.name + l.suffix()
	begin(l.Context, name, signature(s.rows, s.scalars, "float64"),
		fmt.Sprintf("%s is the sum over i < n of %s, in %d float64 sums. %s", name, s.doc, sumLanes, l.needs()))
	n := param(l.Context, "n")
	var rows []reg.GPVirtual
	for _, r := range s.rows {
		rows = append(rows, param(l.Context, r))
	}
	var k, kd []reg.VecVirtual // in float32, and in float64 where the term needs them
	for _, name := range s.scalars {
		v := l.vector()
		broadcastParam(l.Context, name, v)
		k = append(k, v)
		if s.wide != nil {
			lo, _ := l.halves(v)
			kd = append(kd, lo)
		}
	}
	acc := make([]reg.VecVirtual, sumLanes*8/l.bytes())
	for i := range acc {
		acc[i] = l.vector()
		l.VXORPD(acc[i], acc[i], acc[i])
	}
	addTerm := func(i int, x []reg.VecVirtual) {
		if s.wide == nil {
			lo, hi := l.halves(s.term(l, x, k))
			l.VADDPD(lo, acc[2*i], acc[2*i])
			l.VADDPD(hi, acc[2*i+1], acc[2*i+1])
			return
		}
		var lo, hi []reg.VecVirtual
		for _, v := range x {
			a, b := l.halves(v)
			lo, hi = append(lo, a), append(hi, b)
		}
		s.wide(doubles{l}, acc[2*i], lo, kd)
		s.wide(doubles{l}, acc[2*i+1], hi, kd)
	}
	loop(l.Context, "many", n, sumLanes, func() {
		for i := range sumLanes / l.count() {
			x := make([]reg.VecVirtual, len(rows))
			for j, p := range rows {
				x[j] = l.vector()
				l.VMOVUPS(at(p, i*l.bytes()), x[j])
			}
			addTerm(i, x)
		}
		for _, p := range rows {
			l.ADDQ(operand.U8(4*sumLanes), p)
		}
	})
	var fill *reg.VecVirtual
	if s.pad > 0 {
		fill = &k[s.pad-1]
	}
	for i := range sumLanes / l.count() {
		l.TESTQ(n, n)
		l.JLE(operand.LabelRef("fold"))
		v := l.someOf(fmt.Sprintf("rest%d", i), n)
		addTerm(i, v.loadPadded(fill, rows...))
		for _, p := range rows {
			l.ADDQ(operand.U8(l.bytes()), p)
		}
		l.SUBQ(operand.U8(l.count()), n)
	}
	l.Label("fold")
	l.Store(doubles{l}.fold(acc), l.ReturnIndex(0))
	l.VZEROUPPER()
	l.RET()
}

// someOf is a round over a whole vector or, if n is less, a part of one.
func (l *lanes) someOf(label string, n reg.GPVirtual) vector {
	v := vector{l: l, n: n, label: label}
	if l.wide {
		v.k = l.K()
		l.KXNORW(v.k, v.k, v.k)
		v.shorten()
	}
	return v
}

// loadPadded is load with another filling than zeros.
func (v vector) loadPadded(fill *reg.VecVirtual, rows ...reg.GPVirtual) []reg.VecVirtual {
	if fill == nil {
		return v.load(rows...)
	}
	l := v.l
	x := make([]reg.VecVirtual, len(rows))
	for i := range x {
		x[i] = l.copyOf(*fill)
		if l.wide {
			l.VMOVUPS(at(rows[i], 0), v.k, x[i])
		}
	}
	if l.wide {
		return x
	}
	v.either("load", func() {
		for i, p := range rows {
			l.VMOVUPS(at(p, 0), x[i])
		}
	}, func(m reg.VecVirtual) {
		for i, p := range rows {
			l.VMASKMOVPS(at(p, 0), m, x[i])
			l.VBLENDVPS(m, x[i], *fill, x[i])
		}
	})
	return x
}

// fold adds sums in halves: i and i+16, then i and i+8, down to one.
func (d doubles) fold(acc []reg.VecVirtual) reg.VecVirtual {
	for n := len(acc) / 2; n >= 1; n /= 2 {
		for i := range n {
			d.VADDPD(acc[i+n], acc[i], acc[i])
		}
	}
	y := acc[0]
	if d.wide {
		up := d.YMM()
		d.VEXTRACTF64X4(operand.U8(1), y, up)
		d.VADDPD(up, y.AsY(), up)
		y = up
	}
	x, high := d.XMM(), d.XMM()
	d.VEXTRACTF128(operand.U8(1), y, x)
	d.VADDPD(x, y.AsX(), x)
	d.VUNPCKHPD(x, x, high)
	d.VADDSD(high, x, x)
	return x
}

// peak emits the largest or smallest element, f being l.most or l.least.
func peak(l *lanes, name, doc string, none float64, f func(reg.Register, operand.Op) reg.VecVirtual, nans bool) {
	name += l.suffix()
	begin(l.Context, name, signature([]string{"x"}, nil, "float32"), fmt.Sprintf("%s is %s of x, i < n. %s", name, doc, l.needs()))
	n, x := param(l.Context, "n"), param(l.Context, "x")
	fill := l.load(l.num(none))
	acc := make([]reg.VecVirtual, 4)
	for i := range acc {
		acc[i] = l.copyOf(fill)
	}
	bits := l.vector() // the largest magnitude, in bits: a NaN's are above those of infinity
	l.VXORPS(bits, bits, bits)
	meet := func(i int, v reg.VecVirtual) {
		l.VMOVAPS(f(v, acc[i]), acc[i])
		if nans {
			l.VPMAXUD(l.abs(v), bits, bits)
		}
	}
	loop(l.Context, "many", n, 4*l.count(), func() {
		for i := range acc {
			v := l.vector()
			l.VMOVUPS(at(x, i*l.bytes()), v)
			meet(i, v)
		}
		l.ADDQ(operand.I32(4*l.bytes()), x)
	})
	l.vectors("rest", n, []reg.GPVirtual{x}, func(v vector) { meet(0, v.loadPadded(&fill, x)[0]) })
	best := f(f(acc[0], acc[1]), f(acc[2], acc[3]))
	y := l.across(best, f)
	if nans {
		top := l.across(bits, func(x reg.Register, y operand.Op) reg.VecVirtual {
			z := l.vector()
			l.VPMAXUD(y, x, z)
			return z
		})
		r := l.GP32()
		l.VMOVD(top.AsX(), r)
		l.CMPL(r, operand.U32(0x7f800000))
		l.JLS(operand.LabelRef("numbers"))
		l.VADDPS(top.AsX(), top.AsX(), y.AsX()) // the NaN
		l.Label("numbers")
	}
	l.Store(y.AsX(), l.ReturnIndex(0))
	l.VZEROUPPER()
	l.RET()
}

// across combines all lanes of x in lane 0.
func (l *lanes) across(x reg.VecVirtual, f func(reg.Register, operand.Op) reg.VecVirtual) reg.VecVirtual {
	y := l.vector()
	if l.wide {
		l.VSHUFF32X4(operand.U8(0x4e), x, x, y)
		x, y = f(x, y), l.vector()
		l.VSHUFF32X4(operand.U8(0xb1), x, x, y)
	} else {
		l.VPERM2F128(operand.U8(1), x, x, y)
	}
	for _, order := range []uint8{0x4e, 0xb1} {
		x, y = f(x, y), l.vector()
		l.VSHUFPS(operand.U8(order), x, x, y)
	}
	return f(x, y)
}
