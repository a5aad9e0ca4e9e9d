package cuda

import (
	"fmt"
	"slices"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func init() {
	Register(func(_ *Device, _ ops.ReshapeTo, s device.Spec) (*Kernel, error) {
		bytes := s.Out[0].Bytes()
		return &Kernel{Label: "copy", Enqueue: func(c *Call) error { return c.Copy(c.Out[0], c.In[0], bytes) }}, nil
	})
	Register(func(d *Device, op ops.Permute, s device.Spec) (*Kernel, error) {
		st := s.In[0].Shape.Strides()
		m := move{elem: s.In[0].DType.Size()}
		for _, p := range op.Perm[:op.Rank] {
			m.dims = append(m.dims, s.In[0].Dim(int(p)))
			m.strides = append(m.strides, st[p])
		}
		return m.kernel(d)
	})
	Register(func(d *Device, _ ops.Expand, s device.Spec) (*Kernel, error) {
		m := move{dims: s.Out[0].Shape.Dims(), strides: broadcastSteps(s.In[0], s.Out[0]), elem: s.In[0].DType.Size()}
		return m.kernel(d)
	})
	Register(func(d *Device, op ops.SliceAxis, s device.Spec) (*Kernel, error) {
		st := s.In[0].Shape.Strides()
		m := move{dims: s.Out[0].Shape.Dims(), strides: st, elem: s.In[0].DType.Size(), start: int(op.Start) * st[op.Axis]}
		st[op.Axis] *= int(max(op.Step, 1))
		return m.kernel(d)
	})
	Register(buildPad)
	Register(buildIota)
}

// move copies a tensor of shape dims into contiguous memory, reading at the given strides, in elements of elem bytes, from element start
// on.
type move struct {
	dims, strides []int
	start         int
	elem          int
}

// unitName is the type of kernels/move.cu's UNIT of so many bytes.
func unitName(bytes int) string {
	if bytes == 16 {
		return "uint4"
	}
	return fmt.Sprintf("u%d", 8*bytes)
}

// moveProgram compiles kernels/move.cu for units of some bytes, walks over `rank` axes, and indices of a dtype.
func moveProgram(unit, rank int, index tensor.DType) Program {
	return Program{Files: []string{"walk.cuh", "move.cu"}, Define: []string{"UNIT " + unitName(unit), fmt.Sprint("RANK ", rank), "INDEX " + cType(index)}}
}

// divides says whether all numbers are multiples of n.
func divides(n int, of ...int) bool {
	return !slices.ContainsFunc(of, func(v int) bool { return v%n != 0 })
}

// units are the sizes in bytes, from an element's up to 16, in which all these byte counts can be moved, the largest first.
func units(elem int, bytes ...int) []int {
	var out []int
	for u := accessBytes; u >= elem; u /= 2 {
		if u == elem || divides(u, bytes...) {
			out = append(out, u)
		}
	}
	return out
}

// choice is a kernel compiled for units of several sizes; the operands' addresses decide which is used.
type choice struct {
	units []int
	fns   []*Function
}

// choose compiles a kernel for the largest unit and for single elements.
func (d *Device) choose(units []int, name string, rank int, index tensor.DType) (choice, error) {
	var c choice
	for _, u := range slices.Compact([]int{units[0], units[len(units)-1]}) {
		f, err := d.Function(moveProgram(u, rank, index), name)
		if err != nil {
			return c, err
		}
		c.units, c.fns = append(c.units, u), append(c.fns, f)
	}
	return c, nil
}

// at picks the kernel for operands at these addresses.
func (c choice) at(addrs ...Addr) (*Function, int) {
	last := len(c.units) - 1
	for i, u := range c.units[:last] {
		if !slices.ContainsFunc(addrs, func(a Addr) bool { return uint64(a)%uint64(u) != 0 }) {
			return c.fns[i], u
		}
	}
	return c.fns[last], c.units[last]
}

// nothing is the kernel of an output without elements.
func nothing() *Kernel { return &Kernel{Enqueue: func(*Call) error { return nil }} }

// kernel chooses how to move: one copy if the elements lie together; tiles through shared memory if rows along another axis are to become
// rows along the last; else each unit is walked to.
func (m move) kernel(d *Device) (*Kernel, error) {
	if slices.Contains(m.dims, 0) {
		return nothing(), nil
	}
	dims, st := mergeAxes(m.dims, [][]int{m.strides})
	m.dims, m.strides = dims, st[0]
	last := len(m.dims) - 1
	if last == 0 && m.strides[0] == 1 {
		bytes, start := int64(m.dims[0]*m.elem), Addr(m.start*m.elem)
		return &Kernel{Label: "copy", Enqueue: func(c *Call) error { return c.Copy(c.Out[0], c.In[0]+start, bytes) }}, nil
	}
	if plane := slices.Index(m.strides, 1); m.strides[last] > 1 && plane >= 0 && m.dims[plane] > 1 {
		return m.transpose(d, plane)
	}
	return m.walk(d)
}

// walk reads each unit where it is.
func (m move) walk(d *Device) (*Kernel, error) {
	last := len(m.dims) - 1
	sizes := []int{m.start * m.elem}
	for i, s := range m.strides {
		if i < last || s != 1 {
			sizes = append(sizes, s*m.elem)
		}
	}
	able := []int{m.elem}
	if m.strides[last] == 1 {
		able = units(m.elem, append(sizes, m.dims[last]*m.elem)...)
	}
	c, err := d.choose(able, "move", len(m.dims), tensor.I32)
	if err != nil {
		return nil, err
	}
	plans := map[int]*walkPlan{}
	for _, u := range c.units {
		plans[u] = m.plan(u)
	}
	return &Kernel{Label: "move", Enqueue: func(call *Call) error {
		f, u := c.at(call.Out[0], call.In[0])
		p := plans[u]
		return call.Launch(f, spread(p.n, 256), call.Out[0], call.In[0]+Addr(m.start*m.elem), p.n, &p.axes, &p.steps)
	}}, nil
}

// walkPlan is what kernels/move.cu's move takes, in units.
type walkPlan struct {
	n     int64
	axes  axes
	steps steps
}

func (m move) plan(unit int) *walkPlan {
	dims, strides, last := slices.Clone(m.dims), slices.Clone(m.strides), len(m.dims)-1
	per := unit / m.elem
	if per > 1 {
		dims[last] /= per
		for i := range strides[:last] {
			strides[i] /= per
		}
	}
	n := int64(1)
	for _, v := range dims {
		n *= int64(v)
	}
	return &walkPlan{n, newAxes(dims), newSteps(strides)}
}

// spread is enough blocks for n items, a few per thread when there are many: kernels go on in steps of the grid.
func spread(n int64, threads int) Geometry {
	each := 1
	for each < 8 && n > int64(threads)*int64(each)*4096 {
		each *= 2
	}
	g := Over(n, threads, each)
	g.Grid[0] = min(g.Grid[0], 1<<20)
	return g
}

// transpose moves planes of the axes `plane` of x's neighbours and the last, of y's.
func (m move) transpose(d *Device, plane int) (*Kernel, error) {
	last := len(m.dims) - 1
	out := make([]int, len(m.dims))
	for i, at := last, 1; i >= 0; i-- {
		out[i] = at
		at *= m.dims[i]
	}
	var dims, from, to []int
	count := int64(1)
	for i, n := range m.dims {
		if i != plane && i != last {
			dims, from, to = append(dims, n), append(from, m.strides[i]), append(to, out[i])
			count *= int64(n)
		}
	}
	if len(dims) == 0 {
		dims, from, to = []int{1}, []int{0}, []int{0}
	}
	per := max(4/m.elem, 1) // elements of a word
	if !divides(per, slices.Concat(from, to, []int{m.dims[plane], m.dims[last], m.strides[last], out[plane], m.start})...) {
		per = 1
	}
	var c choice
	for _, n := range slices.Compact([]int{per, 1}) {
		p := moveProgram(m.elem, len(dims), tensor.I32)
		p.Define = append(p.Define, fmt.Sprint("PER ", n))
		f, err := d.Function(p, "planes")
		if err != nil {
			return nil, err
		}
		c.units, c.fns = append(c.units, n*m.elem), append(c.fns, f)
	}
	rows, columns := int64(m.dims[plane]), int64(m.dims[last])
	ax, fs, ts := newAxes(dims), newSteps(from), newSteps(to)
	stepX, stepY := int64(m.strides[last]), int64(out[plane])
	return &Kernel{Label: "transpose", Enqueue: func(call *Call) error {
		f, u := c.at(call.Out[0], call.In[0])
		side := int64(32 * u / m.elem)
		g := Geometry{Grid: [3]int{int((columns + side - 1) / side), int(min((rows+side-1)/side, 65535)), int(min(count, 65535))}, Block: [3]int{256}}
		return call.Launch(f, g, call.Out[0], call.In[0]+Addr(m.start*m.elem), rows, columns, stepX, stepY, count, &ax, &fs, &ts)
	}}, nil
}

// bars is a launch of rows of some width: a block has several rows if they are short, several blocks share one if it is long.
func bars(rows, width int64) Geometry {
	x := 32
	for x < 256 && int64(x) < width {
		x *= 2
	}
	y := 256 / x
	g := Geometry{Block: [3]int{x, y}}
	g.Grid[0] = int(min((rows+int64(y)-1)/int64(y), 1<<20))
	g.Grid[1] = int(max(min((width+int64(x)*4-1)/(int64(x)*4), 1024), 1))
	return g
}

// filler is kernels/move.cu's Value.
type filler struct{ bytes [16]byte }

// span is a copy of rows into rows of another length, in bytes: see kernels/move.cu.
type span struct {
	rows                         int64
	width, from, to, lo, covered int // bytes
	fill                         filler
	fns                          choice
}

func (d *Device) newSpan(s span, elem int) (*span, error) {
	var err error
	s.fns, err = d.choose(units(elem, s.width, s.from, s.to, s.lo, s.covered), "span", 1, tensor.I32)
	return &s, err
}

func (s *span) enqueue(c *Call, dst, src Addr) error {
	if s.rows == 0 || s.covered == 0 {
		return nil
	}
	f, u := s.fns.at(dst, src)
	in := func(bytes int) int64 { return int64(bytes / u) }
	return c.Launch(f, bars(s.rows, in(s.covered)), dst, src, s.rows, in(s.width), in(s.from), in(s.to), in(s.lo), in(s.covered), &s.fill)
}

func buildPad(d *Device, op ops.Pad, s device.Spec) (*Kernel, error) {
	elem := s.In[0].DType.Size()
	outer, _, inner := aroundAxis(s.In[0].Shape, int(op.Axis))
	in, out := s.In[0].Dim(int(op.Axis))*inner*elem, s.Out[0].Dim(int(op.Axis))*inner*elem
	cell := tensor.New(tensor.T(s.In[0].DType, 1))
	cell.Set(0, op.Val)
	sp := span{rows: int64(outer), width: in, from: in, to: out, lo: int(op.Lo) * inner * elem, covered: out}
	for i := range sp.fill.bytes {
		sp.fill.bytes[i] = cell.Bytes()[i%elem]
	}
	p, err := d.newSpan(sp, elem)
	if err != nil {
		return nil, err
	}
	return &Kernel{Label: "pad", Enqueue: func(c *Call) error { return p.enqueue(c, c.Out[0], c.In[0]) }}, nil
}

func buildIota(d *Device, op ops.Range, s device.Spec) (*Kernel, error) {
	size := int64(op.Type.Size())
	if size == 0 {
		return nothing(), nil
	}
	f, err := d.Function(Program{Files: []string{"iota.cu"}, Define: []string{"T " + cType(op.Type.DType)}}, "iota")
	if err != nil {
		return nil, err
	}
	_, n, inner := aroundAxis(op.Type.Shape, int(op.Axis))
	return &Kernel{Label: "iota", Enqueue: func(c *Call) error { return c.Launch(f, spread(size, 256), c.Out[0], size, int64(n), int64(inner)) }}, nil
}
