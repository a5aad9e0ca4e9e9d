package cuda

import (
	"fmt"
	"slices"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func init() {
	Register(buildGather)
	Register(func(d *Device, op ops.ScatterAddRows, s device.Spec) (*Kernel, error) {
		outer, _, inner := aroundAxis(s.Out[0].Shape, int(op.Axis))
		if outer == 1 {
			if t, err := d.newTableSum(s.Out[0], s.In[1], inner); t != nil || err != nil {
				return t.kernel(), err
			}
		}
		sc := scatter{outer: outer, inner: inner, m: s.In[1].Size(), n: int(op.Size), kind: ops.ScatterSum, fresh: true}
		return sc.kernel(d, s.Out[0], s.In[1], func(c *Call) (index, updates Addr) { return c.In[1], c.In[0] })
	})
	Register(func(d *Device, op ops.ScatterRows, s device.Spec) (*Kernel, error) {
		n := s.In[0].Dim(0)
		sc := scatter{outer: 1, inner: s.In[0].Size() / max(n, 1), m: s.In[1].Size(), n: n, kind: op.Kind}
		return sc.kernel(d, s.Out[0], s.In[1], func(c *Call) (index, updates Addr) { return c.In[1], c.In[2] })
	})
}

// buildGather copies rows; an index that does not exist gives zeros.
func buildGather(d *Device, op ops.GatherRows, s device.Spec) (*Kernel, error) {
	outer, n, inner := aroundAxis(s.In[0].Shape, int(op.Axis))
	elem, m := s.In[0].DType.Size(), int64(s.In[1].Size())
	if s.Out[0].Size() == 0 {
		return nothing(), nil
	}
	fns, err := d.choose(units(elem, inner*elem), "rows", 1, s.In[1].DType)
	if err != nil {
		return nil, err
	}
	return &Kernel{Label: "gather", Enqueue: func(c *Call) error {
		f, u := fns.at(c.Out[0], c.In[0])
		width := int64(inner * elem / u)
		g := bars(m, width)
		g.Grid[2] = min(outer, 65535)
		return c.Launch(f, g, c.Out[0], c.In[0], c.In[1], int64(outer), m, int64(n), width)
	}}, nil
}

// scatter combines rows with rows of a table: see kernels/scatter.cu.
type scatter struct {
	outer, inner, m, n int
	kind               ops.ScatterKind
	fresh              bool // the table starts as zeros, not as the first input
}

// program combines `width` columns a thread.
func (sc scatter) program(out, index tensor.DType, width int) Program {
	fresh := 0
	if sc.fresh {
		fresh = 1
	}
	dtype := cType(out)
	if sc.kind == ops.ScatterSet {
		dtype = unitName(out.Size())
	}
	return Program{Files: []string{"scatter.cu"}, Exact: true, Define: []string{"T " + dtype, "INDEX " + cType(index), fmt.Sprint("KIND ", int(sc.kind)),
		fmt.Sprint("FRESH ", fresh), fmt.Sprint("V ", width)}}
}

func (sc scatter) kernel(d *Device, out, index tensor.Type, operands func(c *Call) (index, updates Addr)) (*Kernel, error) {
	elem := out.DType.Size()
	var fns choice
	for _, u := range slices.Compact([]int{units(elem, sc.inner*elem)[0], elem}) {
		f, err := d.Function(sc.program(out.DType, index.DType, u/elem), "scatter")
		if err != nil {
			return nil, err
		}
		fns.units, fns.fns = append(fns.units, u), append(fns.fns, f)
	}
	order, err := newOrder(d, index.DType, int64(sc.m))
	if err != nil {
		return nil, err
	}
	bytes := out.Bytes()
	return &Kernel{Label: "scatter", ScratchBytes: order.scratch(), Enqueue: func(c *Call) error {
		var err error
		if sc.fresh {
			err = c.Zero(c.Out[0], bytes)
		} else {
			err = c.Copy(c.Out[0], c.In[0], bytes)
		}
		if err != nil || bytes == 0 || sc.m == 0 {
			return err
		}
		at, u := operands(c)
		sorted, err := order.positions(c, at)
		if err != nil {
			return err
		}
		f, unit := fns.at(c.Out[0], u)
		width := sc.inner * elem / unit
		threads := 32
		for threads < 256 && threads < width {
			threads *= 2
		}
		g := Geometry{Block: [3]int{threads}, Grid: [3]int{min(sc.m, 1<<20), min((width+threads-1)/threads, 65535), min(sc.outer, 65535)}}
		return c.Launch(f, g, c.Out[0], u, at, sorted, int64(sc.outer), int64(sc.m), int64(sc.n), int64(width))
	}}, nil
}
