package cpu

import (
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// machine executes a program block by block. Every value has a register of blockSize elements of 8 bytes in scratch; float32
// operands that lie as they are needed are used in place.
type machine struct {
	p      *program
	c      *Call
	regs   []byte
	f32    [maxValues][]float32 // the current block of each value, by class
	f64    [maxValues][]float64
	ints   [maxValues][]int64
	filled [maxValues]bool // scalar inputs and fills, loaded once
}

// maxValues bounds inputs plus instructions of one program; the planner's fusion limits stay below it.
const maxValues = 64

func (m *machine) init(values int) {
	for v := range values {
		m.filled[v] = false
	}
}

func (m *machine) reg(v int) []byte { return m.regs[v*blockSize*8 : (v+1)*blockSize*8] }

func (m *machine) typeOf(v int) tensor.Type {
	if v < len(m.p.inputs) {
		return m.p.inputs[v].typ
	}
	return m.p.instrs[v-len(m.p.inputs)].typ
}

// block computes output elements [lo, hi).
func (m *machine) block(lo, hi int) {
	n := hi - lo
	for v := range m.p.inputs {
		m.load(v, lo, hi)
	}
	last := len(m.p.instrs) - 1
	for i := range m.p.instrs {
		v := len(m.p.inputs) + i
		m.target(v, i == last, lo, hi)
		m.exec(v, &m.p.instrs[i], n)
	}
	m.store(len(m.p.inputs)+last, lo, hi)
}

// target chooses where an instruction writes: its register, or the output itself when no conversion follows.
func (m *machine) target(v int, last bool, lo, hi int) {
	n := hi - lo
	t := m.typeOf(v)
	switch classOf(t.DType) {
	case classF32:
		m.f32[v] = tensor.View[float32](m.reg(v))[:n]
		if last && t.DType == tensor.F32 {
			m.f32[v] = tensor.View[float32](m.c.Out[0])[lo:hi]
		}
	case classF64:
		m.f64[v] = tensor.View[float64](m.reg(v))[:n]
	case classInt:
		m.ints[v] = tensor.View[int64](m.reg(v))[:n]
	}
}

func (m *machine) exec(v int, in *instr, n int) {
	if in.fn == ops.FnFill {
		m.fill(v, in, n)
		return
	}
	switch m.computeClass(in) {
	case classF32:
		m.exec32(v, in, n)
	case classF64:
		m.exec64(v, in, n)
	case classInt:
		m.execInt(v, in, n)
	}
}

// computeClass is the class of the operands that carry the numbers.
func (m *machine) computeClass(in *instr) class {
	if in.fn == ops.FnWhere {
		return classOf(in.typ.DType)
	}
	return classOf(m.typeOf(in.args[0]).DType)
}

func (m *machine) fill(v int, in *instr, n int) {
	switch classOf(in.typ.DType) {
	case classF32:
		x := round32(in.typ.DType, float32(in.val))
		for i := range m.f32[v][:n] {
			m.f32[v][i] = x
		}
	case classF64:
		for i := range m.f64[v][:n] {
			m.f64[v][i] = in.val
		}
	case classInt:
		for i := range m.ints[v][:n] {
			m.ints[v][i] = toInt(in.typ.DType, in.val)
		}
	}
}

func (m *machine) exec32(v int, in *instr, n int) {
	a, b, c := m.arg32(in, 0, n), m.arg32(in, 1, n), m.arg32(in, 2, n)
	if in.fn == ops.FnCast {
		m.castFrom32(v, in.typ.DType, a)
		return
	}
	if classOf(in.typ.DType) == classInt { // a predicate
		dst := m.ints[v]
		for i := range dst {
			dst[i] = int64(in.row.F64(at32(a, i), at32(b, i), at32(c, i)))
		}
		return
	}
	dst := m.f32[v]
	if f := fast32[in.fn]; f != nil {
		f(dst, a[:len(dst)])
	} else if in.row.F32 != nil {
		in.row.F32(dst, a, b, c)
	} else {
		for i := range dst {
			dst[i] = float32(in.row.F64(at32(a, i), at32(b, i), at32(c, i)))
		}
	}
	if in.typ.DType != tensor.F32 {
		roundBlock(in.typ.DType, dst)
	}
}

func at32(x []float32, i int) float64 {
	if x == nil {
		return 0
	}
	return float64(x[i])
}

func at64(x []float64, i int) float64 {
	if x == nil {
		return 0
	}
	return x[i]
}

func (m *machine) exec64(v int, in *instr, _ int) {
	var x [3][]float64
	for j := range in.row.Arity {
		x[j] = m.arg64(in, j)
	}
	if in.fn == ops.FnCast {
		m.castFrom64(v, in.typ.DType, x[0])
		return
	}
	if classOf(in.typ.DType) == classInt {
		for i := range m.ints[v] {
			m.ints[v][i] = int64(in.row.F64(at64(x[0], i), at64(x[1], i), at64(x[2], i)))
		}
		return
	}
	for i := range m.f64[v] {
		m.f64[v][i] = in.row.F64(at64(x[0], i), at64(x[1], i), at64(x[2], i))
	}
}

func (m *machine) execInt(v int, in *instr, _ int) {
	var x [3][]int64
	for j := range in.row.Arity {
		x[j] = m.ints[in.args[j]]
	}
	if in.fn == ops.FnCast {
		m.castFromInt(v, m.typeOf(in.args[0]).DType, in.typ.DType, x[0])
		return
	}
	dst := m.ints[v]
	if m.typeOf(in.args[0]).DType == tensor.U64 && execU64(dst, in.fn, x) {
		return
	}
	for i := range dst {
		var b, c int64
		if x[1] != nil {
			b = x[1][i]
		}
		if x[2] != nil {
			c = x[2][i]
		}
		dst[i] = wrap(in.typ.DType, in.row.I64(x[0][i], b, c))
	}
}

// execU64 computes the functions whose result on 64 bits depends on the sign; false for the others.
func execU64(dst []int64, fn ops.Func, x [3][]int64) bool {
	f, ok := unsigned[fn]
	if !ok {
		return false
	}
	for i := range dst {
		var b uint64
		if x[1] != nil {
			b = uint64(x[1][i])
		}
		dst[i] = int64(f(uint64(x[0][i]), b))
	}
	return true
}

var unsigned = map[ops.Func]func(a, b uint64) uint64{
	ops.FnMin:  func(a, b uint64) uint64 { return min(a, b) },
	ops.FnMax:  func(a, b uint64) uint64 { return max(a, b) },
	ops.FnLt:   func(a, b uint64) uint64 { return truth(a < b) },
	ops.FnLe:   func(a, b uint64) uint64 { return truth(a <= b) },
	ops.FnAbs:  func(a, _ uint64) uint64 { return a },
	ops.FnSign: func(a, _ uint64) uint64 { return truth(a != 0) },
	ops.FnDiv: func(a, b uint64) uint64 {
		if b == 0 {
			return 0
		}
		return a / b
	},
	ops.FnRem: remU64,
	ops.FnMod: remU64,
	ops.FnShl: func(a, b uint64) uint64 { return a << b },
	ops.FnShr: func(a, b uint64) uint64 { return a >> b },
}

func remU64(a, b uint64) uint64 {
	if b == 0 {
		return 0
	}
	return a % b
}

func truth(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}

// arg32 returns operand j as float32, converting the bool condition of where.
func (m *machine) arg32(in *instr, j, n int) []float32 {
	if j >= in.row.Arity {
		return nil
	}
	v := in.args[j]
	if classOf(m.typeOf(v).DType) == classF32 {
		return m.f32[v]
	}
	dst := tensor.View[float32](m.reg(len(m.p.inputs) + len(m.p.instrs) + j))[:n]
	for i, x := range m.ints[v][:n] {
		dst[i] = float32(x)
	}
	return dst
}

func (m *machine) arg64(in *instr, j int) []float64 {
	v := in.args[j]
	if classOf(m.typeOf(v).DType) == classF64 {
		return m.f64[v]
	}
	src := m.ints[v]
	dst := tensor.View[float64](m.reg(len(m.p.inputs) + len(m.p.instrs) + j))[:len(src)]
	for i, x := range src {
		dst[i] = float64(x)
	}
	return dst
}
