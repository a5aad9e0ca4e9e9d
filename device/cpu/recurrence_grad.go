package cpu

import (
	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/device/cpu/gemm"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func init() {
	Register(func(d *Device, op ops.RecurrenceGradOp, s device.Spec) (*Kernel, error) {
		a := s.Out[0]
		r := recurrence{cell: op.Cell, reverse: op.Reverse, dt: a.DType, t: a.Dim(0), b: a.Dim(1), gates: op.Cell.Gates()}
		r.h = a.Dim(2) / r.gates
		if a.DType == tensor.F64 {
			return recurrenceGradKernel(d, r, math64), nil
		}
		return recurrenceGradKernel(d, r, math32), nil
	})
}

// recurrenceGradKernel keeps the cotangents of the states in the outputs of the initial ones, step after step.
func recurrenceGradKernel[T floats](d *Device, r recurrence, f squash[T]) *Kernel {
	width, state := r.gates*r.h, r.b*r.h
	dwh := (sizeOf[T](r.b*width) + 63) &^ 63 // cotangent of w·h, where it is not that of a
	if r.cell != ops.CellGRU {
		dwh = 0
	}
	tmp := (sizeOf[T](state) + 63) &^ 63
	return &Kernel{ScratchBytes: dwh + tmp + gemm.ScratchBytes(r.b, r.h, width, d.threads), Run: func(c *Call) error {
		s := backStep[T]{r: &r, f: f, dh: tensor.View[T](c.Out[1]), tmp: tensor.View[T](c.Scratch[dwh : dwh+tmp])}
		clear(s.dh)
		if r.cell == ops.CellLSTM {
			s.dc = tensor.View[T](c.Out[2])
			clear(s.dc)
		}
		s.lengths = optional[int32](c.In[6])
		rows := s.rows
		for i := r.t - 1; i >= 0; i-- {
			s.load(c, i)
			w := c.Scratch[:dwh]
			if s.dn != nil {
				s.dwh = tensor.View[T](w)
			} else {
				w = tensor.AsBytes(s.da)
			}
			if err := d.ranges(r.b, r.grain(), rows); err != nil {
				return err
			}
			err := gemm.Gemm(d.pool, c.Scratch[dwh+tmp:], 1, gemm.Args{M: r.b, N: r.h, K: width, A: gemm.Mat{Data: w, DType: r.dt},
				B: gemm.Mat{Data: c.In[0], DType: r.dt}, C: gemm.Out{Data: c.Out[1], DType: r.dt}, Accumulate: true})
			if err != nil {
				return err
			}
		}
		return nil
	}}
}

// backStep is one step of all rows, backwards. dh and dc hold the cotangents of the states after the step, and are left with
// those before it, without what goes through w.
type backStep[T floats] struct {
	r               *recurrence
	f               squash[T]
	t               int
	lengths         []int32
	before, cBefore []T // states before the step
	h, c            []T // and after it
	gates, ggates   []T
	gh, gc          []T // cotangents of the step's own outputs
	da, dn, dwh     []T
	dh, dc, tmp     []T
}

// load points at the operands of the step that is computed i-th forwards.
func (s *backStep[T]) load(c *Call, i int) {
	r, t := s.r, s.r.at(i)
	state := r.b * r.h
	s.t = t
	s.h, s.c = stepOf[T](c.In[2], t, state), stepOf[T](c.In[5], t, state)
	s.gates, s.ggates = stepOf[T](c.In[3], t, 4*state), stepOf[T](c.In[8], t, 4*state)
	s.gh, s.gc = stepOf[T](c.In[7], t, state), stepOf[T](c.In[9], t, state)
	s.da = stepOf[T](c.Out[0], t, r.gates*state)
	s.before, s.cBefore = stepOf[T](c.In[1], 0, state), stepOf[T](c.In[4], 0, state)
	if i > 0 {
		s.before, s.cBefore = stepOf[T](c.In[2], r.at(i-1), state), stepOf[T](c.In[5], r.at(i-1), state)
	}
	if r.cell == ops.CellGRU {
		s.dn = stepOf[T](c.Out[2], t, state)
	}
}

