package main

import (
	"fmt"
	"math"

	"github.com/mmcloughlin/avo/attr"
	"github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// lanes writes one loop for both widths: eight floats in a YMM register with AVX2, sixteen in a ZMM register with AVX-512. Its methods
// take registers and constants and return the register that holds the result, so that a function reads as its formula.
type lanes struct {
	*build.Context
	wide bool
	sets map[string]operand.Mem // the constants of this file
	file string
}

// mask is the result of a comparison: an opmask register with AVX-512, a vector of all ones or zeros with AVX2.
type mask struct{ reg.Register }

// konst is a constant in memory: eight copies, of which AVX-512 broadcasts the first.
type konst struct{ operand.Mem }

func (l *lanes) suffix() string {
	if l.wide {
		return "AVX512"
	}
	return "AVX2"
}

func (l *lanes) needs() string {
	if l.wide {
		return "Needs AVX-512."
	}
	return "Needs AVX2, FMA and F16C."
}

// count is the number of floats of a register.
func (l *lanes) count() int { return l.bytes() / 4 }

func (l *lanes) bytes() int {
	if l.wide {
		return 64
	}
	return 32
}

func (l *lanes) vector() reg.VecVirtual {
	if l.wide {
		return l.ZMM()
	}
	return l.YMM()
}

// bits is a constant of every lane.
func (l *lanes) bits(v uint32) konst {
	return konst{l.data(fmt.Sprintf("%08x", v), 8, func(int) operand.Constant { return operand.U32(v) })}
}

// data is n constants in memory, written once a file.
func (l *lanes) data(name string, n int, at func(i int) operand.Constant) operand.Mem {
	m, ok := l.sets[name]
	if !ok {
		m = l.StaticGlobal(l.file + name)
		l.DataAttributes(attr.RODATA | attr.NOPTR)
		for i := range n {
			l.AppendDatum(at(i))
		}
		l.sets[name] = m
	}
	return m
}

func (l *lanes) num(v float64) konst { return l.bits(math.Float32bits(float32(v))) }

type instruction func(...operand.Op)

// do emits plain, or with a constant as first operand and AVX-512 the form that broadcasts it.
func (l *lanes) do(plain, bcst instruction, ops ...operand.Op) {
	for i, o := range ops {
		k, ok := o.(konst)
		if !ok {
			continue
		}
		ops[i] = k.Mem
		if l.wide {
			bcst(ops...)
			return
		}
	}
	plain(ops...)
}

// two is plain(x, y) into a new register. The instruction's first operand, which may be a constant, is y.
func (l *lanes) two(plain, bcst instruction, x reg.Register, y operand.Op) reg.VecVirtual {
	z := l.vector()
	l.do(plain, bcst, y, x, z)
	return z
}

func (l *lanes) add(x reg.Register, y operand.Op) reg.VecVirtual {
	return l.two(l.VADDPS, l.VADDPS_BCST, x, y)
}
func (l *lanes) sub(x reg.Register, y operand.Op) reg.VecVirtual {
	return l.two(l.VSUBPS, l.VSUBPS_BCST, x, y)
}
func (l *lanes) mul(x reg.Register, y operand.Op) reg.VecVirtual {
	return l.two(l.VMULPS, l.VMULPS_BCST, x, y)
}
func (l *lanes) div(x reg.Register, y operand.Op) reg.VecVirtual {
	return l.two(l.VDIVPS, l.VDIVPS_BCST, x, y)
}
func (l *lanes) and(x reg.Register, y operand.Op) reg.VecVirtual {
	return l.two(l.VANDPS, l.VANDPS_BCST, x, y)
}
func (l *lanes) or(x reg.Register, y operand.Op) reg.VecVirtual {
	return l.two(l.VORPS, l.VORPS_BCST, x, y)
}
func (l *lanes) xor(x reg.Register, y operand.Op) reg.VecVirtual {
	return l.two(l.VXORPS, l.VXORPS_BCST, x, y)
}

// least and most are y where either operand is NaN.
func (l *lanes) least(x reg.Register, y operand.Op) reg.VecVirtual {
	return l.two(l.VMINPS, l.VMINPS_BCST, x, y)
}
func (l *lanes) most(x reg.Register, y operand.Op) reg.VecVirtual {
	return l.two(l.VMAXPS, l.VMAXPS_BCST, x, y)
}

// within limits x to [lo, hi]; a NaN stays one.
func (l *lanes) within(x reg.Register, lo, hi float64) reg.VecVirtual {
	return l.least(l.load(l.num(hi)), l.most(l.load(l.num(lo)), x))
}

// load puts a constant in a register.
func (l *lanes) load(k konst) reg.VecVirtual {
	z := l.vector()
	if l.wide {
		l.VBROADCASTSS(k.Mem, z)
	} else {
		l.VMOVUPS(k.Mem, z)
	}
	return z
}

func (l *lanes) addInt(x reg.Register, y operand.Op) reg.VecVirtual {
	return l.two(l.VPADDD, l.VPADDD_BCST, x, y)
}
func (l *lanes) subInt(x reg.Register, y operand.Op) reg.VecVirtual {
	return l.two(l.VPSUBD, l.VPSUBD_BCST, x, y)
}

func (l *lanes) shift(f instruction, bits int, x reg.Register) reg.VecVirtual {
	z := l.vector()
	f(operand.U8(bits), x, z)
	return z
}

// fma is x·y+z, which replaces x.
func (l *lanes) fma(x reg.VecVirtual, y reg.Register, z operand.Op) reg.VecVirtual {
	l.do(l.VFMADD213PS, l.VFMADD213PS_BCST, z, y, x)
	return x
}

// fnma takes y·k off x, which it replaces.
func (l *lanes) fnma(x reg.VecVirtual, y reg.Register, k operand.Op) reg.VecVirtual {
	l.do(l.VFNMADD231PS, l.VFNMADD231PS_BCST, k, y, x)
	return x
}

// poly is the polynomial of x with these coefficients, highest power first.
func (l *lanes) poly(x reg.Register, coefficients ...float64) reg.VecVirtual {
	p := l.load(l.num(coefficients[0]))
	for _, k := range coefficients[1:] {
		l.fma(p, x, l.num(k))
	}
	return p
}

// The predicates of VCMPPS; those without a dash are false for NaN.
const (
	cmpEqual        = 0
	cmpLess         = 1
	cmpLessEqual    = 2
	cmpUnordered    = 3
	cmpNotEqual     = 4 // true for NaN
	cmpNotLess      = 5 // true for NaN
	cmpGreater      = 14
	cmpGreaterEqual = 13
)

// is compares x with y.
func (l *lanes) is(predicate int, x reg.Register, y operand.Op) mask {
	if !l.wide {
		z := l.YMM()
		if k, ok := y.(konst); ok {
			y = k.Mem
		}
		l.VCMPPS(operand.U8(predicate), y, x, z)
		return mask{z}
	}
	k := l.K()
	if c, ok := y.(konst); ok {
		l.VCMPPS_BCST(operand.U8(predicate), c.Mem, x, k)
	} else {
		l.VCMPPS(operand.U8(predicate), y, x, k)
	}
	return mask{k}
}

// pick is x where m holds, else y.
func (l *lanes) pick(m mask, x operand.Op, y reg.Register) reg.VecVirtual {
	z := l.vector()
	k, isConst := x.(konst)
	switch {
	case l.wide && isConst:
		l.VBLENDMPS_BCST(k.Mem, y, m.Register, z)
	case l.wide:
		l.VBLENDMPS(x, y, m.Register, z)
	case isConst:
		l.VBLENDVPS(m.Register, k.Mem, y, z)
	default:
		l.VBLENDVPS(m.Register, x, y, z)
	}
	return z
}

// truth is 1 where m holds, else 0.
func (l *lanes) truth(m mask) reg.VecVirtual {
	z := l.vector()
	if l.wide {
		l.VBROADCASTSS_Z(l.num(1).Mem, m.Register, z)
	} else {
		l.VANDPS(l.num(1).Mem, m.Register, z)
	}
	return z
}

func (l *lanes) neg(x reg.Register) reg.VecVirtual { return l.xor(x, l.bits(1<<31)) }
func (l *lanes) abs(x reg.Register) reg.VecVirtual { return l.and(x, l.bits(1<<31-1)) }

// signOf is x with the sign of y.
func (l *lanes) signOf(x, y reg.Register) reg.VecVirtual {
	return l.or(l.abs(x), l.and(y, l.bits(1<<31)))
}

// The rounding modes of VROUNDPS.
const (
	toEven = 8 + iota
	toFloor
	toCeil
	toZero
)

func (l *lanes) round(mode int, x reg.Register) reg.VecVirtual {
	z := l.vector()
	if l.wide {
		l.VRNDSCALEPS(operand.U8(mode), x, z)
	} else {
		l.VROUNDPS(operand.U8(mode), x, z)
	}
	return z
}

func (l *lanes) sqrt(x reg.Register) reg.VecVirtual {
	z := l.vector()
	l.VSQRTPS(x, z)
	return z
}

func (l *lanes) copyOf(x reg.Register) reg.VecVirtual {
	z := l.vector()
	l.VMOVAPS(x, z)
	return z
}

// vectors runs body for each vector of n elements. What it loads of the last, incomplete one is 0 beyond n, and stores stop at n.
// Pointers that body reads and writes through the row are advanced by it.
func (l *lanes) vectors(label string, n reg.GPVirtual, rows []reg.GPVirtual, body func(v vector)) {
	v := vector{l: l, n: n, label: label}
	l.TESTQ(n, n)
	l.JLE(operand.LabelRef(label + "done"))
	if l.wide {
		v.k = l.K()
		l.KXNORW(v.k, v.k, v.k)
	}
	l.Label(label)
	if l.wide {
		v.shorten()
	}
	body(v)
	for _, p := range rows {
		l.ADDQ(operand.U8(l.bytes()), p)
	}
	l.SUBQ(operand.U8(l.count()), n)
	l.JG(operand.LabelRef(label))
	l.Label(label + "done")
}

// vector is one round of vectors.
type vector struct {
	l     *lanes
	n     reg.GPVirtual // elements left
	k     reg.Register  // AVX-512: those of this round
	label string
}

// shorten takes what is beyond the end out of the mask.
func (v vector) shorten() {
	l := v.l
	l.CMPQ(v.n, operand.U8(l.count()))
	l.JGE(operand.LabelRef(v.label + "full"))
	ones := l.GP32()
	l.MOVL(operand.U32(0xffff), ones)
	l.BZHIL(v.n.As32(), ones, ones)
	l.KMOVW(ones, v.k)
	l.Label(v.label + "full")
}

// load reads a vector of each row, zeros beyond the end.
func (v vector) load(rows ...reg.GPVirtual) []reg.VecVirtual {
	l := v.l
	x := make([]reg.VecVirtual, len(rows))
	for i := range x {
		x[i] = l.vector()
		if l.wide {
			l.VMOVUPS_Z(at(rows[i], 0), v.k, x[i])
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
		}
	})
	return x
}

