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

// Program is a chain of elementwise ops in order; the last instruction is the result. A Program must not change once made.
type Program struct{ Instrs []Instr }

// Fused runs a chain of elementwise ops as one kernel. Each intermediate is rounded to its own dtype, so that fusing changes
// no bit. Programs are compared by identity.
type Fused struct{ Prog *Program }

// Name implements Op.
func (o Fused) Name() string { return "fused" }

// String prints the chain: "fused{mul(-1,-2) silu(0)}".
func (o Fused) String() string {
	var parts []string
	for _, in := range o.Prog.Instrs {
		args := strings.Trim(strings.ReplaceAll(fmt.Sprint(in.Args), " ", ","), "[]")
		parts = append(parts, OpText(in.Op)+"("+args+")")
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
	return types[len(types)-1:], nil
}

// Alias implements Aliaser: a block of every input is read before the output block is written.
func (o Fused) Alias() []AliasPair {
	n := 0
	for _, ins := range o.Prog.Instrs {
		for _, a := range ins.Args {
			n = max(n, -a)
		}
	}
	out := make([]AliasPair, n)
	for i := range out {
		out[i] = AliasPair{Out: 0, In: i}
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
	return vals[len(vals)-1:]
}
