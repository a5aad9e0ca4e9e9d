package cuda

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func init() {
	Register(buildGroupedMatMul)
	Register(buildGroupedOuter)
	Register(buildInt8Grouped)
}

// groupedGemm is a product for each expert in one launch. The offsets are read on the device: the grid has room for the most tiles that there
// can be, and a block without one returns.
type groupedGemm struct {
	spec   gemmSpec // m is all rows, or the extent of A's columns for groupInside
	kernel ownKernel
	args   gemmArgs
	grid   [3]int
	fn     *Function
}

// groupedGemm makes the products of a spec whose B (groupRows) or C (groupInside) has one matrix for each of the experts.
func (d *Device) groupedGemm(s gemmSpec, g gemmGroups, experts int) (*groupedGemm, error) {
	x := &groupedGemm{spec: s, kernel: d.ownKernel(s, g), args: s.args()}
	x.args.experts = int32(experts)
	t := x.kernel.tile
	x.grid = [3]int{ceilDiv(s.m, t), ceilDiv(s.n, t), experts}
	if g == groupRows {
		x.grid[0], x.grid[2] = x.grid[0]+experts+2, 1 // each group, and what lies before and after them, may end within a tile
	}
	if x.grid[1] > maxGridYZ || x.grid[2] > maxGridYZ {
		return nil, fmt.Errorf("grouped product %v of %d experts: more than %d tiles of columns or experts", s, experts, maxGridYZ)
	}
	if s.m == 0 || s.n == 0 {
		return x, nil
	}
	var err error
	x.fn, err = d.Function(x.kernel.program(s, g), x.kernel.name)
	return x, err
}

func (x *groupedGemm) enqueue(c *Call, a, b, out, offsets, scales Addr) error {
	if x.fn == nil {
		return nil
	}
	x.args.a, x.args.b, x.args.c, x.args.offsets = a, b, out, offsets
	x.args.aligned = x.kernel.aligned(x.spec, gemmAt{a: a, b: b})
	return x.kernel.launch(c, x.fn, Geometry{Grid: x.grid, Block: [3]int{x.kernel.threads}, Shared: x.kernel.shared}, &x.args, scales)
}

// groupRowsSpec multiplies rows x (R, ·) by one matrix of w (E, N, K) each, transposed unless trans.
func groupRowsSpec(x, w, y tensor.Type, trans bool) gemmSpec {
	return gemmSpec{m: x.Dim(0), n: y.Dim(1), k: x.Dim(1), batch: 1, alpha: 1, a: gemmMat{dtype: x.DType, ld: x.Dim(1)},
		b: gemmMat{dtype: w.DType, ld: w.Dim(2), stride: int64(w.Dim(1)) * int64(w.Dim(2)), trans: !trans}, c: gemmMat{dtype: y.DType, ld: y.Dim(1)}}
}

func buildGroupedMatMul(d *Device, o ops.GroupedMatMul, s device.Spec) (*Kernel, error) {
	g, err := d.groupedGemm(groupRowsSpec(s.In[0], s.In[1], s.Out[0], o.Trans), groupRows, s.In[1].Dim(0))
	if err != nil {
		return nil, err
	}
	return &Kernel{Label: "grouped_" + g.kernel.name, Enqueue: func(c *Call) error {
		return g.enqueue(c, c.In[0], c.In[1], c.Out[0], c.In[2], 0)
	}}, nil
}

func buildGroupedOuter(d *Device, _ ops.GroupedOuter, s device.Spec) (*Kernel, error) {
	a, b, y := s.In[0], s.In[1], s.Out[0]
	spec := gemmSpec{m: a.Dim(1), n: b.Dim(1), k: a.Dim(0), batch: 1, alpha: 1, a: gemmMat{dtype: a.DType, ld: a.Dim(1), trans: true},
		b: gemmMat{dtype: b.DType, ld: b.Dim(1)}, c: gemmMat{dtype: y.DType, ld: b.Dim(1), stride: int64(a.Dim(1)) * int64(b.Dim(1))}}
	g, err := d.groupedGemm(spec, groupInside, y.Dim(0))
	if err != nil {
		return nil, err
	}
	return &Kernel{Label: "grouped_" + g.kernel.name, Enqueue: func(c *Call) error {
		return g.enqueue(c, c.In[0], c.In[1], c.Out[0], c.In[2], 0)
	}}, nil
}

// buildInt8Grouped decodes weights as tiles are read.
func buildInt8Grouped(d *Device, o ops.Int8GroupedMatMul, s device.Spec) (*Kernel, error) {
	if s.In[0].DType == tensor.F64 {
		return nil, device.ErrNoKernel
	}
	spec := groupRowsSpec(s.In[0], s.In[2], s.Out[0], o.Trans)
	spec.scaled = true
	g, err := d.groupedGemm(spec, groupRows, s.In[2].Dim(0))
	if err != nil {
		return nil, err
	}
	return &Kernel{Label: "int8_grouped_" + g.kernel.name, Enqueue: func(c *Call) error {
		return g.enqueue(c, c.In[0], c.In[2], c.Out[0], c.In[1], c.In[3])
	}}, nil
}
