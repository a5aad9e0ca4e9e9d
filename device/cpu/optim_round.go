package cpu

import (
	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/device/cpu/vec"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func init() { Register(buildStochasticRound) }

// roundKey is what the random bits of one tensor follow from, besides the element, and where the tensor begins.
type roundKey struct {
	seed       uint64
	step, site uint32
	offset     int
}

// storeP rounds a block of parameters, of which the first n of w.kept were updated, or all.
func (u *tensorStep) storeP(w *stepWork, p []float32, n, lo, hi int) {
	out := u.p[2*lo : 2*hi]
	switch {
	case u.rounding == ops.Stochastic: // what was not updated is exact, so that it stays
		u.random.narrow(out, p, u.pType, lo, &w.words)
	case u.comp == nil:
		vec.Narrow(out, p, u.pType)
	case n == hi-lo:
		vec.Narrow(out, p, u.pType)
		held := w.d[:n]
		vec.Widen(held, out, u.pType)
		vec.OpSub.Run(held, p, held, nil)
		vec.Narrow(u.comp[2*lo:2*hi], held, u.pType)
	default: // value and compensation of the others keep their split
		held, comp := tensor.View[uint16](out), tensor.View[uint16](u.comp[2*lo:2*hi])
		for _, i := range w.kept[:n] {
			held[i] = nearest16(p[i], u.pType)
			comp[i] = nearest16(p[i]-wide16(held[i], u.pType), u.pType)
		}
	}
}

func nearest16(x float32, d tensor.DType) uint16 {
	if d == tensor.BF16 {
		return uint16(tensor.ToBF16(x))
	}
	return uint16(tensor.ToF16(x))
}

func wide16(x uint16, d tensor.DType) float32 {
	if d == tensor.BF16 {
		return tensor.BFloat16(x).Float32()
	}
	return tensor.Float16(x).Float32()
}

// narrow rounds elements of the slab from lo on, a multiple of ops.SlabAlign, to a 16-bit type. An element's bits
// are those of ops.RoundingWords, 16 for each in the order of memory; words holds them.
func (k roundKey) narrow(dst []byte, src []float32, d tensor.DType, lo int, words *[ops.SlabAlign / 2]uint32) {
	out := tensor.View[uint16](dst)
	for at := 0; at < len(src); at += ops.SlabAlign {
		x := src[at:min(at+ops.SlabAlign, len(src))]
		w := words[:(len(x)+1)/2]
		first := ops.RoundingCounter(k.step, k.site, uint32((lo-k.offset+at)/ops.RoundingElements))
		vec.Philox(w, first, [2]uint32{uint32(k.seed), uint32(k.seed >> 32)})
		random := tensor.View[uint16](tensor.AsBytes(w))[:len(x)]
		if d == tensor.BF16 {
			vec.RoundRandomly(out[at:at+len(x)], x, random)
			continue
		}
		for i, v := range x {
			out[at+i] = ops.RoundToF16(v, random[i])
		}
	}
}

func buildStochasticRound(d *Device, o ops.StochasticRound, s device.Spec) (*Kernel, error) {
	tasks, to := newSlabTasks(o.Layout), s.Out[0].DType
	return &Kernel{Run: func(c *Call) error {
		clear(c.Out[0]) // padding
		x, step := tensor.View[float32](c.In[0]), uint32(tensor.View[float32](c.In[1])[0])
		return tasks.run(d, func(w *stepWork, _ int, p slabPart) {
			k := roundKey{o.Seed, step, o.Layout.Site(p.tensor), o.Layout.Offsets[p.tensor]}
			k.narrow(c.Out[0][2*p.lo:2*p.hi], x[p.lo:p.hi], to, p.lo, &w.words)
		})
	}}, nil
}
