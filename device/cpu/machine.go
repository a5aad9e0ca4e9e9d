package cpu

import (
	"github.com/bitsandbyes/bitsandbyes/device/cpu/vec"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// machine executes a program block by block. Values are in registers of blockSize elements in scratch; float32 and float64 operands
// that lie as they are needed are used in place, and the last instruction writes to the output if it can.
type machine struct {
	p    *program
	c    *Call
	regs []byte
	f32  [maxValues][]float32 // the current block of each value, by class
	f64  [maxValues][]float64
	ints [maxValues][]int64
}

// maxValues bounds inputs plus instructions of one program; the planner's fusion limits stay below it.
const maxValues = 64

// run computes output elements [lo, hi).
func (m *machine) run(lo, hi int) {
	p := m.p
	if lo >= hi {
		return
	}
	m.begin(min(blockSize, hi-lo))
	for lo < hi {
		end := min(lo+p.block, hi)
		if p.byRow {
			end = min(end, lo-lo%p.inner+p.inner)
		}
		m.block(lo, end)
		lo = end
	}
	if p.stream {
		vec.Fence()
	}
}

// begin loads n elements of the values that stay.
func (m *machine) begin(n int) {
	for _, v := range m.p.once {
		m.view(v, n)
		if v < len(m.p.inputs) {
			m.widen(v, 0, m.p.inputs[v].typ.DType, m.c.In[v], 0, n, 0)
		} else {
			m.fill(v, &m.p.instrs[v-len(m.p.inputs)], n)
		}
	}
}

func (m *machine) register(r int) []byte { return m.regs[r*m.p.slot : (r+1)*m.p.slot] }

func (m *machine) typeOf(v int) tensor.Type {
	if v < len(m.p.inputs) {
		return m.p.inputs[v].typ
	}
	return m.p.instrs[v-len(m.p.inputs)].typ
}

// view sets the block of a value to the first n elements of its register.
func (m *machine) view(v, n int) {
	reg := m.register(m.p.reg[v])
	switch m.p.classOf(v) {
	case classF32:
		m.f32[v] = tensor.View[float32](reg)[:n]
	case classF64:
		m.f64[v] = tensor.View[float64](reg)[:n]
	case classInt:
		m.ints[v] = tensor.View[int64](reg)[:n]
	}
}

// block computes output elements [lo, hi).
func (m *machine) block(lo, hi int) {
	p, n := m.p, hi-lo
	for _, v := range p.once {
		m.view(v, n)
	}
	for _, s := range p.steps {
		if s.load {
			m.load(s.v, lo, hi)
			continue
		}
		m.target(s.v, lo, hi)
		m.exec(s.v, &p.instrs[s.v-len(p.inputs)], n)
	}
	for k, v := range p.results {
		m.store(k, v, lo, hi)
	}
}

// target chooses where an instruction writes: its register, or the output itself when no conversion follows.
func (m *machine) target(v, lo, hi int) {
	last := len(m.p.results) - 1 // the output of the last instruction
	switch {
	case m.p.reg[v] >= 0:
		m.view(v, hi-lo)
	case m.p.classOf(v) == classF32:
		m.f32[v] = tensor.View[float32](m.c.Out[last])[lo:hi]
	default:
		m.f64[v] = tensor.View[float64](m.c.Out[last])[lo:hi]
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
	return m.p.classOf(in.args[0])
}

func (m *machine) fill(v int, in *instr, n int) {
	switch classOf(in.typ.DType) {
	case classF32:
		x := round32(in.typ.DType, float32(in.val))
		if in.typ.DType == tensor.Bool {
			x = float32(toInt(tensor.Bool, in.val))
		}
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
	var x [3][]float32
	for j := range in.row.Arity {
		x[j] = m.f32[in.args[j]][:n]
	}
	if in.fn == ops.FnCast {
		m.castFrom32(v, in.typ.DType, x[0])
		return
	}
	dst := m.f32[v]
	switch {
	case in.fast:
		in.op.Run(dst, x[0], x[1], x[2])
	case in.row.F32 != nil:
		in.row.F32(dst, x[0], x[1], x[2])
	default:
		for i := range dst {
			dst[i] = float32(in.row.F64(at32(x[0], i), at32(x[1], i), at32(x[2], i)))
		}
	}
	if in.half && v != m.p.value(len(m.p.instrs)-1) { // the last one is rounded as it is stored
		in.round.Run(dst, dst, nil, nil)
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

func (m *machine) exec64(v int, in *instr, n int) {
	var x [3][]float64
	for j := range in.row.Arity {
		x[j] = m.arg64(in, j, n)
	}
	switch {
	case in.fn == ops.FnCast:
		m.castFrom64(v, in.typ.DType, x[0])
	case classOf(in.typ.DType) == classF32: // a predicate
		for i := range m.f32[v] {
			m.f32[v][i] = float32(in.row.F64(at64(x[0], i), at64(x[1], i), at64(x[2], i)))
		}
	default:
		for i := range m.f64[v] {
			m.f64[v][i] = in.row.F64(at64(x[0], i), at64(x[1], i), at64(x[2], i))
		}
	}
}

// arg64 returns operand j as float64, converting the condition of where.
func (m *machine) arg64(in *instr, j, n int) []float64 {
	v := in.args[j]
	if m.p.classOf(v) == classF64 {
		return m.f64[v][:n]
	}
	dst := tensor.View[float64](m.register(m.p.regs - conversions + j))[:n]
	for i, x := range m.f32[v][:n] {
		dst[i] = float64(x)
	}
	return dst
}
