package main

import (
	"fmt"

	"github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// flash emits the kernels of attention for one instruction set. A tile has two registers of queries to a row, so nr = 2*lanes,
// and mr rows: keys or elements of a head.
type flash struct {
	suffix, needs string
	mr, lanes     int
}

var (
	flash256 = flash{"AVX2", "AVX2 and FMA", 4, 8}
	flash512 = flash{"AVX512", "AVX-512F and DQ", 8, 16}
)

// flashUnroll is how many steps of a sum one round of a loop does.
const flashUnroll = 4

func (f flash) nr() int { return 2 * f.lanes }

func (f flash) vector(c *build.Context) reg.VecVirtual {
	if f.lanes == 16 {
		return c.ZMM()
	}
	return c.YMM()
}

func (f flash) zero(c *build.Context, r reg.VecVirtual) {
	if f.lanes == 16 {
		c.VPXORD(r, r, r)
		return
	}
	c.VXORPS(r, r, r)
}

// pair is one row of a tile.
func (f flash) pair(c *build.Context) [2]reg.VecVirtual {
	return [2]reg.VecVirtual{f.vector(c), f.vector(c)}
}

// column is register j of the row that begins at base+disp.
func (f flash) column(base reg.Register, disp, j int) operand.Mem { return at(base, disp+4*f.lanes*j) }

func (f flash) sums(c *build.Context) [][2]reg.VecVirtual {
	acc := make([][2]reg.VecVirtual, f.mr)
	for i := range acc {
		acc[i] = f.pair(c)
	}
	return acc
}

func (f flash) clear(c *build.Context, acc [][2]reg.VecVirtual) {
	for i := range acc {
		for _, r := range acc[i] {
			f.zero(c, r)
		}
	}
}

// outer emits the product of packed keys, values or gradients with a tile of queries.
func (f flash) outer(c *build.Context) {
	begin(c, "outer"+f.suffix, "func(kc int, strips int, a *float32, lda int, astep int, b *float32, c *float32, shrink *float32)",
		fmt.Sprintf("outer%s multiplies strips of %d rows with one panel: c[s][i][j] becomes the sum over k < kc of", f.suffix, f.mr),
		fmt.Sprintf("a[s*astep+k*lda+i]*b[%d*k+j], i < %d, j < %d, plus c[s][i][j]*shrink[j] unless shrink is nil. kc, strips >= 1.", f.nr(), f.mr, f.nr()),
		"Needs "+f.needs+".")
	kc, strips, a, astep := param(c, "kc"), param(c, "strips"), param(c, "a"), param(c, "astep")
	lda, b, out, shrink := param(c, "lda"), param(c, "b"), param(c, "c"), param(c, "shrink")
	c.SHLQ(operand.U8(2), lda)
	c.SHLQ(operand.U8(2), astep)
	acc, row, x := f.sums(c), f.pair(c), f.pair(c)
	pa, pb, n := c.GP64(), c.GP64(), c.GP64()
	c.Label("strip")
	c.MOVQ(a, pa)
	c.MOVQ(b, pb)
	f.clear(c, acc)
	step := func(u int) {
		for j := range row {
			c.VMOVUPS(f.column(pb, 4*f.nr()*u, j), row[j])
		}
		for i := range acc {
			c.VBROADCASTSS(at(pa, 4*i), x[i&1])
			c.VFMADD231PS(row[0], x[i&1], acc[i][0])
			c.VFMADD231PS(row[1], x[i&1], acc[i][1])
		}
		c.ADDQ(lda, pa)
	}
	advance := func(by int) {
		c.ADDQ(operand.I32(4*f.nr()*by), pb)
	}
	c.MOVQ(kc, n)
	c.SHRQ(operand.U8(2), n)
	c.JZ(operand.LabelRef("tail"))
	c.Label("round")
	for u := range flashUnroll {
		step(u)
	}
	advance(flashUnroll)
	c.DECQ(n)
	c.JNZ(operand.LabelRef("round"))
	c.Label("tail")
	c.MOVQ(kc, n)
	c.ANDQ(operand.U8(flashUnroll-1), n)
	c.JZ(operand.LabelRef("finish"))
	c.Label("single")
	step(0)
	advance(1)
	c.DECQ(n)
	c.JNZ(operand.LabelRef("single"))
	c.Label("finish")
	c.TESTQ(shrink, shrink)
	c.JZ(operand.LabelRef("store"))
	for j := range row {
		c.VMOVUPS(f.column(shrink, 0, j), row[j])
	}
	for i := range acc {
		for j, sum := range acc[i] {
			c.VFMADD231PS(f.column(out, 4*f.nr()*i, j), row[j], sum)
		}
	}
	c.Label("store")
	for i := range acc {
		for j, sum := range acc[i] {
			c.VMOVUPS(sum, f.column(out, 4*f.nr()*i, j))
		}
	}
	c.ADDQ(astep, a)
	c.ADDQ(operand.I32(4*f.mr*f.nr()), out)
	c.DECQ(strips)
	c.JNZ(operand.LabelRef("strip"))
	c.VZEROUPPER()
	c.RET()
}

// inner emits the product that sums over the queries of a tile.
func (f flash) inner(c *build.Context) {
	begin(c, "inner"+f.suffix, "func(groups int, agroup int, strips int, a *float32, b *float32, ldb int, c *float32, ldc int)",
		fmt.Sprintf("inner%s adds to c[(%d*s+i)*ldc+j] the sum over g < groups and k < %d of", f.suffix, f.mr, f.nr()),
		fmt.Sprintf("a[g*agroup+(%d*s+i)*%d+k]*b[(%d*g+k)*ldb+j], i < %d, j < %d. groups, strips >= 1.", f.mr, f.nr(), f.nr(), f.mr, f.nr()),
		"Needs "+f.needs+".")
	groups, agroup, strips := param(c, "groups"), param(c, "agroup"), param(c, "strips")
	a, b, ldb, out, ldc := param(c, "a"), param(c, "b"), param(c, "ldb"), param(c, "c"), param(c, "ldc")
	for _, r := range []reg.GPVirtual{agroup, ldb, ldc} {
		c.SHLQ(operand.U8(2), r)
	}
	acc, row, x := f.sums(c), f.pair(c), f.pair(c)
	ga, pa, pb, g, n := c.GP64(), c.GP64(), c.GP64(), c.GP64(), c.GP64()
	c.Label("strip")
	c.MOVQ(a, ga)
	c.MOVQ(b, pb)
	f.clear(c, acc)
	c.MOVQ(groups, g)
	c.Label("group")
	c.MOVQ(ga, pa)
	c.MOVQ(operand.U32(f.nr()/flashUnroll), n)
	c.Label("round")
	for u := range flashUnroll {
		for j := range row {
			c.VMOVUPS(f.column(pb, 0, j), row[j])
		}
		c.ADDQ(ldb, pb)
		for i := range acc {
			c.VBROADCASTSS(at(pa, 4*(f.nr()*i+u)), x[i&1])
			c.VFMADD231PS(row[0], x[i&1], acc[i][0])
			c.VFMADD231PS(row[1], x[i&1], acc[i][1])
		}
	}
	c.ADDQ(operand.U8(4*flashUnroll), pa)
	c.DECQ(n)
	c.JNZ(operand.LabelRef("round"))
	c.ADDQ(agroup, ga)
	c.DECQ(g)
	c.JNZ(operand.LabelRef("group"))
	for i := range acc {
		for j, sum := range acc[i] {
			m := f.column(out, 0, j)
			c.VADDPS(m, sum, sum)
			c.VMOVUPS(sum, m)
		}
		c.ADDQ(ldc, out)
	}
	c.ADDQ(operand.I32(4*f.mr*f.nr()), a)
	c.DECQ(strips)
	c.JNZ(operand.LabelRef("strip"))
	c.VZEROUPPER()
	c.RET()
}

// rows8 are the addresses of eight rows lds apart.
type rows8 struct {
	low, high, lds, three reg.GPVirtual
}

func eightRows(c *build.Context, src, lds reg.GPVirtual) rows8 {
	r := rows8{src, c.GP64(), lds, c.GP64()}
	c.LEAQ(operand.Mem{Base: src, Index: lds, Scale: 4}, r.high)
	c.LEAQ(operand.Mem{Base: lds, Index: lds, Scale: 2}, r.three)
	return r
}

func (r rows8) at(i int) operand.Mem {
	base := r.low
	if i >= 4 {
		base = r.high
	}
	return []operand.Mem{at(base, 0), indexed(base, r.lds), {Base: base, Index: r.lds, Scale: 2}, indexed(base, r.three)}[i%4]
}

// load reads an 8x8 matrix, asks for that of the eight rows below, and steps on. Register 4*h+i holds elements 4*h to 4*h+3 of row
// i and, in its upper half, of row i+4: halves are put together by loads, which leaves the shuffle port 16 of 24 shuffles.
func (r rows8) load(c *build.Context, below rows8) (y [8]reg.VecVirtual) {
	for i := range y {
		c.PREFETCHT0(below.at(i))
		y[i] = c.YMM()
		lower, upper := r.at(i%4), r.at(i%4+4)
		lower.Disp, upper.Disp = i/4*16, i/4*16
		c.VMOVUPS(lower, y[i].AsX())
		c.VINSERTF128(operand.U8(1), upper, y[i], y[i])
	}
	for _, p := range []reg.GPVirtual{r.low, r.high, below.low, below.high} {
		c.ADDQ(operand.U8(32), p)
	}
	return y
}

// turn transposes what load returns: register k holds element k of the eight rows. It reuses the registers of y, which avo holds to be in use
// all through a loop, as load writes their halves one by one.
func turn(c *build.Context, y [8]reg.VecVirtual) (out [8]reg.VecVirtual) {
	for h := 0; h < 8; h += 4 {
		t := [4]reg.VecVirtual{c.YMM(), y[h], c.YMM(), y[h+2]}
		for i := range 2 {
			c.VUNPCKLPS(y[h+2*i+1], y[h+2*i], t[2*i])
			c.VUNPCKHPS(y[h+2*i+1], y[h+2*i], t[2*i+1])
		}
		for i := range 2 {
			out[h+2*i], out[h+2*i+1] = y[h+2*i+1], t[i]
			c.VUNPCKLPD(t[i+2], t[i], out[h+2*i])
			c.VUNPCKHPD(t[i+2], t[i], out[h+2*i+1])
		}
	}
	return out
}

// columns transposes eight rows. Rows of an operand are often a power of two apart, which defeats the hardware's prefetcher.
func columns(c *build.Context, name, signature string, put func(dst, step reg.GPVirtual, y [8]reg.VecVirtual), doc ...string) {
	begin(c, name, signature, doc...)
	dst, step, src, lds, blocks := param(c, "dst"), param(c, "step"), param(c, "src"), param(c, "lds"), param(c, "blocks")
	c.SHLQ(operand.U8(2), step)
	c.SHLQ(operand.U8(2), lds)
	next := c.GP64()
	c.LEAQ(operand.Mem{Base: src, Index: lds, Scale: 8}, next)
	r := eightRows(c, src, lds)
	below := rows8{next, c.GP64(), lds, r.three}
	c.LEAQ(operand.Mem{Base: next, Index: lds, Scale: 4}, below.high)
	c.Label("loop")
	put(dst, step, turn(c, r.load(c, below)))
	c.DECQ(blocks)
	c.JNZ(operand.LabelRef("loop"))
	c.VZEROUPPER()
	c.RET()
}

const columnsSignature = "func(dst *float32, step int, src *float32, lds int, blocks int)"

// columnsTo8 writes the columns of eight rows as rows of eight.
func columnsTo8(c *build.Context) {
	columns(c, "columnsTo8AVX2", columnsSignature, func(dst, step reg.GPVirtual, y [8]reg.VecVirtual) {
		for _, v := range y {
			c.VMOVUPS(v, at(dst, 0))
			c.ADDQ(step, dst)
		}
	}, "columnsTo8AVX2 writes src[r][k] to dst[k][r] for r < 8 and k < 8*blocks; rows of src are lds floats apart, those of dst step.",
		"Needs AVX2; blocks >= 1.")
}

// columnsTo4 cuts them into two strips of four.
func columnsTo4(c *build.Context) {
	columns(c, "columnsTo4AVX2", columnsSignature, func(dst, step reg.GPVirtual, y [8]reg.VecVirtual) {
		for k, v := range y {
			c.VMOVUPS(v.AsX(), at(dst, 16*k))
			c.VEXTRACTF128(operand.U8(1), v, operand.Mem{Base: dst, Index: step, Scale: 1, Disp: 16 * k})
		}
		c.ADDQ(operand.U32(128), dst)
	}, "columnsTo4AVX2 writes src[r][k] to dst[4*k+r] for r < 4 and to dst[step+4*k+r-4] for r from 4 to 7, k < 8*blocks; rows of",
		"src are lds floats apart. Needs AVX2; blocks >= 1.")
}

// cut emits the copy of rows into strips.
func (f flash) cut(c *build.Context) {
	begin(c, "cut"+f.suffix, "func(rows int, strips int, dst *float32, step int, src *float32, lds int)",
		fmt.Sprintf("cut%s copies src[k][s*%d+i] to dst[s*step+%d*k+i], k < rows, s < strips, i < %d; rows of src are lds floats apart.", f.suffix, f.mr, f.mr, f.mr),
		"Needs AVX; rows, strips >= 1.")
	rows, strips, dst, step := param(c, "rows"), param(c, "strips"), param(c, "dst"), param(c, "step")
	src, lds := param(c, "src"), param(c, "lds")
	c.SHLQ(operand.U8(2), step)
	c.SHLQ(operand.U8(2), lds)
	n, from, to, x := c.GP64(), c.GP64(), c.GP64(), c.YMM()
	v := reg.Register(x)
	if f.mr == 4 {
		v = x.AsX()
	}
	c.Label("row")
	c.MOVQ(strips, n)
	c.MOVQ(src, from)
	c.MOVQ(dst, to)
	c.Label("strip")
	c.VMOVUPS(at(from, 0), v)
	c.PREFETCHT0(operand.Mem{Base: from, Index: lds, Scale: 8})
	c.VMOVUPS(v, at(to, 0))
	c.ADDQ(operand.U8(4*f.mr), from)
	c.ADDQ(step, to)
	c.DECQ(n)
	c.JNZ(operand.LabelRef("strip"))
	c.ADDQ(lds, src)
	c.ADDQ(operand.U8(4*f.mr), dst)
	c.DECQ(rows)
	c.JNZ(operand.LabelRef("row"))
	c.VZEROUPPER()
	c.RET()
}

// dotRows emits inner products of rows, the next of x fetched ahead.
func dotRows(c *build.Context) {
	begin(c, "dotRowsAVX2", "func(rows int, blocks int, x *float32, ldx int, y *float32, ldy int, out *float32)",
		"dotRowsAVX2 sets out[r], r < rows, to the sum of x[r*ldx+i]*y[r*ldy+i], i < 8*blocks. rows, blocks >= 1. Needs AVX2 and FMA.")
	rows, blocks, x, ldx := param(c, "rows"), param(c, "blocks"), param(c, "x"), param(c, "ldx")
	y, ldy, out := param(c, "y"), param(c, "ldy"), param(c, "out")
	c.SHLQ(operand.U8(2), ldx)
	c.SHLQ(operand.U8(2), ldy)
	px, py, n, v := c.GP64(), c.GP64(), c.GP64(), c.YMM()
	c.Label("row")
	c.MOVQ(x, px)
	c.MOVQ(y, py)
	c.MOVQ(blocks, n)
	acc := zeros(c, 1)
	c.Label("block")
	c.VMOVUPS(at(px, 0), v)
	c.PREFETCHT0(operand.Mem{Base: px, Index: ldx, Scale: 8})
	c.VFMADD231PS(at(py, 0), v, acc[0])
	c.ADDQ(operand.U8(32), px)
	c.ADDQ(operand.U8(32), py)
	c.DECQ(n)
	c.JNZ(operand.LabelRef("block"))
	c.VMOVSS(sum(c, acc), at(out, 0))
	c.ADDQ(ldx, x)
	c.ADDQ(ldy, y)
	c.ADDQ(operand.U8(4), out)
	c.DECQ(rows)
	c.JNZ(operand.LabelRef("row"))
	c.VZEROUPPER()
	c.RET()
}
