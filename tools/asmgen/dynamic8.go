package main

import (
	"github.com/mmcloughlin/avo/attr"
	"github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// A value becomes an 8-bit code of a book by one lookup (quant.Cells): the upper half of its bits selects a cell, whose upper half is
// compared with the value's lower half and whose lower half holds the two codes to choose from. Whatever the book and its ties, the
// result is that of the search; encoders of first moments differ from others in the table alone.
//
// encoder8 and decoder8 emit these lookups into other functions. Values must be x·(1/absmax), rounded, with the reciprocal of package
// quant (Rcp, or what rcpAVX512 emits) and an absmax for which quant.PlainScale holds; then nothing in between needs care, zeros,
// denormal numbers and products that underflow included. Blocks with another absmax are left to quant.Codebook.QuantizeBlock and
// QuantizeBlockSigned. A zero has its sign: in the table for first moments -0 has a code of its own. Cells, and the values that
// decoders read, come from quant.Codebook.Cells and Table.

// encoder8 is the address of the cells, and for AVX-512 a mask of ones, from which the gathers' masks are copied: made anew from the
// last one they would wait for its gather.
type encoder8 struct {
	c     *build.Context
	cells reg.GPVirtual
	ones  reg.OpmaskVirtual
}

func newEncoder8AVX512(c *build.Context, cells reg.GPVirtual) encoder8 {
	e := encoder8{c, cells, c.K()}
	c.KXNORW(e.ones, e.ones, e.ones)
	return e
}

// avx512 returns the codes of 16 values, in the low byte of each lane; the other bytes hold anything. q is not changed. Needs AVX-512F:
// seven operations and a gather of 16 lanes, which takes about 9 cycles and is what bounds it.
func (e encoder8) avx512(q reg.VecVirtual) reg.VecVirtual {
	c := e.c
	index, half, cell, all, beyond := c.ZMM(), c.ZMM(), c.ZMM(), c.K(), c.K()
	c.VPSRLD(operand.U8(16), q, index)
	c.KMOVW(e.ones, all)
	c.VXORPS(cell, cell, cell) // avo knows that this reads nothing
	c.VPGATHERDD(operand.Mem{Base: e.cells, Index: index, Scale: 4}, all, cell)
	c.VPSLLD(operand.U8(16), q, half)
	c.VPCMPUD(operand.U8(6), cell, half, beyond) // half > cell
	c.VPSRLD(operand.U8(8), cell, beyond, cell)
	return cell
}

// avx2 returns the codes of 8 values as avx512 does. Needs AVX2.
func (e encoder8) avx2(q reg.VecVirtual) reg.VecVirtual {
	c := e.c
	index, half, cell, all := c.YMM(), c.YMM(), c.YMM(), c.YMM()
	c.VPSRLD(operand.U8(16), q, index)
	c.VPCMPEQD(all, all, all)
	c.VPXOR(cell, cell, cell)
	c.VPGATHERDD(all, operand.Mem{Base: e.cells, Index: index, Scale: 4}, cell)
	c.VPSLLD(operand.U8(16), q, half)
	c.VPMAXUD(cell, half, half)
	c.VPCMPEQD(cell, half, half) // half <= cell
	c.VPSRLD(operand.U8(8), cell, index)
	c.VPBLENDVB(half, cell, index, cell)
	return cell
}

// broadcastBits puts a constant in all lanes.
func broadcastBits(c *build.Context, bits uint32, v reg.VecVirtual) {
	r, x := c.GP32(), c.XMM()
	c.MOVL(operand.U32(bits), r)
	c.VMOVD(r, x)
	c.VPBROADCASTD(x, v)
}

// decoder8 turns codes into the values of a book by permutations of bytes: the table is cut into four planes, one for each byte of a
// float32 (quant.Codebook.Planes), a plane being 256 bytes in four registers. 64 codes take 17 operations of the one port that permutes,
// 4.3 cycles for 16 values, where gathers take 9. Needs AVX512-VBMI.
type decoder8 struct {
	c      *build.Context
	planes [4][4]operand.Op // registers or memory
	order  reg.VecVirtual
}

// decodeInOrder leaves element 16i+j in lane j of result i; decodeForPack leaves the elements so that VPACKUSDW of two results orders
// them.
var (
	decodeInOrder = [16]uint32{0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15}
	decodeForPack = [16]uint32{0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15}
)

// newDecoder8 keeps the planes in 16 registers, or with resident false reads them anew each time: 16 loads for 64 values and no register
// beside that of the order.
func newDecoder8(c *build.Context, planes reg.GPVirtual, order [16]uint32, name string, resident bool) decoder8 {
	d := decoder8{c: c, order: c.ZMM()}
	m := c.StaticGlobal(name)
	c.DataAttributes(attr.RODATA | attr.NOPTR)
	for _, i := range order {
		c.AppendDatum(operand.U32(i))
	}
	c.VMOVDQU32(m, d.order)
	for p := range d.planes {
		for i := range d.planes[p] {
			d.planes[p][i] = at(planes, 256*p+64*i)
			if resident {
				z := c.ZMM()
				c.VMOVDQU32(d.planes[p][i], z)
				d.planes[p][i] = z
			}
		}
	}
	return d
}

// vbmi returns the values of 64 codes in memory.
func (d decoder8) vbmi(codes operand.Mem) (out [4]reg.VecVirtual) {
	c := d.c
	k, shifted := c.ZMM(), c.ZMM()
	c.VPERMD(codes, d.order, k)
	// Masks of the codes in each quarter of a book but the first. VPERMB takes the lower six bits of a code.
	quarter := [4]reg.OpmaskVirtual{1: c.K(), 2: c.K(), 3: c.K()}
	c.VPMOVB2M(k, quarter[2])
	c.VPADDB(k, k, shifted)
	c.VPMOVB2M(shifted, quarter[1])
	c.KANDQ(quarter[1], quarter[2], quarter[3])
	c.KANDNQ(quarter[1], quarter[2], quarter[1])
	c.KXORQ(quarter[3], quarter[2], quarter[2])
	var b [4]reg.VecVirtual
	for p := range b {
		b[p] = c.ZMM()
		c.VPERMB(d.planes[p][0], k, b[p])
		for i := 1; i < 4; i++ {
			c.VPERMB(d.planes[p][i], k, quarter[i], b[p])
		}
	}
	var w [2][2]reg.VecVirtual // bytes 0 and 1, and 2 and 3, of the codes in the low and high halves of each 128 bits
	for i := range w {
		w[i] = [2]reg.VecVirtual{c.ZMM(), c.ZMM()}
		c.VPUNPCKLBW(b[2*i+1], b[2*i], w[i][0])
		c.VPUNPCKHBW(b[2*i+1], b[2*i], w[i][1])
	}
	for i := range 2 {
		out[2*i], out[2*i+1] = c.ZMM(), c.ZMM()
		c.VPUNPCKLWD(w[1][i], w[0][i], out[2*i])
		c.VPUNPCKHWD(w[1][i], w[0][i], out[2*i+1])
	}
	return out
}

// decode8Gather returns the values of as many codes as v has lanes, 8 (AVX2) or 16 (AVX-512), from the 256 values of a book.
func decode8Gather(c *build.Context, codes operand.Mem, values reg.GPVirtual, ones reg.OpmaskVirtual, vector func() reg.VecVirtual) reg.VecVirtual {
	index, v := vector(), vector()
	c.VPMOVZXBD(codes, index)
	from := operand.Mem{Base: values, Index: index, Scale: 4}
	if v.Size() == 64 {
		all := c.K()
		c.KMOVW(ones, all)
		c.VXORPS(v, v, v)
		c.VGATHERDPS(from, all, v)
		return v
	}
	all := vector()
	c.VPCMPEQD(all, all, all)
	c.VPXOR(v, v, v)
	c.VGATHERDPS(all, from, v)
	return v
}
