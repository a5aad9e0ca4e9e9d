package main

import (
	"fmt"
	"math/bits"

	"github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// Packing turns parts of a matrix into strips: for each k, w lanes side by side. Where lanes are the stored rows that is a
// transposition, where they are the columns a copy.

// transposeAhead16 is how many bytes ahead of the loads each row is prefetched.
const transposeAhead16 = 256

// colsAhead is the logarithm of the rows that columns are prefetched ahead. Rows are often a power of two apart, so that many of them share a
// set of the first cache: with 32 rows they pushed each other out before they were read.
const colsAhead = 3

func panelRowsDoc(name, what string, block int, needs string) []string {
	return []string{
		fmt.Sprintf("%s writes %s src[r*lds+k] as float32 to dst[k*w+r] for r < put, k < kc; rows from lanes on are", name, what),
		fmt.Sprintf("copies of the last one. put and lanes are 1 to 16, kc is at least %d.", block),
		"Needs " + needs + ".",
	}
}

// panelRows emits the transposition of up to 16 rows. A round takes 64 bytes of each; the last one overlaps the one before it. size is the
// bytes of an element, stride those of a unit of lds, and store writes what a register of 16 four-byte units of the rows holds, advancing dst.
func panelRows(c *build.Context, size, stride int, store func(unit reg.VecVirtual, put func(reg.VecVirtual))) {
	block := 64 / size
	kc, dst, w, src, lds := param(c, "kc"), param(c, "dst"), param(c, "w"), param(c, "src"), param(c, "lds")
	c.IMUL3Q(operand.U8(stride), lds, lds)
	c.SHLQ(operand.U8(2), w)
	offsets := rowOffsets(c, lds)
	mask := laneMask(c, "put")
	c.Label("loop")
	units := loadQuads(c, src, offsets)
	put := func(r reg.VecVirtual) {
		c.VMOVUPS(r, mask, at(dst, 0))
		c.ADDQ(w, dst)
	}
	for q := range 4 {
		for _, u := range transpose4(c, units[q]) {
			store(u, put)
		}
	}
	c.ADDQ(operand.U8(64), src)
	c.SUBQ(operand.U8(block), kc)
	c.JZ(operand.LabelRef("done"))
	c.CMPQ(kc, operand.U8(block))
	c.JGE(operand.LabelRef("loop"))
	back := c.GP64()
	c.SUBQ(operand.U8(block), kc) // minus the steps to go back
	c.LEAQ(operand.Mem{Base: src, Index: kc, Scale: uint8(size)}, src)
	c.MOVQ(kc, back)
	c.IMULQ(w, back)
	c.ADDQ(back, dst)
	c.MOVQ(operand.U32(block), kc)
	c.JMP(operand.LabelRef("loop"))
	c.Label("done")
	c.VZEROUPPER()
	c.RET()
}

// rowOffsets fills a table with the offset of each of 16 rows.
func rowOffsets(c *build.Context, lds reg.GPVirtual) operand.Mem {
	table := c.AllocLocal(16 * 8)
	lanes, i, off, next := param(c, "lanes"), c.GP64(), c.GP64(), c.GP64()
	c.XORQ(i, i)
	c.XORQ(off, off)
	c.Label("offset")
	entry := table
	entry.Index, entry.Scale = i, 8
	c.MOVQ(off, entry)
	c.INCQ(i)
	c.LEAQ(indexed(off, lds), next)
	c.CMPQ(i, lanes)
	c.CMOVQLT(next, off)
	c.CMPQ(i, operand.U8(16))
	c.JNE(operand.LabelRef("offset"))
	return table
}

// laneMask is a mask of as many lanes as the argument says.
func laneMask(c *build.Context, name string) reg.OpmaskVirtual {
	n, bits, mask := param(c, name), c.GP64(), c.K()
	c.MOVQ(operand.I32(-1), bits)
	c.BZHIQ(n, bits, bits)
	c.KMOVW(bits.As32(), mask)
	return mask
}

// loadQuads reads 64 bytes of each row. Lane l of register [q][j] is the q-th part of row 4l+j: putting them there while loading costs no
// shuffles.
func loadQuads(c *build.Context, src reg.GPVirtual, offsets operand.Mem) (z [4][4]reg.VecVirtual) {
	for j := range 4 {
		var row [4]reg.GPVirtual
		for l := range row {
			row[l] = c.GP64()
			c.MOVQ(offsets.Offset(8*(4*l+j)), row[l])
		}
		part := func(l, disp int) operand.Mem {
			m := indexed(src, row[l])
			m.Disp = disp
			return m
		}
		for l := range row {
			c.PREFETCHT0(part(l, transposeAhead16))
		}
		for q := range 4 {
			r := c.ZMM()
			c.VMOVUPS(part(0, 16*q), r.AsX())
			for l := 1; l < 4; l++ {
				c.VINSERTF32X4(operand.U8(l), part(l, 16*q), r, r)
			}
			z[q][j] = r
		}
	}
	return z
}

// transpose4 transposes 4x4 matrices within the lanes of four registers.
func transpose4(c *build.Context, r [4]reg.VecVirtual) (out [4]reg.VecVirtual) {
	var t [4]reg.VecVirtual
	for i := range t {
		t[i], out[i] = c.ZMM(), c.ZMM()
	}
	c.VUNPCKLPS(r[1], r[0], t[0])
	c.VUNPCKHPS(r[1], r[0], t[1])
	c.VUNPCKLPS(r[3], r[2], t[2])
	c.VUNPCKHPS(r[3], r[2], t[3])
	c.VUNPCKLPD(t[2], t[0], out[0])
	c.VUNPCKHPD(t[2], t[0], out[1])
	c.VUNPCKLPD(t[3], t[1], out[2])
	c.VUNPCKHPD(t[3], t[1], out[3])
	return out
}

const (
	panelRowsSignature = "func(kc int, dst *float32, w, put int, src *%s, lds, lanes int)"
	panelColsSignature = "func(kc int, dst *float32, w int, src *%s, lds, have int)"
)

func panelRowsF32(c *build.Context) {
	begin(c, "packRowsF32AVX512", fmt.Sprintf(panelRowsSignature, "float32"),
		panelRowsDoc("packRowsF32AVX512", "float32", 16, "AVX-512F and BMI2")...)
	panelRows(c, 4, 4, func(u reg.VecVirtual, put func(reg.VecVirtual)) { put(u) })
}

func panelRowsBF16(c *build.Context) {
	begin(c, "packRowsBF16AVX512", fmt.Sprintf(panelRowsSignature, "uint16"),
		panelRowsDoc("packRowsBF16AVX512", "bfloat16", 32, "AVX-512F and BMI2")...)
	high, bits := c.ZMM(), c.GP32()
	c.MOVL(operand.U32(0xffff0000), bits)
	c.VPBROADCASTD(bits, high)
	panelRows(c, 2, 2, func(u reg.VecVirtual, put func(reg.VecVirtual)) {
		even := c.ZMM()
		c.VPSLLD(operand.U8(16), u, even)
		put(even)
		c.VPANDD(high, u, u)
		put(u)
	})
}

func panelRowsF16(c *build.Context) {
	begin(c, "packRowsF16AVX512", fmt.Sprintf(panelRowsSignature, "uint16"),
		panelRowsDoc("packRowsF16AVX512", "binary16", 32, "AVX-512F and BMI2")...)
	panelRows(c, 2, 2, func(u reg.VecVirtual, put func(reg.VecVirtual)) {
		x := c.ZMM()
		c.VPMOVDW(u, x.AsY())
		c.VCVTPH2PS(x.AsY(), x)
		put(x)
		c.VPSRLD(operand.U8(16), u, u)
		c.VPMOVDW(u, u.AsY())
		c.VCVTPH2PS(u.AsY(), u)
		put(u)
	})
}

// panelCols emits the copy of up to 32 columns: have of them are read, w are written, zeros after the last one read. size is the bytes of
// a stored element; load makes 16 elements of a strip from what is stored at src, which advances by rows.
func panelCols(c *build.Context, size, rows int, load func(src operand.Mem, lds, three reg.GPVirtual, mask reg.OpmaskVirtual, r reg.VecVirtual)) {
	kc, dst, w, src, lds, have := param(c, "kc"), param(c, "dst"), param(c, "w"), param(c, "src"), param(c, "lds"), param(c, "have")
	c.IMUL3Q(operand.U8(size), lds, lds)
	var from, to [2]reg.OpmaskVirtual
	mask := c.GP64()
	for _, side := range []struct {
		n reg.GPVirtual
		k *[2]reg.OpmaskVirtual
	}{{have, &from}, {w, &to}} {
		c.MOVQ(operand.I32(-1), mask)
		c.BZHIQ(side.n, mask, mask)
		side.k[0], side.k[1] = c.K(), c.K()
		c.KMOVW(mask.As32(), side.k[0])
		c.SHRQ(operand.U8(16), mask)
		c.KMOVW(mask.As32(), side.k[1])
	}
	step := c.GP64()
	advance, three := c.GP64(), c.GP64()
	c.IMUL3Q(operand.U8(rows), lds, advance)
	c.LEAQ(operand.Mem{Base: lds, Index: lds, Scale: 2}, three)
	c.MOVQ(w, step)
	ahead := c.GP64()
	c.MOVQ(advance, ahead)
	c.SHLQ(operand.U8(colsAhead-bits.TrailingZeros(uint(rows))), ahead)
	c.ADDQ(src, ahead)
	c.SHLQ(operand.U8(2), step)
	// A second register that reads nothing would be slow where it lies outside the matrix.
	copies := func(name string, loads, stores int) {
		c.Label(name)
		for j := range max(loads*size/4, 1) {
			c.PREFETCHT0(at(ahead, 64*j))
		}
		c.ADDQ(advance, ahead)
		r := [2]reg.VecVirtual{c.ZMM(), c.ZMM()}
		for j := range stores {
			if j >= loads {
				c.VPXORD(r[j], r[j], r[j])
				continue
			}
			load(at(src, 16*size*j), lds, three, from[j], r[j])
		}
		for j := range stores {
			c.VMOVUPS(r[j], to[j], at(dst, 64*j))
		}
		c.ADDQ(advance, src)
		c.ADDQ(step, dst)
		c.DECQ(kc)
		c.JNZ(operand.LabelRef(name))
		c.VZEROUPPER()
		c.RET()
	}
	c.CMPQ(w, operand.U8(16))
	c.JLE(operand.LabelRef("one"))
	c.CMPQ(have, operand.U8(16))
	c.JLE(operand.LabelRef("half"))
	copies("two", 2, 2)
	copies("half", 1, 2)
	copies("one", 1, 1)
}

type maskedLoad = func(src operand.Mem, mask reg.OpmaskVirtual, r reg.VecVirtual)

func panelCols1(c *build.Context, name, element, what string, size int, load maskedLoad) {
	begin(c, name, fmt.Sprintf(panelColsSignature, element),
		fmt.Sprintf("%s writes %s src[k*lds+l], l < have, as float32 to dst[k*w+l] for k < kc, and zeros for have <= l < w.", name, what),
		"w is 1 to 32, have 1 to w, kc at least 1.",
		"Needs AVX-512F and BMI2.")
	panelCols(c, size, 1, func(src operand.Mem, _, _ reg.GPVirtual, mask reg.OpmaskVirtual, r reg.VecVirtual) {
		load(src, mask, r)
	})
}

func panelColsF32(c *build.Context) {
	panelCols1(c, "packColsF32AVX512", "float32", "float32", 4, func(m operand.Mem, mask reg.OpmaskVirtual, r reg.VecVirtual) {
		c.VMOVUPS_Z(m, mask, r)
	})
}

func panelColsBF16(c *build.Context) {
	panelCols1(c, "packColsBF16AVX512", "uint16", "bfloat16", 2, func(m operand.Mem, mask reg.OpmaskVirtual, r reg.VecVirtual) {
		c.VPMOVZXWD_Z(m, mask, r)
		c.VPSLLD(operand.U8(16), r, r)
	})
}

func panelColsF16(c *build.Context) {
	panelCols1(c, "packColsF16AVX512", "uint16", "binary16", 2, func(m operand.Mem, mask reg.OpmaskVirtual, r reg.VecVirtual) {
		c.VCVTPH2PS_Z(m, mask, r)
	})
}

// panelColsPairs makes units of two 16-bit numbers, neighbours along K, where K runs over the stored rows.
func panelColsPairs(c *build.Context) {
	begin(c, "packColsPairsAVX512", "func(kc int, dst *uint32, w int, src *uint16, lds, have int)",
		"packColsPairsAVX512 writes src[2*k*lds+l] to the lower and src[(2*k+1)*lds+l] to the upper half of dst[k*w+l], l < have, for k < kc,",
		"and zeros for have <= l < w. w is 1 to 32, have 1 to w, kc at least 1.",
		"Needs AVX-512F and BMI2.")
	panelCols(c, 2, 2, func(src operand.Mem, lds, _ reg.GPVirtual, mask reg.OpmaskVirtual, r reg.VecVirtual) {
		upper := c.ZMM()
		c.VPMOVZXWD_Z(src, mask, r)
		src.Index, src.Scale = lds, 1
		c.VPMOVZXWD_Z(src, mask, upper)
		c.VPSLLD(operand.U8(16), upper, upper)
		c.VPORD(upper, r, r)
	})
}
