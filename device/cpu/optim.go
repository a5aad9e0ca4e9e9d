package cpu

import (
	"math"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func init() {
	Register(buildAdamW)
	Register(buildAdamW8bit)
	Register(buildSGD)
}

// updateGrain is the elements of an update task, a multiple of ops.SlabAlign.
const updateGrain = 32 << 10

// slabPart is a run of elements of one tensor of a slab; it starts on a multiple of ops.SlabAlign.
type slabPart struct {
	lo, hi int
	lr, wd float64 // factor of the learning rate, weight decay
}

// slabTasks cuts the tensors of a slab into parts and groups them into tasks of about updateGrain elements.
type slabTasks struct {
	parts []slabPart
	first []int // first part of each task, and the number of parts at the end
}

func newSlabTasks(l *ops.Layout, decay float64) *slabTasks {
	t := &slabTasks{}
	room := 0
	for i := range l.Sizes {
		at, size, lr, wd := l.Tensor(i, decay)
		for lo := 0; lo < size; lo += updateGrain {
			n := min(updateGrain, size-lo)
			if room < n {
				t.first = append(t.first, len(t.parts))
				room = updateGrain
			}
			room -= n
			t.parts = append(t.parts, slabPart{at + lo, at + lo + n, lr, wd})
		}
	}
	t.first = append(t.first, len(t.parts))
	return t
}

func (t *slabTasks) run(d *Device, f func(s slabPart)) error {
	return d.parallel(len(t.first)-1, func(task int) {
		for _, s := range t.parts[t.first[task]:t.first[task+1]] {
			f(s)
		}
	})
}

// scalars are the inputs of an update after its slabs.
type scalars struct {
	lr, step float64
	gscale   float32
	ok       bool
}

func readScalars(in [][]byte) scalars {
	at := func(i int) float32 { return tensor.View[float32](in[i])[0] }
	return scalars{lr: float64(at(0)), step: float64(at(1)), gscale: at(2), ok: at(3) > 0}
}

// inPlace brings the inputs that are updated to their outputs, unless they are there already.
func inPlace(c *Call, o interface{ NumOut() int }, from ...int) {
	for i, j := range from[:o.NumOut()] {
		if len(c.Out[i]) > 0 && &c.Out[i][0] != &c.In[j][0] {
			copy(c.Out[i], c.In[j])
		}
	}
}

func buildAdamW(d *Device, o ops.AdamW, s device.Spec) (*Kernel, error) {
	tasks := newSlabTasks(o.Layout, o.WeightDecay)
	return &Kernel{Run: func(c *Call) error {
		inPlace(c, o, 0, 2, 3)
		sc := readScalars(c.In[4:])
		if !sc.ok {
			return nil
		}
		p, m, v := tensor.View[float32](c.Out[0]), tensor.View[float32](c.Out[1]), tensor.View[float32](c.Out[2])
		g := tensor.View[float32](c.In[1])
		c1, c2 := 1-math.Pow(o.Beta1, sc.step), math.Sqrt(1-math.Pow(o.Beta2, sc.step))
		return tasks.run(d, func(s slabPart) {
			u := adamStep{gscale: sc.gscale, b1: float32(o.Beta1), b2: float32(o.Beta2), n1: float32(1 - o.Beta1), n2: float32(1 - o.Beta2),
				c2: float32(c2), eps: float32(o.Eps), rate: float32(sc.lr * s.lr / c1), before: 1, after: 1}
			if u.before = float32(1 - sc.lr*s.lr*s.wd); o.DecayLast {
				u.before, u.after = 1, u.before
			}
			u.run(p[s.lo:s.hi], g[s.lo:s.hi], m[s.lo:s.hi], v[s.lo:s.hi])
		})
	}}, nil
}

// adamStep holds the factors of one update of one tensor: n1 and n2 are one minus the betas, c2 the square root of the second bias
// correction, before and after the decay.
type adamStep struct {
	gscale, b1, b2, n1, n2, c2, eps, rate, before, after float32
}

func (u *adamStep) run(p, g, m, v []float32) {
	n := len(p)
	g, m, v = g[:n], m[:n], v[:n]
	s := *u
	for i, x := range g {
		x *= s.gscale
		mi := float32(s.b1*m[i]) + float32(s.n1*x)
		vi := float32(s.b2*v[i]) + float32(float32(s.n2*x)*x)
		m[i], v[i] = mi, vi
		root := float32(math.Sqrt(float64(vi)))
		update := float32(s.rate * (mi / (root/s.c2 + s.eps)))
		p[i] = (float32(p[i]*s.before) - update) * s.after
	}
}

func buildAdamW8bit(d *Device, o ops.AdamW8bit, s device.Spec) (*Kernel, error) {
	tasks := newSlabTasks(o.Layout, o.WeightDecay)
	b1, b2 := float32(o.Beta1), float32(o.Beta2)
	return &Kernel{Run: func(c *Call) error {
		inPlace(c, o, 0, 2, 3, 4, 5)
		sc := readScalars(c.In[6:])
		if !sc.ok {
			return nil
		}
		p, g := tensor.View[float32](c.Out[0]), tensor.View[float32](c.In[1])
		m := moment8{quant.DynamicSigned(), c.Out[1], tensor.View[float32](c.Out[3])}
		v := moment8{quant.DynamicUnsigned(), c.Out[2], tensor.View[float32](c.Out[4])}
		c1, c2 := 1-math.Pow(float64(b1), sc.step), math.Sqrt(1-math.Pow(float64(b2), sc.step))
		return tasks.run(d, func(s slabPart) {
			u := adamStep{gscale: sc.gscale, b1: b1, b2: b2, n1: 1 - b1, n2: 1 - b2, eps: float32(float32(o.Eps) * float32(c2)),
				rate: float32(sc.lr * s.lr * c2 / c1), after: float32(1 - sc.lr*s.lr*s.wd)}
			for lo := s.lo; lo < s.hi; lo += ops.SlabAlign {
				hi := min(lo+ops.SlabAlign, s.hi)
				u.block(p[lo:hi], g[lo:hi], &m, &v, lo)
			}
		})
	}}, nil
}

// moment8 is an 8-bit state.
type moment8 struct {
	book   *quant.Codebook
	codes  []byte
	absmax []float32
}

// block updates one block of 8-bit states, which begins at element lo of the slab.
func (u *adamStep) block(p, g []float32, m, v *moment8, lo int) {
	var bufM, bufV [ops.SlabAlign]float32
	n, b := len(p), lo/ops.SlabAlign
	ms, vs := bufM[:n], bufV[:n]
	mc, vc := m.codes[lo:lo+n], v.codes[lo:lo+n]
	m.book.DequantizeBlock(ms, mc, m.absmax[b])
	v.book.DequantizeBlock(vs, vc, v.absmax[b])
	s := *u
	g = g[:n]
	for i, x := range g {
		if x-x != 0 { // NaN or infinite
			ms[i], vs[i] = 0, 0
			continue
		}
		x *= s.gscale
		mi := float32(s.b1*ms[i]) + float32(s.n1*x)
		vi := float32(s.b2*vs[i]) + float32(float32(s.n2*x)*x)
		ms[i], vs[i] = mi, vi
		update := float32(s.rate * (mi / (float32(math.Sqrt(float64(vi))) + s.eps)))
		p[i] = (p[i] - update) * s.after
	}
	m.absmax[b] = m.book.QuantizeBlockSigned(mc, ms)
	v.absmax[b] = v.book.QuantizeBlock(vc, vs)
}

func buildSGD(d *Device, o ops.SGD, s device.Spec) (*Kernel, error) {
	tasks := newSlabTasks(o.Layout, o.WeightDecay)
	return &Kernel{Run: func(c *Call) error {
		inPlace(c, o, 0, 2)
		sc := readScalars(c.In[3:])
		if !sc.ok {
			return nil
		}
		p, g := tensor.View[float32](c.Out[0]), tensor.View[float32](c.In[1])
		var buf []float32
		if o.Momentum != 0 {
			buf = tensor.View[float32](c.Out[1])
		}
		u := sgdStep{gscale: sc.gscale, momentum: float32(o.Momentum), damp: float32(1 - o.Dampening), nesterov: o.Nesterov}
		if sc.step <= 1 {
			u.damp, u.fresh = 1, true
		}
		return tasks.run(d, func(s slabPart) {
			u := u
			u.lr, u.wd = float32(sc.lr*s.lr), float32(s.wd)
			if buf == nil {
				u.plain(p[s.lo:s.hi], g[s.lo:s.hi])
			} else {
				u.run(p[s.lo:s.hi], g[s.lo:s.hi], buf[s.lo:s.hi])
			}
		})
	}}, nil
}

// sgdStep holds the factors of one update of one tensor.
type sgdStep struct {
	lr, wd, gscale, momentum, damp float32
	nesterov, fresh                bool
}

func (u *sgdStep) plain(p, g []float32) {
	g = g[:len(p)]
	for i, x := range g {
		p[i] -= float32(u.lr * (float32(x*u.gscale) + float32(u.wd*p[i])))
	}
}

func (u *sgdStep) run(p, g, buf []float32) {
	g, buf = g[:len(p)], buf[:len(p)]
	for i, x := range g {
		d := float32(x*u.gscale) + float32(u.wd*p[i])
		b := d
		if !u.fresh {
			b = float32(u.momentum*buf[i]) + float32(u.damp*d)
		}
		buf[i] = b
		if u.nesterov {
			b = d + float32(u.momentum*b)
		}
		p[i] -= float32(u.lr * b)
	}
}
