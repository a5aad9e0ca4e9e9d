package cuda

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func init() {
	Register(func(d *Device, op ops.RMSNormOp, s device.Spec) (*Kernel, error) {
		return buildNorm(d, newNorm(op.Eps, s, false, normBlocks))
	})
	Register(func(d *Device, op ops.LayerNormOp, s device.Spec) (*Kernel, error) {
		return buildNorm(d, newNorm(op.Eps, s, true, normBlocks))
	})
	Register(func(d *Device, op ops.AddNormOp, s device.Spec) (*Kernel, error) {
		o := newNorm(op.Eps, s, op.Centre, normBlocks)
		o.more = true
		return buildNorm(d, o)
	})
	Register(func(d *Device, op ops.RMSNormGradOp, s device.Spec) (*Kernel, error) {
		return buildNormGrad(d, newNorm(op.Eps, s, false, normGradBlocks), op.NeedX, op.NeedW, false)
	})
	Register(func(d *Device, op ops.AddRMSNormGradOp, s device.Spec) (*Kernel, error) {
		o := newNorm(op.Eps, s, false, normGradBlocks)
		o.more = true
		return buildNormGrad(d, o, true, false, false)
	})
	Register(func(d *Device, op ops.LayerNormGradOp, s device.Spec) (*Kernel, error) {
		return buildNormGrad(d, newNorm(op.Eps, s, true, normGradBlocks), op.NeedX, op.NeedW, op.NeedB)
	})
}

const (
	// normBlocks is how many blocks a launch has at most, and normGradBlocks one that sums weights' gradients: a few per multiprocessor of a
	// large GPU, each going over many rows with its weights in registers. They do not depend on the GPU, so that the sums do not.
	normBlocks     = 528
	normGradBlocks = 264
	longRowThreads = 512 // of a block that works on a row in memory
)

// norm is what the kernels of kernels/norm.cu share.
type norm struct {
	dtype  tensor.DType
	rows   int64
	n      int // values of a row
	centre bool
	more   bool // a tensor is added to x, or to its gradient
	eps    float64
	fit    rowFit
	most   int // blocks of a launch
}

func newNorm(eps float64, s device.Spec, centre bool, most int) norm {
	o := norm{dtype: s.In[0].DType, n: s.In[0].Dim(-1), centre: centre, eps: eps, most: most}
	if o.n > 0 {
		o.rows = int64(s.In[0].Size() / o.n)
	}
	o.fit = fitRow(o.dtype, o.n)
	return o
}

// rowFit is how rows are laid over threads that hold them in registers: packs accesses of width values a thread, group threads a row, threads
// a block. packs is 0 for rows that are too long.
type rowFit struct{ width, packs, group, threads int }

// fitRow lays out rows of n values. Few accesses a thread leave registers for many threads, three where that leaves no thread idle; long rows get
// more, up to about 32 values.
func fitRow(dt tensor.DType, n int) rowFit {
	f := rowFit{width: accessBytes / dt.Size(), group: 1}
	few := 2
	if n%f.width != 0 {
		f.width, few = 1, 4
	}
	all := (n + f.width - 1) / f.width
	if third := all / 3; few == 2 && all%3 == 0 && third&(third-1) == 0 {
		few = 3
	}
	for f.group*few < all && f.group < longRowThreads {
		f.group *= 2
	}
	f.packs = max((all+f.group-1)/f.group, 1)
	f.threads = max(f.group, 256)
	if f.packs > min(32/f.width, 8) {
		f.packs = 0
	}
	return f
}

// accessBytes is the widest access of memory.
const accessBytes = 16

// wide says whether packs can be read at these addresses; absent ones are 0.
func (f rowFit) wide(dt tensor.DType, at ...Addr) bool {
	for _, a := range at {
		if uint64(a)%uint64(f.width*dt.Size()) != 0 {
			return false
		}
	}
	return f.packs > 0
}

// blocks is how many blocks have work, at most o.most: of rows in registers, and of rows in memory.
func (o norm) blocks() (short, long int) {
	per := int64(o.fit.threads / o.fit.group)
	return int(min((o.rows+per-1)/per, int64(o.most))), int(min(o.rows, int64(o.most)))
}

