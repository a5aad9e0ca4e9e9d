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

// motion is how a gradient moves parameters: g·gscale is what the rule sees, and its step d makes p = (p·before - rate·d)·after.
type motion struct{ gscale, before, rate, after float32 }

// of returns parameter p after step d.
func (t motion) of(p, d float32) float32 { return (float32(p*t.before) - float32(t.rate*d)) * t.after }

// plainly is of for the rules that couple their decay, for which before and after are 1.
func (t motion) plainly(p, d float32) float32 { return p - float32(t.rate*d) }

// average is b·m + n·x, and averageSquare b·v + n·x².
func average(b, m, n, x float32) float32       { return float32(b*m) + float32(n*x) }
func averageSquare(b, v, n, x float32) float32 { return float32(b*v) + float32(float32(n*x)*x) }

func sqrt32(x float32) float32 { return float32(math.Sqrt(float64(x))) }

// advance moves p and the moments s, all of the same length, by the gradient g in one pass: the arithmetic bounds it, and every further
// pass over a block costs a tenth of AdamW even in cache. A rule reads its factors into variables first, as the compiler keeps a
// larger struct in memory and loads each field again after every store.
func (f *stepFactors) advance(p, g []float32, s *[3][]float32, to motion) {
	switch f.rule {
	case ops.Adam:
		f.adam(p, g, s[0], s[1], to)
	case ops.AdamTorch:
		f.adamTorch(p, g, s[0], s[1], to)
	case ops.AdEMAMix:
		f.ademamix(p, g, s, to)
	case ops.Lion:
		f.lion(p, g, s[0], to)
	case ops.Momentum:
		if f.moments == 0 {
			f.plain(p, g, to)
		} else {
			f.momentum(p, g, s[0], to)
		}
	case ops.RMSprop:
		f.rmsprop(p, g, s[0], to)
	case ops.Adagrad:
		f.adagrad(p, g, s[0], to)
	}
}

// couple adds the decay to the gradient, for steps that cannot do so on their way.
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

func (f *stepFactors) adam(p, g, m, v []float32, to motion) {
	n := len(p)
	g, m, v = g[:n], m[:n], v[:n]
	b1, n1, b2, n2, eps := f.b1, f.n1, f.b2, f.n2, f.eps
	for i, x := range g {
		x *= to.gscale
		mi, vi := average(b1, m[i], n1, x), averageSquare(b2, v[i], n2, x)
		m[i], v[i] = mi, vi
		p[i] = to.of(p[i], mi/(sqrt32(vi)+eps))
	}
}

func (f *stepFactors) adamTorch(p, g, m, v []float32, to motion) {
	n := len(p)
	g, m, v = g[:n], m[:n], v[:n]
	b1, n1, b2, n2, c2, eps := f.b1, f.n1, f.b2, f.n2, f.c2, f.eps
	for i, x := range g {
		x *= to.gscale
		mi, vi := average(b1, m[i], n1, x), averageSquare(b2, v[i], n2, x)
		m[i], v[i] = mi, vi
		p[i] = to.of(p[i], mi/(sqrt32(vi)/c2+eps))
	}
}

func (f *stepFactors) ademamix(p, g []float32, s *[3][]float32, to motion) {
	n := len(p)
	g, m, v, slow := g[:n], s[0][:n], s[1][:n], s[2][:n]
	c := *f // too many factors for registers
	for i, x := range g {
		x *= to.gscale
		mi, vi, si := average(c.b1, m[i], c.n1, x), averageSquare(c.b2, v[i], c.n2, x), average(c.b3, slow[i], c.n3, x)
		m[i], v[i], slow[i] = mi, vi, si
		p[i] = to.of(p[i], (mi/c.c1+float32(c.alpha*si))/(sqrt32(vi)/c.c2+c.eps))
	}
}

func (f *stepFactors) lion(p, g, m []float32, to motion) {
	n := len(p)
	g, m = g[:n], m[:n]
	b1, n1, b2, n2 := f.b1, f.n1, f.b2, f.n2
	for i, x := range g {
		x *= to.gscale
		u := average(b1, m[i], n1, x)
		m[i] = average(b2, m[i], n2, x)
		d := math.Float32frombits(math.Float32bits(u)&(1<<31) | math.Float32bits(1)) // signs are random: no branch
		if u == 0 || u != u {
			d = u
		}
		p[i] = to.of(p[i], d)
	}
}

func (f *stepFactors) plain(p, g []float32, to motion) {
	g = g[:len(p)]
	wd := f.wd
	for i, x := range g {
		x *= to.gscale
		if wd != 0 {
			x += float32(wd * p[i])
		}
		p[i] = to.plainly(p[i], x)
	}
}

func (f *stepFactors) momentum(p, g, m []float32, to motion) {
	n := len(p)
	g, m = g[:n], m[:n]
	b1, n1, wd, first, nesterov := f.b1, f.n1, f.wd, f.first, f.nesterov
	for i, x := range g {
		x *= to.gscale
		if wd != 0 {
			x += float32(wd * p[i])
		}
		mi := x
		if !first {
			mi = average(b1, m[i], n1, x)
		}
		m[i] = mi
		if nesterov {
			mi = x + float32(b1*mi)
		}
		p[i] = to.plainly(p[i], mi)
	}
}

func (f *stepFactors) rmsprop(p, g, v []float32, to motion) {
	n := len(p)
	g, v = g[:n], v[:n]
	b1, n1, eps, wd := f.b1, f.n1, f.eps, f.wd
	for i, x := range g {
		x *= to.gscale
		if wd != 0 {
			x += float32(wd * p[i])
		}
		vi := averageSquare(b1, v[i], n1, x)
		v[i] = vi
		p[i] = to.plainly(p[i], x/(sqrt32(vi)+eps))
	}
}

func (f *stepFactors) adagrad(p, g, v []float32, to motion) {
	n := len(p)
	g, v = g[:n], v[:n]
	eps, wd := f.eps, f.wd
	for i, x := range g {
		x *= to.gscale
		if wd != 0 {
			x += float32(wd * p[i])
		}
		vi := v[i] + float32(x*x)
		v[i] = vi
		p[i] = to.plainly(p[i], x/(sqrt32(vi)+eps))
	}
}
