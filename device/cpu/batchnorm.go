package cpu

import (
	"math"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/device/cpu/vec"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func init() {
	Register(func(d *Device, op ops.BatchNormOp, s device.Spec) (*Kernel, error) {
		if s.In[0].DType == tensor.F64 {
			return batchNormKernel[float64](d, op.Eps, s.In[0]), nil
		}
		return batchNormKernel[float32](d, op.Eps, s.In[0]), nil
	})
	Register(func(d *Device, op ops.BatchNormGradOp, s device.Spec) (*Kernel, error) {
		if s.In[0].DType == tensor.F64 {
			return batchNormGradKernel[float64](d, op, s.In[0]), nil
		}
		return batchNormGradKernel[float32](d, op, s.In[0]), nil
	})
}

// channelRuns are the n segments of size elements that make up each of c channels of (N, C, S...).
type channelRuns struct {
	dt         tensor.DType
	n, c, size int
}

func newChannelRuns(t tensor.Type) channelRuns {
	return channelRuns{t.DType, t.Dim(0), t.Dim(1), channelSize(t)}
}

func (r channelRuns) at(n, ch int) int { return (n*r.c + ch) * r.size }

// channelKernel runs f for each channel, with bufs buffers of a segment for half types.
func channelKernel[T floats](d *Device, r channelRuns, bufs int, f func(c *Call, ch int, b buffers[T])) *Kernel {
	tasks := max(min(d.threads, r.c*r.n*r.size/rowGrain, r.c), 1)
	per := 0
	if isHalf(r.dt) {
		per = bufs * r.size
	}
	return &Kernel{ScratchBytes: sizeOf[T](tasks * per), Run: func(c *Call) error {
		all := tensor.View[T](c.Scratch)
		return d.parallel(tasks, func(t int) {
			b := buffers[T]{rows: all[t*per : (t+1)*per], width: r.size}
			for ch := r.c * t / tasks; ch < r.c*(t+1)/tasks; ch++ {
				f(c, ch, b)
			}
		})
	}}
}

// channelScalar reads element ch of a vector in dt, or a default where there is none.
func channelScalar(dt tensor.DType, b []byte, ch int, def float64) float64 {
	if b == nil {
		return def
	}
	return reader{dt, b}.get(ch)
}

func batchNormKernel[T floats](d *Device, eps float64, t tensor.Type) *Kernel {
	r := newChannelRuns(t)
	m := float64(r.n * r.size)
	return channelKernel(d, r, 2, func(c *Call, ch int, b buffers[T]) {
		var sum, spread float64
		for n := range r.n {
			sum += sumRow(readRow(r.dt, c.In[0], r.at(n, ch), r.size, b.row(0)))
		}
		mean := sum / m
		for n := range r.n {
			spread += spreadRow(readRow(r.dt, c.In[0], r.at(n, ch), r.size, b.row(0)), mean)
		}
		tensor.View[T](c.Out[1])[ch], tensor.View[T](c.Out[2])[ch] = T(mean), T(spread/m)
		scale := T(channelScalar(r.dt, c.In[1], ch, 1) / math.Sqrt(spread/m+eps))
		shift, mu := T(channelScalar(r.dt, c.In[2], ch, 0)), T(mean)
		for n := range r.n {
			x := readRow(r.dt, c.In[0], r.at(n, ch), r.size, b.row(0))
			y := targetRow(r.dt, c.Out[0], r.at(n, ch), r.size, b.row(1))
			channelRow(y, x, mu, scale, shift)
			writeRow(r.dt, c.Out[0], r.at(n, ch), y)
		}
	})
}

func batchNormGradKernel[T floats](d *Device, op ops.BatchNormGradOp, t tensor.Type) *Kernel {
	r := newChannelRuns(t)
	m := float64(r.n * r.size)
	return channelKernel(d, r, 3, func(c *Call, ch int, b buffers[T]) {
		mean := tensor.View[T](c.In[2])[ch]
		rstd := 1 / math.Sqrt(float64(tensor.View[T](c.In[3])[ch])+op.Eps)
		var sum, dot float64 // Σ gy and Σ gy·x̂
		for n := range r.n {
			x := readRow(r.dt, c.In[0], r.at(n, ch), r.size, b.row(0))
			g := readRow(r.dt, c.In[4], r.at(n, ch), r.size, b.row(1))
			sum += sumRow(g)
			dot += sumCentred(x, g, mean)
		}
		dot *= rstd
		out := 0
		if op.NeedX {
			out++
			scale := T(channelScalar(r.dt, c.In[1], ch, 1) * rstd)
			shift, tilt := T(sum/m), T(dot/m*rstd)
			for n := range r.n {
				x := readRow(r.dt, c.In[0], r.at(n, ch), r.size, b.row(0))
				g := readRow(r.dt, c.In[4], r.at(n, ch), r.size, b.row(1))
				dx := targetRow(r.dt, c.Out[0], r.at(n, ch), r.size, b.row(2))
				channelGradRow(dx, x, g, [4]T{mean, scale, shift, tilt})
				writeRow(r.dt, c.Out[0], r.at(n, ch), dx)
			}
		}
		for _, o := range []struct {
			need bool
			val  float64
		}{{op.NeedW, dot}, {op.NeedB, sum}} {
			if o.need {
				reader{r.dt, c.Out[out]}.set(ch, o.val)
				out++
			}
		}
	})
}

// channelRow is y = (x-mu)·scale + shift.
func channelRow[T floats](y, x []T, mu, scale, shift T) {
	if y := f32s(y); y != nil {
		vec.RowNormalShifted.Run(y, f32s(x), nil, nil, [4]float32{float32(mu), float32(scale), float32(shift)})
		return
	}
	for i, v := range x {
		y[i] = (v-mu)*scale + shift
	}
}

// sumCentred is Σ g·(x-mean).
func sumCentred[T floats](x, g []T, mean T) (sum float64) {
	if x := f32s(x); x != nil {
		return vec.SumNormal(x, f32s(g), nil, float32(mean), 1)
	}
	for i, v := range x {
		sum += float64(g[i]) * float64(v-mean)
	}
	return sum
}

// channelGradRow is dx = k1·(g - k2 - (x-k0)·k3).
func channelGradRow[T floats](dx, x, g []T, k [4]T) {
	if dx := f32s(dx); dx != nil {
		vec.RowChannelGrad.Run(dx, f32s(x), f32s(g), nil, [4]float32{float32(k[0]), float32(k[1]), float32(k[2]), float32(k[3])})
		return
	}
	for i, v := range x {
		dx[i] = k[1] * (g[i] - k[2] - (v-k[0])*k[3])
	}
}
