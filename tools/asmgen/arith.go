package main

import (
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// arithmetic are the functions whose results are exact or correctly rounded, so that all levels give equal bits.
var arithmetic = []formula{
	binary("add", "a[i]+b[i]", func(l *lanes, a, b reg.VecVirtual) reg.VecVirtual { return l.add(a, b) }),
	binary("sub", "a[i]-b[i]", func(l *lanes, a, b reg.VecVirtual) reg.VecVirtual { return l.sub(a, b) }),
	binary("mul", "a[i]*b[i]", func(l *lanes, a, b reg.VecVirtual) reg.VecVirtual { return l.mul(a, b) }),
	binary("div", "a[i]/b[i]", func(l *lanes, a, b reg.VecVirtual) reg.VecVirtual { return l.div(a, b) }),
	binary("min", "the lesser of a[i] and b[i], NaN if either is, -0 before 0", func(l *lanes, a, b reg.VecVirtual) reg.VecVirtual {
		return l.meet(a, b, l.least, l.or)
	}),
	binary("max", "the greater of a[i] and b[i], NaN if either is, 0 before -0", func(l *lanes, a, b reg.VecVirtual) reg.VecVirtual {
		return l.meet(a, b, l.most, l.and)
	}),
	compare("eq", "a[i] == b[i]", cmpEqual),
	compare("ne", "a[i] != b[i]", cmpNotEqual),
	compare("lt", "a[i] < b[i]", cmpLess),
	compare("le", "a[i] <= b[i]", cmpLessEqual),
	{"where", "b[i] if a[i] != 0, else c[i]", 3, 2, func(l *lanes, a, b, c reg.VecVirtual) reg.VecVirtual {
		return l.pick(l.is(cmpNotEqual, a, l.num(0)), b, c)
	}},
	unary("neg", "-a[i]", func(l *lanes, a reg.VecVirtual) reg.VecVirtual { return l.neg(a) }),
	unary("abs", "|a[i]|", func(l *lanes, a reg.VecVirtual) reg.VecVirtual { return l.abs(a) }),
	unary("sign", "-1, 0 or 1, as a[i] is, NaN if it is", func(l *lanes, a reg.VecVirtual) reg.VecVirtual {
		above, below := l.truth(l.is(cmpLess, l.load(l.num(0)), a)), l.truth(l.is(cmpLess, a, l.num(0)))
		return l.pick(l.is(cmpNotEqual, a, l.num(0)), l.pick(l.is(cmpUnordered, a, a), a, l.sub(above, below)), a)
	}),
	unary("relu", "a[i] if it is above 0, else 0", func(l *lanes, a reg.VecVirtual) reg.VecVirtual {
		return l.most(a, l.num(0))
	}),
	unary("floor", "a[i] rounded down", func(l *lanes, a reg.VecVirtual) reg.VecVirtual { return l.round(toFloor, a) }),
	unary("ceil", "a[i] rounded up", func(l *lanes, a reg.VecVirtual) reg.VecVirtual { return l.round(toCeil, a) }),
	unary("round", "a[i] rounded to the nearest whole number, ties to even", func(l *lanes, a reg.VecVirtual) reg.VecVirtual {
		return l.round(toEven, a)
	}),
	unary("trunc", "a[i] rounded towards 0", func(l *lanes, a reg.VecVirtual) reg.VecVirtual { return l.round(toZero, a) }),
	unary("sqrt", "the square root of a[i]", func(l *lanes, a reg.VecVirtual) reg.VecVirtual { return l.sqrt(a) }),
	unary("finite", "1 if a[i] is finite, else 0", func(l *lanes, a reg.VecVirtual) reg.VecVirtual {
		return l.truth(l.is(cmpEqual, l.sub(a, a), l.num(0)))
	}),
	unary("not", "1 if a[i] is 0, else 0", func(l *lanes, a reg.VecVirtual) reg.VecVirtual {
		return l.truth(l.is(cmpEqual, a, l.num(0)))
	}),
	unary("roundBF16", "a[i] rounded to bfloat16, ties to even", roundBF16),
	unary("roundF16", "a[i] rounded to binary16, ties to even", func(l *lanes, a reg.VecVirtual) reg.VecVirtual {
		z, half := l.vector(), l.XMM()
		if l.wide {
			half = l.YMM()
		}
		l.VCVTPS2PH(operand.U8(0), a, half)
		l.VCVTPH2PS(half, z)
		return z
	}),
}

func binary(name, doc string, f func(l *lanes, a, b reg.VecVirtual) reg.VecVirtual) formula {
	return formula{name, doc, 2, 4, func(l *lanes, a, b, _ reg.VecVirtual) reg.VecVirtual { return f(l, a, b) }}
}

func unary(name, doc string, f func(l *lanes, a reg.VecVirtual) reg.VecVirtual) formula {
	return formula{name, doc, 1, 4, func(l *lanes, a, _, _ reg.VecVirtual) reg.VecVirtual { return f(l, a) }}
}

func compare(name, doc string, predicate int) formula {
	return formula{name, "1 if " + doc + ", else 0", 2, 2, func(l *lanes, a, b, _ reg.VecVirtual) reg.VecVirtual {
		return l.truth(l.is(predicate, a, b))
	}}
}

// meet is the lesser or greater number: f takes b where one is NaN and where both are zeros, so zeros get the signs that signs makes of
// both, and a NaN is put back. NaNs keep their payload, quiet.
func (l *lanes) meet(a, b reg.VecVirtual, f, signs func(reg.Register, operand.Op) reg.VecVirtual) reg.VecVirtual {
	z := f(a, b)
	z = l.pick(l.is(cmpEqual, a, b), signs(a, b), z)
	return l.pick(l.is(cmpUnordered, a, b), l.add(a, b), z)
}

// roundBF16 adds 0x7fff plus the lowest bit that is kept and clears the lower half; a NaN gets its quiet bit instead.
func roundBF16(l *lanes, a reg.VecVirtual) reg.VecVirtual {
	odd := l.and(l.shift(l.VPSRLD, 16, a), l.bits(1))
	up := l.addInt(l.addInt(odd, l.bits(0x7fff)), a)
	nan := l.or(a, l.bits(0x400000))
	return l.and(l.pick(l.is(cmpUnordered, a, a), nan, up), l.bits(0xffff0000))
}
