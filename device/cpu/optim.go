package cpu

import (
	"math"
	"sync"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/device/cpu/step"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func init() {
	Register(func(d *Device, o ops.Update, s device.Spec) (*Kernel, error) {
		return buildUpdate(d, o.Hyper, o.Layout, false, s)
	})
	Register(func(d *Device, o ops.Update8bit, s device.Spec) (*Kernel, error) {
		return buildUpdate(d, o.Hyper, o.Layout, true, s)
	})
}

// updateGrain is the elements of an update task, a multiple of ops.SlabAlign.
const updateGrain = 32 << 10

// slabPart is a run of elements of one tensor of a slab; it starts on a multiple of ops.SlabAlign.
type slabPart struct {
	lo, hi, tensor int
}

// slabTasks cuts the tensors of a slab into parts and groups them into tasks of about updateGrain elements.
type slabTasks struct {
	parts []slabPart
	first []int // first part of each task, and the number of parts at the end
	room  workPool
}

// workPool lends workers their room; after the first step there is one for each.
type workPool struct{ free sync.Pool }

func (p *workPool) get() *stepWork {
	if w, ok := p.free.Get().(*stepWork); ok {
		return w
	}
	return new(stepWork)
}

func (p *workPool) put(w *stepWork) { p.free.Put(w) }

func newSlabTasks(l *ops.Layout) *slabTasks {
	t := &slabTasks{}
	room := 0
	for i, at := range l.Offsets {
		size := l.Sizes[i]
		for lo := 0; lo < size; lo += updateGrain {
			n := min(updateGrain, size-lo)
			if room < n {
				t.first = append(t.first, len(t.parts))
				room = updateGrain
			}
			room -= n
			t.parts = append(t.parts, slabPart{at + lo, at + lo + n, i})
		}
	}
	t.first = append(t.first, len(t.parts))
	return t
}

// run calls f with each part and its index.
func (t *slabTasks) run(d *Device, f func(w *stepWork, i int, s slabPart)) error {
	return d.parallel(len(t.first)-1, func(task int) {
		w := t.room.get()
		defer t.room.put(w)
		for i := t.first[task]; i < t.first[task+1]; i++ {
			f(w, i, t.parts[i])
		}
	})
}

