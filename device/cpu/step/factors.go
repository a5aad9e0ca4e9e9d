package step

import (
	"math"

	"github.com/bitsandbyes/bitsandbyes/graph/ops"
)

// NewFactors evaluates what depends on the hyperparameters and the step. Nothing is scaled or decayed, and Rate is 1.
func NewFactors(h ops.Hyper, step float64) Factors {
	f := Factors{Rule: h.Rule, Eps: float32(h.Eps), Moments: len(h.Moments()), Nesterov: h.Nesterov, Scale: 1}
	f.GScale, f.Before, f.Rate, f.After = 1, 1, 1, 1
	f.B1, f.B2, f.B3 = float32(h.Beta1), float32(h.Beta2), float32(h.Beta3)
	f.N1, f.N2, f.N3 = 1-f.B1, 1-f.B2, 1-f.B3
	switch h.Rule {
	case ops.Adam:
		f.correct(step)
		f.Eps, f.Scale = float32(f.Eps*f.C2), float64(f.C2)/float64(f.C1)
	case ops.AdamTorch:
		f.N1, f.N2 = float32(1-h.Beta1), float32(1-h.Beta2)
		c1, c2 := 1-math.Pow(h.Beta1, step), math.Sqrt(1-math.Pow(h.Beta2, step))
		f.C1, f.C2, f.Scale = float32(c1), float32(c2), 1/c1
	case ops.AdEMAMix:
		f.correct(step)
		f.schedule(h, step)
	case ops.Momentum:
		f.First, f.N1 = step <= 1, float32(1-h.Dampening)
	}
	return f
}

// correct sets the bias corrections to those of bitsandbytes' kernels.
func (f *Factors) correct(step float64) {
	f.C1, f.C2 = 1-ops.BetaPower(f.B1, step), sqrt32(1-ops.BetaPower(f.B2, step))
}

// schedule sets AdEMAMix's alpha and beta3 at a step.
func (f *Factors) schedule(h ops.Hyper, step float64) {
	alpha, b3 := h.Alpha, h.Beta3
	if h.TAlpha > 0 {
		alpha = min(step*h.Alpha/h.TAlpha, alpha)
	}
	if h.TBeta3 > 0 {
		l1, l3, x := math.Log(h.Beta1), math.Log(b3), step/h.TBeta3
		b3 = min(math.Exp(l1*l3/(float64((1-x)*l3)+float64(x*l1))), b3)
	}
	f.Alpha, f.B3 = float32(alpha), float32(b3)
	f.N3 = 1 - f.B3
}
