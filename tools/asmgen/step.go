package main

import (
	"fmt"

	"github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// A factor is the place of a field in step.Factors, which begins with four-byte fields in this order.
type factor int

const (
	fGScale factor = iota
	fBefore
	fRate
	fAfter
	fB1
	fN1
	fB2
	fN2
	fB3
	fN3
	fC1
	fC2
	fOverC2
	fAlpha
	fEps
	fWD
	fCoupled // the flags: all ones or zero
	fFirst
	fNesterov
)

// stepRule is the equations of one rule. step advances moments in place by the scaled gradient x, which it may overwrite, and returns what
// emits the rest: the parameters moved, in a new register. They are loaded by p, once or, where the rule couples its decay, twice. Between the
// two other code may stand, in which the root is taken.
type stepRule struct {
	name    string
	formula string
	moments int
	factors []factor // besides fGScale and fRate
	flags   []factor
	bits    []uint32
	step    func(s *stepGen, x reg.VecVirtual, p loader, m []reg.VecVirtual) mover
}

type (
	loader func() reg.VecVirtual
	mover  func() reg.VecVirtual
)

var stepRules = []stepRule{
	{"adam", "Adam", 2, []factor{fB1, fN1, fB2, fN2, fEps, fAfter}, nil, nil, (*stepGen).adam},
	{"adamTorch", "AdamTorch", 2, []factor{fB1, fN1, fB2, fN2, fC2, fOverC2, fEps, fBefore}, nil, nil, (*stepGen).adamTorch},
	{"ademamix", "AdEMAMix", 3, []factor{fB1, fN1, fB2, fN2, fB3, fN3, fC1, fC2, fOverC2, fAlpha, fEps, fAfter}, nil, nil, (*stepGen).ademamix},
	{"lion", "Lion", 1, []factor{fB1, fN1, fB2, fN2, fBefore}, nil, []uint32{1 << 31, 0x3f800000}, (*stepGen).lion},
	{"momentum", "Momentum", 1, []factor{fB1, fN1, fWD}, []factor{fCoupled, fFirst, fNesterov}, nil, (*stepGen).momentum},
	{"plain", "Momentum without a moment", 0, []factor{fWD}, []factor{fCoupled}, nil, (*stepGen).plain},
	{"rmsprop", "RMSprop", 1, []factor{fB1, fN1, fEps, fWD}, []factor{fCoupled}, nil, (*stepGen).rmsprop},
	{"adagrad", "Adagrad", 1, []factor{fEps, fWD}, []factor{fCoupled}, nil, (*stepGen).adagrad},
}

// level is an instruction set of the step kernels.
type level struct {
	name, needs string
	wide        bool
}

var stepLevels = []level{{"AVX2", "AVX2 and FMA", false}, {"AVX512", "AVX-512F and DQ", true}}

// stepGen emits operations on vectors of one width. The wide one has room for all factors in registers; the narrow one reads them from
// memory where they are used, which costs a load.
type stepGen struct {
	c         *build.Context
	wide      bool
	idle      bool // the divider has time to spare
	k         reg.GPVirtual
	held      map[factor]reg.VecVirtual
	masks     map[factor]reg.OpmaskVirtual
	constants map[uint32]reg.VecVirtual
}

// lanes of a vector, and vectors to a block of 16 elements.
func (s *stepGen) lanes() int {
	if s.wide {
		return 16
	}
	return 8
}

func (s *stepGen) vec() reg.VecVirtual {
	if s.wide {
		return s.c.ZMM()
	}
	return s.c.YMM()
}

// hold loads the factors that stay in registers, where there are enough.
func (s *stepGen) hold(factors, flags []factor) {
	s.held, s.masks = map[factor]reg.VecVirtual{}, map[factor]reg.OpmaskVirtual{}
	if !s.wide {
		return
	}
	for _, f := range factors {
		s.held[f] = s.vec()
		s.c.VBROADCASTSS(at(s.k, 4*int(f)), s.held[f])
	}
	for _, f := range flags {
		v := s.vec()
		s.masks[f] = s.c.K()
		s.c.VPBROADCASTD(at(s.k, 4*int(f)), v)
		s.c.VPMOVD2M(v, s.masks[f])
	}
}

// f is a factor in all lanes.
func (s *stepGen) f(f factor) reg.VecVirtual {
	if v, ok := s.held[f]; ok {
		return v
	}
	v := s.vec()
	s.c.VBROADCASTSS(at(s.k, 4*int(f)), v)
	return v
}

// mul is dst = a·f.
func (s *stepGen) mul(f factor, a, dst reg.VecVirtual) {
	if s.apart(f) {
		s.c.VMULPS_BCST(at(s.k, 4*int(f)), a, dst)
		return
	}
	s.c.VMULPS(s.f(f), a, dst)
}

// add is dst = a + f.
func (s *stepGen) add(f factor, a, dst reg.VecVirtual) {
	if s.apart(f) {
		s.c.VADDPS_BCST(at(s.k, 4*int(f)), a, dst)
		return
	}
	s.c.VADDPS(s.f(f), a, dst)
}

// over is dst = a/f.
func (s *stepGen) over(f factor, a, dst reg.VecVirtual) {
	if s.apart(f) {
		s.c.VDIVPS_BCST(at(s.k, 4*int(f)), a, dst)
		return
	}
	s.c.VDIVPS(s.f(f), a, dst)
}

// apart says that a factor of a wide loop has no register.
func (s *stepGen) apart(f factor) bool { return s.wide && s.held[f] == nil }

// choose sets dst to yes where the flag is set.
func (s *stepGen) choose(flag factor, yes, dst reg.VecVirtual) {
	if s.wide {
		s.c.VMOVAPS(yes, s.masks[flag], dst)
		return
	}
	s.c.VBLENDVPS(s.f(flag), yes, dst, dst)
}

// copied is a copy of v.
func (s *stepGen) copied(v reg.VecVirtual) reg.VecVirtual {
	u := s.vec()
	s.c.VMOVAPS(v, u)
	return u
}

// times is a new vector a·b.
func (s *stepGen) times(a, b reg.VecVirtual) reg.VecVirtual {
	u := s.vec()
	s.c.VMULPS(a, b, u)
	return u
}

// average is m = b·m + n·x.
func (s *stepGen) average(b, n factor, x, m reg.VecVirtual) {
	t := s.times(s.f(n), x)
	s.c.VMULPS(s.f(b), m, m)
	s.c.VADDPS(t, m, m)
}

// averageSquare is v = b·v + (n·x)·x.
func (s *stepGen) averageSquare(b, n factor, x, v reg.VecVirtual) {
	t := s.times(s.f(n), x)
	s.c.VMULPS(x, t, t)
	s.c.VMULPS(s.f(b), v, v)
	s.c.VADDPS(t, v, v)
}

// move is p -= rate·d.
func (s *stepGen) move(d, p reg.VecVirtual) reg.VecVirtual {
	s.mul(fRate, d, d)
	s.c.VSUBPS(d, p, p)
	return p
}

// root is a new vector sqrt(v).
func (s *stepGen) root(v reg.VecVirtual) reg.VecVirtual {
	u := s.vec()
	s.c.VSQRTPS(v, u)
	return u
}

// overC2 divides y, a root, by c2, exactly rounded but in wide loops without the divider, which has enough to do. With 1/c2 rounded
// to nearest, the product is within two units in the last place, a first correction by its remainder within one, and a second is then the
// nearest (Markstein 1990). The remainders are exact, as a root is 0 or between 2^-75 and 2^64 and c2 between 2^-24 and 1. The remainder
// of infinity is NaN and left out.
func (s *stepGen) overC2(y reg.VecVirtual) reg.VecVirtual {
	c := s.c
	if !s.wide || s.idle {
		s.over(fC2, y, y)
		return y
	}
	c2, over, finite := s.f(fC2), s.f(fOverC2), c.K()
	q, r := s.times(over, y), s.copied(y)
	c.VFNMADD231PS(q, c2, r)
	c.VCMPPS(operand.U8(7), r, r, finite)
	c.VFMADD231PS(r, over, finite, q)
	c.VFNMADD231PS(q, c2, y)
	c.VFMADD231PS(y, over, finite, q)
	return q
}

func (s *stepGen) adam(x reg.VecVirtual, p loader, m []reg.VecVirtual) mover {
	s.average(fB1, fN1, x, m[0])
	s.averageSquare(fB2, fN2, x, m[1])
	u := s.root(m[1])
	return func() reg.VecVirtual {
		s.add(fEps, u, u)
		s.c.VDIVPS(u, m[0], u)
		moved := s.move(u, p())
		s.mul(fAfter, moved, moved)
		return moved
	}
}

func (s *stepGen) adamTorch(x reg.VecVirtual, p loader, m []reg.VecVirtual) mover {
	s.average(fB1, fN1, x, m[0])
	s.averageSquare(fB2, fN2, x, m[1])
	u := s.root(m[1])
	return func() reg.VecVirtual {
		u := s.overC2(u)
		s.add(fEps, u, u)
		s.c.VDIVPS(u, m[0], u)
		moved := p()
		s.mul(fBefore, moved, moved)
		return s.move(u, moved)
	}
}

func (s *stepGen) ademamix(x reg.VecVirtual, p loader, m []reg.VecVirtual) mover {
	s.average(fB1, fN1, x, m[0])
	s.averageSquare(fB2, fN2, x, m[1])
	s.average(fB3, fN3, x, m[2])
	u := s.root(m[1])
	return func() reg.VecVirtual {
		u := s.overC2(u)
		s.add(fEps, u, u)
		slow := s.times(s.f(fAlpha), m[2])
		fast := s.vec()
		s.over(fC1, m[0], fast)
		s.c.VADDPS(slow, fast, fast)
		s.c.VDIVPS(u, fast, u)
		moved := s.move(u, p())
		s.mul(fAfter, moved, moved)
		return moved
	}
}

// lion takes the sign of u, but u itself where it is 0 or NaN.
func (s *stepGen) lion(x reg.VecVirtual, p loader, m []reg.VecVirtual) mover {
	c := s.c
	u := s.copied(m[0])
	s.average(fB1, fN1, x, u)
	s.average(fB2, fN2, x, m[0])
	sign, one, zero, d := s.bits(1<<31), s.bits(0x3f800000), s.vec(), s.vec()
	if s.wide {
		none := c.K()
		c.VXORPS(zero, zero, zero)
		c.VPANDD(sign, u, d)
		c.VPORD(one, d, d)
		c.VCMPPS(operand.U8(8), zero, u, none) // equal or unordered
		c.VMOVAPS(u, none, d)
	} else {
		c.VXORPS(zero, zero, zero)
		c.VANDPS(sign, u, d)
		c.VORPS(one, d, d)
		c.VCMPPS(operand.U8(8), zero, u, zero)
		c.VBLENDVPS(zero, u, d, d)
	}
	return func() reg.VecVirtual {
		moved := p()
		s.mul(fBefore, moved, moved)
		return s.move(d, moved)
	}
}

// couple is x += wd·p where there is a decay.
func (s *stepGen) couple(x reg.VecVirtual, p loader) {
	t := s.times(s.f(fWD), p())
	if s.wide {
		s.c.VADDPS(t, x, s.masks[fCoupled], x)
		return
	}
	s.c.VADDPS(t, x, t)
	s.choose(fCoupled, t, x)
}

func (s *stepGen) momentum(x reg.VecVirtual, p loader, m []reg.VecVirtual) mover {
	s.couple(x, p)
	s.average(fB1, fN1, x, m[0])
	s.choose(fFirst, x, m[0])
	d, ahead := s.copied(m[0]), s.times(s.f(fB1), m[0])
	s.c.VADDPS(ahead, x, ahead)
	s.choose(fNesterov, ahead, d)
	return func() reg.VecVirtual { return s.move(d, p()) }
}

func (s *stepGen) plain(x reg.VecVirtual, p loader, _ []reg.VecVirtual) mover {
	s.couple(x, p)
	return func() reg.VecVirtual { return s.move(x, p()) }
}

func (s *stepGen) rmsprop(x reg.VecVirtual, p loader, m []reg.VecVirtual) mover {
	s.couple(x, p)
	s.averageSquare(fB1, fN1, x, m[0])
	return s.overRoot(x, p, m[0])
}

func (s *stepGen) adagrad(x reg.VecVirtual, p loader, m []reg.VecVirtual) mover {
	s.couple(x, p)
	t := s.times(x, x)
	s.c.VADDPS(t, m[0], m[0])
	return s.overRoot(x, p, m[0])
}

// overRoot moves p by x/(sqrt(v)+eps).
func (s *stepGen) overRoot(x reg.VecVirtual, p loader, v reg.VecVirtual) mover {
	u := s.root(v)
	return func() reg.VecVirtual {
		s.add(fEps, u, u)
		s.c.VDIVPS(u, x, u)
		return s.move(u, p())
	}
}

// bits is a constant in all lanes of a register that lives through the loop.
func (s *stepGen) bits(v uint32) reg.VecVirtual { return s.constants[v] }

// holdBits fills the registers of bits.
func (s *stepGen) holdBits(values []uint32) {
	s.constants = map[uint32]reg.VecVirtual{}
	for _, v := range values {
		r := s.c.GP32()
		s.c.MOVL(operand.U32(v), r)
		s.constants[v] = s.vec()
		s.c.VMOVD(r, s.constants[v].AsX())
		s.c.VPBROADCASTD(s.constants[v].AsX(), s.constants[v])
	}
}

// stepAhead is how many bytes ahead of the loads memory is asked for: far enough to bridge the borders of pages, where the hardware's
// prefetchers begin anew.
const stepAhead = 1024

// updates emits the loops of every rule at every level.
func updates() (out []func(*build.Context)) {
	for _, r := range stepRules {
		for _, l := range stepLevels {
			out = append(out, func(c *build.Context) { update(c, r, l) })
		}
	}
	return out
}

// update emits one loop over float32 slabs.
func update(c *build.Context, r stepRule, l level) {
	name := r.name + l.name
	begin(c, name, "func(blocks int, p *float32, grad *float32, s0 *float32, s1 *float32, s2 *float32, k *float32)",
		fmt.Sprintf("%s advances %s by 16*blocks elements: moments s0, s1, s2 (%d of them), then parameters p, by the gradients, with the operations of", name, r.formula, r.moments),
		"its Go twin one by one; k points at the first of Factors. Needs "+l.needs+".")
	blocks, p, g := param(c, "blocks"), param(c, "p"), param(c, "grad")
	var m [3]reg.GPVirtual
	for i := range r.moments {
		m[i] = param(c, fmt.Sprintf("s%d", i))
	}
	s := &stepGen{c: c, wide: l.wide, k: param(c, "k")}
	s.hold(append([]factor{fGScale, fRate}, r.factors...), r.flags)
	s.holdBits(r.bits)
	at0 := c.GP64()
	c.XORQ(at0, at0)
	loop(c, "block", blocks, 1, func() {
		for part := range 16 / s.lanes() {
			disp := 32 * part
			if part == 0 {
				for _, base := range append([]reg.GPVirtual{p, g}, m[:r.moments]...) {
					c.PREFETCHT0(operand.Mem{Base: base, Index: at0, Scale: 1, Disp: stepAhead})
				}
			}
			mem := func(base reg.GPVirtual) operand.Mem { return operand.Mem{Base: base, Index: at0, Scale: 1, Disp: disp} }
			x, param, moments := s.vec(), s.vec(), make([]reg.VecVirtual, r.moments)
			c.VMULPS(mem(g), s.f(fGScale), x)
			for i := range moments {
				moments[i] = s.vec()
				c.VMOVUPS(mem(m[i]), moments[i])
			}
			c.VMOVUPS(mem(p), param)
			moved := r.step(s, x, func() reg.VecVirtual { return param }, moments)()
			for i := range moments {
				c.VMOVUPS(moments[i], mem(m[i]))
			}
			c.VMOVUPS(moved, mem(p))
		}
		c.ADDQ(operand.U8(64), at0)
	})
	c.VZEROUPPER()
	c.RET()
}
