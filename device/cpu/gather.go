package cpu

import (
	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/device/cpu/vec"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func init() {
	Register(buildGather)
	Register(buildScatterAdd)
}

func buildGather(d *Device, op ops.GatherRows, s device.Spec) (*Kernel, error) {
	outer, inner := around(s.In[0].Shape, int(op.Axis))
	n, m := s.In[0].Dim(int(op.Axis)), s.In[1].Size()
	row := inner * s.In[0].DType.Size()
	wide := s.In[1].DType == tensor.I64
	return &Kernel{Run: func(c *Call) error {
		idx := indexOf(c.In[1], wide)
		return d.ranges(outer*m, max(shapeGrain/max(row, 1), 1), func(lo, hi int) {
			for k := lo; k < hi; k++ {
				dst := c.Out[0][k*row : (k+1)*row]
				if i := idx.at(k % m); i >= 0 && i < n {
					copy(dst, c.In[0][(k/m*n+i)*row:])
				} else {
					clear(dst)
				}
			}
		})
	}}, nil
}

// index reads i32 or i64 indices.
type index struct {
	narrow []int32
	wide   []int64
}

func indexOf(b []byte, wide bool) index {
	if wide {
		return index{wide: tensor.View[int64](b)}
	}
	return index{narrow: tensor.View[int32](b)}
}

func (x index) at(i int) int {
	if x.wide != nil {
		return int(x.wide[i])
	}
	return int(x.narrow[i])
}

func (x index) len() int { return len(x.narrow) + len(x.wide) }

// buildScatterAdd adds rows in index order. Work is cut over the columns of a row, so every element sees the same order of
// additions whatever the number of threads.
func buildScatterAdd(d *Device, op ops.ScatterAddRows, s device.Spec) (*Kernel, error) {
	outer, inner := around(s.Out[0].Shape, int(op.Axis))
	sc := scatter{outer: outer, inner: inner, n: int(op.Size), m: s.In[1].Size()}
	k := &Kernel{}
	half := s.Out[0].DType == tensor.BF16 || s.Out[0].DType == tensor.F16
	if half {
		k.ScratchBytes = int64(s.Out[0].Size()) * 4
	}
	add := scatterAdder(s.Out[0].DType)
	wide := s.In[1].DType == tensor.I64
	k.Run = func(c *Call) error { return add(d, sc, s.Out[0].DType, c, indexOf(c.In[1], wide)) }
	return k, nil
}

type scatterFunc func(d *Device, sc scatter, dt tensor.DType, c *Call, idx index) error

func scatterAdder(dt tensor.DType) scatterFunc {
	switch dt {
	case tensor.F32:
		return scatterInto[float32]
	case tensor.F64:
		return scatterInto[float64]
	case tensor.I8, tensor.U8:
		return scatterInto[uint8]
	case tensor.I16, tensor.U16:
		return scatterInto[uint16]
	case tensor.I32, tensor.U32:
		return scatterInto[uint32]
	case tensor.I64, tensor.U64:
		return scatterInto[uint64]
	}
	return scatterHalf
}

type scatter struct{ outer, inner, n, m int }

func scatterInto[E float32 | float64 | uint8 | uint16 | uint32 | uint64](d *Device, sc scatter, _ tensor.DType, c *Call, idx index) error {
	dst, u := tensor.View[E](c.Out[0]), tensor.View[E](c.In[0])
	return d.ranges(sc.inner, max(shapeGrain/max(sc.m*sc.outer, 1), 16), func(lo, hi int) {
		for o := range sc.outer {
			for r := range sc.n {
				clear(dst[(o*sc.n+r)*sc.inner+lo : (o*sc.n+r)*sc.inner+hi])
			}
			for k := range idx.len() {
				i := idx.at(k)
				if i < 0 || i >= sc.n {
					continue
				}
				to := dst[(o*sc.n+i)*sc.inner+lo : (o*sc.n+i)*sc.inner+hi]
				from := u[(o*sc.m+k)*sc.inner+lo : (o*sc.m+k)*sc.inner+hi]
				if to, ok := any(to).([]float32); ok {
					vec.OpAdd.Run(to, to, any(from).([]float32), nil)
					continue
				}
				for j, x := range from {
					to[j] += x
				}
			}
		}
	})
}

func scatterHalf(d *Device, sc scatter, dt tensor.DType, c *Call, idx index) error {
	acc := tensor.View[float32](c.Scratch)
	return d.ranges(sc.inner, max(shapeGrain/max(sc.m*sc.outer, 1), 16), func(lo, hi int) {
		for o := range sc.outer {
			for r := range sc.n {
				clear(acc[(o*sc.n+r)*sc.inner+lo : (o*sc.n+r)*sc.inner+hi])
			}
			for k := range idx.len() {
				i := idx.at(k)
				if i < 0 || i >= sc.n {
					continue
				}
				for j := lo; j < hi; j++ {
					acc[(o*sc.n+i)*sc.inner+j] += load32(dt, c.In[0], (o*sc.m+k)*sc.inner+j)
				}
			}
			for r := range sc.n {
				at := (o*sc.n + r) * sc.inner
				vec.Narrow(c.Out[0][2*(at+lo):2*(at+hi)], acc[at+lo:at+hi], dt)
			}
		}
	})
}

// load32 reads one element of a float type of at most 32 bits.
func load32(d tensor.DType, b []byte, i int) float32 {
	switch d {
	case tensor.BF16:
		return tensor.View[tensor.BFloat16](b)[i].Float32()
	case tensor.F16:
		return tensor.View[tensor.Float16](b)[i].Float32()
	}
	return tensor.View[float32](b)[i]
}

// store32 writes one element, rounding to the element type.
func store32(d tensor.DType, b []byte, i int, x float32) {
	switch d {
	case tensor.BF16:
		tensor.View[tensor.BFloat16](b)[i] = tensor.ToBF16(x)
	case tensor.F16:
		tensor.View[tensor.Float16](b)[i] = tensor.ToF16(x)
	default:
		tensor.View[float32](b)[i] = x
	}
}
