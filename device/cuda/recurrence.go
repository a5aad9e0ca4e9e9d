package cuda

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func init() {
	Register(buildRecurrence)
	Register(buildRecurrenceGrad)
}

// cell launches kernels/cell.cu, step by step.
type cell struct {
	kind              ops.Cell
	reverse           bool
	t, rows, size     int
	elem              int
	step, back, apply *Function
}

func newCell(d *Device, kind ops.Cell, reverse bool, states tensor.Type, names ...string) (*cell, error) {
	c := &cell{kind: kind, reverse: reverse, t: states.Dim(0), rows: states.Dim(1), size: states.Dim(2), elem: states.DType.Size()}
	p := Program{Files: []string{"cell.cu"}, Define: []string{"T " + cType(states.DType), fmt.Sprint("CELL ", int(kind))}}
	for _, name := range names {
		f, err := d.Function(p, name)
		if err != nil {
			return nil, err
		}
		switch name {
		case "cell_step":
			c.step = f
		case "cell_back":
			c.back = f
		default:
			c.apply = f
		}
	}
	return c, nil
}

// cellStep is kernels/cell.cu's Step.
type cellStep struct{ rows, size, t int32 }

// at is the step that is computed i-th.
func (c *cell) at(i int) int {
	if c.reverse {
		return c.t - 1 - i
	}
	return i
}

// state is step t of a tensor of `wide` states a step; an absent one stays so.
func (c *cell) state(base Addr, t, wide int) Addr {
	if base == 0 {
		return 0
	}
	return base + Addr(t*wide*c.rows*c.size*c.elem)
}

func (c *cell) now(t int) *cellStep { return &cellStep{int32(c.rows), int32(c.size), int32(t)} }

func optionalAt(list []Addr, i int) Addr {
	if i < len(list) {
		return list[i]
	}
	return 0
}

func buildRecurrence(d *Device, op ops.RecurrenceOp, s device.Spec) (*Kernel, error) {
	o, err := newCell(d, op.Cell, op.Reverse, s.Out[0], "cell_step")
	if err != nil {
		return nil, err
	}
	warps := int64(o.rows*o.size) * WarpSize
	return &Kernel{Label: "cell", Enqueue: func(c *Call) error {
		if warps == 0 {
			return nil
		}
		h, cc := c.In[2], optionalAt(c.In, 4)
		for i := range o.t {
			t := o.at(i)
			next, cNext := o.state(c.Out[0], t, 1), o.state(optionalAt(c.Out, 2), t, 1)
			err := c.Launch(o.step, spread(warps, 256), next, o.state(optionalAt(c.Out, 1), t, 4), cNext, o.state(c.In[0], t, op.Cell.Gates()), c.In[1], h,
				optionalAt(c.In, 3), cc, optionalAt(c.In, 5), o.now(t))
			if err != nil {
				return err
			}
			h, cc = next, cNext
		}
		return nil
	}}, nil
}

// cellBack is kernels/cell.cu's Back.
type cellBack struct {
	before, cBefore, h, c, gates Addr
	gh, ggates, gc               Addr
	lengths                      Addr
	da, dn, dwh, dh, dc          Addr
}

// buildRecurrenceGrad keeps the cotangents of the states in the outputs of the initial ones, step after step.
func buildRecurrenceGrad(d *Device, op ops.RecurrenceGradOp, s device.Spec) (*Kernel, error) {
	o, err := newCell(d, op.Cell, op.Reverse, s.In[2], "cell_back", "cell_through")
	if err != nil {
		return nil, err
	}
	k := &Kernel{Label: "cell_grad"}
	if op.Cell == ops.CellGRU {
		k.ScratchBytes = int64(3 * o.rows * o.size * o.elem)
	}
	k.Enqueue = func(c *Call) error { return o.backward(c, op.Cell.Gates()) }
	return k, nil
}

func (o *cell) backward(c *Call, gates int) error {
	bytes := int64(o.rows * o.size * o.elem)
	p := cellBack{lengths: optionalAt(c.In, 6), dh: c.Out[1]}
	if err := c.Zero(p.dh, bytes); err != nil || bytes == 0 {
		return err
	}
	if o.kind == ops.CellLSTM {
		p.dc = c.Out[2]
		if err := c.Zero(p.dc, bytes); err != nil {
			return err
		}
	}
	for i := o.t - 1; i >= 0; i-- {
		t := o.at(i)
		p.h, p.c, p.gates = o.state(c.In[2], t, 1), o.state(optionalAt(c.In, 5), t, 1), o.state(optionalAt(c.In, 3), t, 4)
		p.gh, p.ggates, p.gc = o.state(optionalAt(c.In, 7), t, 1), o.state(optionalAt(c.In, 8), t, 4), o.state(optionalAt(c.In, 9), t, 1)
		p.before, p.cBefore = c.In[1], optionalAt(c.In, 4)
		if i > 0 {
			p.before, p.cBefore = o.state(c.In[2], o.at(i-1), 1), o.state(optionalAt(c.In, 5), o.at(i-1), 1)
		}
		p.da = o.state(c.Out[0], t, gates)
		through := p.da
		if o.kind == ops.CellGRU {
			p.dn, p.dwh = o.state(c.Out[2], t, 1), c.Scratch
			through = p.dwh
		}
		g := spread(int64(o.rows*o.size), 128)
		if err := c.Launch(o.back, g, &p, o.now(t)); err != nil {
			return err
		}
		if err := c.Launch(o.apply, g, p.dh, through, c.In[0], o.now(t)); err != nil {
			return err
		}
	}
	return nil
}