// resident is how many blocks of a norm, or of a gradient, which has more in its registers, should fit a multiprocessor at once.
func (o norm) resident(grad bool) int {
	threads, values := 1024, o.fit.packs*o.fit.width // of all blocks; of a row in a thread
	switch {
	case o.dtype == tensor.F64, values > 24, values > 8 && grad:
		threads = 512
	case values > 16:
		threads = 768
	}
	return max(threads/o.fit.threads, 1)
}

// normStages is how many rows are on their way to a block at most, and one that is worked on.
const normStages = 4

// stages is how many rows of so many tensors a block holds in shared memory, and their bytes, where so many blocks share that of a multiprocessor:
// 0 where rows are read when they are needed, as there is no room, they aren't read by 16 bytes, or the device cannot copy beside its work.
func (o norm) stages(d *Device, tensors, blocks int) (stages, bytes int) {
	apart := 3 << 10 // what a block has beside its rows, at most
	if o.fit.threads > o.fit.group {
		apart = 12 << 10 // and to add the sums of its groups
	}
	row := tensors * o.fit.packs * o.fit.threads * accessBytes
	if o.fit.packs == 0 || o.fit.width*o.dtype.Size() != accessBytes || d.capability < 80 {
		return 0, 0
	}
	if stages = min((d.shared/blocks-apart)/row, normStages); stages < 2 {
		return 0, 0
	}
	return stages, stages * row
}

// program has the kernels of rows that fit and of those that do not, sums as in norm.cu.
func (o norm) program(sums, stages int) Program {
	packs := max(o.fit.packs, 1)
	return Program{Files: []string{"tensor_core.cuh", "packed.cuh", "norm.cu"}, Define: []string{"T " + cType(o.dtype), fmt.Sprint("V ", o.fit.width), fmt.Sprint("K ", packs),
		fmt.Sprint("GROUP ", o.fit.group), fmt.Sprint("THREADS ", o.fit.threads), fmt.Sprint("EXACT ", b2i(o.fit.group*packs*o.fit.width == o.n)),
		fmt.Sprint("CENTRE ", b2i(o.centre)), fmt.Sprint("MORE ", b2i(o.more)), fmt.Sprint("SUMS ", sums), fmt.Sprint("BLOCKS ", o.resident(false)),
		fmt.Sprint("GRAD_BLOCKS ", o.resident(true)), fmt.Sprint("STAGES ", stages)}}
}

// launch is the geometry of the kernels of rows that fit.
func (o norm) launch(blocks, shared int) Geometry {
	return Geometry{Grid: [3]int{blocks}, Block: [3]int{o.fit.threads}, Shared: shared}
}

// number is a kernel argument of the type that values of a dtype are computed in.
func number(dt tensor.DType, x float64) any {
	if dt == tensor.F64 {
		return x
	}
	return float32(x)
}

func buildNorm(d *Device, o norm) (*Kernel, error) {
	stages, shared := o.stages(d, 1+b2i(o.more), o.resident(false))
	short, err := d.Function(o.program(0, stages), "norm_rows")
	if err != nil {
		return nil, err
	}
	long, err := d.Function(o.program(0, stages), "norm_long")
	if err != nil {
		return nil, err
	}
	blocks, longBlocks := o.blocks()
	eps := number(o.dtype, o.eps)
	return &Kernel{Enqueue: func(c *Call) error {
		if o.rows == 0 {
			return nil
		}
		at := normOperands(c)
		if o.fit.wide(o.dtype, at.y, at.sum, at.x, at.more, at.w, at.bias) {
			return c.Launch(short, o.launch(blocks, shared), at.y, at.sum, at.x, at.more, at.w, at.bias, o.rows, int32(o.n), eps)
		}
		return c.Launch(long, Rows(longBlocks, longRowThreads), at.y, at.sum, at.x, at.more, at.w, at.bias, o.rows, int32(o.n), eps)
	}}, nil
}

// normAt is where the operands of a norm lie, 0 for those that are absent.
type normAt struct{ y, sum, x, more, w, bias Addr }

