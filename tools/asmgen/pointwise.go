package main

import (
	"fmt"

	"github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// formula is a pointwise function of up to three rows.
type formula struct {
	name, doc string
	arity     int
	unroll    int // vectors a round, for functions of so few instructions that the loop counts
	body      func(l *lanes, a, b, c reg.VecVirtual) reg.VecVirtual
}

// formulas writes a file of pointwise functions, each for both widths.
func formulas(file string, list []formula) func(*build.Context) {
	return func(c *build.Context) {
		sets := map[string]operand.Mem{}
		for _, f := range list {
			for _, wide := range []bool{false, true} {
				emitFormula(&lanes{c, wide, sets, file}, f)
			}
		}
	}
}

func emitFormula(l *lanes, f formula) {
	args := [3]string{"a", "b", "c"}
	name := f.name + l.suffix()
	begin(l.Context, name, "func(n int, dst *float32, a *float32, b *float32, c *float32)",
		fmt.Sprintf("%s sets dst[i] to %s, i < n. %s", name, f.doc, l.needs()))
	n, dst := param(l.Context, "n"), param(l.Context, "dst")
	var ptr []reg.GPVirtual
	for _, a := range args[:f.arity] {
		ptr = append(ptr, param(l.Context, a))
	}
	row := append(ptr, dst)
	if f.unroll > 1 {
		loop(l.Context, "many", n, f.unroll*l.count(), func() {
			for i := range f.unroll {
				var x [3]reg.VecVirtual
				for j, p := range ptr {
					x[j] = l.vector()
					l.VMOVUPS(at(p, i*l.bytes()), x[j])
				}
				l.VMOVUPS(f.body(l, x[0], x[1], x[2]), at(dst, i*l.bytes()))
			}
			for _, p := range row {
				l.ADDQ(operand.I32(f.unroll*l.bytes()), p)
			}
		})
	}
	l.vectors("rest", n, row, func(v vector) {
		var x [3]reg.VecVirtual
		copy(x[:], v.load(ptr...))
		v.store(f.body(l, x[0], x[1], x[2]), dst)
	})
	l.VZEROUPPER()
	l.RET()
}
