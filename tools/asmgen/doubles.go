package main

import (
	"fmt"
	"math"

	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// doubles is lanes in float64: half as many.
type doubles struct{ *lanes }

// halves widens both halves of x.
func (l *lanes) halves(x reg.VecVirtual) (lo, hi reg.VecVirtual) {
	lo, hi = l.vector(), l.vector()
	if l.wide {
		up := l.YMM()
		l.VEXTRACTF32X8(operand.U8(1), x, up)
		l.VCVTPS2PD(x.AsY(), lo)
		l.VCVTPS2PD(up, hi)
		return lo, hi
	}
	up := l.XMM()
	l.VEXTRACTF128(operand.U8(1), x, up)
	l.VCVTPS2PD(x.AsX(), lo)
	l.VCVTPS2PD(up, hi)
	return lo, hi
}

// join rounds two halves to one register.
func (l *lanes) join(lo, hi reg.VecVirtual) reg.VecVirtual {
	z := l.vector()
	if l.wide {
		a, b := l.YMM(), l.YMM()
		l.VCVTPD2PS(lo, a)
		l.VCVTPD2PS(hi, b)
		l.VINSERTF32X8(operand.U8(1), b, a.AsZ(), z)
		return z
	}
	a, b := l.XMM(), l.XMM()
	l.VCVTPD2PSY(lo, a)
	l.VCVTPD2PSY(hi, b)
	l.VINSERTF128(operand.U8(1), b, a.AsY(), z)
	return z
}

// num is a constant of every lane.
func (d doubles) num(v float64) konst {
	bits := math.Float64bits(v)
	return konst{d.data(fmt.Sprintf("%016x", bits), 4, func(int) operand.Constant { return operand.U64(bits) })}
}

func (d doubles) load(k konst) reg.VecVirtual {
	z := d.vector()
	if d.wide {
		d.VBROADCASTSD(k.Mem, z)
	} else {
		d.VMOVUPD(k.Mem, z)
	}
	return z
}

func (d doubles) mul(x reg.Register, y operand.Op) reg.VecVirtual {
	return d.two(d.VMULPD, d.VMULPD_BCST, x, y)
}

func (d doubles) fma(x reg.VecVirtual, y reg.Register, z operand.Op) reg.VecVirtual {
	d.do(d.VFMADD213PD, d.VFMADD213PD_BCST, z, y, x)
	return x
}

func (d doubles) fnma(x reg.VecVirtual, y reg.Register, k operand.Op) reg.VecVirtual {
	d.do(d.VFNMADD231PD, d.VFNMADD231PD_BCST, k, y, x)
	return x
}

func (d doubles) poly(x reg.Register, coefficients ...float64) reg.VecVirtual {
	p := d.load(d.num(coefficients[0]))
	for _, k := range coefficients[1:] {
		d.fma(p, x, d.num(k))
	}
	return p
}

// wave is the sine of x plus quarter turns.
func (d doubles) wave(x reg.VecVirtual, quarter int) reg.VecVirtual {
	k := d.mul(x, d.num(2/math.Pi))
	turns := d.vector() // quarter turns, as 64-bit integers
	if d.wide {
		d.VRNDSCALEPD(operand.U8(toEven), k, k)
		d.VCVTPD2QQ(k, turns)
	} else {
		d.VROUNDPD(operand.U8(toEven), k, k)
		d.VCVTPD2DQY(k, turns.AsX())
		d.VPMOVSXDQ(turns.AsX(), turns)
	}
	r := d.copyOf(x)
	d.fnma(r, k, d.num(halfPiHigh))
	d.fnma(r, k, d.num(halfPiLow))
	s := d.mul(r, r)
	sin := d.mul(d.poly(s, sinNear...), s)
	d.fma(sin, r, r)
	cos := d.poly(s, cosNear...)
	if quarter == 1 {
		one := d.load(d.num(math.Float64frombits(1)))
		d.VPADDQ(one, turns, turns)
	}
	odd, sign := d.vector(), d.vector()
	d.VPSLLQ(operand.U8(63), turns, odd)
	d.VPSRLQ(operand.U8(1), turns, sign)
	d.VPSLLQ(operand.U8(63), sign, sign)
	y := d.vector()
	if d.wide {
		m := d.K()
		d.VPMOVQ2M(odd, m)
		d.VBLENDMPD(cos, sin, m, y)
	} else {
		d.VBLENDVPD(odd, cos, sin, y)
	}
	d.VXORPD(sign, y, y)
	return y
}

// pi/2 in two parts, and the series of sine and cosine on |r| <= pi/4, fitted as the others; their errors are below 1e-14.
const (
	halfPiHigh = 1.5707963267948966
	halfPiLow  = 6.123233995736766e-17
)

var (
	sinNear = []float64{-2.4760197258077924e-08, 2.755533803106003e-06, -0.00019841263732006342, 0.008333333325109306, -0.1666666666663071}
	cosNear = []float64{2.064625157494572e-09, -2.755554428454654e-07, 2.4801580847572282e-05, -0.001388888887799643, 0.04166666666660014, -.5, 1}
)
