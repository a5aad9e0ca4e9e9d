package cuda

import (
	"slices"

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
		return buildChain(d, prog, s)
	})
	Register(func(d *Device, op graph.Fused, s device.Spec) (*Kernel, error) { return buildChain(d, op.Prog, s) })
}

// access is how a chain reads an input for the N elements of a thread.
type access uint8

const (
	whole  access = iota // as the output: at its position
	scalar               // one element for all
	packed               // N neighbours at a place that is walked to
	shared               // one element for the N
	strewn               // every element walked to
)

// chain is a list of pointwise instructions for fixed types. Values are its inputs, then its instructions.
type chain struct {
	instrs []instr
	inputs []operand
	out    tensor.Type // of the first result
	outs   []tensor.Type
	result []int // by output: the value
	dims   []int // of the outputs, merged as the inputs walk them
	n      int   // elements a thread takes at a time
	packs  int   // how often, before it goes on
}

// instr is one instruction; args index values.
type instr struct {
	fn   ops.Func
	args []int
	typ  tensor.DType
	val  float64
}

// operand is an input.
type operand struct {
	typ    tensor.Type
	access access
	steps  []int
}

func buildChain(d *Device, prog *graph.Program, s device.Spec) (*Kernel, error) {
	c, ok := newChain(prog, s)
	if !ok {
		return nil, device.ErrNoKernel
	}
	f, err := d.Function(Program{Files: []string{"walk.cuh", "pointwise.cuh"}, Text: c.text(), Exact: true}, "chain")
	if err != nil {
		return nil, err
	}
	return &Kernel{Enqueue: c.enqueue(f)}, nil
}

func newChain(prog *graph.Program, s device.Spec) (*chain, bool) {
	c := &chain{out: s.Out[0], outs: s.Out}
	for _, i := range prog.Results() {
		c.result = append(c.result, len(s.In)+i)
	}
	for _, ins := range prog.Instrs {
		op, ok := ins.Op.(ops.Pointwise)
		if !ok {
			return nil, false
		}
		in := instr{fn: op.F, typ: ins.Type.DType, val: op.Val}
		for _, a := range ins.Args {
			if a < 0 {
				in.args = append(in.args, -a-1)
			} else {
				in.args = append(in.args, len(s.In)+a)
			}
		}
		c.instrs = append(c.instrs, in)
	}
	c.read(s.In)
	return c, len(s.In)+len(s.Out) <= maxChainOperands
}

// maxChainOperands keeps the parameters of a launch within 4 KiB, with room.
const maxChainOperands = 32

// read decides how each input is read and how many elements a thread takes: 16 bytes of the narrowest operand that is as large as the
// output, but no more than 8, nor more than 16 bytes of an output: what a warp writes at once should be without gaps.
func (c *chain) read(in []tensor.Type) {
	size, most, wholes := 8, 8, len(c.outs)
	for _, t := range c.outs {
		size, most = min(size, t.DType.Size()), min(most, 16/t.DType.Size())
	}
	var walked [][]int
	var at []int
	for i, t := range in {
		o := operand{typ: t}
		switch {
		case t.Size() == c.out.Size():
			o.access, size = whole, min(size, t.DType.Size())
			wholes++
		case t.Size() == 1:
			o.access = scalar
		default:
			o.access = strewn
			walked, at = append(walked, broadcastSteps(t, c.out)), append(at, i)
		}
		c.inputs = append(c.inputs, o)
	}
	c.n, c.packs = min(16/size, most), 1
	if wholes <= 4 {
		c.packs = 2
	}
	if c.n*size < 16 && wholes <= 2 {
		c.packs = 4
	}
	var strides [][]int
	c.dims, strides = mergeAxes(c.out.Shape.Dims(), walked)
	inner := c.dims[len(c.dims)-1]
	for k, i := range at {
		o := &c.inputs[i]
		o.steps = strides[k]
		switch last := o.steps[len(o.steps)-1]; {
		case inner%c.n != 0:
		case last == 0:
			o.access = shared
		case last == 1:
			o.access = packed
		}
	}
}

// walks reports whether some input is walked to.
func (c *chain) walks() bool {
	for _, o := range c.inputs {
		if o.access > scalar {
			return true
		}
	}
	return false
}

// enqueue launches the kernel. Its parameters are those that text declares, in the same order.
func (c *chain) enqueue(f *Function) func(*Call) error {
	n := c.out.Size()
	if n == 0 {
		return func(*Call) error { return nil }
	}
	threads := 256
	for threads > 64 && n < threads*c.n*c.packs*smallGrid {
		threads /= 2
	}
	geometry := Over(int64(n), threads, c.n*c.packs)
	geometry.Grid[0] = min(geometry.Grid[0], maxGrid)
	fixed := []any{}
	if c.walks() {
		a := newAxes(c.dims)
		fixed = append(fixed, &a)
	}
	for _, o := range c.inputs {
		if o.access > scalar {
			s := newSteps(o.steps)
			fixed = append(fixed, &s)
		}
	}
	for i := range c.instrs {
		if c.instrs[i].fn == ops.FnFill {
			fixed = append(fixed, c.instrs[i].immediate())
		}
	}
	args := make([]any, 2+len(c.outs)+len(c.inputs), 2+len(c.outs)+len(c.inputs)+len(fixed))
	args = append(args, fixed...)
	args[0] = int64(n)
	return func(call *Call) error {
		args[1] = c.aligned(call)
		for i, a := range slices.Concat(call.Out, call.In) {
			args[2+i] = a
		}
		return call.Launch(f, geometry, args...)
	}
}

const (
	smallGrid = 264     // blocks below which smaller ones spread the work over more multiprocessors
	maxGrid   = 1 << 30 // blocks of a launch: the kernels go on from there
)

// aligned is 1 where the operands that are read and written N at a time lie on multiples of that, else 0.
func (c *chain) aligned(call *Call) int32 {
	for k, t := range c.outs {
		if call.Out[k]%Addr(c.n*t.DType.Size()) != 0 {
			return 0
		}
	}
	for i, o := range c.inputs {
		if (o.access == whole || o.access == packed) && call.In[i]%Addr(c.n*o.typ.DType.Size()) != 0 {
			return 0
		}
	}
	return 1
}

// immediate is the number of a fill as an argument of a launch.
func (in *instr) immediate() any {
	cell := tensor.New(tensor.T(in.typ, 1))
	cell.Set(0, in.val)
	switch in.typ {
	case tensor.F64:
		return cell.At(0)
	case tensor.F32, tensor.BF16, tensor.F16:
		return float32(cell.At(0))
	case tensor.U64:
		return tensor.View[uint64](cell.Bytes())[0]
	case tensor.I64:
		return tensor.View[int64](cell.Bytes())[0]
	}
	return int64(cell.At(0))
}