// blocks cuts a part into blocks.
func (s slabPart) blocks(f func(lo, hi int)) {
	for lo := s.lo; lo < s.hi; lo += ops.SlabAlign {
		f(lo, min(lo+ops.SlabAlign, s.hi))
	}
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

// updater is the kernel of one update op.
type updater struct {
	ops.Hyper
	layout       *ops.Layout
	tasks        *slabTasks
	eight        bool
	pType, gType tensor.DType
	bound        bool // MaxUnorm
}

func buildUpdate(d *Device, h ops.Hyper, l *ops.Layout, eight bool, s device.Spec) (*Kernel, error) {
	u := &updater{Hyper: h, layout: l, tasks: newSlabTasks(l), eight: eight, pType: s.In[0].DType, gType: s.In[1].DType, bound: h.MaxUnorm > 0}
	k := &Kernel{Run: func(c *Call) error { return u.run(d, c) }}
	if u.bound { // two sums a part, a factor a tensor
		k.ScratchBytes = int64(16*len(u.tasks.parts) + 8*len(l.Sizes))
	}
	return k, nil
}

// bringToOutputs copies parameters and states that are not updated in place.
func bringToOutputs(c *Call) {
	for i, out := range c.Out {
		if in := c.In[0]; len(out) > 0 {
			if i > 0 {
				in = c.In[i+1]
			}
			if &out[0] != &in[0] {
				copy(out, in)
			}
		}
	}
}

func (u *updater) run(d *Device, c *Call) error {
	bringToOutputs(c)
	sc := readScalars(c.In[len(c.In)-4:])
	if !sc.ok {
		return nil
	}
	sl := u.slabs(c, sc.gscale)
	base := step.NewFactors(u.Hyper, sc.step)
	var bounds []float64
	if u.bound {
		var err error
		if bounds, err = u.norms(d, c, sl, &base); err != nil {
			return err
		}
	}
	return u.tasks.run(d, func(w *stepWork, _ int, s slabPart) {
		t := u.tensor(sl, &base, s.tensor, sc.lr)
		t.random = roundKey{u.Seed, uint32(sc.step), u.layout.Site(s.tensor), u.layout.Offsets[s.tensor]}
		if bounds != nil {
			t.f.Rate = float32(float64(t.f.Rate) * bounds[s.tensor])
		}
		if u.Rule == ops.Lion && u.eight && sl.between != tensor.F32 {
			t.f.Rate = wide16(nearest16(t.f.Rate, u.pType), u.pType)
		}
		t.part(w, s)
	})
}

// slabs gathers the operands of a launch.
func (u *updater) slabs(c *Call, gscale float32) *slabs {
	unsigned := u.Moments()
	k := len(unsigned)
	sl := &slabs{p: c.Out[0], g: c.In[1], rounding: u.Rounding, between: u.pType, pType: u.pType, gType: u.gType, gscale: gscale, eight: u.eight, moments: k, skip: u.SkipZeros,
		before: u.DecayFirst(), after: u.DecayLast()}
	if u.Rounding != ops.Nearest {
		sl.between = tensor.F32
	}
	if u.Compensated(u.layout) {
		sl.comp = c.Out[len(c.Out)-1]
	}
	for j := range unsigned {
		if !u.eight {
			sl.state[j] = tensor.View[float32](c.Out[1+j])
			continue
		}
		m := &sl.moments8[j]
		m.Codes, m.Absmax, m.Signed = c.Out[1+j], tensor.View[float32](c.Out[1+k+j]), !unsigned[j]
		if m.Book = quant.DynamicSigned(); unsigned[j] {
			m.Book = quant.DynamicUnsigned()
		}
	}
	return sl
}

// tensor returns the update of one tensor.
func (u *updater) tensor(sl *slabs, base *step.Factors, i int, lr float64) tensorStep {
	_, _, wd := u.layout.Tensor(i, u.WeightDecay)
	rate := u.layout.Rate(i, lr)
	t := tensorStep{slabs: sl, f: *base, decay: 1}
	t.f.Rate = float32(rate * base.Scale)
	if sl.before || sl.after {
		t.decay = float32(1 - float64(rate*wd))
	} else if t.f.WD = float32(wd); !u.eight && u.gType != tensor.F32 && wd != 0 {
		t.rounded = u.gType
	}
	return t
}

// norms returns the factor that bounds the step of each tensor and writes the squared norms of the steps to the last output.
func (u *updater) norms(d *Device, c *Call, sl *slabs, base *step.Factors) ([]float64, error) {
	all := tensor.View[float64](c.Scratch)
	parts, bounds := all[:2*len(u.tasks.parts)], all[2*len(u.tasks.parts):]
	err := u.tasks.run(d, func(w *stepWork, i int, s slabPart) {
		t := tensorStep{slabs: sl, f: *base}
		var p2, d2 float64
		s.blocks(func(lo, hi int) {
			p, d := t.norms(w, lo, hi)
			p2, d2 = p2+p, d2+d
		})
		parts[2*i], parts[2*i+1] = p2, d2
	})
	last := len(c.Out) - 1
	if sl.comp != nil {
		last--
	}
	unorm := tensor.View[float32](c.Out[last])
	part := 0
	for i := range unorm {
		var p2, d2 float64
		for ; part < len(u.tasks.parts) && u.tasks.parts[part].tensor == i; part++ {
			p2, d2 = p2+parts[2*part], d2+parts[2*part+1]
		}
		d2 *= base.Scale * base.Scale
		unorm[i] = float32(d2)
		bounds[i] = 1
		if limit, norm := float64(u.MaxUnorm*math.Sqrt(p2))+u.UnormEps(), math.Sqrt(d2); norm > limit && p2 > 0 {
			bounds[i] = limit / norm
		}
	}
	return bounds, err
}
