package graph

import (
	"fmt"
	"strings"

	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Instr is one step of a fused program. Args refer to earlier instructions (0, 1, ...) or, when negative, to inputs (-1 is
// input 0).
type Instr struct {
	Op   Elementwise
	Args []int
	Type tensor.Type
}

// Program is a chain of elementwise ops in order. A Program must not change once made.
type Program struct {
	Instrs []Instr
	// Outs are the instructions whose values are results, ascending, the last instruction among them; nil: that one alone. Results
	// have one shape.
	Outs []int
}

// Results returns Outs, or the last instruction where there are none.
func (p *Program) Results() []int {
	if p.Outs == nil {
		return []int{len(p.Instrs) - 1}
	}
	return p.Outs
}

// Fused runs a chain of elementwise ops as one kernel. Each intermediate is rounded to its own dtype, so that fusing changes
// no bit. Programs are compared by identity.
type Fused struct{ Prog *Program }

// Name implements Op.
func (o Fused) Name() string { return "fused" }

// NumOut is the number of results.
func (o Fused) NumOut() int { return len(o.Prog.Results()) }

// String prints the chain: "fused{mul(-1,-2) silu(0)}".
func (o Fused) String() string {
	var parts []string
	for _, in := range o.Prog.Instrs {
		args := strings.Trim(strings.ReplaceAll(fmt.Sprint(in.Args), " ", ","), "[]")
		parts = append(parts, OpText(in.Op)+"("+args+")")
	}
	if o.Prog.Outs != nil {
		parts = append(parts, fmt.Sprintf("-> %v", o.Prog.Outs))
	}
	return "fused{" + strings.Join(parts, " ") + "}"
}

// Infer implements Op by inferring every instruction again.
func (o Fused) Infer(in []tensor.Type) ([]tensor.Type, error) {
	types := make([]tensor.Type, len(o.Prog.Instrs))
	for i, ins := range o.Prog.Instrs {
		args := make([]tensor.Type, len(ins.Args))
		for j, a := range ins.Args {
			switch {
			case a < 0 && -a-1 < len(in):
				args[j] = in[-a-1]
			case a >= 0 && a < i:
				args[j] = types[a]
			default:
				return nil, fmt.Errorf("instruction %d refers to %d", i, a)
			}
		}
		out, err := ins.Op.Infer(args)
		if err != nil {
			return nil, fmt.Errorf("instruction %d (%s): %w", i, ins.Op.Name(), err)
		}
		types[i] = out[0]
	}
	return o.results(types)
}

// results picks the types of the results from those of all instructions.
func (o Fused) results(types []tensor.Type) ([]tensor.Type, error) {
	var out []tensor.Type
	before := -1
	for _, i := range o.Prog.Results() {
		if i <= before || i >= len(types) {
			return nil, fmt.Errorf("the results %v must be some of %d instructions, ascending", o.Prog.Outs, len(types))
		}
		out, before = append(out, types[i]), i
	}
	if before != len(types)-1 {
		return nil, fmt.Errorf("the last of %d instructions must be a result", len(types))
	}
	for _, t := range out {
		if t.Shape != out[0].Shape {
			return nil, fmt.Errorf("the results %v differ in shape", out)
		}
	}
	return out, nil
}

// Alias implements Aliaser: a block of every input is read before blocks of the outputs are written.
func (o Fused) Alias() []AliasPair {
	n := 0
	for _, ins := range o.Prog.Instrs {
		for _, a := range ins.Args {
			n = max(n, -a)
		}
	}
	var out []AliasPair
	for k := range o.NumOut() {
		for i := range n {
			out = append(out, AliasPair{Out: k, In: i})
		}
	}
	return out
}

// Cost implements Coster: one operation an element and instruction; immediates are none.
func (o Fused) Cost(in, out []tensor.Type) (flops, bytes int64) {
	for _, ins := range o.Prog.Instrs {
		if len(ins.Args) > 0 {
			flops += int64(ins.Type.Size())
		}
	}
	for _, t := range append(out[:len(out):len(out)], in...) {
		bytes += t.Bytes()
	}
	return flops, bytes
}

// Decompose implements Decomposable: the chain itself.
func (o Fused) Decompose(in []Value) []Value {
	vals := make([]Value, len(o.Prog.Instrs))
	for i, ins := range o.Prog.Instrs {
		args := make([]Value, len(ins.Args))
		for j, a := range ins.Args {
			if a < 0 {
				args[j] = in[-a-1]
			} else {
				args[j] = vals[a]
			}
		}
		vals[i] = in[0].Graph().Apply(ins.Op, args...)[0]
	}
	var out []Value
	for _, i := range o.Prog.Results() {
		out = append(out, vals[i])
	}
	return out
}
