package main

import (
	"fmt"

	"github.com/mmcloughlin/avo/attr"
	"github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// unroll is how many steps of k one round of a tile's loop does.
const unroll = 4

const tileSignature = "func(kc int, a *float32, b *float32, c *float32, ldc int, alpha float32, add bool)"

// tileArgs are the arguments of a tile kernel in registers.
type tileArgs struct {
	kc, a, b, c, ldc reg.GPVirtual
}

func tileDoc(c *build.Context, name string, mr, nr int, needs string) {
	c.Function(name)
	c.Pragma("noescape")
	c.Attributes(attr.NOSPLIT)
	c.SignatureExpr(tileSignature)
	c.Doc(
		fmt.Sprintf("%s multiplies packed panels: a holds kc columns of %d, b holds kc rows of %d. The %dx%d product times", name, mr, nr, mr, nr),
		"alpha is added to c, or with add false replaces it. ldc is in floats; kc is at least 1.",
		"Needs "+needs+".",
	)
}

func loadTileArgs(c *build.Context) tileArgs {
	t := tileArgs{c.GP64(), c.GP64(), c.GP64(), c.GP64(), c.GP64()}
	c.Load(c.Param("kc"), t.kc)
	c.Load(c.Param("a"), t.a)
	c.Load(c.Param("b"), t.b)
	c.Load(c.Param("c"), t.c)
	c.Load(c.Param("ldc"), t.ldc)
	c.SHLQ(operand.U8(2), t.ldc)
	return t
}

// tileAVX2 keeps 6x16 sums in 12 of the 16 vector registers.
func tileAVX2(c *build.Context) {
	tileDoc(c, "tileAVX2", 6, 16, "AVX2 and FMA")
	tile(c, 6, 16, 8, c.YMM, func(r reg.VecVirtual) { c.VXORPS(r, r, r) })
}

// tileAVX512 keeps 14x32 sums in 28 of the 32 vector registers.
func tileAVX512(c *build.Context) {
	tileDoc(c, "tileAVX512", 14, 32, "AVX-512F")
	tile(c, 14, 32, 16, c.ZMM, func(r reg.VecVirtual) { c.VPXORD(r, r, r) })
}

// tile emits the body for registers of lanes floats, two of them to a row.
func tile(c *build.Context, mr, nr, lanes int, register func() reg.VecVirtual, zero func(reg.VecVirtual)) {
	t := loadTileArgs(c)
	acc := make([][2]reg.VecVirtual, mr)
	for i := range acc {
		for j := range acc[i] {
			acc[i][j] = register()
			zero(acc[i][j])
		}
	}
	prefetchRows(c, t, mr, nr/16)
	b := [2]reg.VecVirtual{register(), register()}
	x := [2]reg.VecVirtual{register(), register()}
	loopK(c, t, mr, nr, func(u int) {
		for j := range b {
			c.VMOVUPS(at(t.b, 4*(u*nr+lanes*j)), b[j])
		}
		for i := range acc {
			c.VBROADCASTSS(at(t.a, 4*(u*mr+i)), x[i&1])
			c.VFMADD231PS(b[0], x[i&1], acc[i][0])
			c.VFMADD231PS(b[1], x[i&1], acc[i][1])
		}
	})
	al, flag := x[0], c.GP32()
	broadcastParam(c, "alpha", al)
	c.Load(c.Param("add"), flag.As8())
	c.TESTB(flag.As8(), flag.As8())
	c.JZ(operand.LabelRef("store"))
	eachRow(c, t, acc, lanes, func(sum reg.VecVirtual, j int, to operand.Mem) {
		c.VMOVUPS(to, b[j])
		c.VFMADD231PS(sum, al, b[j])
		c.VMOVUPS(b[j], to)
	})
	c.Label("store")
	eachRow(c, t, acc, lanes, func(sum reg.VecVirtual, _ int, to operand.Mem) {
		c.VMULPS(sum, al, sum)
		c.VMOVUPS(sum, to)
	})
}

// eachRow emits put for every register of sums and the end of the function.
func eachRow(c *build.Context, t tileArgs, acc [][2]reg.VecVirtual, lanes int, put func(reg.VecVirtual, int, operand.Mem)) {
	for i := range acc {
		for j, sum := range acc[i] {
			put(sum, j, at(t.c, 4*lanes*j))
		}
		c.ADDQ(t.ldc, t.c)
	}
	c.VZEROUPPER()
	c.RET()
}

// prefetchRows asks for the tile of c while the products are summed.
func prefetchRows(c *build.Context, t tileArgs, rows, lines int) {
	p := c.GP64()
	c.MOVQ(t.c, p)
	for range rows {
		for l := range lines {
			c.PREFETCHT0(operand.Mem{Base: p, Disp: 64 * l})
		}
		c.ADDQ(t.ldc, p)
	}
}

// loopK emits body for every k: rounds of unroll steps, then single ones.
func loopK(c *build.Context, t tileArgs, mr, nr int, body func(u int)) {
	rounds := c.GP64()
	c.MOVQ(t.kc, rounds)
	c.SHRQ(operand.U8(2), rounds)
	c.JZ(operand.LabelRef("tail"))
	c.Label("round")
	for u := range unroll {
		body(u)
	}
	c.ADDQ(operand.I32(4*mr*unroll), t.a)
	c.ADDQ(operand.I32(4*nr*unroll), t.b)
	c.DECQ(rounds)
	c.JNZ(operand.LabelRef("round"))
	c.Label("tail")
	c.ANDQ(operand.U8(unroll-1), t.kc)
	c.JZ(operand.LabelRef("finish"))
	c.Label("single")
	body(0)
	c.ADDQ(operand.I32(4*mr), t.a)
	c.ADDQ(operand.I32(4*nr), t.b)
	c.DECQ(t.kc)
	c.JNZ(operand.LabelRef("single"))
	c.Label("finish")
}
