package main

import (
	"fmt"

	"github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// tileSpec is a micro-kernel: sums of up to mr rows and two registers of columns stay in registers while it goes along K. There is a
// loop for each number of rows, and all end in two chains of stores (one adds C, one does not) that are entered at the last row.
type tileSpec struct {
	name      string
	signature string
	doc       []string
	mr, lanes int
	// acc are two registers a row, b hold a step of B, x are free for an element of A.
	acc  [][2]reg.VecPhysical
	b, x [2]reg.VecPhysical
	zero func(r reg.VecPhysical)
	load func(m operand.Mem, r reg.VecPhysical)
	// step adds the products of the element of A at m, and b, to the sums of row i.
	step func(i int, m operand.Mem)
	// ready is done once between the loop and the stores.
	ready func()
	// finish ends a sum before it is stored, with C added where add says so; mask is nil where all columns are stored.
	finish func(row int, sum reg.VecPhysical, c operand.Mem, mask reg.Register, add bool)
	put    func(sum reg.VecPhysical, c operand.Mem, mask reg.Register)
	masked bool // takes the number of columns and masks the stores
}

var zmm = []reg.VecPhysical{reg.Z0, reg.Z1, reg.Z2, reg.Z3, reg.Z4, reg.Z5, reg.Z6, reg.Z7, reg.Z8, reg.Z9, reg.Z10, reg.Z11, reg.Z12,
	reg.Z13, reg.Z14, reg.Z15, reg.Z16, reg.Z17, reg.Z18, reg.Z19, reg.Z20, reg.Z21, reg.Z22, reg.Z23, reg.Z24, reg.Z25, reg.Z26, reg.Z27,
	reg.Z28, reg.Z29, reg.Z30, reg.Z31}

var ymm = []reg.VecPhysical{reg.Y0, reg.Y1, reg.Y2, reg.Y3, reg.Y4, reg.Y5, reg.Y6, reg.Y7, reg.Y8, reg.Y9, reg.Y10, reg.Y11, reg.Y12,
	reg.Y13, reg.Y14, reg.Y15}

// registers deals out a file of registers: four for the operands, the rest for sums.
func (s *tileSpec) registers(file []reg.VecPhysical) {
	s.b, s.x = [2]reg.VecPhysical{file[0], file[1]}, [2]reg.VecPhysical{file[2], file[3]}
	for i := range s.mr {
		s.acc = append(s.acc, [2]reg.VecPhysical{file[4+2*i], file[5+2*i]})
	}
}

func tileDoc(what, needs string, mr, nr int, masked bool) []string {
	doc := []string{
		fmt.Sprintf("sets a tile of c, 1 to %d rows of %d columns, to %s,", mr, nr, what),
		"or adds it. Row r of A at step k is a[r*rs+k*ks], row k of B begins at b[k*bs]; strides and ldc are in elements of four bytes, kc is",
		"at least 1. While it sums it asks for 128 bytes at next and at each step bytes on, some 16 times.",
	}
	if masked {
		doc = append(doc, fmt.Sprintf("Of the columns the first cols, 1 to %d, are stored; B is read in full.", nr))
	}
	return append(doc, "Needs "+needs+".")
}

// begin declares the function.
func (s *tileSpec) begin(c *build.Context) {
	s.doc[0] = s.name + " " + s.doc[0]
	begin(c, s.name, s.signature, s.doc...)
}

// tileRegs are the arguments of a micro-kernel and what is made of them, in registers. upper is row 7 of A; ahead is the row of C to
// prefetch next, every how many steps later the one after it; to is the last row of C once the sums are done.
type tileRegs struct {
	rows, kc, a, rs, ks, b, bs, ahead, ldc reg.GPVirtual
	next                                   reg.GPVirtual
	three, five, upper, left, to           reg.GPVirtual
	every                                  operand.Mem // registers are short
}

// emit writes the function after begin.
func (s *tileSpec) emit(c *build.Context) {
	t := s.arguments(c)
	for _, sums := range s.acc {
		s.zero(sums[0])
		s.zero(sums[1])
	}
	if s.masked {
		s.masks(c)
	}
	c.CMPQ(t.rows, operand.U8(s.mr))
	c.JNE(operand.LabelRef("fewer"))
	s.loop(c, t, s.mr)
	c.Label("fewer")
	for n := s.mr - 1; n > 1; n-- {
		c.CMPQ(t.rows, operand.U8(n))
		c.JEQ(operand.LabelRef(fmt.Sprintf("rows%d", n)))
	}
	for n := 1; n < s.mr; n++ {
		s.loop(c, t, n)
	}
	s.chain(c, "add", t.to, t.ldc)
	s.chain(c, "set", t.to, t.ldc)
}

// arguments loads the registers. C is asked for while the products are summed, a row in some kc/16 steps: all at once they would hold up
// the operands.
func (s *tileSpec) arguments(c *build.Context) tileRegs {
	t := tileRegs{rows: param(c, "rows"), kc: param(c, "kc"), a: param(c, "a"), rs: param(c, "rs"), ks: param(c, "ks"), b: param(c, "b"),
		bs: param(c, "bs"), ahead: param(c, "c"), ldc: param(c, "ldc"), next: param(c, "next"),
		three: c.GP64(), five: c.GP64(), upper: c.GP64(), every: c.AllocLocal(8), left: c.GP64(), to: c.GP64()}
	for _, r := range []reg.GPVirtual{t.rs, t.ks, t.bs, t.ldc} {
		c.SHLQ(operand.U8(2), r)
	}
	c.LEAQ(operand.Mem{Base: t.rs, Index: t.rs, Scale: 2}, t.three)
	c.LEAQ(operand.Mem{Base: t.rs, Index: t.rs, Scale: 4}, t.five)
	if s.mr > 7 {
		c.LEAQ(operand.Mem{Base: t.five, Index: t.rs, Scale: 2}, t.upper)
		c.ADDQ(t.a, t.upper)
	}
	c.MOVQ(t.kc, t.left)
	c.SHRQ(operand.U8(4), t.left)
	c.JNZ(operand.LabelRef("rounds"))
	c.INCQ(t.left)
	c.Label("rounds")
	c.MOVQ(t.left, t.every)
	return t
}

// loop emits the sums of n rows and the way to the stores.
func (s *tileSpec) loop(c *build.Context, t tileRegs, n int) {
	round, step, done := fmt.Sprintf("round%d", n), fmt.Sprintf("step%d", n), fmt.Sprintf("done%d", n)
	if n > 1 && n < s.mr {
		c.Label(fmt.Sprintf("rows%d", n))
	}
	if s.unrolled(n) {
		s.packedLoop(c, t, n)
	}
	c.Label(round)
	s.fetch(c, t)
	c.MOVQ(t.every, t.left)
	c.Label(step)
	for j := range s.b {
		s.load(at(t.b, 4*s.lanes*j), s.b[j])
	}
	for i := range n {
		if i < 7 {
			s.step(i, sevenRows(t.a, t.rs, t.three, t.five, i))
		} else {
			s.step(i, sevenRows(t.upper, t.rs, t.three, t.five, i-7))
		}
	}
	c.ADDQ(t.ks, t.a)
	if n > 7 {
		c.ADDQ(t.ks, t.upper)
	}
	c.ADDQ(t.bs, t.b)
	c.DECQ(t.kc)
	c.JZ(operand.LabelRef(done))
	c.DECQ(t.left)
	c.JNZ(operand.LabelRef(step))
	c.JMP(operand.LabelRef(round))
	c.Label(done)
	c.IMUL3Q(operand.U8(n-1), t.ldc, t.to) // the last row
	first := param(c, "c")
	c.ADDQ(first, t.to)
	s.ready()
	add, err := c.Param("add").Resolve()
	if err != nil {
		return // the context has recorded it
	}
	c.CMPB(add.Addr, operand.U8(0))
	c.JEQ(operand.LabelRef(fmt.Sprintf("set%d", n)))
	c.JMP(operand.LabelRef(fmt.Sprintf("add%d", n)))
}

// unroll is how many steps a round of the loops over packed strips takes: with 28 products a step both vector ports are full, and each
// count or address that one of them does as well delays a product.
const unroll = 4

// unrolled says whether strips of n rows have a loop of their own where both operands are packed.
func (s *tileSpec) unrolled(n int) bool { return s.mr == 14 && n >= 7 }

// packedLoop emits the sums of n rows over whole rounds where both operands are packed, with no strides to add; what is left of K, and
// operands that lie otherwise, are for the loop behind it.
func (s *tileSpec) packedLoop(c *build.Context, t tileRegs, n int) {
	fetch, packed, rest, round := fmt.Sprintf("fetch%d", n), fmt.Sprintf("packed%d", n), fmt.Sprintf("rest%d", n), fmt.Sprintf("round%d", n)
	c.CMPQ(t.ks, operand.U32(4*n))
	c.JNE(operand.LabelRef(round))
	c.CMPQ(t.rs, operand.U8(4))
	c.JNE(operand.LabelRef(round))
	c.CMPQ(t.bs, operand.U32(8*s.lanes))
	c.JNE(operand.LabelRef(round))
	c.CMPQ(t.kc, operand.U32(16*unroll))
	c.JL(operand.LabelRef(round))
	c.MOVQ(t.kc, t.to)
	c.SHRQ(operand.U8(2), t.to)
	c.Label(fetch)
	s.fetch(c, t)
	c.MOVQ(t.every, t.left)
	c.SHRQ(operand.U8(2), t.left)
	c.Label(packed)
	for u := range unroll {
		for j := range s.b {
			s.load(at(t.b, 4*s.lanes*(2*u+j)), s.b[j])
		}
		for i := range n {
			s.step(i, at(t.a, 4*(n*u+i)))
		}
	}
	c.ADDQ(operand.U32(4*unroll*n), t.a)
	c.ADDQ(operand.U32(8*unroll*s.lanes), t.b)
	c.DECQ(t.to)
	c.JZ(operand.LabelRef(rest))
	c.DECQ(t.left)
	c.JNZ(operand.LabelRef(packed))
	c.JMP(operand.LabelRef(fetch))
	c.Label(rest)
	c.ANDQ(operand.U8(unroll-1), t.kc)
	c.JZ(operand.LabelRef(fmt.Sprintf("done%d", n)))
	if n > 7 {
		c.LEAQ(at(t.a, 4*7), t.upper)
	}
}

// fetch asks for the next row of C and for what is packed next.
func (s *tileSpec) fetch(c *build.Context, t tileRegs) {
	for l := range s.lanes / 8 {
		c.PREFETCHT0(at(t.ahead, 64*l))
	}
	c.ADDQ(t.ldc, t.ahead)
	c.PREFETCHT1(at(t.next, 0))
	c.PREFETCHT1(at(t.next, 64))
	if step, err := c.Param("step").Resolve(); err == nil {
		c.ADDQ(step.Addr, t.next)
	}
}

// sevenRows addresses row i < 7 from the registers holding the first row and one, three and five strides.
func sevenRows(base, one, three, five reg.GPVirtual, i int) operand.Mem {
	m := operand.Mem{Base: base, Index: one, Scale: 1}
	switch i {
	case 0:
		return operand.Mem{Base: base}
	case 3, 6:
		m.Index, m.Scale = three, uint8(i/3)
	case 5:
		m.Index = five
	default:
		m.Scale = uint8(i)
	}
	return m
}

// masks puts the mask of the columns into K1 and K2.
func (s *tileSpec) masks(c *build.Context) {
	cols, bits := param(c, "cols"), c.GP64()
	c.MOVQ(operand.I32(-1), bits)
	c.BZHIQ(cols, bits, bits)
	c.KMOVW(bits.As32(), reg.K1)
	c.SHRQ(operand.U8(s.lanes), bits)
	c.KMOVW(bits.As32(), reg.K2)
}

// chain stores rows from the last to the first.
func (s *tileSpec) chain(c *build.Context, name string, to, ldc reg.GPVirtual) {
	for n := s.mr; n > 0; n-- {
		c.Label(fmt.Sprintf("%s%d", name, n))
		for j, sum := range s.acc[n-1] {
			var mask reg.Register
			if s.masked {
				mask = []reg.Register{reg.K1, reg.K2}[j]
			}
			m := at(to, 4*s.lanes*j)
			s.finish(n-1, sum, m, mask, name == "add")
			s.put(sum, m, mask)
		}
		if n > 1 {
			c.SUBQ(ldc, to)
		}
	}
	c.VZEROUPPER()
	c.RET()
}

// floats fills in what the float32 kernels share.
func (s *tileSpec) floats(c *build.Context) {
	s.load = func(m operand.Mem, r reg.VecPhysical) { c.VMOVUPS(m, r) }
	s.step = func(i int, m operand.Mem) {
		x := s.x[i&1]
		c.VBROADCASTSS(m, x)
		c.VFMADD231PS(s.b[0], x, s.acc[i][0])
		c.VFMADD231PS(s.b[1], x, s.acc[i][1])
	}
	s.ready = func() { broadcastParam(c, "alpha", s.x[0]) }
	s.finish = func(_ int, sum reg.VecPhysical, m operand.Mem, mask reg.Register, add bool) {
		switch {
		case !add:
			c.VMULPS(s.x[0], sum, sum)
		case mask == nil:
			c.VFMADD213PS(m, s.x[0], sum)
		default:
			c.VFMADD213PS(m, s.x[0], mask, sum)
		}
	}
	s.put = func(sum reg.VecPhysical, m operand.Mem, mask reg.Register) {
		if mask == nil {
			c.VMOVUPS(sum, m)
			return
		}
		c.VMOVUPS(sum, mask, m)
	}
}

// tileAVX2 keeps 6x16 sums in 12 of the 16 vector registers.
func tileAVX2(c *build.Context) {
	s := tileSpec{name: "tileAVX2", mr: 6, lanes: 8, zero: func(r reg.VecPhysical) { c.VXORPS(r, r, r) },
		signature: "func(rows, kc int, a *float32, rs, ks int, b *float32, bs int, c *float32, ldc int, alpha float32, add bool, next uintptr, step int)",
		doc:       tileDoc("alpha times the product of A and B", "AVX2 and FMA", 6, 16, false)}
	s.registers(ymm)
	s.begin(c)
	s.floats(c)
	s.emit(c)
}

// tileAVX512 keeps 14x32 sums in 28 of the 32 vector registers.
func tileAVX512(c *build.Context) {
	s := tileSpec{name: "tileAVX512", mr: 14, lanes: 16, masked: true, zero: func(r reg.VecPhysical) { c.VPXORD(r, r, r) },
		signature: "func(rows, kc int, a *float32, rs, ks int, b *float32, bs int, c *float32, ldc, cols int, alpha float32, add bool, next uintptr, step int)",
		doc:       tileDoc("alpha times the product of A and B", "AVX-512F and BMI2", 14, 32, true)}
	s.registers(zmm)
	s.begin(c)
	s.floats(c)
	s.emit(c)
}

// tileBF16 is tileAVX512 for pairs of bfloat16 along K: A and B hold two in the four bytes of an element.
func tileBF16(c *build.Context) {
	s := tileSpec{name: "tileBF16AVX512", mr: 14, lanes: 16, masked: true, zero: func(r reg.VecPhysical) { c.VPXORD(r, r, r) },
		signature: "func(rows, kc int, a *uint32, rs, ks int, b *uint32, bs int, c *float32, ldc, cols int, alpha float32, add bool, next uintptr, step int)",
		doc: tileDoc("alpha times the product of A and B, whose elements are pairs of bfloat16", "AVX-512F, AVX512-BF16 and BMI2",
			14, 32, true)}
	s.registers(zmm)
	s.begin(c)
	s.floats(c)
	s.step = func(i int, m operand.Mem) {
		x := i & 1
		c.VPBROADCASTD(m, s.x[x])
		for j := range s.b {
			dotBF16(c, j, 2+x, 4+2*i+j) // the numbers that registers deals out
		}
	}
	s.emit(c)
}
