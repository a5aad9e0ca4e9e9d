package main

import (
	"fmt"

	"github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// random is the file of the counter-based generator and of what takes its words.
func random(c *build.Context) {
	sets := map[string]operand.Mem{}
	for _, wide := range []bool{false, true} {
		l := &lanes{c, wide, sets, "random"}
		philox(l)
		dropWords(l)
		roundRandom(l)
	}
}

// philox computes several counters side by side, each in the lower half of a 64-bit lane: VPMULUDQ takes no notice of upper halves, so
// neither sums nor exclusive ors need a mask. Counters go to the lanes in the order that makes the last step, which unpacks the four words
// of each, store them in order.
func philox(l *lanes) {
	name := "philox" + l.suffix()
	order := []uint64{0, 2, 1, 3}
	if l.wide {
		order = []uint64{0, 4, 1, 5, 2, 6, 3, 7}
	}
	begin(l.Context, name, "func(n int, dst *uint32, c0 uint32, c1 uint32, c2 uint32, c3 uint32, k0 uint32, k1 uint32)",
		name+fmt.Sprintf(" writes the four words of n counters, a multiple of %d, whose first part counts up from c0, for a key. ", len(order))+l.needs())
	n, dst := param(l.Context, "n"), param(l.Context, "dst")
	state := l.AllocLocal(8 * 23) // the three other parts and the two keys of each round
	for i, part := range []string{"c1", "c2", "c3"} {
		r := l.GP64()
		l.Load(l.Param(part), r.As32())
		l.MOVQ(r, state.Offset(8*i))
	}
	for i, part := range []string{"k0", "k1"} {
		r := l.GP64()
		l.Load(l.Param(part), r.As32())
		for round := range 10 {
			l.MOVQ(r, state.Offset(24+16*round+8*i))
			l.ADDL(operand.U32([]uint32{0x9E3779B9, 0xBB67AE85}[i]), r.As32())
		}
	}
	first := l.GP64()
	l.Load(l.Param("c0"), first.As32())
	vec := func(m operand.Mem) reg.VecVirtual {
		z := l.vector()
		l.VPBROADCASTQ(m, z)
		return z
	}
	m0, m1 := vec(l.data("M0", 1, quad(0xD2511F53))), vec(l.data("M1", 1, quad(0xCD9E8D57)))
	step := vec(l.data(fmt.Sprintf("Step%d", len(order)), 1, quad(uint64(len(order)))))
	count := l.vector()
	l.VMOVQ(first, count.AsX())
	l.VPBROADCASTQ(count.AsX(), count)
	l.VPADDQ(l.data("Order"+l.suffix(), len(order), func(i int) operand.Constant { return operand.U64(order[i]) }), count, count)
	loop(l.Context, "counters", n, len(order), func() {
		c := [4]reg.VecVirtual{count, vec(state), vec(state.Offset(8)), vec(state.Offset(16))}
		for r := range 10 {
			p0, p1 := l.vector(), l.vector()
			l.VPMULUDQ(c[0], m0, p0)
			l.VPMULUDQ(c[2], m1, p1)
			c = [4]reg.VecVirtual{l.round3(p1, c[1], state.Offset(24+16*r)), p1, l.round3(p0, c[3], state.Offset(32+16*r)), p0}
		}
		l.VPADDQ(step, count, count)
		a, b := l.pairUp(c[0], c[1]), l.pairUp(c[2], c[3])
		even, odd := l.vector(), l.vector()
		l.VPUNPCKLQDQ(b, a, even)
		l.VPUNPCKHQDQ(b, a, odd)
		l.VMOVUPS(even, at(dst, 0))
		l.VMOVUPS(odd, at(dst, l.bytes()))
		l.ADDQ(operand.I32(2*l.bytes()), dst)
	})
	l.VZEROUPPER()
	l.RET()
}

func quad(v uint64) func(int) operand.Constant {
	return func(int) operand.Constant { return operand.U64(v) }
}

// round3 is the upper half of a product, exclusive or with x and a key.
func (l *lanes) round3(product, x reg.VecVirtual, key operand.Mem) reg.VecVirtual {
	z := l.vector()
	l.VPSRLQ(operand.U8(32), product, z)
	if l.wide {
		l.VPTERNLOGQ_BCST(operand.U8(0x96), key, x, z)
		return z
	}
	k := l.vector()
	l.VPBROADCASTQ(key, k)
	l.VPXOR(x, z, z)
	l.VPXOR(k, z, z)
	return z
}

// pairUp puts the lower halves of lo and hi side by side.
func (l *lanes) pairUp(lo, hi reg.VecVirtual) reg.VecVirtual {
	z := l.vector()
	l.VPSLLQ(operand.U8(32), hi, z)
	if l.wide {
		k, bits := l.K(), l.GP32()
		l.MOVL(operand.U32(0x5555), bits)
		l.KMOVW(bits, k)
		l.VMOVDQA32(lo, k, z)
		return z
	}
	l.VPBLENDD(operand.U8(0x55), lo, z, z)
	return z
}

// dropWords multiplies what is kept.
func dropWords(l *lanes) {
	name := "dropWords" + l.suffix()
	begin(l.Context, name, "func(n int, dst *float32, src *float32, words *float32, threshold uint32, scale float32)",
		name+" sets dst[i] to src[i]*scale, or 0 where the bits of words[i] are a number below threshold, i < n. "+l.needs())
	n, dst, src, words := param(l.Context, "n"), param(l.Context, "dst"), param(l.Context, "src"), param(l.Context, "words")
	scale, least := l.vector(), l.vector()
	broadcastParam(l.Context, "scale", scale)
	broadcastParam(l.Context, "threshold", least)
	l.vectors("row", n, []reg.GPVirtual{dst, src, words}, func(v vector) {
		x := v.load(src, words)
		y := l.mul(x[0], scale)
		if l.wide {
			k := l.K()
			l.VPCMPUD(operand.U8(5), least, x[1], k) // not below
			l.VMOVAPS_Z(y, k, y)
		} else {
			kept := l.vector()
			l.VPMAXUD(least, x[1], kept)
			l.VPCMPEQD(kept, x[1], kept)
			l.VANDPS(kept, y, y)
		}
		v.store(y, dst)
	})
	l.VZEROUPPER()
	l.RET()
}

// roundRandom rounds to bfloat16 by random bits.
func roundRandom(l *lanes) {
	name := "roundRandom" + l.suffix()
	begin(l.Context, name, "func(n int, dst *uint16, src *float32, random *uint16)",
		fmt.Sprintf("%s rounds n float32, a multiple of %d, to bfloat16: away from zero where random[i] is less than the lower half of the", name, l.count()),
		"bits of src[i]. A NaN stays one. "+l.needs())
	n, dst, src, words := param(l.Context, "n"), param(l.Context, "dst"), param(l.Context, "src"), param(l.Context, "random")
	loop(l.Context, "many", n, l.count(), func() {
		x, r, short := l.vector(), l.vector(), l.XMM()
		l.VMOVUPS(at(src, 0), x)
		l.VPMOVZXWD(at(words, 0), r)
		upper := l.shift(l.VPSRLD, 16, x)
		part := l.and(x, l.bits(0xffff))
		up := l.addInt(upper, l.shift(l.VPSRLD, 31, l.subInt(r, part)))
		nan := l.or(upper, l.bits(0x40))
		y := l.pick(l.is(cmpUnordered, x, x), nan, up)
		if l.wide {
			half := l.YMM()
			l.VPMOVDW(y, half)
			l.VMOVDQU(half, at(dst, 0))
		} else {
			l.VEXTRACTI128(operand.U8(1), y, short)
			l.VPACKUSDW(short, y.AsX(), short)
			l.VMOVDQU(short, at(dst, 0))
		}
		l.ADDQ(operand.I32(l.bytes()), src)
		l.ADDQ(operand.I32(l.bytes()/2), words)
		l.ADDQ(operand.I32(l.bytes()/2), dst)
	})
	l.VZEROUPPER()
	l.RET()
}
