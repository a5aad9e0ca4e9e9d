package cpu

import (
	"math"

	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// stepFactors are the constants of a rule's equations for one tensor at one step: betas and one minus them, c1 = 1-b1^t, c2 =
// sqrt(1-b2^t).
type stepFactors struct {
	rule               ops.Rule
	b1, b2, b3         float32
	n1, n2, n3         float32
	c1, c2, alpha, eps float32
	wd                 float32      // of a coupled decay
	rounded            tensor.DType // what a gradient is rounded to after a coupled decay; Invalid: nothing
	moments            int
	nesterov, first    bool    // first: the moment of Momentum is the gradient
	scale              float64 // the rate is the learning rate times scale
}

// newStepFactors evaluates what depends on the step.
func newStepFactors(h ops.Hyper, step float64) stepFactors {
	f := stepFactors{rule: h.Rule, eps: float32(h.Eps), moments: len(h.Moments()), nesterov: h.Nesterov, scale: 1}
	f.b1, f.b2, f.b3 = float32(h.Beta1), float32(h.Beta2), float32(h.Beta3)
	f.n1, f.n2, f.n3 = 1-f.b1, 1-f.b2, 1-f.b3
	switch h.Rule {
	case ops.Adam:
		f.correct(step)
		f.eps, f.scale = float32(f.eps*f.c2), float64(f.c2)/float64(f.c1)
	case ops.AdamTorch:
		f.n1, f.n2 = float32(1-h.Beta1), float32(1-h.Beta2)
		c1, c2 := 1-math.Pow(h.Beta1, step), math.Sqrt(1-math.Pow(h.Beta2, step))
		f.c1, f.c2, f.scale = float32(c1), float32(c2), 1/c1
	case ops.AdEMAMix:
		f.correct(step)
		f.schedule(h, step)
	case ops.Momentum:
		f.first, f.n1 = step <= 1, float32(1-h.Dampening)
	}
	return f
}

// correct sets the bias corrections to those of bitsandbytes' kernels.
func (f *stepFactors) correct(step float64) {
	f.c1, f.c2 = 1-ops.BetaPower(f.b1, step), sqrt32(1-ops.BetaPower(f.b2, step))
}

// schedule sets AdEMAMix's alpha and beta3 at a step.
func (f *stepFactors) schedule(h ops.Hyper, step float64) {
	alpha, b3 := h.Alpha, h.Beta3
	if h.TAlpha > 0 {
		alpha = min(step*h.Alpha/h.TAlpha, alpha)
	}
	if h.TBeta3 > 0 {
		l1, l3, x := math.Log(h.Beta1), math.Log(b3), step/h.TBeta3
		b3 = min(math.Exp(l1*l3/(float64((1-x)*l3)+float64(x*l1))), b3)
	}
	f.alpha, f.b3 = float32(alpha), float32(b3)
	f.n3 = 1 - f.b3
}

// direction advances the moments s by the gradient g and writes the step over the rate to d. All slices have the length of d.
func (f *stepFactors) direction(d, p, g []float32, s *[3][]float32) {
	switch f.rule {
	case ops.Adam:
		f.adam(d, g, s[0], s[1])
	case ops.AdamTorch:
		f.adamTorch(d, g, s[0], s[1])
	case ops.AdEMAMix:
		f.ademamix(d, g, s[0], s[1], s[2])
	case ops.Lion:
		f.lion(d, g, s[0])
	case ops.Momentum:
		f.couple(p, g)
		f.momentum(d, g, s[0])
	case ops.RMSprop:
		f.couple(p, g)
		f.rmsprop(d, g, s[0])
	case ops.Adagrad:
		f.couple(p, g)
		f.adagrad(d, g, s[0])
	}
}

// couple adds the decay to the gradient.
func (f *stepFactors) couple(p, g []float32) {
	if f.wd == 0 {
		return
	}
	p = p[:len(g)]
	for i, x := range g {
		g[i] = x + float32(f.wd*p[i])
	}
	roundTo(g, f.rounded)
}

func sqrt32(x float32) float32 { return float32(math.Sqrt(float64(x))) }

func (f *stepFactors) adam(d, g, m, v []float32) {
	n := len(d)
	g, m, v = g[:n], m[:n], v[:n]
	c := *f
	for i, x := range g {
		mi := float32(c.b1*m[i]) + float32(c.n1*x)
		vi := float32(c.b2*v[i]) + float32(float32(c.n2*x)*x)
		m[i], v[i] = mi, vi
		d[i] = mi / (sqrt32(vi) + c.eps)
	}
}

func (f *stepFactors) adamTorch(d, g, m, v []float32) {
	n := len(d)
	g, m, v = g[:n], m[:n], v[:n]
	c := *f
	for i, x := range g {
		mi := float32(c.b1*m[i]) + float32(c.n1*x)
		vi := float32(c.b2*v[i]) + float32(float32(c.n2*x)*x)
		m[i], v[i] = mi, vi
		d[i] = mi / (sqrt32(vi)/c.c2 + c.eps)
	}
}

func (f *stepFactors) ademamix(d, g, m, v, slow []float32) {
	n := len(d)
	g, m, v, slow = g[:n], m[:n], v[:n], slow[:n]
	c := *f
	for i, x := range g {
		mi := float32(c.b1*m[i]) + float32(c.n1*x)
		si := float32(c.b3*slow[i]) + float32(c.n3*x)
		vi := float32(c.b2*v[i]) + float32(float32(c.n2*x)*x)
		m[i], v[i], slow[i] = mi, vi, si
		d[i] = (mi/c.c1 + float32(c.alpha*si)) / (sqrt32(vi)/c.c2 + c.eps)
	}
}

func (f *stepFactors) lion(d, g, m []float32) {
	n := len(d)
	g, m = g[:n], m[:n]
	c := *f
	for i, x := range g {
		u := float32(c.b1*m[i]) + float32(c.n1*x)
		m[i] = float32(c.b2*m[i]) + float32(c.n2*x)
		d[i] = math.Float32frombits(math.Float32bits(u)&(1<<31) | math.Float32bits(1)) // signs are random: no branch
		if u == 0 || u != u {
			d[i] = u
		}
	}
}

func (f *stepFactors) momentum(d, g, m []float32) {
	if f.moments == 0 {
		copy(d, g)
		return
	}
	n := len(d)
	g, m = g[:n], m[:n]
	c := *f
	for i, x := range g {
		mi := x
		if !c.first {
			mi = float32(c.b1*m[i]) + float32(c.n1*x)
		}
		m[i] = mi
		if c.nesterov {
			mi = x + float32(c.b1*mi)
		}
		d[i] = mi
	}
}

func (f *stepFactors) rmsprop(d, g, v []float32) {
	n := len(d)
	g, v = g[:n], v[:n]
	c := *f
	for i, x := range g {
		vi := float32(c.b1*v[i]) + float32(float32(c.n1*x)*x)
		v[i] = vi
		d[i] = x / (sqrt32(vi) + c.eps)
	}
}

func (f *stepFactors) adagrad(d, g, v []float32) {
	n := len(d)
	g, v = g[:n], v[:n]
	c := *f
	for i, x := range g {
		vi := v[i] + float32(x*x)
		v[i] = vi
		d[i] = x / (sqrt32(vi) + c.eps)
	}
}
