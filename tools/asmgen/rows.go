package main

import (
	"fmt"

	"github.com/mmcloughlin/avo/attr"
	"github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// rowFormula is a formula that has up to four numbers k of the row as well. Every product and sum is rounded on its own, so that the
// bits are equal at every level.
type rowFormula struct {
	name, doc string
	arity     int
	numbers   int
	body      func(l *lanes, a, b, c reg.VecVirtual, k []reg.VecVirtual) reg.VecVirtual
}

var rowFormulas = []rowFormula{
	{"scale", "a*k0", 1, 1, func(l *lanes, a, _, _ reg.VecVirtual, k []reg.VecVirtual) reg.VecVirtual { return l.mul(a, k[0]) }},
	{"shiftTwice", "(a-k0)-k1", 1, 2, func(l *lanes, a, _, _ reg.VecVirtual, k []reg.VecVirtual) reg.VecVirtual {
		return l.sub(l.sub(a, k[0]), k[1])
	}},
	{"weighDifference", "a*(b-k0)", 2, 1, func(l *lanes, a, b, _ reg.VecVirtual, k []reg.VecVirtual) reg.VecVirtual {
		return l.mul(a, l.sub(b, k[0]))
	}},
	{"subtractScaled", "b-a*k0", 2, 1, func(l *lanes, a, b, _ reg.VecVirtual, k []reg.VecVirtual) reg.VecVirtual {
		return l.sub(b, l.mul(a, k[0]))
	}},
	{"normal", "(a-k0)*k1", 1, 2, normal},
	{"normalShifted", "(a-k0)*k1+k2", 1, 3, func(l *lanes, a, b, c reg.VecVirtual, k []reg.VecVirtual) reg.VecVirtual {
		return l.add(normal(l, a, b, c, k), k[2])
	}},
	{"normalWeighted", "(a-k0)*k1*b", 2, 2, func(l *lanes, a, b, c reg.VecVirtual, k []reg.VecVirtual) reg.VecVirtual {
		return l.mul(normal(l, a, b, c, k), b)
	}},
	{"normalAffine", "(a-k0)*k1*b+c", 3, 2, func(l *lanes, a, b, c reg.VecVirtual, k []reg.VecVirtual) reg.VecVirtual {
		return l.add(l.mul(normal(l, a, b, c, k), b), c)
	}},
	{"addNormal", "c+b*((a-k0)*k1)", 3, 2, func(l *lanes, a, b, c reg.VecVirtual, k []reg.VecVirtual) reg.VecVirtual {
		return l.add(c, l.mul(b, normal(l, a, b, c, k)))
	}},
	{"normalGrad", "k1*(b-k2-(a-k0)*k1*k3)", 2, 4, func(l *lanes, a, b, c reg.VecVirtual, k []reg.VecVirtual) reg.VecVirtual {
		return l.mul(l.sub(l.sub(b, k[2]), l.mul(normal(l, a, b, c, k), k[3])), k[1])
	}},
	{"normalGradWeighted", "k1*(b*c-k2-(a-k0)*k1*k3)", 3, 4, func(l *lanes, a, b, c reg.VecVirtual, k []reg.VecVirtual) reg.VecVirtual {
		return l.mul(l.sub(l.sub(l.mul(b, c), k[2]), l.mul(normal(l, a, b, c, k), k[3])), k[1])
	}},
	{"channelGrad", "k1*(b-k2-(a-k0)*k3)", 2, 4, func(l *lanes, a, b, _ reg.VecVirtual, k []reg.VecVirtual) reg.VecVirtual {
		return l.mul(l.sub(l.sub(b, k[2]), l.mul(l.sub(a, k[0]), k[3])), k[1])
	}},
}

func normal(l *lanes, a, _, _ reg.VecVirtual, k []reg.VecVirtual) reg.VecVirtual {
	return l.mul(l.sub(a, k[0]), k[1])
}

func rows(c *build.Context) {
	sets := map[string]operand.Mem{}
	for _, f := range rowFormulas {
		for _, wide := range []bool{false, true} {
			emitRowFormula(&lanes{c, wide, sets, "rows"}, f)
		}
	}
	for _, wide := range []bool{false, true} {
		turnHalves(&lanes{c, wide, sets, "rows"})
		turnNeighbours(&lanes{c, wide, sets, "rows"})
		addWide(&lanes{c, wide, sets, "rows"})
		copyPast(&lanes{c, wide, sets, "rows"})
	}
	fence(c)
}

func emitRowFormula(l *lanes, f rowFormula) {
	name := f.name + l.suffix()
	begin(l.Context, name, "func(n int, dst *float32, a *float32, b *float32, c *float32, k0 float32, k1 float32, k2 float32, k3 float32)",
		fmt.Sprintf("%s sets each of n elements of dst to %s. %s", name, f.doc, l.needs()))
	n, dst := param(l.Context, "n"), param(l.Context, "dst")
	var ptr []reg.GPVirtual
	for _, a := range []string{"a", "b", "c"}[:f.arity] {
		ptr = append(ptr, param(l.Context, a))
	}
	k := make([]reg.VecVirtual, f.numbers)
	for i := range k {
		k[i] = l.vector()
		broadcastParam(l.Context, fmt.Sprintf("k%d", i), k[i])
	}
	row := append(ptr, dst)
	const unroll = 2
	loop(l.Context, "many", n, unroll*l.count(), func() {
		for i := range unroll {
			var x [3]reg.VecVirtual
			for j, p := range ptr {
				x[j] = l.vector()
				l.VMOVUPS(at(p, i*l.bytes()), x[j])
			}
			l.VMOVUPS(f.body(l, x[0], x[1], x[2], k), at(dst, i*l.bytes()))
		}
		for _, p := range row {
			l.ADDQ(operand.I32(unroll*l.bytes()), p)
		}
	})
	l.vectors("rest", n, row, func(v vector) {
		var x [3]reg.VecVirtual
		copy(x[:], v.load(ptr...))
		v.store(f.body(l, x[0], x[1], x[2], k), dst)
	})
	l.VZEROUPPER()
	l.RET()
}

// turnHalves rotates pairs whose parts are half a row apart.
func turnHalves(l *lanes) {
	name := "turnHalves" + l.suffix()
	begin(l.Context, name, "func(n int, y0 *float32, y1 *float32, x0 *float32, x1 *float32, cos *float32, sin *float32, sign float32)",
		name+" sets y0 to x0*cos-x1*sin*sign and y1 to x1*cos+x0*sin*sign, n elements each; y may be x. "+l.needs())
	n := param(l.Context, "n")
	var p [6]reg.GPVirtual
	for i, arg := range []string{"y0", "y1", "x0", "x1", "cos", "sin"} {
		p[i] = param(l.Context, arg)
	}
	sign := l.vector()
	broadcastParam(l.Context, "sign", sign)
	l.vectors("pair", n, p[:], func(v vector) {
		x := v.load(p[2:]...)
		s := l.mul(x[3], sign)
		y0 := l.sub(l.mul(x[0], x[2]), l.mul(x[1], s))
		y1 := l.add(l.mul(x[1], x[2]), l.mul(x[0], s))
		v.store2(y0, p[0], y1, p[1])
	})
	l.VZEROUPPER()
	l.RET()
}

// turnNeighbours rotates pairs of neighbours: x·cos plus what is exchanged within pairs, times sin with the sign of its place.
func turnNeighbours(l *lanes) {
	name := "turnNeighbours" + l.suffix()
	begin(l.Context, name, "func(pairs int, y *float32, x *float32, cos *float32, sin *float32, sign float32)",
		name+fmt.Sprintf(" sets y[2i] to x[2i]*cos[i]-x[2i+1]*sin[i]*sign and y[2i+1] to x[2i+1]*cos[i]+x[2i]*sin[i]*sign for a multiple of %d pairs; y", l.count()/2),
		"may be x. "+l.needs())
	n, y, x := param(l.Context, "pairs"), param(l.Context, "y"), param(l.Context, "x")
	cos, sin := param(l.Context, "cos"), param(l.Context, "sin")
	sign := l.vector()
	broadcastParam(l.Context, "sign", sign)
	places := l.data("Places", 16, func(i int) operand.Constant { return operand.U32([]uint32{0x80000000, 0}[i%2]) })
	l.VXORPS(places, sign, sign)
	twice := func(p reg.GPVirtual) reg.VecVirtual {
		z := l.vector()
		l.VPMOVZXDQ(at(p, 0), z)
		l.VMOVSLDUP(z, z)
		return z
	}
	loop(l.Context, "pairs", n, l.count()/2, func() {
		v, swapped := l.vector(), l.vector()
		l.VMOVUPS(at(x, 0), v)
		l.VPERMILPS(operand.U8(0xb1), v, swapped)
		straight := l.mul(v, twice(cos))
		l.VMOVUPS(l.add(straight, l.mul(swapped, l.mul(twice(sin), sign))), at(y, 0))
		for _, p := range []reg.GPVirtual{x, y} {
			l.ADDQ(operand.U8(l.bytes()), p)
		}
		for _, p := range []reg.GPVirtual{cos, sin} {
			l.ADDQ(operand.U8(l.bytes()/2), p)
		}
	})
	l.VZEROUPPER()
	l.RET()
}

// addWide adds float32 to float64 sums.
func addWide(l *lanes) {
	name := "addWide" + l.suffix()
	begin(l.Context, name, "func(n int, sum *float64, x *float32)",
		name+fmt.Sprintf(" adds x[i] to sum[i], i < n, a multiple of %d. ", l.count())+l.needs())
	n, sum, x := param(l.Context, "n"), param(l.Context, "sum"), param(l.Context, "x")
	loop(l.Context, "many", n, l.count(), func() {
		for i := range 2 {
			v := l.vector()
			if l.wide {
				l.VCVTPS2PD(at(x, 32*i), v)
			} else {
				l.VCVTPS2PD(at(x, 16*i), v)
			}
			l.VADDPD(at(sum, i*l.bytes()), v, v)
			l.VMOVUPD(v, at(sum, i*l.bytes()))
		}
		l.ADDQ(operand.I32(l.bytes()), x)
		l.ADDQ(operand.I32(2*l.bytes()), sum)
	})
	l.VZEROUPPER()
	l.RET()
}

// copyPast copies past the caches.
func copyPast(l *lanes) {
	name := "copyPast" + l.suffix()
	begin(l.Context, name, "func(lines int, dst *float32, src *float32)",
		name+" copies 16*lines floats to dst, a multiple of 64, without reading its lines into the caches. A",
		"fence must follow before another thread reads it. "+l.needs())
	n, dst, src := param(l.Context, "lines"), param(l.Context, "dst"), param(l.Context, "src")
	loop(l.Context, "line", n, 1, func() {
		for i := range 64 / l.bytes() {
			v := l.vector()
			l.VMOVUPS(at(src, i*l.bytes()), v)
			l.VMOVNTPS(v, at(dst, i*l.bytes()))
		}
		l.ADDQ(operand.I32(64), src)
		l.ADDQ(operand.I32(64), dst)
	})
	l.VZEROUPPER()
	l.RET()
}

// fence orders the stores past the caches before all that follow.
func fence(c *build.Context) {
	c.Function("fence")
	c.Attributes(attr.NOSPLIT)
	c.SignatureExpr("func()")
	c.Doc("fence makes all stores before it visible before any after it.")
	c.SFENCE()
	c.RET()
}
