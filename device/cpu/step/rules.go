package step

import (
	"math"

	"github.com/bitsandbyes/bitsandbyes/graph/ops"
)

// motion is how a gradient moves parameters: g·gscale is what the rule sees, and its step d makes p = (p·before - rate·d)·after.
type motion struct{ gscale, before, rate, after float32 }

func (f *Factors) motion() motion { return motion{f.GScale, f.Before, f.Rate, f.After} }

// of returns parameter p after step d.
func (t motion) of(p, d float32) float32 { return (float32(p*t.before) - float32(t.rate*d)) * t.after }

// plainly is of for the rules that couple their decay, for which before and after are 1.
func (t motion) plainly(p, d float32) float32 { return p - float32(t.rate*d) }

// average is b·m + n·x, and averageSquare b·v + n·x².
func average(b, m, n, x float32) float32       { return float32(b*m) + float32(n*x) }
func averageSquare(b, v, n, x float32) float32 { return float32(b*v) + float32(float32(n*x)*x) }

func sqrt32(x float32) float32 { return float32(math.Sqrt(float64(x))) }

// advanceGo is Advance in Go. A rule reads its factors into variables first, as the compiler keeps a larger struct in memory and loads each
// field again after every store.
func (f *Factors) advanceGo(p, g []float32, s *[3][]float32) {
	switch f.Rule {
	case ops.Adam:
		f.adam(p, g, s[0], s[1])
	case ops.AdamTorch:
		f.adamTorch(p, g, s[0], s[1])
	case ops.AdEMAMix:
		f.ademamix(p, g, s)
	case ops.Lion:
		f.lion(p, g, s[0])
	case ops.Momentum:
		if f.Moments == 0 {
			f.plain(p, g)
		} else {
			f.momentum(p, g, s[0])
		}
	case ops.RMSprop:
		f.rmsprop(p, g, s[0])
	case ops.Adagrad:
		f.adagrad(p, g, s[0])
	}
}

func (f *Factors) adam(p, g, m, v []float32) {
	to := f.motion()
	n := len(p)
	g, m, v = g[:n], m[:n], v[:n]
	b1, n1, b2, n2, eps := f.B1, f.N1, f.B2, f.N2, f.Eps
	for i, x := range g {
		x *= to.gscale
		mi, vi := average(b1, m[i], n1, x), averageSquare(b2, v[i], n2, x)
		m[i], v[i] = mi, vi
		p[i] = to.of(p[i], mi/(sqrt32(vi)+eps))
	}
}

func (f *Factors) adamTorch(p, g, m, v []float32) {
	to := f.motion()
	n := len(p)
	g, m, v = g[:n], m[:n], v[:n]
	b1, n1, b2, n2, c2, eps := f.B1, f.N1, f.B2, f.N2, f.C2, f.Eps
	for i, x := range g {
		x *= to.gscale
		mi, vi := average(b1, m[i], n1, x), averageSquare(b2, v[i], n2, x)
		m[i], v[i] = mi, vi
		p[i] = to.of(p[i], mi/(sqrt32(vi)/c2+eps))
	}
}

func (f *Factors) ademamix(p, g []float32, s *[3][]float32) {
	to := f.motion()
	n := len(p)
	g, m, v, slow := g[:n], s[0][:n], s[1][:n], s[2][:n]
	c := *f // too many factors for registers
	for i, x := range g {
		x *= to.gscale
		mi, vi, si := average(c.B1, m[i], c.N1, x), averageSquare(c.B2, v[i], c.N2, x), average(c.B3, slow[i], c.N3, x)
		m[i], v[i], slow[i] = mi, vi, si
		p[i] = to.of(p[i], (mi/c.C1+float32(c.Alpha*si))/(sqrt32(vi)/c.C2+c.Eps))
	}
}

func (f *Factors) lion(p, g, m []float32) {
	to := f.motion()
	n := len(p)
	g, m = g[:n], m[:n]
	b1, n1, b2, n2 := f.B1, f.N1, f.B2, f.N2
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

func (f *Factors) plain(p, g []float32) {
	to := f.motion()
	g = g[:len(p)]
	wd := f.WD
	for i, x := range g {
		x *= to.gscale
		if wd != 0 {
			x += float32(wd * p[i])
		}
		p[i] = to.plainly(p[i], x)
	}
}

func (f *Factors) momentum(p, g, m []float32) {
	to := f.motion()
	n := len(p)
	g, m = g[:n], m[:n]
	b1, n1, wd, first, nesterov := f.B1, f.N1, f.WD, f.First, f.Nesterov
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

func (f *Factors) rmsprop(p, g, v []float32) {
	to := f.motion()
	n := len(p)
	g, v = g[:n], v[:n]
	b1, n1, eps, wd := f.B1, f.N1, f.Eps, f.WD
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

func (f *Factors) adagrad(p, g, v []float32) {
	to := f.motion()
	n := len(p)
	g, v = g[:n], v[:n]
	eps, wd := f.Eps, f.WD
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
