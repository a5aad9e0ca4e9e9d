package main

import (
	"math"

	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// transcendental are the functions that are computed within a few units in the last place. device/cpu/vec has twins in Go.
var transcendental = []formula{
	once("exp", "e^a[i]", exp),
	once("expm1", "e^a[i]-1", func(l *lanes, x reg.VecVirtual) reg.VecVirtual {
		p := l.poly(x, 1./40320, 1./5040, 1./720, 1./120, 1./24, 1./6, .5)
		p = l.fma(p, l.mul(x, x), x)
		far := l.sub(exp(l, x), l.num(1))
		return l.pick(l.is(cmpLess, l.abs(x), l.num(.35)), p, far)
	}),
	once("sigmoid", "1/(1+e^-a[i])", func(l *lanes, x reg.VecVirtual) reg.VecVirtual { return l.logistic(l.neg(x), l.load(l.num(1))) }),
	once("silu", "a[i]/(1+e^-a[i])", func(l *lanes, x reg.VecVirtual) reg.VecVirtual { return l.logistic(l.neg(x), x) }),
	once("geluTanh", "a[i]/(1+e^-2u), u = sqrt(2/pi)*(a[i]+0.044715*a[i]^3)", func(l *lanes, x reg.VecVirtual) reg.VecVirtual {
		u := l.mul(l.mul(x, x), l.num(0.044715))
		u = l.fma(u, x, x)
		return l.logistic(l.mul(u, l.num(-2*math.Sqrt(2/math.Pi))), x)
	}),
	once("softplus", "log(1+e^a[i])", func(l *lanes, x reg.VecVirtual) reg.VecVirtual {
		e := exp(l, l.or(x, l.bits(1<<31)))
		s := l.div(e, l.add(e, l.num(2)))
		q := l.mul(s, s)
		p := l.mul(l.poly(q, 1./17, 1./15, 1./13, 1./11, 1./9, 1./7, 1./5, 1./3), q)
		t := l.add(s, s)
		return l.add(l.fma(p, t, t), l.most(x, l.num(0)))
	}),
	once("tanh", "the hyperbolic tangent of a[i]", tanh),
	once("erf", "the error function of a[i]", erf),
	once("gelu", "a[i]*(1+erf(a[i]/sqrt(2)))/2", gelu),
	once("log", "the natural logarithm of a[i]", logarithm),
	once("log1p", "log(1+a[i])", log1p),
	once("rsqrt", "1/sqrt(a[i])", func(l *lanes, x reg.VecVirtual) reg.VecVirtual { return l.div(l.load(l.num(1)), l.sqrt(x)) }),
	once("sin", "the sine of a[i], or to a[i] where |a[i]| > 2^27", func(l *lanes, x reg.VecVirtual) reg.VecVirtual { return l.wave(x, 0) }),
	once("cos", "the cosine of a[i], or to a[i] where |a[i]| > 2^27", func(l *lanes, x reg.VecVirtual) reg.VecVirtual { return l.wave(x, 1) }),
}

func once(name, doc string, f func(l *lanes, x reg.VecVirtual) reg.VecVirtual) formula {
	return formula{name, doc, 1, 1, func(l *lanes, a, _, _ reg.VecVirtual) reg.VecVirtual { return f(l, a) }}
}

// exp is x = n*ln2 + r, the Taylor polynomial of degree 7 in r (what it leaves out on |r| <= ln2/2 is below 6e-9), times 2^n in steps
// that let results be subnormal.
func exp(l *lanes, x reg.VecVirtual) reg.VecVirtual {
	x = l.within(x, -105, 89)
	n := l.round(toEven, l.mul(x, l.num(math.Log2E)))
	const high = 0.693359375 // its product with n is exact
	x = l.fnma(x, n, l.num(high))
	x = l.fnma(x, n, l.num(math.Ln2-high))
	p := l.poly(x, 1./5040, 1./720, 1./120, 1./24, 1./6, 1./2, 1, 1)
	if l.wide {
		l.VSCALEFPS(n, p, p)
		return p
	}
	whole := l.vector()
	l.VCVTPS2DQ(n, whole)
	half := l.shift(l.VPSRAD, 1, whole)
	rest := l.subInt(whole, half)
	for _, e := range []reg.VecVirtual{half, rest} {
		p = l.mul(p, l.shift(l.VPSLLD, 23, l.addInt(e, l.bits(127))))
	}
	return p
}

// logistic is y/(1+e^u).
func (l *lanes) logistic(u, y reg.VecVirtual) reg.VecVirtual {
	return l.div(y, l.add(exp(l, u), l.num(1)))
}

// tanh is its odd series near 0, else 1-2/(1+e^2|x|).
func tanh(l *lanes, x reg.VecVirtual) reg.VecVirtual {
	t := l.abs(x)
	q := l.mul(x, x)
	near := l.mul(l.poly(q, tanhNear...), q)
	near = l.fma(near, x, x)
	far := l.div(l.load(l.num(-2)), l.add(exp(l, l.add(t, t)), l.num(1)))
	far = l.signOf(l.add(far, l.num(1)), x)
	return l.pick(l.is(cmpLess, t, l.num(0.625)), near, far)
}

// erf is its odd series near 0, else 1-e^-q(|x|).
func erf(l *lanes, x reg.VecVirtual) reg.VecVirtual {
	t := l.abs(x)
	near := l.poly(l.mul(x, x), erfNear...)
	near = l.fma(near, x, x)
	q := l.poly(l.least(l.load(l.num(4)), t), erfFar...)
	far := l.signOf(l.sub(l.load(l.num(1)), exp(l, l.neg(q))), x)
	return l.pick(l.is(cmpLess, t, l.num(0.9375)), near, far)
}

// gelu is x times half of erfc(-x/sqrt(2)): erfc(t) = e^(-t*t) times a polynomial in 1/(1+ct), t >= 0, and 2-erfc(t) for -t.
func gelu(l *lanes, x reg.VecVirtual) reg.VecVirtual {
	t := l.mul(l.abs(x), l.num(math.Sqrt2/2))
	u := l.div(l.load(l.num(1)), l.add(l.mul(t, l.num(erfcScale)), l.num(1)))
	w := l.mul(exp(l, l.neg(l.mul(t, t))), l.poly(u, erfcHalf...))
	return l.mul(x, l.pick(l.is(cmpLess, x, l.num(0)), w, l.sub(l.load(l.num(1)), w)))
}

// Least-squares fits with weights moved towards the largest error. Their own errors are below 3e-8 of the function.
var (
	tanhNear = []float64{-0.00554311228916049, 0.020496634766459465, -0.0536971352994442, 0.1333094984292984, -0.3333326578140259}
	erfNear  = []float64{-0.0005892717745155096, 0.004974318202584982, -0.026754172518849373, 0.11281490325927734, -0.37612465023994446,
		0.12837915122509003}
	erfFar = []float64{-0.00019381061429157853, 0.003022474003955722, -0.022144746035337448, 0.10376227647066116, 0.6373738050460815,
		1.1275627613067627, 0.00022278106189332902}
	erfcHalf = halved(-0.126998633146286, 0.4715258777141571, -0.4783623218536377, 0.5010595917701721, -0.054426781833171844,
		0.19242574274539948, 0.15649552643299103, 0.16886964440345764, 0.16942435503005981, -1.3044284060015343e-05)
	logNear = []float64{-0.07859545946121216, 0.12881621718406677, -0.13128767907619476, 0.14181196689605713, -0.16624553501605988,
		0.2000228613615036, -0.25000810623168945, 0.33333316445350647}
)

// erfcScale is the c of gelu.
const erfcScale = 0.3

func halved(p ...float64) []float64 {
	for i := range p {
		p[i] /= 2
	}
	return p
}

// logarithm is x = m*2^e with m in [sqrt(1/2), sqrt(2)): f-f*f/2+f*f*f*P(f) with f = m-1, plus e*ln2 in two parts.
func logarithm(l *lanes, x reg.VecVirtual) reg.VecVirtual {
	e, m := l.split(x)
	large := l.is(cmpGreaterEqual, m, l.num(math.Sqrt2))
	m = l.pick(large, l.mul(m, l.num(.5)), m)
	e = l.pick(large, l.add(e, l.num(1)), e)
	f := l.sub(m, l.num(1))
	s := l.mul(f, f)
	y := l.mul(l.mul(l.poly(f, logNear...), f), s)
	const high = 0.693359375
	y = l.add(y, l.mul(e, l.num(math.Ln2-high)))
	y = l.fnma(y, s, l.num(.5))
	y = l.add(f, y)
	y = l.add(y, l.mul(e, l.num(high)))
	y = l.pick(l.is(cmpEqual, x, l.num(0)), l.num(math.Inf(-1)), y)
	y = l.pick(l.is(cmpLess, x, l.num(0)), l.num(math.NaN()), y)
	return l.pick(l.is(cmpNotLess, x, l.num(math.Inf(1))), x, y)
}

// split is x = m*2^e with m in [1, 2), for positive numbers, subnormal ones too.
func (l *lanes) split(x reg.VecVirtual) (e, m reg.VecVirtual) {
	if l.wide {
		e, m = l.vector(), l.vector()
		l.VGETEXPPS(x, e)
		l.VGETMANTPS(operand.U8(0), x, m)
		return e, m
	}
	small := l.is(cmpLess, x, l.num(0x1p-126))
	v := l.pick(small, l.mul(x, l.num(0x1p23)), x)
	e = l.vector()
	l.VCVTDQ2PS(l.shift(l.VPSRLD, 23, v), e)
	e = l.sub(e, l.num(127))
	e = l.pick(small, l.sub(e, l.num(23)), e)
	return e, l.or(l.and(v, l.bits(0x7fffff)), l.num(1))
}

// log1p is log(u) + (x-(u-1))/u with u = 1+x, which makes up for the rounding of u.
func log1p(l *lanes, x reg.VecVirtual) reg.VecVirtual {
	u := l.add(x, l.num(1))
	lost := l.div(l.sub(x, l.sub(u, l.num(1))), u)
	y := logarithm(l, u)
	sum := l.signOf(l.add(y, lost), x)
	return l.pick(l.is(cmpEqual, l.sub(y, y), l.num(0)), sum, y)
}

// wave is the sine of x plus quarter turns, in float64: x = k*pi/2 + r with pi/2 in two parts, and the series of sine or cosine in r.
func (l *lanes) wave(x reg.VecVirtual, quarter int) reg.VecVirtual {
	d := doubles{lanes: l}
	lo, hi := l.halves(x)
	y := l.join(d.wave(lo, quarter), d.wave(hi, quarter))
	return l.pick(l.is(cmpGreater, l.abs(x), l.num(1<<27)), x, y)
}