func (s *backStep[T]) rows(lo, hi int) {
	n, width := s.r.h, s.r.gates*s.r.h
	for b := lo; b < hi; b++ {
		dh, da := s.dh[b*n:(b+1)*n], s.da[b*width:(b+1)*width]
		addRowOf(dh, s.gh, b)
		if s.dc != nil {
			addRowOf(s.dc[b*n:(b+1)*n], s.gc, b)
		}
		if !s.r.runs(s.lengths, b, s.t) {
			clear(da)
			if s.dn != nil {
				clear(s.dn[b*n : (b+1)*n])
				clear(s.dwh[b*width : (b+1)*width])
			}
			continue
		}
		switch s.r.cell {
		case ops.CellGRU:
			s.gru(b, dh, da)
		case ops.CellLSTM:
			s.lstm(b, dh, da)
		default:
			for i, h := range s.h[b*n : (b+1)*n] {
				switch {
				case s.r.cell == ops.CellTanh:
					da[i] = dh[i] * (1 - T(h*h))
				case h > 0:
					da[i] = dh[i]
				default:
					da[i] = 0
				}
				dh[i] = 0
			}
		}
	}
}

// addRowOf adds row b of a matrix that may be absent.
func addRowOf[T floats](dst, rows []T, b int) {
	if rows == nil {
		return
	}
	for i, v := range rows[b*len(dst) : (b+1)*len(dst)] {
		dst[i] += v
	}
}

// own is the cotangent that element i of a row's gates has by itself.
func own[T floats](ggates []T, i int) T {
	if ggates == nil {
		return 0
	}
	return ggates[i]
}

func (s *backStep[T]) gru(b int, dh, da []T) {
	n := len(dh)
	g, gg := s.gates[b*4*n:(b+1)*4*n], []T(nil)
	if s.ggates != nil {
		gg = s.ggates[b*4*n : (b+1)*4*n]
	}
	before, dn, dwh := s.before[b*n:(b+1)*n], s.dn[b*n:(b+1)*n], s.dwh[b*3*n:(b+1)*3*n]
	for i := range n {
		r, z, cand, hn := g[i], g[n+i], g[2*n+i], g[3*n+i]
		dcand := (dh[i]*(1-z) + own(gg, 2*n+i)) * (1 - T(cand*cand))
		da[i] = (T(dcand*hn) + own(gg, i)) * r * (1 - r)
		da[n+i] = (T(dh[i]*(before[i]-cand)) + own(gg, n+i)) * z * (1 - z)
		da[2*n+i] = dcand
		dn[i] = T(dcand*r) + own(gg, 3*n+i)
		dh[i] *= z
	}
	copy(dwh, da[:2*n])
	copy(dwh[2*n:], dn)
}

func (s *backStep[T]) lstm(b int, dh, da []T) {
	n := len(dh)
	g, gg := s.gates[b*4*n:(b+1)*4*n], []T(nil)
	if s.ggates != nil {
		gg = s.ggates[b*4*n : (b+1)*4*n]
	}
	tc, before, dc := s.tmp[b*n:(b+1)*n], s.cBefore[b*n:(b+1)*n], s.dc[b*n:(b+1)*n]
	s.f.tanh(tc, s.c[b*n:(b+1)*n])
	for i := range n {
		in, forget, cand, out := g[i], g[n+i], g[2*n+i], g[3*n+i]
		d := dc[i] + T(dh[i]*out)*(1-T(tc[i]*tc[i]))
		da[i] = (T(d*cand) + own(gg, i)) * in * (1 - in)
		da[n+i] = (T(d*before[i]) + own(gg, n+i)) * forget * (1 - forget)
		da[2*n+i] = (T(d*in) + own(gg, 2*n+i)) * (1 - T(cand*cand))
		da[3*n+i] = (T(dh[i]*tc[i]) + own(gg, 3*n+i)) * out * (1 - out)
		dc[i], dh[i] = d*forget, 0
	}
}
