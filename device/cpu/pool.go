package cpu

import (
	"math"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func init() {
	Register(func(d *Device, op ops.MaxPoolOp, s device.Spec) (*Kernel, error) {
		g := newGeometry(op.Window, s.In[0].Shape.Dims()[2:], s.Out[0].Shape.Dims()[2:])
		if s.In[0].DType == tensor.F64 {
			return maxPoolKernel[float64](d, g, s.In[0]), nil
		}
		return maxPoolKernel[float32](d, g, s.In[0]), nil
	})
	Register(func(d *Device, op ops.SumPoolOp, s device.Spec) (*Kernel, error) {
		return buildSumPool(d, op, s.In[0], s.Out[0], false)
	})
	Register(func(d *Device, op ops.SumUnpoolOp, s device.Spec) (*Kernel, error) {
		return buildSumPool(d, op.SumPoolOp, s.Out[0], s.In[0], true)
	})
	Register(func(d *Device, _ ops.PoolPickOp, s device.Spec) (*Kernel, error) {
		return buildPick(d, s.In[0], s.In[1]), nil
	})
	Register(func(d *Device, _ ops.PoolPlaceOp, s device.Spec) (*Kernel, error) {
		if s.In[0].DType == tensor.F64 {
			return placeKernel[float64](d, s.Out[0], s.In[0]), nil
		}
		return placeKernel[float32](d, s.Out[0], s.In[0]), nil
	})
}

// perChannel runs f for every channel (n, c) of a tensor, on x and y as T: views, or for a half type buffers that are widened
// before (if the side is read) and rounded after (if it is written).
func perChannel[T floats](d *Device, dt tensor.DType, count, ins, outs int, run func(c *Call, ch int, x, y []T)) *Kernel {
	bufs := 0
	if isHalf(dt) {
		bufs = ins + outs
	}
	tasks := max(min(d.threads, count*(ins+outs)/rowGrain, count), 1)
	return &Kernel{ScratchBytes: sizeOf[T](tasks * bufs), Run: func(c *Call) error {
		all := tensor.View[T](c.Scratch)
		return d.parallel(tasks, func(t int) {
			mem := all[t*bufs : (t+1)*bufs]
			for ch := count * t / tasks; ch < count*(t+1)/tasks; ch++ {
				if bufs > 0 {
					run(c, ch, mem[:ins], mem[ins:])
				} else {
					run(c, ch, nil, nil)
				}
			}
		})
	}}
}

func maxPoolKernel[T floats](d *Device, g geometry, x tensor.Type) *Kernel {
	dt := x.DType
	return perChannel(d, dt, x.Dim(0)*x.Dim(1), g.ins, g.outs, func(c *Call, ch int, xb, yb []T) {
		src := readRow(dt, c.In[0], ch*g.ins, g.ins, xb)
		y := targetRow(dt, c.Out[0], ch*g.outs, g.outs, yb)
		maxPoolChannel(&g, y, src, tensor.View[int32](c.Out[1])[ch*g.outs:(ch+1)*g.outs])
		writeRow(dt, c.Out[0], ch*g.outs, y)
	})
}

// maxPoolChannel walks the taps in order, so that the first of equal elements stays.
func maxPoolChannel[T floats](g *geometry, y, x []T, idx []int32) {
	low := T(math.Inf(-1))
	for i := range y {
		y[i], idx[i] = low, -1
	}
	for line := 0; line*g.out[2] < g.outs; line++ {
		row, at := y[line*g.out[2]:][:g.out[2]], idx[line*g.out[2]:][:g.out[2]]
		for tap := range g.shifts {
			s := g.row(&g.shifts[tap], line/g.out[1], line%g.out[1], 0, g.out[2])
			if s.from < s.to {
				takeLarger(row[s.from:s.to], at[s.from:s.to], x[s.at:], s.at, s.step)
			}
		}
	}
}

// takeLarger puts the elements x[0], x[step], ... and their positions from at on where they are larger than y. A position of -1 says
// that y holds no element yet.
func takeLarger[T floats](y []T, idx []int32, x []T, at, step int) {
	idx = idx[:len(y)]
	i := 0
	for o, most := range y {
		v := x[i]
		if !(v <= most) && most == most || idx[o] < 0 {
			y[o], idx[o] = v, int32(at+i)
		}
		i += step
	}
}

func buildSumPool(d *Device, op ops.SumPoolOp, x, y tensor.Type, back bool) (*Kernel, error) {
	if x.DType == tensor.F64 {
		return sumPoolKernel[float64](d, op, x, y, back), nil
	}
	return sumPoolKernel[float32](d, op, x, y, back), nil
}

// sumPoolKernel is the pooling from x to y, or its transpose from y to x.
func sumPoolKernel[T floats](d *Device, op ops.SumPoolOp, xt, yt tensor.Type, back bool) *Kernel {
	dt := xt.DType
	g := newGeometry(op.Window, xt.Shape.Dims()[2:], yt.Shape.Dims()[2:])
	share := shares[T](op, xt, yt)
	return perChannel(d, dt, xt.Dim(0)*xt.Dim(1), g.ins, g.outs, func(c *Call, ch int, xb, yb []T) {
		if back {
			y := readRow(dt, c.In[0], ch*g.outs, g.outs, yb)
			x := targetRow(dt, c.Out[0], ch*g.ins, g.ins, xb)
			unpoolChannel(&g, x, y, share)
			writeRow(dt, c.Out[0], ch*g.ins, x)
			return
		}
		x := readRow(dt, c.In[0], ch*g.ins, g.ins, xb)
		y := targetRow(dt, c.Out[0], ch*g.outs, g.outs, yb)
		poolChannel(&g, y, x, share)
		writeRow(dt, c.Out[0], ch*g.outs, y)
	})
}

// shares is one over the divisor of each output position, nil where nothing is divided.
func shares[T floats](op ops.SumPoolOp, x, y tensor.Type) []T {
	if op.Count == ops.PoolSum {
		return nil
	}
	out := []T{1}
	for i := range int(op.Rank) {
		var next []T
		for _, v := range out {
			for _, n := range op.Counts(i, x.Dim(2+i), y.Dim(2+i)) {
				next = append(next, v/T(n))
			}
		}
		out = next
	}
	return out
}

func poolChannel[T floats](g *geometry, y, x, share []T) {
	clear(y)
	for line := 0; line*g.out[2] < g.outs; line++ {
		row := y[line*g.out[2]:][:g.out[2]]
		for tap := range g.shifts {
			s := g.row(&g.shifts[tap], line/g.out[1], line%g.out[1], 0, g.out[2])
			i := s.at
			for o := s.from; o < s.to; o++ {
				row[o] += x[i]
				i += s.step
			}
		}
	}
	for i, v := range share {
		y[i] *= v
	}
}

func unpoolChannel[T floats](g *geometry, x, y, share []T) {
	clear(x)
	for line := 0; line*g.out[2] < g.outs; line++ {
		from := line * g.out[2]
		for tap := range g.shifts {
			s := g.row(&g.shifts[tap], line/g.out[1], line%g.out[1], 0, g.out[2])
			i := s.at
			for o := s.from; o < s.to; o++ {
				v := y[from+o]
				if share != nil {
					v *= share[from+o]
				}
				x[i] += v
				i += s.step
			}
		}
	}
}

// buildPick copies elements by their position in the channel.
func buildPick(d *Device, x, idx tensor.Type) *Kernel {
	n, ins, outs := x.Dim(0)*x.Dim(1), channelSize(x), channelSize(idx)
	size := x.DType.Size()
	return &Kernel{Run: func(c *Call) error {
		at := tensor.View[int32](c.In[1])
		return d.ranges(n, max(rowGrain/max(outs, 1), 1), func(lo, hi int) {
			for k := lo * outs; k < hi*outs; k++ {
				dst := c.Out[0][k*size : (k+1)*size]
				if i := int(at[k]); i >= 0 && i < ins {
					copy(dst, c.In[0][(k/outs*ins+i)*size:])
				} else {
					clear(dst)
				}
			}
		})
	}}
}

func placeKernel[T floats](d *Device, x, u tensor.Type) *Kernel {
	dt, ins, outs := x.DType, channelSize(x), channelSize(u)
	return perChannel(d, dt, x.Dim(0)*x.Dim(1), ins, outs, func(c *Call, ch int, xb, ub []T) {
		src := readRow(dt, c.In[0], ch*outs, outs, ub)
		dst := targetRow(dt, c.Out[0], ch*ins, ins, xb)
		clear(dst)
		for k, i := range tensor.View[int32](c.In[1])[ch*outs : (ch+1)*outs] {
			if i >= 0 && int(i) < ins {
				dst[i] += src[k]
			}
		}
		writeRow(dt, c.Out[0], ch*ins, dst)
	})
}

// channelSize is the number of elements of a channel of (N, C, S...).
func channelSize(t tensor.Type) int {
	n := 1
	for _, v := range t.Shape.Dims()[2:] {
		n *= v
	}
	return n
}
