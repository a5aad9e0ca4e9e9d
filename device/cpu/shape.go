package cpu

import (
	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func init() {
	Register(func(d *Device, _ ops.ReshapeTo, _ device.Spec) (*Kernel, error) { return copyKernel(d), nil })
	Register(buildPermute)
	Register(buildExpand)
	Register(buildSlice)
	Register(buildPad)
	Register(buildJoin)
	Register(buildIota)
}

func copyKernel(d *Device) *Kernel {
	return &Kernel{Run: func(c *Call) error {
		return d.ranges(min(len(c.Out[0]), len(c.In[0])), copyGrain, func(lo, hi int) { copy(c.Out[0][lo:hi], c.In[0][lo:]) })
	}}
}

// copyGrain is the bytes that a task copies at least: copying is fast enough that less is not worth waking a thread.
const copyGrain = 256 << 10

// shapeGrain is the bytes below which data movement stays on one thread.
const shapeGrain = 64 << 10

func buildPermute(d *Device, op ops.Permute, s device.Spec) (*Kernel, error) {
	st := s.In[0].Shape.Strides()
	plan := strided{elem: s.In[0].DType.Size()}
	for _, p := range op.Perm[:op.Rank] {
		plan.dims = append(plan.dims, s.In[0].Dim(int(p)))
		plan.strides = append(plan.strides, st[p])
	}
	return plan.kernel(d), nil
}

func buildExpand(d *Device, _ ops.Expand, s device.Spec) (*Kernel, error) {
	o := newOperand(s.In[0], s.Out[0])
	plan := strided{dims: s.Out[0].Shape.Dims(), strides: o.strides[:s.Out[0].Rank()], elem: s.In[0].DType.Size()}
	return plan.kernel(d), nil
}

func buildSlice(d *Device, op ops.SliceAxis, s device.Spec) (*Kernel, error) {
	st := s.In[0].Shape.Strides()
	plan := strided{dims: s.Out[0].Shape.Dims(), strides: st, elem: s.In[0].DType.Size(), start: int(op.Start) * st[op.Axis]}
	st[op.Axis] *= int(max(op.Step, 1))
	return plan.kernel(d), nil
}

// buildPad fills what is around each piece and copies the piece, the pieces in parallel.
func buildPad(d *Device, op ops.Pad, s device.Spec) (*Kernel, error) {
	elem := s.In[0].DType.Size()
	cell := tensor.New(tensor.T(s.In[0].DType, 1))
	cell.Set(0, op.Val)
	outer, inner := around(s.In[0].Shape, int(op.Axis))
	in, out := s.In[0].Dim(int(op.Axis))*inner*elem, s.Out[0].Dim(int(op.Axis))*inner*elem
	lo := int(op.Lo) * inner * elem
	return &Kernel{Run: func(c *Call) error {
		return d.ranges(outer, max(shapeGrain/max(out, 1), 1), func(from, to int) {
			for i := from; i < to; i++ {
				row := c.Out[0][i*out : (i+1)*out]
				repeat(row[:lo], cell.Bytes())
				copy(row[lo:], c.In[0][i*in:(i+1)*in])
				repeat(row[lo+in:], cell.Bytes())
			}
		})
	}}, nil
}

// repeat fills dst with copies of cell, doubling what is filled.
func repeat(dst, cell []byte) {
	for n := copy(dst, cell); n < len(dst) && n > 0; n *= 2 {
		copy(dst[n:], dst[:n])
	}
}

// buildJoin copies rows, in parallel over the axes before the joined one.
func buildJoin(d *Device, op ops.Join, s device.Spec) (*Kernel, error) {
	outer, inner := around(s.Out[0].Shape, int(op.Axis))
	unit := inner * s.Out[0].DType.Size()
	row := s.Out[0].Dim(int(op.Axis)) * unit
	return &Kernel{Run: func(c *Call) error {
		return d.ranges(outer, max(shapeGrain/max(row, 1), 1), func(lo, hi int) {
			at := 0
			for j, t := range s.In {
				n := t.Dim(int(op.Axis)) * unit
				for i := lo; i < hi; i++ {
					copy(c.Out[0][i*row+at:i*row+at+n], c.In[j][i*n:(i+1)*n])
				}
				at += n
			}
		})
	}}, nil
}

func buildIota(_ *Device, op ops.Range, s device.Spec) (*Kernel, error) {
	outer, inner := around(op.Type.Shape, int(op.Axis))
	n := op.Type.Dim(int(op.Axis))
	return &Kernel{Run: func(c *Call) error {
		t, err := tensor.FromBytes(s.Out[0], c.Out[0])
		if err != nil {
			return err
		}
		for i := range outer * n * inner {
			t.Set(i, float64(i/inner%n))
		}
		return nil
	}}, nil
}

// around returns the product of the extents before and after an axis.
func around(s tensor.Shape, axis int) (outer, inner int) {
	outer, inner = 1, 1
	for i := range s.Rank() {
		if i < axis {
			outer *= s.Dim(i)
		} else if i > axis {
			inner *= s.Dim(i)
		}
	}
	return outer, inner
}
