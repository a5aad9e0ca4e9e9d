package cpu

import (
	"math"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/device/cpu/vec"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func init() {
	Register(buildSoftmax)
	Register(buildSoftmaxGrad)
}

func buildSoftmax(d *Device, op ops.SoftmaxOp, s device.Spec) (*Kernel, error) {
	if s.In[0].DType == tensor.F64 {
		return softmaxKernel(d, op, s.In[0], exp64), nil
	}
	return softmaxKernel(d, op, s.In[0], exp32), nil
}

func softmaxKernel[T floats](d *Device, op ops.SoftmaxOp, t tensor.Type, exp expRow[T]) *Kernel {
	rows, n := lastAxis(t)
	return rowKernel(d, t.DType, rows, n, 2, func(c *Call, lo, hi int, b buffers[T]) {
		for r := lo; r < hi; r++ {
			x := readRow(t.DType, c.In[0], r*n, n, b.row(0))
			y := b.target(t.DType, c.Out[0], r*n, n, 1)
			if op.Log {
				logSoftmaxRow(y, x, b.block, exp)
			} else {
				multiplyRow(y, T(1/exp.store(y, x, maxRow(x))))
			}
			b.write(t.DType, c.Out[0], r*n, y)
		}
	})
}

func logSoftmaxRow[T floats](y, x, block []T, exp expRow[T]) {
	m := maxRow(x)
	l := T(math.Log(exp.sum(x, m, block)))
	if y := f32s(y); y != nil {
		vec.RowShiftTwice.Run(y, f32s(x), nil, nil, [4]float32{float32(m), float32(l)})
		return
	}
	for i, v := range x {
		y[i] = (v - m) - l
	}
}

func buildSoftmaxGrad(d *Device, op ops.SoftmaxGradOp, s device.Spec) (*Kernel, error) {
	if s.In[0].DType == tensor.F64 {
		return softmaxGradKernel(d, op, s.In[0], exp64), nil
	}
	return softmaxGradKernel(d, op, s.In[0], exp32), nil
}

func softmaxGradKernel[T floats](d *Device, op ops.SoftmaxGradOp, t tensor.Type, exp expRow[T]) *Kernel {
	rows, n := lastAxis(t)
	return rowKernel(d, t.DType, rows, n, 3, func(c *Call, lo, hi int, b buffers[T]) {
		for r := lo; r < hi; r++ {
			y := readRow(t.DType, c.In[0], r*n, n, b.row(0))
			g := readRow(t.DType, c.In[1], r*n, n, b.row(1))
			dx := b.target(t.DType, c.Out[0], r*n, n, 2)
			if op.Log {
				logSoftmaxGradRow(dx, y, g, exp)
			} else {
				softmaxGradRow(dx, y, g)
			}
			b.write(t.DType, c.Out[0], r*n, dx)
		}
	})
}

// softmaxGradRow is dx = y·(g - Σ y·g).
func softmaxGradRow[T floats](dx, y, g []T) {
	dot := T(sumProducts(y, g))
	if dx := f32s(dx); dx != nil {
		vec.RowWeighDifference.Run(dx, f32s(y), f32s(g), nil, [4]float32{float32(dot)})
		return
	}
	for i, v := range g {
		dx[i] = y[i] * (v - dot)
	}
}

// logSoftmaxGradRow is dx = g - e^y·Σ g. dx may be y.
func logSoftmaxGradRow[T floats](dx, y, g []T, exp expRow[T]) {
	sum := T(sumRow(g))
	exp.store(dx, y, 0)
	if dx := f32s(dx); dx != nil {
		vec.RowSubtractScaled.Run(dx, dx, f32s(g), nil, [4]float32{float32(sum)})
		return
	}
	for i, v := range g {
		dx[i] = v - dx[i]*sum
	}
}

// expRow is the exponential on rows. store writes e^(src-m) to dst, which may be src, and returns Σ e^(src-m); blocks of
// expBlock are added in the row's own type, their sums in float64.
type expRow[T floats] struct {
	store func(dst, src []T, m T) float64
}

var (
	exp32 = expRow[float32]{storeExp32}
	exp64 = expRow[float64]{storeExp64}
)

// sum is Σ e^(src-m) with a block of scratch.
func (e expRow[T]) sum(src []T, m T, block []T) (total float64) {
	for len(src) > 0 {
		n := min(len(src), expBlock)
		total += e.store(block[:n], src[:n], m)
		src = src[n:]
	}
	return total
}

func storeExp32(dst, src []float32, m float32) (total float64) {
	for len(src) > 0 {
		n := min(len(src), expBlock)
		total += float64(vec.ExpSum(dst[:n], src[:n], m))
		dst, src = dst[n:], src[n:]
	}
	return total
}

func storeExp64(dst, src []float64, m float64) (total float64) {
	for i, x := range src {
		dst[i] = math.Exp(x - m)
		total += dst[i]
	}
	return total
}

// maxRow is the largest element, -Inf for none. A NaN is passed over: what follows meets it again.
func maxRow[T floats](x []T) T {
	if x := f32s(x); x != nil {
		return T(vec.Peak(x))
	}
	m := T(math.Inf(-1))
	for _, v := range x {
		if v > m {
			m = v
		}
	}
	return m
}