func (v vector) store(x reg.VecVirtual, row reg.GPVirtual) {
	if v.l.wide {
		v.l.VMOVUPS(x, v.k, at(row, 0))
		return
	}
	v.either("store", func() { v.l.VMOVUPS(x, at(row, 0)) }, func(m reg.VecVirtual) { v.l.VMASKMOVPS(x, m, at(row, 0)) })
}

// store2 stores two vectors: with AVX2 there is one store by parts a round.
func (v vector) store2(x reg.VecVirtual, row reg.GPVirtual, y reg.VecVirtual, other reg.GPVirtual) {
	l := v.l
	if l.wide {
		v.store(x, row)
		v.store(y, other)
		return
	}
	v.either("store", func() {
		l.VMOVUPS(x, at(row, 0))
		l.VMOVUPS(y, at(other, 0))
	}, func(m reg.VecVirtual) {
		l.VMASKMOVPS(x, m, at(row, 0))
		l.VMASKMOVPS(y, m, at(other, 0))
	})
}

// only is x with zeros beyond the end of the row.
func (v vector) only(x reg.VecVirtual) reg.VecVirtual {
	z := v.l.vector()
	if v.l.wide {
		v.l.VMOVAPS_Z(x, v.k, z)
		return z
	}
	v.either("only", func() { v.l.VMOVAPS(x, z) }, func(m reg.VecVirtual) { v.l.VANDPS(m, x, z) })
	return z
}

// either emits what an AVX2 loop does with a whole vector and with a part, whose mask it makes.
func (v vector) either(what string, whole func(), part func(m reg.VecVirtual)) {
	l := v.l
	l.CMPQ(v.n, operand.U8(l.count()))
	l.JL(operand.LabelRef(v.label + what + "part"))
	whole()
	l.JMP(operand.LabelRef(v.label + what + "ed"))
	l.Label(v.label + what + "part")
	base, skip, m := l.GP64(), l.GP64(), l.YMM()
	l.LEAQ(l.laneMasks().Offset(32), base)
	l.MOVQ(v.n, skip)
	l.NEGQ(skip)
	l.VMOVUPS(operand.Mem{Base: base, Index: skip, Scale: 4}, m)
	part(m)
	l.Label(v.label + what + "ed")
}

// laneMasks are eight lanes of ones, then eight of zeros.
func (l *lanes) laneMasks() operand.Mem {
	return l.data("Lanes", 16, func(i int) operand.Constant { return operand.I32(-(1 - i/8)) })
}
