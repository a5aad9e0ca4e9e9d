package cpu

import (
	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/device/cpu/vec"
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

// blockSize is how many elements a fused program works on at a time: enough that the calls of the vector loops do not count, few enough
// for its registers to stay in the first-level cache.
const blockSize = 1024

// streamBlock is that for results that go past the caches: with shorter blocks, reading and writing overlap.
const streamBlock = 512

// class is the arithmetic an element type is computed in: float32 for the halves and, as 0 and 1, for bool; int64 for integers.
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
	case tensor.F16, tensor.BF16, tensor.F32, tensor.Bool:
		return classF32
	}
	return classInt
}

// program is a chain of pointwise instructions compiled for fixed types. Values are its inputs, then its instructions.
type program struct {
	instrs  []instr
	inputs  []operand
	outs    []tensor.Type
	results []int // by output: the value
	size    int
	dims    []int // of the output, axes merged that every operand walks as one
	inner   int   // the last of them
	byRow   bool  // blocks end where the innermost axis does, so that operands are read where they lie
	steps   []action
	once    []int // values that are the same for each block: fills and scalar inputs
	reg     []int // by value: its register, -1 for none
	regs    int
	slot    int  // bytes of a register
	stream  bool // the result is so large that it goes past the caches, from a register
	block   int  // elements at a time
}

// instr is one instruction; args index values.
type instr struct {
	row   *ops.Row
	fn    ops.Func
	args  [3]int
	typ   tensor.Type
	val   float64
	op    vec.Op // the vector loop, if there is one
	fast  bool
	round vec.Op // how the result is rounded to its type
	half  bool
}

// operand is an input: how it is read for a range of output elements.
type operand struct {
	typ     tensor.Type
	whole   bool // same shape as the output
	scalar  bool
	strides [tensor.MaxRank]int // in elements, by output axis; 0 where broadcast
}

// strided reports whether an operand is neither whole nor a scalar.
func (o *operand) strided() bool { return !o.whole && !o.scalar }

func buildProgram(d *Device, prog *graph.Program, s device.Spec) (*Kernel, error) {
	p := &program{outs: s.Out, size: s.Out[0].Size()}
	for _, t := range s.In {
		p.inputs = append(p.inputs, newOperand(t, s.Out[0]))
	}
	for _, ins := range prog.Instrs {
		in, ok := newInstr(ins, len(s.In))
		if !ok {
			return nil, device.ErrNoKernel
		}
		p.instrs = append(p.instrs, in)
	}
	values := len(p.inputs) + len(p.instrs)
	if values > maxValues {
		return nil, device.ErrNoKernel
	}
	for _, i := range prog.Results() {
		p.results = append(p.results, p.value(i))
	}
	last := s.Out[len(s.Out)-1]
	p.stream = last.DType == tensor.F32 && last.Bytes() >= vec.StreamBytes
	p.block = blockSize
	if p.stream {
		p.block = streamBlock
	}
	p.mergeAxes()
	p.schedule()
	perTask := int64(p.regs * p.slot)
	tasks := max(min(d.threads, p.work()/pointwiseGrain), 1)
	return &Kernel{ScratchBytes: perTask * int64(tasks), Run: func(c *Call) error {
		if tasks == 1 {
			m := machine{p: p, c: c, regs: c.Scratch}
			m.run(0, p.size)
			return nil
		}
		return d.parallel(tasks, func(t int) {
			m := machine{p: p, c: c, regs: c.Scratch[int64(t)*perTask : int64(t+1)*perTask]}
			m.run(taskEdge(p.size, t, tasks), taskEdge(p.size, t+1, tasks))
		})
	}}, nil
}

// taskEdge is where task t begins: at a multiple of a cache line of any element type.
func taskEdge(size, t, tasks int) int {
	if t == tasks {
		return size
	}
	return size * t / tasks &^ 63
}

// pointwiseGrain is the work below which a second thread costs more than it gives: some 10 µs.
const pointwiseGrain = 32 << 10

// work is the number of elements times how much is done with each, an operand or an addition counting 1.
func (p *program) work() int {
	weight := 1
	for i := range p.instrs {
		in := &p.instrs[i]
		switch {
		case in.fn == ops.FnFill:
		case !in.fast:
			weight += 8
		case in.op >= vec.OpExp:
			weight += 4
		default:
			weight++
		}
	}
	return p.size * weight
}

func newInstr(ins graph.Instr, inputs int) (instr, bool) {
	op, ok := ins.Op.(ops.Pointwise)
	if !ok {
		return instr{}, false
	}
	in := instr{row: op.Row(), fn: op.F, typ: ins.Type, val: op.Val}
	for j, a := range ins.Args {
		if a < 0 {
			in.args[j] = -a - 1
		} else {
			in.args[j] = inputs + a
		}
	}
	in.op, in.fast = vectorOp(op.F)
	switch ins.Type.DType {
	case tensor.BF16:
		in.round, in.half = vec.OpRoundBF16, true
	case tensor.F16:
		in.round, in.half = vec.OpRoundF16, true
	}
	return in, true
}

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

// minRow is the innermost extent from which blocks end with rows.
const minRow = 256

// mergeAxes drops axes of one element and joins neighbours that every operand walks as one axis, in dims and in the operands' strides.
func (p *program) mergeAxes() {
	var axes []int // the output axis that each merged one ends with
	for i := range p.outs[0].Rank() {
		n := p.outs[0].Dim(i)
		if n == 1 {
			continue
		}
		if k := len(axes) - 1; k >= 0 && p.joint(axes[k], i, n) {
			axes[k], p.dims[k] = i, p.dims[k]*n
			continue
		}
		axes, p.dims = append(axes, i), append(p.dims, n)
	}
	if len(p.dims) == 0 {
		axes, p.dims = []int{0}, []int{1}
	}
	p.inner = p.dims[len(p.dims)-1]
	p.byRow = len(p.dims) == 1 || p.inner >= minRow
	for v := range p.inputs {
		o := &p.inputs[v]
		st := o.strides
		clear(o.strides[:])
		for k, axis := range axes {
			o.strides[k] = st[axis]
		}
	}
}

// joint reports whether axis b, of n elements, follows axis a without a gap in every operand.
func (p *program) joint(a, b, n int) bool {
	for v := range p.inputs {
		if o := &p.inputs[v]; o.strided() && o.strides[a] != o.strides[b]*n {
			return false
		}
	}
	return true
}