// normOperands sorts the operands of RMSNormOp (x, w), LayerNormOp (x, w, bias) and AddNormOp (x, more, w, bias).
func normOperands(c *Call) normAt {
	switch len(c.In) {
	case 2:
		return normAt{y: c.Out[0], x: c.In[0], w: c.In[1]}
	case 3:
		return normAt{y: c.Out[0], x: c.In[0], w: c.In[1], bias: c.In[2]}
	}
	return normAt{y: c.Out[1], sum: c.Out[0], x: c.In[0], more: c.In[1], w: c.In[2], bias: c.In[3]}
}

// normGrad adds to a norm which output each gradient is, -1 for none, and its compiled kernels.
type normGrad struct {
	norm
	dx, dw, db           int
	sums                 int
	blocks, longBlocks   int
	shared               int   // bytes of rows in a block
	part                 int64 // bytes of the partial sums of one parameter
	short, long, columns *Function
}

func buildNormGrad(d *Device, o norm, needX, needW, needB bool) (*Kernel, error) {
	g := &normGrad{norm: o, dx: -1, dw: -1, db: -1}
	outs := 0
	for _, out := range []struct {
		need bool
		at   *int
	}{{needX, &g.dx}, {needW, &g.dw}, {needB, &g.db}} {
		if out.need {
			*out.at = outs
			outs++
		}
	}
	switch {
	case needB:
		g.sums = 2
	case needW:
		g.sums = 1
	}
	g.blocks, g.longBlocks = o.blocks()
	stages, shared := o.stages(d, 2+b2i(o.more), o.resident(true))
	g.shared = shared
	program := o.program(g.sums, stages)
	for _, f := range []struct {
		at   **Function
		name string
	}{{&g.short, "norm_grad"}, {&g.long, "norm_grad_long"}, {&g.columns, "norm_columns"}} {
		var err error
		if *f.at, err = d.Function(program, f.name); err != nil {
			return nil, err
		}
	}
	acc := int64(4)
	if o.dtype == tensor.F64 {
		acc = 8
	}
	g.part = aligned(int64(max(g.blocks, g.longBlocks)) * int64(o.n) * acc)
	return &Kernel{ScratchBytes: g.part * int64(g.sums), Enqueue: g.enqueue}, nil
}

func (g *normGrad) enqueue(c *Call) error {
	if g.rows == 0 {
		return g.zero(c)
	}
	var dx, dw, db Addr
	if g.dx >= 0 {
		dx = c.Out[g.dx]
	}
	if g.sums > 0 {
		dw, db = c.Scratch, c.Scratch+Addr(g.part)
	}
	var more Addr
	in := c.In
	if len(in) == 4 { // AddRMSNormGradOp
		more, in = in[0], in[1:]
	}
	eps := number(g.dtype, g.eps)
	parts := g.longBlocks
	var err error
	if g.fit.wide(g.dtype, dx, more, in[0], in[1], in[2]) {
		parts = g.blocks
		err = c.Launch(g.short, g.launch(g.blocks, g.shared), dx, dw, db, more, in[0], in[1], in[2], g.rows, int32(g.n), eps)
	} else {
		err = c.Launch(g.long, Rows(g.longBlocks, longRowThreads), dx, dw, db, more, in[0], in[1], in[2], g.rows, int32(g.n), eps)
	}
	if err != nil {
		return err
	}
	return g.add(c, dw, db, parts)
}

// add sums the partial sums of the parameters' gradients.
func (g *normGrad) add(c *Call, dw, db Addr, parts int) error {
	grid, w, b := [3]int{(g.n + 7) / 8, 1}, Addr(0), Addr(0)
	switch {
	case g.dw >= 0 && g.db >= 0:
		grid[1], w, b = 2, c.Out[g.dw], c.Out[g.db]
	case g.dw >= 0:
		w = c.Out[g.dw]
	case g.db >= 0:
		w, dw = c.Out[g.db], db
	default:
		return nil
	}
	return c.Launch(g.columns, Geometry{Grid: grid, Block: [3]int{256}}, w, b, dw, db, int32(parts), int32(g.n))
}

// zero clears the gradients of parameters that have seen no row.
func (g *normGrad) zero(c *Call) error {
	for _, out := range []int{g.dw, g.db} {
		if out < 0 {
			continue
		}
		if err := c.Zero(c.Out[out], int64(g.n)*int64(g.dtype.Size())); err != nil {
			return err
		}
	}
	return nil
}
