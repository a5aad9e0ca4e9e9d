package main

import (
	"github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// expSum writes e^(x-shift) and adds it up lane by lane.
func expSum(c *build.Context) {
	sets := map[string]operand.Mem{}
	for _, wide := range []bool{false, true} {
		l := &lanes{c, wide, sets, "expSum"}
		name := "expSum" + l.suffix()
		begin(c, name, "func(n int, dst *float32, src *float32, shift float32) float32",
			name+" sets dst[i] to e^(src[i]-shift), i < n, and returns their sum. "+l.needs())
		n, dst, src := param(c, "n"), param(c, "dst"), param(c, "src")
		shift, acc := l.vector(), l.vector()
		broadcastParam(c, "shift", shift)
		c.VXORPS(acc, acc, acc)
		l.vectors("row", n, []reg.GPVirtual{dst, src}, func(v vector) {
			y := v.only(exp(l, l.sub(v.load(src)[0], shift)))
			v.store(y, dst)
			c.VADDPS(y, acc, acc)
		})
		c.Store(l.total(acc), c.ReturnIndex(0))
		c.VZEROUPPER()
		c.RET()
	}
}

// total adds the lanes of x in halves.
func (l *lanes) total(x reg.VecVirtual) reg.VecVirtual {
	y := x
	if l.wide {
		up := l.YMM()
		l.VEXTRACTF32X8(operand.U8(1), x, up)
		y = l.YMM()
		l.VADDPS(up, x.AsY(), y)
	}
	s := l.XMM()
	l.VEXTRACTF128(operand.U8(1), y.AsY(), s)
	l.VADDPS(y.AsX(), s, s)
	l.VHADDPS(s, s, s)
	l.VHADDPS(s, s, s)
	return s
}
