package cpu

import (
	"github.com/bitsandbyes/bitsandbyes/device/cpu/step"
	"github.com/bitsandbyes/bitsandbyes/device/cpu/vec"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// stepWork is the room a worker needs for one block: everything that is not float32 in memory, or must not be overwritten, is here.
type stepWork struct {
	p, g, d [ops.SlabAlign]float32
	s       [3][ops.SlabAlign]float32
	packed  struct {
		p, g [ops.SlabAlign]float32
		s    [3][ops.SlabAlign]float32
	}
	kept  [ops.SlabAlign]uint8
	words [ops.SlabAlign / 2]uint32 // random, for stochastic rounding
	eight step.Blocks8
}

// slabs are the operands of one launch.
type slabs struct {
	p, g          []byte
	pType, gType  tensor.DType
	gscale        float32
	eight         bool
	state         [3][]float32  // 32-bit
	moments8      step.Moments8 // 8-bit
	moments       int
	skip          bool // SkipZeros
	rounding      ops.Rounding
	between       tensor.DType // what parameters are rounded to between decay and step: their type, or float32 for not at all
	comp          []byte       // Kahan's compensation, nil without
	before, after bool         // where a decoupled decay stands
}

// tensorStep is the update of one tensor.
type tensorStep struct {
	*slabs
	f       step.Factors // with the rate and a coupled decay
	decay   float32      // of the parameters before or after the step; 1 where there is none or it is coupled
	rounded tensor.DType // what a gradient is rounded to after a coupled decay; Invalid: nothing
	random  roundKey
}

// inPlace reports whether parts need no room: everything is float32 where it is, and no element is left out.
func (u *tensorStep) inPlace() bool {
	return u.pType == tensor.F32 && u.gType == tensor.F32 && !u.eight && !u.skip
}

// part updates the elements [lo, hi) of the slab, of one tensor, from a block's start.
func (u *tensorStep) part(w *stepWork, s slabPart) {
	switch {
	case u.inPlace():
		var states [3][]float32
		u.loadStates(w, &states, s.lo, s.hi)
		f := u.factors(u.gscale)
		f.Advance(tensor.View[float32](u.p)[s.lo:s.hi], tensor.View[float32](u.g)[s.lo:s.hi], &states)
	case u.eight && !u.skip:
		u.part8(w, s)
	default:
		s.blocks(func(lo, hi int) { u.block(w, lo, hi) })
	}
}

// part8 is part for 8-bit moments. Gradients are scaled and looked at where parameters go through w: there an element whose gradient is not
// finite must not be decayed outside of the loop that leaves it alone.
func (u *tensorStep) part8(w *stepWork, s slabPart) {
	raw := u.pType == tensor.F32 && u.gType == tensor.F32
	gscale := float32(1)
	if raw {
		gscale = u.gscale
	}
	f := u.factors(gscale)
	w.eight.Begin(&f, &u.moments8, s.lo, s.hi)
	s.blocks(func(lo, hi int) {
		switch {
		case raw:
			w.eight.Block(tensor.View[float32](u.p)[lo:hi], tensor.View[float32](u.g)[lo:hi])
		case u.pType == tensor.F32:
			g, _ := u.loadG(w, lo, hi)
			w.eight.Block(tensor.View[float32](u.p)[lo:hi], g)
		default:
			u.block8(w, lo, hi)
		}
	})
	w.eight.End()
}

// block8 updates a block of 16-bit parameters.
func (u *tensorStep) block8(w *stepWork, lo, hi int) {
	p, kept := u.loadP(w, lo, hi), hi-lo
	g, finite := u.loadG(w, lo, hi)
	if !finite {
		kept = u.keep(w, g)
		copy(w.packed.p[:], p)
	}
	u.decayBefore(p)
	w.eight.Block(p, g)
	u.decayAfter(p)
	if !finite {
		for i, x := range g {
			if x-x != 0 {
				p[i] = w.packed.p[i]
			}
		}
	}
	u.storeP(w, p, kept, lo, hi)
}

// block is part for one block through w.
func (u *tensorStep) block(w *stepWork, lo, hi int) {
	n := hi - lo
	p := u.loadP(w, lo, hi)
	var s [3][]float32
	u.loadStates(w, &s, lo, hi)
	g, _ := u.loadG(w, lo, hi)
	kept := n
	if u.skip {
		kept = u.keep(w, g)
	}
	if kept == n {
		u.move(p, g, &s)
	} else {
		u.moveKept(w, kept, p, g, &s)
	}
	if u.pType != tensor.F32 {
		u.storeP(w, p, kept, lo, hi)
	}
	if u.eight {
		u.storeCodes(&s, lo, hi)
	}
}

// move steps and decays p. The gradients g are scaled and may be overwritten.
func (u *tensorStep) move(p, g []float32, s *[3][]float32) {
	f := u.factors(1)
	if u.rounded != tensor.Invalid {
		u.couple(p, g)
		f.WD = 0
	}
	u.decayBefore(p)
	f.Advance(p, g, s)
	u.decayAfter(p)
}

// factors are those of the loops, for gradients that are yet to be scaled. They do all that is not rounded to 16 bits on its way.
func (u *tensorStep) factors(gscale float32) step.Factors {
	f := u.f
	f.GScale = gscale
	if u.between == tensor.F32 && u.before {
		f.Before = u.decay
	} else if u.between == tensor.F32 && u.after {
		f.After = u.decay
	}
	return f
}

// decayBefore is a decay before a step that rounds.
func (u *tensorStep) decayBefore(p []float32) {
	if u.between != tensor.F32 && u.before && u.decay != 1 {
		scaleBy(p, u.decay)
		roundTo(p, u.between)
	}
}

// decayAfter is a decay after a step that rounds.
func (u *tensorStep) decayAfter(p []float32) {
	if u.between != tensor.F32 && u.after && u.decay != 1 {
		roundTo(p, u.between)
		scaleBy(p, u.decay)
	}
}

// couple adds the decay to the gradient, for steps that cannot do so on their way.
func (u *tensorStep) couple(p, g []float32) {
	if u.f.WD == 0 {
		return
	}
	p = p[:len(g)]
	for i, x := range g {
		g[i] = x + float32(u.f.WD*p[i])
	}
	roundTo(g, u.rounded)
}

func scaleBy(x []float32, f float32) { step.Scale(x, x, f) }

// roundTo rounds to a 16-bit type; other types change nothing.
func roundTo(x []float32, d tensor.DType) {
	switch d {
	case tensor.BF16:
		vec.OpRoundBF16.Run(x, x, nil, nil)
	case tensor.F16:
		vec.OpRoundF16.Run(x, x, nil, nil)
	}
}

// keep lists the elements of a block that are updated: not those with a gradient of zero where SkipZeros asks for it, and of 8-bit
// states not those whose gradient is not finite. It returns their number.
func (u *tensorStep) keep(w *stepWork, g []float32) int {
	n := 0
	for i, x := range g {
		w.kept[n] = uint8(i)
		if !(u.skip && x == 0) && !(u.eight && x-x != 0) {
			n++
		}
	}
	return n
}

// moveKept updates the first n elements of w.kept, packed together, and clears the moments of gradients that are not finite.
func (u *tensorStep) moveKept(w *stepWork, n int, p, g []float32, s *[3][]float32) {
	var packed [3][]float32
	for k, i := range w.kept[:n] {
		w.packed.p[k], w.packed.g[k] = p[i], g[i]
	}
	for j := range u.moments {
		packed[j] = w.packed.s[j][:n]
		for k, i := range w.kept[:n] {
			packed[j][k] = s[j][i]
		}
	}
	for i, x := range g {
		if u.eight && x-x != 0 {
			for j := range u.moments {
				s[j][i] = 0
			}
		}
	}
	u.move(w.packed.p[:n], w.packed.g[:n], &packed)
	for k, i := range w.kept[:n] {
		p[i] = w.packed.p[k]
		for j := range u.moments {
			s[j][i] = packed[j][k]
		}
	}
}

// norms adds up the squares of the parameters of a block and of their step over the rate, without changing anything.
func (u *tensorStep) norms(w *stepWork, lo, hi int) (p2, d2 float64) {
	n := hi - lo
	p := u.loadP(w, lo, hi)
	g, finite := u.loadG(w, lo, hi)
	var s [3][]float32
	u.loadStates(w, &s, lo, hi)
	for j := range u.moments {
		copy(w.s[j][:n], s[j])
		s[j] = w.s[j][:n]
	}
	if u.eight && !finite {
		for i, x := range g {
			if x-x != 0 {
				g[i] = 0
				for j := range u.moments {
					s[j][i] = 0
				}
			}
		}
	}
	f, d := u.f, w.d[:n]
	f.Rate = -1
	clear(d)
	f.Advance(d, g, &s) // d = 0 + step
	return sumSquares(p), sumSquares(d)
}

// loadP returns the parameters as float32, in place where they are.
func (u *tensorStep) loadP(w *stepWork, lo, hi int) []float32 {
	if u.pType == tensor.F32 {
		return tensor.View[float32](u.p)[lo:hi]
	}
	p := w.p[:hi-lo]
	vec.Widen(p, u.p[2*lo:2*hi], u.pType)
	if u.comp != nil {
		lost := w.d[:hi-lo]
		vec.Widen(lost, u.comp[2*lo:2*hi], u.pType)
		vec.OpAdd.Run(p, p, lost, nil)
	}
	return p
}

// loadG returns the scaled gradients and whether none is infinite or NaN.
func (u *tensorStep) loadG(w *stepWork, lo, hi int) (g []float32, finite bool) {
	g = w.g[:hi-lo]
	if u.gType == tensor.F32 {
		return g, step.Scale(g, tensor.View[float32](u.g)[lo:hi], u.gscale)
	}
	vec.Widen(g, u.g[2*lo:2*hi], u.gType)
	return g, step.Scale(g, g, u.gscale)
}

// loadStates sets s to the moments: 32-bit ones in place, 8-bit ones dequantized.
func (u *tensorStep) loadStates(w *stepWork, s *[3][]float32, lo, hi int) {
	for j := range u.moments {
		if !u.eight {
			s[j] = u.state[j][lo:hi]
			continue
		}
		s[j] = w.s[j][:hi-lo]
		u.moments8[j].Dequantize(s[j], lo)
	}
}

// storeCodes is the inverse for 8-bit moments.
func (u *tensorStep) storeCodes(s *[3][]float32, lo, hi int) {
	u.moments8.Quantize(s[:u.moments], lo)
}
