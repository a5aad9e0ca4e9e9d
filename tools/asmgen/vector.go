package main

import (
	"fmt"

	"github.com/mmcloughlin/avo/attr"
	"github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

func begin(c *build.Context, name, signature string, doc ...string) {
	c.Function(name)
	c.Pragma("noescape")
	c.Attributes(attr.NOSPLIT)
	c.SignatureExpr(signature)
	c.Doc(doc...)
}

func param(c *build.Context, name string) reg.GPVirtual {
	r := c.GP64()
	c.Load(c.Param(name), r)
	return r
}

func at(base reg.Register, disp int) operand.Mem { return operand.Mem{Base: base, Disp: disp} }

func indexed(base, index reg.Register) operand.Mem {
	return operand.Mem{Base: base, Index: index, Scale: 1}
}

// transposeAhead is how many bytes ahead of the loads each row is prefetched: rows are often a power of two apart, which defeats
// the hardware's prefetcher.
const transposeAhead = 256

// transpose turns eight columns of the given rows at a time into eight rows of eight floats in registers.
func transpose(c *build.Context, rows int) {
	name := fmt.Sprintf("transpose%dAVX2", rows)
	begin(c, name, "func(dst *float32, ldd int, src *float32, lds int, blocks int)",
		fmt.Sprintf("%s writes src[r][k], r < %d, to dst[k][r] for k < 8*blocks. Strides are in floats. Each row of dst is", name, rows),
		"written as eight floats in ascending k, so what lies right of its columns is overwritten. Needs AVX2; blocks >= 1.")
	dst, ldd, src, lds, blocks := param(c, "dst"), param(c, "ldd"), param(c, "src"), param(c, "lds"), param(c, "blocks")
	c.SHLQ(operand.U8(2), ldd)
	c.SHLQ(operand.U8(2), lds)
	low, three := c.GP64(), c.GP64()
	c.LEAQ(operand.Mem{Base: src, Index: lds, Scale: 4}, low)
	c.LEAQ(operand.Mem{Base: lds, Index: lds, Scale: 2}, three)
	c.Label("loop")
	load := func(r int) reg.VecVirtual {
		y := c.YMM()
		if r >= rows {
			c.VXORPS(y, y, y)
			return y
		}
		base := src
		if r >= 4 {
			base = low
		}
		m := operand.Mem{Base: base}
		switch r % 4 {
		case 1:
			m = indexed(base, lds)
		case 2:
			m = operand.Mem{Base: base, Index: lds, Scale: 2}
		case 3:
			m = indexed(base, three)
		}
		c.VMOVUPS(m, y)
		m.Disp = transposeAhead
		c.PREFETCHT0(m)
		return y
	}
	var r [8]reg.VecVirtual
	for i := range r {
		r[i] = load(i)
	}
	for _, y := range transpose8(c, r) {
		c.VMOVUPS(y, at(dst, 0))
		c.ADDQ(ldd, dst)
	}
	c.ADDQ(operand.U8(32), src)
	c.ADDQ(operand.U8(32), low)
	c.DECQ(blocks)
	c.JNZ(operand.LabelRef("loop"))
	c.VZEROUPPER()
	c.RET()
}

func transpose8Rows(c *build.Context) { transpose(c, 8) }

func transpose6Rows(c *build.Context) { transpose(c, 6) }

// transpose8 transposes an 8x8 matrix held in registers.
func transpose8(c *build.Context, r [8]reg.VecVirtual) (out [8]reg.VecVirtual) {
	var pair, quad [8]reg.VecVirtual
	for i := 0; i < 8; i += 2 {
		pair[i], pair[i+1] = c.YMM(), c.YMM()
		c.VUNPCKLPS(r[i+1], r[i], pair[i])
		c.VUNPCKHPS(r[i+1], r[i], pair[i+1])
	}
	for i := 0; i < 8; i += 4 {
		for h := range 2 {
			lo, hi := c.YMM(), c.YMM()
			c.VUNPCKLPD(pair[i+2+h], pair[i+h], lo)
			c.VUNPCKHPD(pair[i+2+h], pair[i+h], hi)
			quad[i+2*h], quad[i+2*h+1] = lo, hi
		}
	}
	for i := range 4 {
		out[i], out[i+4] = c.YMM(), c.YMM()
		c.VPERM2F128(operand.U8(0x20), quad[i+4], quad[i], out[i])
		c.VPERM2F128(operand.U8(0x31), quad[i+4], quad[i], out[i+4])
	}
	return out
}

// sum leaves the sum of the four (or one) 8-float registers in lane 0 of the result.
func sum(c *build.Context, acc []reg.VecVirtual) reg.VecVirtual {
	for n := len(acc); n > 1; n /= 2 {
		for i := range n / 2 {
			c.VADDPS(acc[i+n/2], acc[i], acc[i])
		}
	}
	x := c.XMM()
	c.VEXTRACTF128(operand.U8(1), acc[0], x)
	c.VADDPS(acc[0].AsX(), x, x)
	c.VHADDPS(x, x, x)
	c.VHADDPS(x, x, x)
	return x
}

func zeros(c *build.Context, n int) []reg.VecVirtual {
	out := make([]reg.VecVirtual, n)
	for i := range out {
		out[i] = c.YMM()
		c.VXORPS(out[i], out[i], out[i])
	}
	return out
}

func dot(c *build.Context) {
	begin(c, "dotAVX2", "func(n int, x *float32, y *float32) float32",
		"dotAVX2 is the sum of x[i]*y[i], i < n. Needs AVX2 and FMA.")
	n, x, y := param(c, "n"), param(c, "x"), param(c, "y")
	acc := zeros(c, 4)
	v := c.YMM()
	step := func(width int, acc []reg.VecVirtual) func() {
		return func() {
			for i := range acc {
				c.VMOVUPS(at(x, 32*i), v)
				c.VFMADD231PS(at(y, 32*i), v, acc[i])
			}
			c.ADDQ(operand.U8(4*width), x)
			c.ADDQ(operand.U8(4*width), y)
		}
	}
	loop(c, "wide", n, 32, step(32, acc))
	loop(c, "narrow", n, 8, step(8, acc[:1]))
	s := sum(c, acc)
	loop(c, "single", n, 1, func() {
		c.VMOVSS(at(x, 0), v.AsX())
		c.VFMADD231SS(at(y, 0), v.AsX(), s)
		c.ADDQ(operand.U8(4), x)
		c.ADDQ(operand.U8(4), y)
	})
	c.Store(s, c.ReturnIndex(0))
	c.VZEROUPPER()
	c.RET()
}

// loop emits body for as long as n >= step, taking step off n each time.
func loop(c *build.Context, label string, n reg.GPVirtual, step int, body func()) {
	c.CMPQ(n, operand.U8(step))
	c.JLT(operand.LabelRef(label + "done"))
	c.Label(label)
	body()
	c.SUBQ(operand.U8(step), n)
	c.CMPQ(n, operand.U8(step))
	c.JGE(operand.LabelRef(label))
	c.Label(label + "done")
}

// broadcastParam puts a float argument in all lanes. An unknown name is an error of the context, as with Load.
func broadcastParam(c *build.Context, name string, r reg.Register) {
	component := c.Param(name)
	mem, err := component.Resolve()
	if err != nil {
		c.Load(component, r)
		return
	}
	c.VBROADCASTSS(mem.Addr, r)
}

func dot4(c *build.Context) {
	begin(c, "dot4AVX2", "func(n int, x *float32, w *float32, ldw int, out *[4]float32)",
		"dot4AVX2 sets out[r] to the sum of x[i]*w[r*ldw+i], i < n, r < 4. Needs AVX2 and FMA.")
	n, x, w, ldw := param(c, "n"), param(c, "x"), param(c, "w"), param(c, "ldw")
	c.SHLQ(operand.U8(2), ldw)
	three := c.GP64()
	c.LEAQ(operand.Mem{Base: ldw, Index: ldw, Scale: 2}, three)
	row := fourRows(w, ldw, three)
	acc := zeros(c, 8)
	v := c.YMM()
	step := func(halves int) func() {
		return func() {
			for h := range halves {
				c.VMOVUPS(at(x, 32*h), v)
				for r := range 4 {
					c.VFMADD231PS(row(r, 32*h), v, acc[4*h+r])
				}
			}
			c.ADDQ(operand.U8(32*halves), x)
			c.ADDQ(operand.U8(32*halves), w)
		}
	}
	loop(c, "wide", n, 16, step(2))
	loop(c, "narrow", n, 8, step(1))
	var s [4]reg.VecVirtual
	for r := range s {
		s[r] = sum(c, []reg.VecVirtual{acc[r], acc[4+r]})
	}
	loop(c, "single", n, 1, func() {
		c.VMOVSS(at(x, 0), v.AsX())
		for r := range s {
			c.VFMADD231SS(row(r, 0), v.AsX(), s[r])
		}
		c.ADDQ(operand.U8(4), x)
		c.ADDQ(operand.U8(4), w)
	})
	out := param(c, "out")
	for r := range s {
		c.VMOVSS(s[r], at(out, 4*r))
	}
	c.VZEROUPPER()
	c.RET()
}

func axpy(c *build.Context) {
	begin(c, "axpyAVX2", "func(n int, alpha float32, x *float32, y *float32)",
		"axpyAVX2 adds alpha*x[i] to y[i], i < n. Needs AVX2 and FMA.")
	n, x, y := param(c, "n"), param(c, "x"), param(c, "y")
	al := c.YMM()
	broadcastParam(c, "alpha", al)
	axpyLoops(c, n, x, y, []reg.VecVirtual{al}, func(_, disp int) operand.Mem { return at(x, disp) })
}

func axpy4(c *build.Context) {
	begin(c, "axpy4AVX2", "func(n int, alpha *[4]float32, x *float32, ldx int, y *float32)",
		"axpy4AVX2 adds the sum over r < 4 of alpha[r]*x[r*ldx+i] to y[i], i < n. Needs AVX2 and FMA.")
	n, al, x, ldx, y := param(c, "n"), param(c, "alpha"), param(c, "x"), param(c, "ldx"), param(c, "y")
	c.SHLQ(operand.U8(2), ldx)
	three := c.GP64()
	c.LEAQ(operand.Mem{Base: ldx, Index: ldx, Scale: 2}, three)
	alpha := make([]reg.VecVirtual, 4)
	for r := range alpha {
		alpha[r] = c.YMM()
		c.VBROADCASTSS(at(al, 4*r), alpha[r])
	}
	axpyLoops(c, n, x, y, alpha, fourRows(x, ldx, three))
}

// fourRows addresses four rows from the registers holding the first, the stride and three strides.
func fourRows(base, stride, three reg.GPVirtual) func(r, disp int) operand.Mem {
	return func(r, disp int) operand.Mem {
		m := operand.Mem{Base: base, Disp: disp}
		switch r {
		case 1:
			m.Index, m.Scale = stride, 1
		case 2:
			m.Index, m.Scale = stride, 2
		case 3:
			m.Index, m.Scale = three, 1
		}
		return m
	}
}

// axpyLoops adds alpha[r] times each row to y.
func axpyLoops(c *build.Context, n, x, y reg.GPVirtual, alpha []reg.VecVirtual, row func(r, disp int) operand.Mem) {
	step := func(vectors int) func() {
		return func() {
			v := make([]reg.VecVirtual, vectors)
			for i := range v {
				v[i] = c.YMM()
				c.VMOVUPS(at(y, 32*i), v[i])
			}
			for r, al := range alpha {
				for i := range v {
					c.VFMADD231PS(row(r, 32*i), al, v[i])
				}
			}
			for i := range v {
				c.VMOVUPS(v[i], at(y, 32*i))
			}
			c.ADDQ(operand.I32(32*vectors), x)
			c.ADDQ(operand.I32(32*vectors), y)
		}
	}
	loop(c, "wide", n, 32, step(4))
	loop(c, "narrow", n, 8, step(1))
	s := c.XMM()
	loop(c, "single", n, 1, func() {
		c.VMOVSS(at(y, 0), s)
		for r, al := range alpha {
			c.VFMADD231SS(row(r, 0), al.AsX(), s)
		}
		c.VMOVSS(s, at(y, 0))
		c.ADDQ(operand.U8(4), x)
		c.ADDQ(operand.U8(4), y)
	})
	c.VZEROUPPER()
	c.RET()
}
