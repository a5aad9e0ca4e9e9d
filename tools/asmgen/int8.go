package main

import (
	"fmt"

	"github.com/mmcloughlin/avo/attr"
	"github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// int8AVX512 keeps 14x32 sums in 28 registers. A step multiplies four signed bytes of a row of A with four unsigned ones of each column.
func int8AVX512(c *build.Context) {
	s := tileSpec{name: "int8AVX512", mr: 14, lanes: 16, masked: true, zero: func(r reg.VecPhysical) { c.VPXORD(r, r, r) },
		signature: "func(rows, kc int, a *uint32, rs, ks int, b *uint32, bs int, c *int32, ldc, cols int, start *int32, add bool, next uintptr, step int)",
		doc: tileDoc("the product of A and B plus start[row], four bytes an element, signed in A and unsigned in B",
			"AVX-512F, AVX512-VNNI and BMI2", 14, 32, true)}
	s.registers(zmm)
	s.begin(c)
	s.load = func(m operand.Mem, r reg.VecPhysical) { c.VMOVDQU32(m, r) }
	s.step = func(i int, m operand.Mem) {
		x := s.x[i&1]
		c.VPBROADCASTD(m, x)
		c.VPDPBUSD(x, s.b[0], s.acc[i][0])
		c.VPDPBUSD(x, s.b[1], s.acc[i][1])
	}
	start := c.GP64()
	s.ready = func() { c.Load(c.Param("start"), start) }
	s.finish = func(row int, sum reg.VecPhysical, m operand.Mem, mask reg.Register, add bool) {
		c.VPADDD_BCST(at(start, 4*row), sum, sum)
		if add {
			c.VPADDD(m, sum, mask, sum)
		}
	}
	s.put = func(sum reg.VecPhysical, m operand.Mem, mask reg.Register) { c.VMOVDQU32(sum, mask, m) }
	s.emit(c)
}

// int8AVX2 keeps 6x16 sums in 12 registers. A step multiplies two 16-bit numbers of a row of A with two of each column.
func int8AVX2(c *build.Context) {
	s := tileSpec{name: "int8AVX2", mr: 6, lanes: 8, zero: func(r reg.VecPhysical) { c.VPXOR(r, r, r) },
		signature: "func(rows, kc int, a *uint32, rs, ks int, b *uint32, bs int, c *int32, ldc int, start *int32, add bool, next uintptr, step int)",
		doc:       tileDoc("the product of A and B plus start[row], two 16-bit numbers an element", "AVX2", 6, 16, false)}
	s.registers(ymm)
	s.begin(c)
	s.load = func(m operand.Mem, r reg.VecPhysical) { c.VMOVDQU(m, r) }
	s.step = func(i int, m operand.Mem) {
		x, y := s.x[0], s.x[1]
		c.VPBROADCASTD(m, x)
		c.VPMADDWD(s.b[0], x, y)
		c.VPADDD(y, s.acc[i][0], s.acc[i][0])
		c.VPMADDWD(s.b[1], x, x)
		c.VPADDD(x, s.acc[i][1], s.acc[i][1])
	}
	start := c.GP64()
	s.ready = func() { c.Load(c.Param("start"), start) }
	s.finish = func(row int, sum reg.VecPhysical, m operand.Mem, _ reg.Register, add bool) {
		c.VPBROADCASTD(at(start, 4*row), s.x[0])
		c.VPADDD(s.x[0], sum, sum)
		if add {
			c.VPADDD(m, sum, sum)
		}
	}
	s.put = func(sum reg.VecPhysical, m operand.Mem, _ reg.Register) { c.VMOVDQU(sum, m) }
	s.emit(c)
}

// laneSums adds the signed bytes of each lane of a strip.
func laneSums(c *build.Context) {
	begin(c, "laneSumsAVX512", "func(kc int, a *uint32, w int, sums *int32)",
		"laneSumsAVX512 writes the sum of the signed bytes in each of the w lanes, 1 to 16, of a strip of kc columns.",
		"Needs AVX-512F, AVX512-VNNI and BMI2; kc is at least 1.")
	kc, a, w, sums := param(c, "kc"), param(c, "a"), param(c, "w"), param(c, "sums")
	mask := laneMask(c, "w")
	c.SHLQ(operand.U8(2), w)
	bits := c.GP32()
	ones, x := c.ZMM(), c.ZMM()
	var acc [4]reg.VecVirtual // a sum waits for the one before it
	c.MOVL(operand.U32(0x01010101), bits)
	c.VPBROADCASTD(bits, ones)
	for i := range acc {
		acc[i] = c.ZMM()
		c.VPXORD(acc[i], acc[i], acc[i])
	}
	add := func(i int) {
		c.VMOVDQU32_Z(at(a, 0), mask, x)
		c.VPDPBUSD(x, ones, acc[i])
		c.ADDQ(w, a)
	}
	c.SUBQ(operand.U8(4), kc)
	c.JL(operand.LabelRef("rest"))
	c.Label("four")
	for i := range acc {
		add(i)
	}
	c.SUBQ(operand.U8(4), kc)
	c.JGE(operand.LabelRef("four"))
	c.Label("rest")
	c.ADDQ(operand.U8(4), kc)
	c.JZ(operand.LabelRef("done"))
	c.Label("one")
	add(0)
	c.DECQ(kc)
	c.JNZ(operand.LabelRef("one"))
	c.Label("done")
	c.VPADDD(acc[1], acc[0], acc[0])
	c.VPADDD(acc[3], acc[2], acc[2])
	c.VPADDD(acc[2], acc[0], acc[0])
	c.VMOVDQU32(acc[0], mask, at(sums, 0))
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

// panelRowsInt8 transposes units of four bytes.
func panelRowsInt8(c *build.Context) {
	begin(c, "packRowsInt8AVX512", "func(kc int, dst *uint32, w, put int, src *int8, lds, lanes int, flip uint32)",
		"packRowsInt8AVX512 writes the four bytes from src[r*lds+4*k] on, exclusive-or flip, to dst[k*w+r] for r < put, k < kc; rows from",
		"lanes on are copies of the last one. put and lanes are 1 to 16, kc is at least 16.",
		"Needs AVX-512F and BMI2.")
	flip := broadcastFlip(c)
	panelRows(c, 4, 1, func(u reg.VecVirtual, put func(reg.VecVirtual)) {
		c.VPXORD(flip, u, u)
		put(u)
	})
}

// panelColsInt8 gathers the four bytes of a unit from as many rows.
func panelColsInt8(c *build.Context) {
	begin(c, "packColsInt8AVX512", "func(kc int, dst *uint32, w int, src *int8, lds, have int, flip uint32)",
		"packColsInt8AVX512 writes src[(4*k+i)*lds+l], l < have, exclusive-or byte i of flip, to byte i of dst[k*w+l] for k < kc; the",
		"lanes have <= l < w hold no data. w is 1 to 32, have 1 to w, kc at least 1.",
		"Needs AVX-512F and BMI2.")
	flip := broadcastFlip(c)
	panelCols(c, 1, 4, func(src operand.Mem, lds, three reg.GPVirtual, mask reg.OpmaskVirtual, r reg.VecVirtual) {
		c.VPMOVZXBD_Z(src, mask, r)
		for i := 1; i < 4; i++ {
			m, x := src, c.ZMM()
			m.Index, m.Scale = lds, uint8(i)
			if i == 3 {
				m.Index, m.Scale = three, 1
			}
			c.VPMOVZXBD_Z(m, mask, x)
			c.VPSLLD(operand.U8(8*i), x, x)
			c.VPORD(x, r, r)
		}
		c.VPXORD(flip, r, r)
	})
}

// wideColsInt8 is panelColsInt8 for whole strips of 32, all that a task packs at once: a line of each row holds two of them, and rows that are a
// power of two apart would not stay in the cache from one strip to the next.
func wideColsInt8(c *build.Context) {
	begin(c, "packWideInt8AVX512", "func(kc int, dst *uint32, strips, stride int, src *int8, lds int, flip uint32)",
		"packWideInt8AVX512 writes src[(4*k+i)*lds+32*s+l], l < 32, exclusive-or byte i of flip, to byte i of dst[s*stride+32*k+l] for k < kc and",
		"s < strips. kc and strips are at least 1.",
		"Needs AVX-512BW.")
	flip := broadcastFlip(c)
	kc, dst, strips, src, lds := param(c, "kc"), param(c, "dst"), param(c, "strips"), param(c, "src"), param(c, "lds")
	three, next, stride, k := c.GP64(), c.GP64(), param(c, "stride"), c.GP64()
	c.LEAQ(operand.Mem{Base: lds, Index: lds, Scale: 2}, three)
	c.SHLQ(operand.U8(2), stride)
	words, bytes := c.ZMM(), c.ZMM()
	c.VMOVDQU32(acrossLanes(c), words)
	c.VBROADCASTI32X4(acrossBytes(c), bytes)
	from, to, left := c.GP64(), c.GP64(), c.GP64()
	c.MOVQ(kc, k)
	c.Label("step")
	c.LEAQ(operand.Mem{Base: src, Index: lds, Scale: 4}, next)
	c.MOVQ(src, from)
	c.MOVQ(dst, to)
	c.MOVQ(strips, left)
	c.Label("strip")
	ahead := c.GP64()
	c.LEAQ(operand.Mem{Base: from, Index: lds, Scale: 8}, ahead) // two steps
	for i := range 4 {
		c.PREFETCHT0(rowOf(ahead, lds, three, i, 0))
	}
	for half := range 2 {
		r := c.ZMM()
		c.VMOVDQU(rowOf(from, lds, three, 0, 16*half), r.AsX())
		for i := 1; i < 4; i++ {
			c.VINSERTI32X4(operand.U8(i), rowOf(from, lds, three, i, 16*half), r, r)
		}
		c.VPERMD(r, words, r) // lane l: four columns of each row
		c.VPSHUFB(bytes, r, r)
		c.VPXORD(flip, r, r)
		c.VMOVDQU32(r, at(to, 64*half))
	}
	c.ADDQ(operand.U8(32), from)
	c.ADDQ(stride, to)
	c.DECQ(left)
	c.JNZ(operand.LabelRef("strip"))
	c.MOVQ(next, src)
	c.ADDQ(operand.U32(128), dst)
	c.DECQ(k)
	c.JNZ(operand.LabelRef("step"))
	c.VZEROUPPER()
	c.RET()
}

// rowOf addresses row i < 4 from the first one.
func rowOf(base, one, three reg.GPVirtual, i, disp int) operand.Mem {
	switch i {
	case 0:
		return at(base, disp)
	case 3:
		return operand.Mem{Base: base, Index: three, Scale: 1, Disp: disp}
	}
	return operand.Mem{Base: base, Index: one, Scale: uint8(i), Disp: disp}
}

// acrossLanes are the indices of words that put word l of each lane into lane l.
func acrossLanes(c *build.Context) operand.Mem {
	m := c.StaticGlobal("acrossLanes")
	c.DataAttributes(attr.RODATA | attr.NOPTR)
	for i := range 16 {
		c.AddDatum(4*i, operand.U32(i%4*4+i/4))
	}
	return m
}

// acrossBytes are the indices of bytes that transpose the 4x4 bytes of a lane.
func acrossBytes(c *build.Context) operand.Mem {
	m := c.StaticGlobal("acrossBytes")
	c.DataAttributes(attr.RODATA | attr.NOPTR)
	for i := range 16 {
		c.AddDatum(i, operand.U8(i%4*4+i/4))
	}
	return m
}

func broadcastFlip(c *build.Context) reg.VecVirtual {
	flip, bits := c.ZMM(), c.GP32()
	c.Load(c.Param("flip"), bits)
	c.VPBROADCASTD(bits, flip)
	return flip
}
