package cuda

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func init() { Register(buildCumulate) }

// manyLanes is from where a thread a lane keeps the device busy.
const manyLanes = 16384

func buildCumulate(d *Device, op ops.Cumulate, s device.Spec) (*Kernel, error) {
	dt := s.In[0].DType
	acc, mul, reverse := tensor.F64, 0, 0
	if !dt.IsFloat() {
		acc = valueClass(dt)
	}
	if op.Mul {
		mul = 1
	}
	if op.Reverse {
		reverse = 1
	}
	outer, n, inner := aroundAxis(s.In[0].Shape, int(op.Axis))
	lanes := outer * inner
	name, blocks := "cumulate_scan", lanes
	if lanes >= manyLanes || n <= 8 {
		name, blocks = "cumulate_lanes", (lanes+reduceThreads-1)/reduceThreads
	}
	f, err := d.Function(Program{Files: []string{"cumulate.cu"}, Define: []string{"T " + cType(dt), "A " + cType(acc),
		fmt.Sprint("MUL ", mul), fmt.Sprint("REVERSE ", reverse)}}, name)
	if err != nil {
		return nil, err
	}
	return &Kernel{Enqueue: func(c *Call) error {
		if lanes*n == 0 {
			return nil
		}
		return c.Launch(f, Rows(min(blocks, maxGrid), reduceThreads), c.Out[0], c.In[0], int64(outer), int64(n), int64(inner))
	}}, nil
}

// aroundAxis cuts a shape into the product of the extents before an axis, its own, and the product of those behind it.
func aroundAxis(s tensor.Shape, axis int) (outer, n, inner int) {
	outer, inner = 1, 1
	for i := range s.Rank() {
		switch {
		case i < axis:
			outer *= s.Dim(i)
		case i > axis:
			inner *= s.Dim(i)
		}
	}
	return outer, s.Dim(axis), inner
}
