package cpu

import (
	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/device/cpu/vec"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func init() { Register(buildRoPE) }

func buildRoPE(d *Device, op ops.RoPEOp, s device.Spec) (*Kernel, error) {
	if s.In[0].DType == tensor.F64 {
		return ropeKernel[float64](d, op, s), nil
	}
	return ropeKernel[float32](d, op, s), nil
}

// ropeKernel treats the heads of one token as a row, since they share its angles.
func ropeKernel[T floats](d *Device, op ops.RoPEOp, s device.Spec) *Kernel {
	x := s.In[0]
	tokens, half := lastAxis(s.In[1])
	size, n := x.Dim(-1), x.Dim(-1)*x.Dim(-2)
	return rowKernel(d, x.DType, tokens, n, 2, func(c *Call, lo, hi int, b buffers[T]) {
		cos, sin := tensor.View[float32](c.In[1]), tensor.View[float32](c.In[2])
		for r := lo; r < hi; r++ {
			src := readRow(x.DType, c.In[0], r*n, n, b.row(0))
			dst := targetRow(x.DType, c.Out[0], r*n, n, b.row(1))
			co, si := cos[r*half:(r+1)*half], sin[r*half:(r+1)*half]
			for h := 0; h < n; h += size {
				from, to := src[h:h+size], dst[h:h+size]
				if op.Interleaved {
					turnNeighbours(to, from, co, si, op.Inverse)
				} else {
					turnHalves(to, from, co, si, op.Inverse)
				}
				copy(to[2*half:], from[2*half:])
			}
			writeRow(x.DType, c.Out[0], r*n, dst)
		}
	})
}

func turnHalves[T floats](y, x []T, co, si []float32, inverse bool) {
	n := len(co)
	x0, x1, y0, y1 := x[:n], x[n:2*n], y[:n], y[n:2*n]
	si = si[:n]
	if y0 := f32s(y0); y0 != nil {
		vec.TurnHalves(y0, f32s(y1), f32s(x0), f32s(x1), co, si, turnSign(inverse))
		return
	}
	for i, cc := range co {
		c, s := T(cc), T(si[i])
		if inverse {
			s = -s
		}
		a, b := x0[i], x1[i]
		y0[i] = a*c - b*s
		y1[i] = b*c + a*s
	}
}

func turnNeighbours[T floats](y, x []T, co, si []float32, inverse bool) {
	si = si[:len(co)]
	if y := f32s(y); y != nil {
		vec.TurnNeighbours(y, f32s(x), co, si, turnSign(inverse))
		return
	}
	for i, cc := range co {
		c, s := T(cc), T(si[i])
		if inverse {
			s = -s
		}
		a, b := x[2*i], x[2*i+1]
		y[2*i] = a*c - b*s
		y[2*i+1] = b*c + a*s
	}
}

func turnSign(inverse bool) float32 {
	if inverse {
		return -1
	}
	return 1
}
