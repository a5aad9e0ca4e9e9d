package cpu

import (
	"math"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/device/cpu/gemm"
	"github.com/bitsandbyes/bitsandbyes/device/cpu/vec"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func init() {
	Register(func(d *Device, op ops.RecurrenceOp, s device.Spec) (*Kernel, error) {
		hs := s.Out[0]
		r := recurrence{cell: op.Cell, reverse: op.Reverse, dt: hs.DType, t: hs.Dim(0), b: hs.Dim(1), h: hs.Dim(2), gates: op.Cell.Gates()}
		if hs.DType == tensor.F64 {
			return recurrenceKernel(d, r, math64), nil
		}
		return recurrenceKernel(d, r, math32), nil
	})
}

// recurrence is a cell run over t steps of b rows.
type recurrence struct {
	cell    ops.Cell
	reverse bool
	dt      tensor.DType
	t, b, h int
	gates   int
}

// squash are the cells' functions on slices; dst may be src.
type squash[T floats] struct{ sigmoid, tanh func(dst, src []T) }

var math32 = squash[float32]{vec.Sigmoid, tanhRow32}

var math64 = squash[float64]{
	func(dst, src []float64) {
		for i, x := range src {
			dst[i] = 1 / (1 + math.Exp(-x))
		}
	},
	func(dst, src []float64) {
		for i, x := range src {
			dst[i] = math.Tanh(x)
		}
	},
}

// tanhBlock is how many elements tanhRow32 takes at a time.
const tanhBlock = 256

// tanhRow32 is 2σ(2x) - 1, within 2e-7 of tanh, and the odd Taylor polynomial of degree 7 near 0, where the difference from 1 has no
// digits left for a small x: the relative error stays below 2e-6.
func tanhRow32(dst, src []float32) {
	var buf [tanhBlock]float32
	for len(src) > 0 {
		n := min(len(src), tanhBlock)
		s := buf[:n]
		for i, x := range src[:n] {
			s[i] = 2 * x
		}
		vec.Sigmoid(s, s)
		for i, x := range src[:n] {
			if x > -0.125 && x < 0.125 {
				q := float32(x * x)
				dst[i] = x - float32(float32(x*q)*(1.0/3-float32(q*(2.0/15-float32(q*(17.0/315))))))
			} else {
				dst[i] = 2*s[i] - 1
			}
		}
		dst, src = dst[n:], src[n:]
	}
}

// stepOf is entry t of a tensor of n elements a step.
func stepOf[T floats](b []byte, t, n int) []T {
	if b == nil {
		return nil
	}
	return tensor.View[T](b)[t*n : (t+1)*n]
}

// at is the step that is computed i-th.
func (r *recurrence) at(i int) int {
	if r.reverse {
		return r.t - 1 - i
	}
	return i
}

// runs reports whether a row is longer than t.
func (r *recurrence) runs(lengths []int32, row, t int) bool {
	return lengths == nil || int(lengths[row]) > t
}

// grain is how many rows of a step a thread must have to be worth waking.
func (r *recurrence) grain() int { return max(4096/max(r.gates*r.h, 1), 1) }

func recurrenceKernel[T floats](d *Device, r recurrence, f squash[T]) *Kernel {
	width := r.gates * r.h
	product := (sizeOf[T](r.b*width) + 63) &^ 63
	return &Kernel{ScratchBytes: product + gemm.ScratchBytes(r.b, width, r.h, d.threads), Run: func(c *Call) error {
		s := forwardStep[T]{r: &r, f: f, h: tensor.View[T](c.In[2]), wh: tensor.View[T](c.Scratch[:product])}
		s.bias, s.c, s.lengths = optional[T](c.In[3]), optional[T](c.In[4]), optional[int32](c.In[5])
		rows := s.rows
		for i := range r.t {
			s.load(c, r.at(i))
			err := gemm.Gemm(d.pool, c.Scratch[product:], 1, gemm.Args{M: r.b, N: width, K: r.h, A: gemm.Mat{Data: tensor.AsBytes(s.h), DType: r.dt},
				B: gemm.Mat{Data: c.In[1], DType: r.dt, Trans: true}, C: gemm.Out{Data: c.Scratch[:product], DType: r.dt}})
			if err != nil {
				return err
			}
			if err := d.ranges(r.b, r.grain(), rows); err != nil {
				return err
			}
			s.h, s.c = s.next, s.cNext
		}
		return nil
	}}
}

// optional views an operand that may be absent.
func optional[E tensor.Element](b []byte) []E {
	if b == nil {
		return nil
	}
	return tensor.View[E](b)
}

// forwardStep is one step of all rows.
type forwardStep[T floats] struct {
	r           *recurrence
	f           squash[T]
	t           int
	lengths     []int32
	a, wh       []T // (B, G·H)
	h, c, bias  []T
	next, cNext []T // (B, H)
	gates       []T // (B, 4H), of GRU and LSTM
}

// load points at the operands of step t.
func (s *forwardStep[T]) load(c *Call, t int) {
	r, state := s.r, s.r.b*s.r.h
	s.t, s.a, s.next = t, stepOf[T](c.In[0], t, r.gates*state), stepOf[T](c.Out[0], t, state)
	if len(c.Out) > 1 {
		s.gates = stepOf[T](c.Out[1], t, 4*state)
	}
	if len(c.Out) > 2 {
		s.cNext = stepOf[T](c.Out[2], t, state)
	}
}

func (s *forwardStep[T]) rows(lo, hi int) {
	n, width := s.r.h, s.r.gates*s.r.h
	for b := lo; b < hi; b++ {
		h, next := s.h[b*n:(b+1)*n], s.next[b*n:(b+1)*n]
		if !s.r.runs(s.lengths, b, s.t) {
			copy(next, h)
			if s.gates != nil {
				clear(s.gates[b*4*n : (b+1)*4*n])
			}
			if s.cNext != nil {
				copy(s.cNext[b*n:(b+1)*n], s.c[b*n:])
			}
			continue
		}
		a, wh := s.a[b*width:(b+1)*width], s.wh[b*width:(b+1)*width]
		switch s.r.cell {
		case ops.CellGRU:
			s.gru(a, wh, h, next, s.gates[b*4*n:(b+1)*4*n])
		case ops.CellLSTM:
			s.lstm(a, wh, s.c[b*n:(b+1)*n], next, s.cNext[b*n:(b+1)*n], s.gates[b*4*n:(b+1)*4*n])
		case ops.CellReLU:
			for i, v := range a {
				next[i] = max(v+wh[i], 0)
			}
		default:
			for i, v := range a {
				next[i] = v + wh[i]
			}
			s.f.tanh(next, next)
		}
	}
}

func (s *forwardStep[T]) gru(a, wh, h, next, gates []T) {
	n := len(h)
	r, z, cand, hn := gates[:n], gates[n:2*n], gates[2*n:3*n], gates[3*n:]
	for i := range 2 * n {
		gates[i] = a[i] + wh[i]
	}
	s.f.sigmoid(gates[:2*n], gates[:2*n])
	for i := range n {
		hn[i] = wh[2*n+i] + s.bias[i]
		cand[i] = a[2*n+i] + T(r[i]*hn[i])
	}
	s.f.tanh(cand, cand)
	for i := range n {
		next[i] = T((1-z[i])*cand[i]) + T(z[i]*h[i])
	}
}

func (s *forwardStep[T]) lstm(a, wh, c, next, cNext, gates []T) {
	n := len(c)
	in, forget, cand, out := gates[:n], gates[n:2*n], gates[2*n:3*n], gates[3*n:]
	for i := range gates {
		gates[i] = a[i] + wh[i]
	}
	s.f.sigmoid(gates[:2*n], gates[:2*n])
	s.f.tanh(cand, cand)
	s.f.sigmoid(out, out)
	for i := range n {
		cNext[i] = T(forget[i]*c[i]) + T(in[i]*cand[i])
	}
	s.f.tanh(next, cNext)
	for i := range n {
		next[i] *= out[i]
	}
}
