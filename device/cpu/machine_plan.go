package cpu

import (
	"slices"

	"github.com/bitsandbyes/bitsandbyes/graph/ops"
)

// action is what the machine does next: read input v, or execute the instruction that makes v.
type action struct {
	v    int
	load bool
}

// conversions are registers for operands that an instruction takes in another class: the bools of where.
const conversions = 3

func (p *program) value(instr int) int { return len(p.inputs) + instr }

func (p *program) classOf(v int) class {
	if v < len(p.inputs) {
		return classOf(p.inputs[v].typ.DType)
	}
	return classOf(p.instrs[v-len(p.inputs)].typ.DType)
}

// inPlace reports whether value v is used where it lies: floats of full width, of results the last one.
func (p *program) inPlace(v int) bool {
	if v == p.value(len(p.instrs)-1) {
		return isWide(p.outs[len(p.outs)-1].DType) && !p.stream
	}
	if v >= len(p.inputs) {
		return false
	}
	o := &p.inputs[v]
	return isWide(o.typ.DType) && (o.whole || !o.scalar && p.byRow && o.strides[len(p.dims)-1] == 1)
}

// schedule orders the steps, reads inputs just before their first use, and gives out registers: those of values that are not needed any
// more are used again, so that a program touches as little of the cache as it can.
func (p *program) schedule() {
	values := p.value(len(p.instrs))
	p.reg = make([]int, values)
	p.slot = blockSize * 4
	for v := range values {
		p.reg[v] = -1
		if p.classOf(v) != classF32 {
			p.slot = blockSize * 8
		}
	}
	p.hold()
	last := p.lastUses()
	var free []int
	take := func(v int) {
		switch n := len(free); {
		case p.reg[v] >= 0 || p.inPlace(v):
		case n > 0:
			p.reg[v], free = free[n-1], free[:n-1]
		default:
			p.reg[v] = p.regs
			p.regs++
		}
	}
	seen := make([]bool, values)
	for i := range p.instrs {
		in, v := &p.instrs[i], p.value(i)
		if in.fn == ops.FnFill && v != values-1 {
			continue
		}
		args := in.args[:in.row.Arity]
		for _, a := range args {
			if a < len(p.inputs) && !seen[a] && !p.inputs[a].scalar {
				seen[a] = true
				take(a)
				p.steps = append(p.steps, action{a, true})
			}
		}
		release := func() { // the registers that end here
			for _, a := range args {
				if last[a] == i && p.reg[a] >= 0 {
					free, last[a] = append(free, p.reg[a]), -1
				}
			}
		}
		if p.oneClass(v, args) {
			release()
			take(v)
		} else { // a wider result would run over operands that are still to be read
			take(v)
			release()
		}
		p.steps = append(p.steps, action{v, false})
	}
	p.regs += conversions
}

// hold gives the values that are the same for every block registers of their own.
func (p *program) hold() {
	keep := func(v int) {
		p.once = append(p.once, v)
		p.reg[v] = p.regs
		p.regs++
	}
	for v := range p.inputs {
		if p.inputs[v].scalar {
			keep(v)
		}
	}
	for i := range p.instrs[:len(p.instrs)-1] {
		if p.instrs[i].fn == ops.FnFill {
			keep(p.value(i))
		}
	}
}

// lastUses is the last instruction that reads each value, -1 for those that keep their register.
func (p *program) lastUses() []int {
	last := make([]int, p.value(len(p.instrs)))
	for v := range last {
		last[v] = -1
	}
	for i := range p.instrs {
		in := &p.instrs[i]
		for _, a := range in.args[:in.row.Arity] {
			last[a] = i
		}
	}
	for _, v := range slices.Concat(p.once, p.results) {
		last[v] = -1
	}
	return last
}

func (p *program) oneClass(v int, args []int) bool {
	for _, a := range args {
		if p.classOf(a) != p.classOf(v) {
			return false
		}
	}
	return true
}
