package cpu

import (
	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/device/cpu/vec"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func init() {
	Register(buildPack)
	Register(buildSumSquares)
}

func buildPack(d *Device, o ops.Pack, s device.Spec) (*Kernel, error) {
	l, width := o.Layout, o.Layout.Type().DType.Size()
	return &Kernel{Run: func(c *Call) error {
		end := 0
		gap := func(to int) {
			clear(c.Out[0][width*end : width*to])
			end = to
		}
		for i, at := range l.Offsets {
			gap(at)
			end += l.Sizes[i]
		}
		gap(l.Total)
		return d.parallel(len(l.Sizes), func(i int) { copy(c.Out[0][width*l.Offsets[i]:], c.In[i]) })
	}}, nil
}

// squareGrain is the elements summed by one task, which leaves one float64 in the scratch.
const squareGrain = 16 << 10

func buildSumSquares(d *Device, _ ops.SumSquares, s device.Spec) (*Kernel, error) {
	n := s.In[0].Size()
	tasks := (n + squareGrain - 1) / squareGrain
	return &Kernel{ScratchBytes: 8 * int64(tasks), Run: func(c *Call) error {
		x, parts := tensor.View[float32](c.In[0]), tensor.View[float64](c.Scratch)
		err := d.parallel(tasks, func(t int) {
			parts[t] = sumSquares(x[t*squareGrain : min((t+1)*squareGrain, n)])
		})
		var sum float64
		for _, p := range parts {
			sum += p
		}
		tensor.View[float32](c.Out[0])[0] = float32(sum)
		return err
	}}, nil
}

// sumSquares is Σ x² in float64.
func sumSquares(x []float32) float64 { return vec.SumProducts(x, x) }
