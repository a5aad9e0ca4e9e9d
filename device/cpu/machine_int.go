package cpu

import (
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func (m *machine) execInt(v int, in *instr, n int) {
	var x [3][]int64
	for j := range in.row.Arity {
		x[j] = m.argInt(in, j, n)
	}
	if in.fn == ops.FnCast {
		m.castFromInt(v, m.typeOf(in.args[0]).DType, in.typ.DType, x[0])
		return
	}
	dst := m.ints[v]
	if in.row.Predicate {
		dst = m.argTemp64(0, n)
	}
	if m.typeOf(in.args[0]).DType != tensor.U64 || !execU64(dst, in.fn, x) {
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
	if in.row.Predicate {
		for i, truth := range dst {
			m.f32[v][i] = float32(truth)
		}
	}
}

// argInt returns operand j as int64, converting the condition of where.
func (m *machine) argInt(in *instr, j, n int) []int64 {
	v := in.args[j]
	if m.p.classOf(v) == classInt {
		return m.ints[v]
	}
	dst := m.argTemp64(j, n)
	for i, x := range m.f32[v][:n] {
		dst[i] = int64(x)
	}
	return dst
}

// argTemp64 is the register for conversions of operand j.
func (m *machine) argTemp64(j, n int) []int64 {
	return tensor.View[int64](m.register(m.p.regs - conversions + j))[:n]
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
