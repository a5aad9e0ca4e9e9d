package cpu

import (
	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func init() {
	Register(func(d *Device, op ops.Pointwise, s device.Spec) (*Kernel, error) {
		args := make([]int, len(s.In))
		for i := range args {
			args[i] = -i - 1
		}
		prog := &graph.Program{Instrs: []graph.Instr{{Op: op, Args: args, Type: s.Out[0]}}}
		return buildProgram(d, prog, s)
	})
	Register(func(d *Device, op graph.Fused, s device.Spec) (*Kernel, error) { return buildProgram(d, op.Prog, s) })
}

// blockSize is how many elements a fused program works on at a time: few enough for its registers to stay in the first-level
// cache.
const blockSize = 512

// class is the arithmetic an element type is computed in: float32 for the halves too, int64 for integers and bool.
type class uint8

const (
	classF32 class = iota
	classF64
	classInt
)

func classOf(d tensor.DType) class {
	switch d {
	case tensor.F64:
		return classF64
	case tensor.F16, tensor.BF16, tensor.F32:
		return classF32
	}
	return classInt
}

// program is a chain of pointwise instructions compiled for fixed types.
type program struct {
	instrs []instr
	inputs []operand
	out    tensor.Type
	size   int
}

// instr is one instruction; args index values: inputs first, then instructions.
type instr struct {
	row  *ops.Row
	fn   ops.Func
	args [3]int
	typ  tensor.Type
	val  float64
}

// operand is an input: how it is read for a range of output elements.
type operand struct {
	typ     tensor.Type
	whole   bool // same shape as the output
	scalar  bool
	strides [tensor.MaxRank]int // in elements, by output axis; 0 where broadcast
}

func buildProgram(d *Device, prog *graph.Program, s device.Spec) (*Kernel, error) {
	p := &program{out: s.Out[0], size: s.Out[0].Size()}
	for _, t := range s.In {
		p.inputs = append(p.inputs, newOperand(t, s.Out[0]))
	}
	for _, ins := range prog.Instrs {
		op, ok := ins.Op.(ops.Pointwise)
		if !ok {
			return nil, device.ErrNoKernel
		}
		in := instr{row: op.Row(), fn: op.F, typ: ins.Type, val: op.Val}
		for j, a := range ins.Args {
			if a < 0 {
				in.args[j] = -a - 1
			} else {
				in.args[j] = len(s.In) + a
			}
		}
		p.instrs = append(p.instrs, in)
	}
	values := len(p.inputs) + len(p.instrs)
	if values > maxValues {
		return nil, device.ErrNoKernel
	}
	perTask := int64(values+scratchRegs) * blockSize * 8
	tasks := max(min(d.threads, p.size/pointwiseGrain), 1)
	return &Kernel{ScratchBytes: perTask * int64(tasks), Run: func(c *Call) error {
		return d.parallel(tasks, func(t int) {
			m := machine{p: p, c: c, regs: c.Scratch[int64(t)*perTask : int64(t+1)*perTask]}
			m.init(values)
			for lo := p.size * t / tasks; lo < p.size*(t+1)/tasks; lo += blockSize {
				m.block(lo, min(lo+blockSize, p.size*(t+1)/tasks))
			}
		})
	}}, nil
}

const (
	pointwiseGrain = 16 << 10 // elements below which a second thread costs more than it gives
	scratchRegs    = 3        // converted operands
)

func newOperand(t, out tensor.Type) operand {
	o := operand{typ: t, whole: t.Shape == out.Shape, scalar: t.Size() == 1}
	st := t.Shape.Strides()
	lead := out.Rank() - t.Rank()
	for i := range t.Rank() {
		if t.Dim(i) != 1 {
			o.strides[lead+i] = st[i]
		}
	}
	return o
}
