package cpu

import (
	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func init() {
	Register(buildCumulate)
	Register(buildRecur)
}

// lanes are the lines of a tensor along one axis: n elements, inner apart.
type lanes struct{ count, n, inner int }

func lanesOf(s tensor.Shape, axis int) lanes {
	outer, inner := around(s, axis)
	return lanes{outer * inner, s.Dim(axis), inner}
}

// walk calls f with the position of the first element of each lane, and the step to the next one, from the end with reverse.
func (l lanes) walk(d *Device, reverse bool, f func(at, step int)) error {
	if l.n == 0 {
		return nil
	}
	return d.ranges(l.count, max(laneGrain/l.n, 1), func(lo, hi int) {
		for k := lo; k < hi; k++ {
			at := k/l.inner*l.n*l.inner + k%l.inner
			if reverse {
				f(at+(l.n-1)*l.inner, -l.inner)
			} else {
				f(at, l.inner)
			}
		}
	})
}

const laneGrain = 16 << 10

func buildCumulate(d *Device, op ops.Cumulate, s device.Spec) (*Kernel, error) {
	typ, l := s.In[0].DType, lanesOf(s.In[0].Shape, int(op.Axis))
	return &Kernel{Run: func(c *Call) error {
		x, y := reader{typ, c.In[0]}, reader{typ, c.Out[0]}
		if typ.IsFloat() {
			return l.walk(d, op.Reverse, func(at, step int) { runFloats(op.Mul, x, y, at, step, l.n) })
		}
		return l.walk(d, op.Reverse, func(at, step int) { runInts(op.Mul, x, y, at, step, l.n) })
	}}, nil
}

func runFloats(mul bool, x, y reader, at, step, n int) {
	acc := 0.0
	if mul {
		acc = 1
	}
	for range n {
		if mul {
			acc *= x.get(at)
		} else {
			acc += x.get(at)
		}
		y.set(at, acc)
		at += step
	}
}

func runInts(mul bool, x, y reader, at, step, n int) {
	acc := int64(0)
	if mul {
		acc = 1
	}
	for range n {
		if mul {
			acc *= loadInt(x.d, x.b, at)
		} else {
			acc += loadInt(x.d, x.b, at)
		}
		storeInt(y.d, y.b, at, acc)
		at += step
	}
}

func buildRecur(d *Device, op ops.Recur, s device.Spec) (*Kernel, error) {
	typ, l := s.In[0].DType, lanesOf(s.In[0].Shape, int(op.Axis))
	return &Kernel{Run: func(c *Call) error {
		a, b, h := reader{typ, c.In[0]}, reader{typ, c.In[1]}, reader{typ, c.Out[0]}
		return l.walk(d, op.Reverse, func(at, step int) {
			state, factor := 0.0, 0.0 // the factor of the first element multiplies nothing
			for t := range l.n {
				if t > 0 {
					factor = a.get(at)
					if op.Late {
						factor = a.get(at - step)
					}
				}
				state = float64(factor*state) + b.get(at)
				h.set(at, state)
				at += step
			}
		})
	}}, nil
}
