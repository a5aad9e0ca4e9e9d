package main

import (
	"fmt"

	"github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

const int8Signature = "func(kc int, a *uint32, b *uint32, c *int32, ldc int, start *int32, add bool)"

func int8Doc(c *build.Context, name string, mr, nr int, units, needs string) {
	begin(c, name, int8Signature,
		fmt.Sprintf("%s multiplies packed panels of %s: a holds kc columns of %d, b holds kc rows of %d.", name, units, mr, nr),
		fmt.Sprintf("The %dx%d sums begin at start[row] and are added to c, or with add false replace it. ldc is in elements; kc is at least 1.", mr, nr),
		"Needs "+needs+".")
}

// int8AVX512 keeps 14x32 sums in 28 registers. A step multiplies four signed bytes of a row of A with four unsigned ones of each column.
func int8AVX512(c *build.Context) {
	const mr, nr, lanes = 14, 32, 16
	int8Doc(c, "int8AVX512", mr, nr, "four bytes, signed in a and unsigned in b", "AVX-512F and AVX512-VNNI")
	t := loadTileArgs(c)
	start := param(c, "start")
	acc := make([][2]reg.VecVirtual, mr)
	for i := range acc {
		acc[i] = [2]reg.VecVirtual{c.ZMM(), c.ZMM()}
		c.VPBROADCASTD(at(start, 4*i), acc[i][0])
		c.VMOVDQA32(acc[i][0], acc[i][1])
	}
	prefetchRows(c, t, mr, nr/16)
	b := [2]reg.VecVirtual{c.ZMM(), c.ZMM()}
	loopK(c, t, mr, nr, func(u int) {
		for j := range b {
			c.VMOVDQU32(at(t.b, 4*(u*nr+lanes*j)), b[j])
		}
		for i := range acc {
			x := at(t.a, 4*(u*mr+i))
			c.VPDPBUSD_BCST(x, b[0], acc[i][0])
			c.VPDPBUSD_BCST(x, b[1], acc[i][1])
		}
	})
	storeInt32(c, t, acc, lanes, func(sum reg.VecVirtual, to operand.Mem) { c.VPADDD(to, sum, sum) },
		func(sum reg.VecVirtual, to operand.Mem) { c.VMOVDQU32(sum, to) })
}

// int8AVX2 keeps 6x16 sums in 12 registers. A step multiplies two 16-bit numbers of a row of A with two of each column.
func int8AVX2(c *build.Context) {
	const mr, nr, lanes = 6, 16, 8
	int8Doc(c, "int8AVX2", mr, nr, "two 16-bit numbers", "AVX2")
	t := loadTileArgs(c)
	start := param(c, "start")
	acc := make([][2]reg.VecVirtual, mr)
	for i := range acc {
		acc[i] = [2]reg.VecVirtual{c.YMM(), c.YMM()}
		c.VPBROADCASTD(at(start, 4*i), acc[i][0])
		c.VMOVDQA(acc[i][0], acc[i][1])
	}
	b := [2]reg.VecVirtual{c.YMM(), c.YMM()}
	x, y := c.YMM(), c.YMM()
	loopK(c, t, mr, nr, func(u int) {
		for j := range b {
			c.VMOVDQU(at(t.b, 4*(u*nr+lanes*j)), b[j])
		}
		for i := range acc {
			c.VPBROADCASTD(at(t.a, 4*(u*mr+i)), x)
			c.VPMADDWD(b[0], x, y)
			c.VPADDD(y, acc[i][0], acc[i][0])
			c.VPMADDWD(b[1], x, x)
			c.VPADDD(x, acc[i][1], acc[i][1])
		}
	})
	storeInt32(c, t, acc, lanes, func(sum reg.VecVirtual, to operand.Mem) { c.VPADDD(to, sum, sum) },
		func(sum reg.VecVirtual, to operand.Mem) { c.VMOVDQU(sum, to) })
}

// storeInt32 ends a tile: it adds c to the sums if asked to, and stores them.
func storeInt32(c *build.Context, t tileArgs, acc [][2]reg.VecVirtual, lanes int, add, put func(reg.VecVirtual, operand.Mem)) {
	flag := c.GP32()
	c.Load(c.Param("add"), flag.As8())
	c.TESTB(flag.As8(), flag.As8())
	c.JZ(operand.LabelRef("store"))
	from := c.GP64()
	c.MOVQ(t.c, from)
	for i := range acc {
		for j, sum := range acc[i] {
			add(sum, at(from, 4*lanes*j))
		}
		c.ADDQ(t.ldc, from)
	}
	c.Label("store")
	eachRow(c, t, acc, lanes, func(sum reg.VecVirtual, _ int, to operand.Mem) { put(sum, to) })
}

// laneSums adds the signed bytes of each of the 14 rows of a panel.
func laneSums(c *build.Context) {
	const mr = 14
	begin(c, "laneSumsAVX512", "func(kc int, a *uint32, sums *int32)",
		fmt.Sprintf("laneSumsAVX512 writes the sum of the signed bytes in each of the %d lanes of a panel of kc columns.", mr),
		"Needs AVX-512F and AVX512-VNNI; kc is at least 1.")
	kc, a, sums := param(c, "kc"), param(c, "a"), param(c, "sums")
	bits, mask := c.GP32(), c.K()
	c.MOVL(operand.U32(1<<mr-1), bits)
	c.KMOVW(bits, mask)
	ones, acc, x := c.ZMM(), c.ZMM(), c.ZMM()
	c.MOVL(operand.U32(0x01010101), bits)
	c.VPBROADCASTD(bits, ones)
	c.VPXORD(acc, acc, acc)
	c.Label("loop")
	c.VMOVDQU32_Z(at(a, 0), mask, x)
	c.VPDPBUSD(x, ones, acc)
	c.ADDQ(operand.U8(4*mr), a)
	c.DECQ(kc)
	c.JNZ(operand.LabelRef("loop"))
	c.VMOVDQU32(acc, mask, at(sums, 0))
	c.VZEROUPPER()
	c.RET()
}

// dotInt8 is the inner product of two rows.
func dotInt8(c *build.Context) {
	const step, sums = 16, 4
	begin(c, "dotInt8AVX2", "func(rounds int, x *int8, y *int8) int32",
		fmt.Sprintf("dotInt8AVX2 is the sum of x[i]*y[i] for i < %d*rounds, modulo 2^32. Needs AVX2; rounds is at least 1.", step*sums))
	rounds, x, y := param(c, "rounds"), param(c, "x"), param(c, "y")
	var acc [sums]reg.VecVirtual
	for i := range acc {
		acc[i] = c.YMM()
		c.VPXOR(acc[i], acc[i], acc[i])
	}
	c.Label("loop")
	for i := range acc {
		a, b := c.YMM(), c.YMM()
		c.VPMOVSXBW(at(x, step*i), a)
		c.VPMOVSXBW(at(y, step*i), b)
		c.VPMADDWD(a, b, a)
		c.VPADDD(a, acc[i], acc[i])
	}
	c.ADDQ(operand.U8(step*sums), x)
	c.ADDQ(operand.U8(step*sums), y)
	c.DECQ(rounds)
	c.JNZ(operand.LabelRef("loop"))
	c.VPADDD(acc[1], acc[0], acc[0])
	c.VPADDD(acc[3], acc[2], acc[2])
	c.VPADDD(acc[2], acc[0], acc[0])
	half, low := c.XMM(), acc[0].AsX()
	c.VEXTRACTI128(operand.U8(1), acc[0], half)
	c.VPADDD(half, low, low)
	for _, order := range []uint8{0x4e, 0xb1} {
		c.VPSHUFD(operand.U8(order), low, half)
		c.VPADDD(half, low, low)
	}
	sum := c.GP32()
	c.VMOVD(low, sum)
	c.VZEROUPPER()
	c.Store(sum, c.ReturnIndex(0))
	c.RET()
}
