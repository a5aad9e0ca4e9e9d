package cpu

import (
	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/device/cpu/gemm"
	"github.com/bitsandbyes/bitsandbyes/device/cpu/vec"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func init() {
	Register(func(d *Device, op ops.ConvOp, s device.Spec) (*Kernel, error) {
		c, err := newConv(op.Window, op.Groups, s.In[0], s.In[1], s.Out[0])
		if err != nil {
			return nil, err
		}
		return c.forward(d), nil
	})
	Register(func(d *Device, op ops.ConvTransposeOp, s device.Spec) (*Kernel, error) {
		c, err := newConv(op.Window, op.Groups, s.Out[0], s.In[1], s.In[0])
		if err != nil {
			return nil, err
		}
		return c.transposed(d), nil
	})
	Register(func(d *Device, op ops.ConvWeightOp, s device.Spec) (*Kernel, error) {
		c, err := newConv(op.Window, op.Groups, s.In[0], s.Out[0], s.In[1])
		if err != nil {
			return nil, err
		}
		return c.weight(d), nil
	})
}

// conv is a convolution as matrix products: the windows over a tile of output positions lie side by side in a scratch matrix
// (im2col), which one product takes for every row of the batch, group and tile.
type conv struct {
	ops.ConvDims
	geometry
	dt    tensor.DType
	size  int // bytes of an element
	tile  int // output positions of a tile
	tiles int
	plain bool // 1×1 with stride 1: the input is the matrix already
}

// convTile is how many elements a tile of windows should have: it stays in the second-level cache.
const convTile = 128 << 10

func newConv(w ops.Window, groups int32, x, wt, y tensor.Type) (*conv, error) {
	dims, err := w.Dims(int(groups), x, wt, y)
	if err != nil {
		return nil, err
	}
	c := &conv{ConvDims: dims, geometry: newGeometry(w, dims.In, dims.Out), dt: x.DType, size: x.DType.Size()}
	c.plain = c.identity()
	c.tile = min(max((convTile/dims.PerGroup+15)&^15, 128), max(c.outs, 1))
	c.tiles = (c.outs + c.tile - 1) / c.tile
	return c, nil
}

// wide is the type of sums: float64 for f64, else float32.
func (c *conv) wide() tensor.DType {
	if c.dt == tensor.F64 {
		return c.dt
	}
	return tensor.F32
}

func (c *conv) og() int { return c.O / c.Groups }
func (c *conv) cg() int { return c.C / c.Groups }

// split shares tasks among lanes, each with its own scratch; a single lane leaves the threads to the product.
type split struct {
	tasks, lanes int
	each         int64
	pool         bool
}

func newSplit(d *Device, tasks int, scratch func(threads int) int64) split {
	s := split{tasks: tasks, lanes: max(min(d.threads, tasks), 1)}
	s.pool = s.lanes == 1
	threads := 1
	if s.pool {
		threads = d.threads
	}
	s.each = (scratch(threads) + 63) &^ 63
	return s
}

func (s split) bytes() int64 { return s.each * int64(s.lanes) }

// run calls f for every task until one fails.
func (s split) run(d *Device, scratch []byte, f func(task int, scratch []byte) error) error {
	errs := make([]error, s.lanes)
	err := d.parallel(s.lanes, func(lane int) {
		mine := scratch[int64(lane)*s.each : int64(lane+1)*s.each]
		for t := s.tasks * lane / s.lanes; t < s.tasks*(lane+1)/s.lanes && errs[lane] == nil; t++ {
			errs[lane] = f(t, mine)
		}
	})
	for _, e := range errs {
		if err == nil {
			err = e
		}
	}
	return err
}

// gemm multiplies on the device's threads where the split leaves them.
func (s split) gemm(d *Device, scratch []byte, a gemm.Args) error {
	if s.pool {
		return gemm.Gemm(d.pool, scratch, 1, a)
	}
	return gemm.Gemm(nil, scratch, 1, a)
}

// colBytes is the scratch of a tile of windows, a multiple of 64.
func (c *conv) colBytes(elem int) int64 {
	return (int64(c.PerGroup)*int64(c.tile)*int64(elem) + 63) &^ 63
}

// columns returns the windows of group g of row n over positions [p0, p1) as a matrix (C/g·K, p1-p0).
func (c *conv) columns(x, col []byte, n, g, p0, p1 int) gemm.Mat {
	plane := x[(n*c.C+g*c.cg())*c.ins*c.size:][:c.cg()*c.ins*c.size]
	if c.plain {
		return gemm.Mat{Data: plane[p0*c.size:], DType: c.dt, LD: c.ins}
	}
	switch c.size {
	case 2:
		im2col(&c.geometry, tensor.View[uint16](col), tensor.View[uint16](plane), 0, c.PerGroup, p0, p1)
	case 4:
		im2col(&c.geometry, tensor.View[uint32](col), tensor.View[uint32](plane), 0, c.PerGroup, p0, p1)
	default:
		im2col(&c.geometry, tensor.View[uint64](col), tensor.View[uint64](plane), 0, c.PerGroup, p0, p1)
	}
	return gemm.Mat{Data: col, DType: c.dt, LD: p1 - p0}
}

// outputs is the matrix (O/g, p1-p0) of group g of row n over a tile of y.
func (c *conv) outputs(y []byte, n, g, p0 int) []byte {
	return y[((n*c.O+g*c.og())*c.outs+p0)*c.size:]
}

func (c *conv) filters(w []byte, g int) []byte { return w[g*c.og()*c.PerGroup*c.size:] }

func (c *conv) forward(d *Device) *Kernel {
	col := c.colBytes(c.size)
	s := newSplit(d, c.N*c.Groups*c.tiles, func(threads int) int64 {
		return col + gemm.ScratchBytes(c.og(), c.tile, c.PerGroup, threads)
	})
	return &Kernel{ScratchBytes: s.bytes(), Run: func(call *Call) error {
		return s.run(d, call.Scratch, func(t int, scratch []byte) error {
			n, g, p0 := t/c.tiles/c.Groups, t/c.tiles%c.Groups, t%c.tiles*c.tile
			p1 := min(p0+c.tile, c.outs)
			return s.gemm(d, scratch[col:], gemm.Args{M: c.og(), N: p1 - p0, K: c.PerGroup,
				A: gemm.Mat{Data: c.filters(call.In[1], g), DType: c.dt},
				B: c.columns(call.In[0], scratch[:col], n, g, p0, p1),
				C: gemm.Out{Data: c.outputs(call.Out[0], n, g, p0), DType: c.dt, LD: c.outs}})
		})
	}}
}

// transposed multiplies the filters' transpose with a tile of y and adds the windows up where they overlap. A group of a row is
// one task, so that every element sees its summands in one order.
func (c *conv) transposed(d *Device) *Kernel {
	wide := c.wide()
	col := c.colBytes(wide.Size())
	var sum int64 // half types are added up in float32
	if isHalf(c.dt) {
		sum = (int64(c.cg()*c.ins)*4 + 63) &^ 63
	}
	s := newSplit(d, c.N*c.Groups, func(threads int) int64 {
		return col + sum + gemm.ScratchBytes(c.PerGroup, c.tile, c.og(), threads)
	})
	return &Kernel{ScratchBytes: s.bytes(), Run: func(call *Call) error {
		return s.run(d, call.Scratch, func(t int, scratch []byte) error {
			n, g := t/c.Groups, t%c.Groups
			out := call.Out[0][t*c.cg()*c.ins*c.size:][:c.cg()*c.ins*c.size]
			acc := out
			if sum > 0 {
				acc = scratch[col:][:c.cg()*c.ins*4]
			}
			clear(acc)
			for p0 := 0; p0 < c.outs; p0 += c.tile {
				p1 := min(p0+c.tile, c.outs)
				err := s.gemm(d, scratch[col+sum:], gemm.Args{M: c.PerGroup, N: p1 - p0, K: c.og(),
					A: gemm.Mat{Data: c.filters(call.In[1], g), DType: c.dt, LD: c.PerGroup, Trans: true},
					B: gemm.Mat{Data: c.outputs(call.In[0], n, g, p0), DType: c.dt, LD: c.outs},
					C: gemm.Out{Data: scratch[:col], DType: wide}})
				if err != nil {
					return err
				}
				if wide == tensor.F64 {
					col2im(&c.geometry, tensor.View[float64](acc), tensor.View[float64](scratch[:col]), c.PerGroup, p0, p1)
				} else {
					col2im(&c.geometry, tensor.View[float32](acc), tensor.View[float32](scratch[:col]), c.PerGroup, p0, p1)
				}
			}
			if sum > 0 {
				vec.Narrow(out, tensor.View[float32](acc), c.dt)
			}
			return nil
		})
	}}
}

// weight adds the products of a tile of y with its windows' transpose over rows and tiles, in that order.
func (c *conv) weight(d *Device) *Kernel {
	col, wide := c.colBytes(c.size), c.wide()
	each := c.og() * c.PerGroup
	var sum int64
	if isHalf(c.dt) {
		sum = (int64(each)*4 + 63) &^ 63
	}
	s := newSplit(d, c.Groups, func(threads int) int64 {
		return col + sum + gemm.ScratchBytes(c.og(), c.PerGroup, c.tile, threads)
	})
	return &Kernel{ScratchBytes: s.bytes(), Run: func(call *Call) error {
		return s.run(d, call.Scratch, func(g int, scratch []byte) error {
			out := call.Out[0][g*each*c.size:][:each*c.size]
			acc := out
			if sum > 0 {
				acc = scratch[col:][:each*4]
			}
			clear(acc)
			for t := range c.N * c.tiles {
				n, p0 := t/c.tiles, t%c.tiles*c.tile
				p1 := min(p0+c.tile, c.outs)
				b := c.columns(call.In[0], scratch[:col], n, g, p0, p1)
				b.Trans = true
				err := s.gemm(d, scratch[col+sum:], gemm.Args{M: c.og(), N: c.PerGroup, K: p1 - p0,
					A: gemm.Mat{Data: c.outputs(call.In[1], n, g, p0), DType: c.dt, LD: c.outs},
					B: b, C: gemm.Out{Data: acc, DType: wide}, Accumulate: true})
				if err != nil {
					return err
				}
			}
			if sum > 0 {
				vec.Narrow(out, tensor.View[float32](acc), c.dt)
			}
			return nil
		})
	}}
}
