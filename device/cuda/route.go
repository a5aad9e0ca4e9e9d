package cuda

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func init() {
	Register(buildGroupByExpert)
	Register(buildCacheWrite)
	Register(buildRecur)
}

// routeProgram compiles kernels/route.cu for a type of values and of units.
func routeProgram(dt tensor.DType, unit int, reverse, late bool) Program {
	flag := map[bool]int{true: 1}
	return Program{Files: []string{"route.cu"}, Define: []string{"T " + cType(dt), "UNIT " + unitName(unit),
		fmt.Sprint("REVERSE ", flag[reverse]), fmt.Sprint("LATE ", flag[late])}}
}

// buildGroupByExpert counts the assignments of each expert and then places them, a block an expert.
func buildGroupByExpert(d *Device, o ops.GroupByExpert, s device.Spec) (*Kernel, error) {
	p := routeProgram(tensor.F32, 4, false, false)
	count, err := d.Function(p, "route_count")
	if err != nil {
		return nil, err
	}
	place, err := d.Function(p, "route_place")
	if err != nil {
		return nil, err
	}
	n, bins := int64(s.In[0].Size()), o.Experts+1
	return &Kernel{Label: "route", ScratchBytes: 4 * int64(bins), Enqueue: func(c *Call) error {
		if err := c.Launch(count, Rows(bins, 256), c.Scratch, c.In[0], n, int32(o.Experts)); err != nil {
			return err
		}
		return c.Launch(place, Rows(bins, 256), c.Out[0], c.Out[1], c.Out[2], c.Scratch, c.In[0], n, int32(o.Experts))
	}}, nil
}

// buildCacheWrite copies (B, T, H, D) into (B, H, Tmax, D). A launch can not fail by values on the device: rows of the batch that do not
// fit are left out, as in the op's decomposition, and who generates checks positions before.
func buildCacheWrite(d *Device, _ ops.CacheWrite, s device.Spec) (*Kernel, error) {
	x, size := s.In[1], int64(s.In[0].Dim(2))
	rows, bytes := int64(x.Dim(0)*x.Dim(1)*x.Dim(2)), x.Dim(3)*x.DType.Size()
	var fns choice
	for _, u := range units(x.DType.Size(), bytes) {
		f, err := d.Function(routeProgram(tensor.F32, u, false, false), "cache_rows")
		if err != nil {
			return nil, err
		}
		fns.units, fns.fns = append(fns.units, u), append(fns.fns, f)
	}
	whole := s.In[0].Bytes()
	return &Kernel{Label: "cache_rows", Enqueue: func(c *Call) error {
		if err := c.Copy(c.Out[0], c.In[0], whole); err != nil || rows == 0 || bytes == 0 {
			return err
		}
		f, u := fns.at(c.Out[0], c.In[1])
		width := int64(bytes / u)
		return c.Launch(f, bars(rows, width), c.Out[0], c.In[1], c.In[2], rows, int64(x.Dim(1)), int64(x.Dim(2)), size, width)
	}}, nil
}

func buildRecur(d *Device, op ops.Recur, s device.Spec) (*Kernel, error) {
	outer, n, inner := aroundAxis(s.In[0].Shape, int(op.Axis))
	lanes := int64(outer * inner)
	f, err := d.Function(routeProgram(s.In[0].DType, 4, op.Reverse, op.Late), "recur")
	if err != nil {
		return nil, err
	}
	return &Kernel{Label: "recur", Enqueue: func(c *Call) error {
		if lanes == 0 || n == 0 {
			return nil
		}
		return c.Launch(f, spread(lanes, 128), c.Out[0], c.In[0], c.In[1], lanes, int64(n), int64(inner))
	}}, nil
}
