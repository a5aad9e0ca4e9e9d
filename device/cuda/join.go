package cuda

import (
	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func init() { Register(buildJoin) }

// joined is how many inputs one launch joins.
const joined = 8

// joinParts is struct Joined of kernels/move.cu.
type joinParts struct {
	x  [joined]Addr
	lo [joined + 1]int64
}

// buildJoin copies the inputs side by side into the rows of the output: in one launch where they are few, else one after another.
func buildJoin(d *Device, op ops.Join, s device.Spec) (*Kernel, error) {
	outer, _, inner := aroundAxis(s.Out[0].Shape, int(op.Axis))
	elem := s.Out[0].DType.Size()
	widths := make([]int, len(s.In)) // bytes
	row := 0
	for i, t := range s.In {
		widths[i] = t.Dim(int(op.Axis)) * inner * elem
		row += widths[i]
	}
	switch {
	case outer == 0 || row == 0:
		return nothing(), nil
	case len(s.In) > joined:
		return d.joinMany(int64(outer), row, elem, widths)
	}
	fns, err := d.choose(units(elem, widths...), "join", 1, tensor.I32)
	if err != nil {
		return nil, err
	}
	addrs := make([]Addr, len(s.In)+1)
	var parts joinParts
	return &Kernel{Label: "concat", Enqueue: func(c *Call) error {
		addrs[copy(addrs, c.In)] = c.Out[0]
		f, u := fns.at(addrs...)
		for i, w := range widths {
			parts.x[i], parts.lo[i+1] = c.In[i], parts.lo[i]+int64(w/u)
		}
		width := int64(row / u)
		return c.Launch(f, bars(int64(outer), width), c.Out[0], &parts, int64(outer), width, int32(len(widths)))
	}}, nil
}

// joinMany copies one input after another.
func (d *Device) joinMany(rows int64, row, elem int, widths []int) (*Kernel, error) {
	parts, at := make([]*span, len(widths)), make([]Addr, len(widths))
	off := 0
	for i, n := range widths {
		var err error
		if parts[i], err = d.newSpan(span{rows: rows, width: n, from: n, to: row, covered: n}, elem); err != nil {
			return nil, err
		}
		at[i] = Addr(off)
		off += n
	}
	return &Kernel{Label: "concat", Enqueue: func(c *Call) error {
		for i, p := range parts {
			if err := p.enqueue(c, c.Out[0]+at[i], c.In[i]); err != nil {
				return err
			}
		}
		return nil
	}}, nil
}
