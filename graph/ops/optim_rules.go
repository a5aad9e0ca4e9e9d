package ops

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Rule names the equations of an update. With d the direction, every rule moves a parameter by p -= rate·d; the equations give d and the
// new moments from the gradient g (times gscale), in float32. b1, b2, b3 are the betas, t the step, c1 = 1-b1^t, c2 = sqrt(1-b2^t).
type Rule uint8

// The rules. Those that bitsandbytes has follow its CUDA kernels, in which 1-beta is a float32 difference.
const (
	// Adam: m = b1·m + (1-b1)·g; v = b2·v + (1-b2)·g²; d = m/(sqrt(v) + eps·c2), rate lr·c2/c1; decay decoupled, after the step.
	Adam Rule = iota
	// AdamTorch is torch.optim.AdamW (Loshchilov & Hutter 2019, arXiv 1711.05101): d = m/(sqrt(v)/c2 + eps), rate lr/c1; decay decoupled,
	// before the step; 1-beta in float64.
	AdamTorch
	// AdEMAMix (Pagliardini et al. 2024, arXiv 2409.03137): Adam's m and v, and a slow average s = b3·s + (1-b3)·g;
	// d = (m/c1 + alpha·s)/(sqrt(v)/c2 + eps), rate lr; decay decoupled, after the step. Up to step TAlpha alpha is t/TAlpha of itself,
	// up to TBeta3 b3 grows from b1 on the curve of the paper's appendix A.1.
	AdEMAMix
	// Lion (Chen et al. 2023, arXiv 2302.06675): d = sign(b1·m + (1-b1)·g), rate lr; then m = b2·m + (1-b2)·g; decay decoupled,
	// before the step.
	Lion
	// Momentum is SGD as torch.optim.SGD computes it: g += wd·p; m = g at step 1, else b1·m + (1-Dampening)·g; d = m, with Nesterov
	// g + b1·m. With b1 = 0 it has no state and d = g.
	Momentum
	// RMSprop: g += wd·p; v = b1·v + (1-b1)·g²; d = g/(sqrt(v) + eps).
	RMSprop
	// Adagrad (Duchi et al. 2011): g += wd·p; v += g²; d = g/(sqrt(v) + eps).
	Adagrad
	numRules
)

// Hyper holds the hyperparameters of an update; a rule reads those of its equations.
type Hyper struct {
	Rule                Rule
	Beta1, Beta2, Beta3 float64
	Alpha               float64 // of AdEMAMix
	TAlpha, TBeta3      float64 // of AdEMAMix, in steps; 0: alpha and beta3 are constant
	Eps                 float64
	WeightDecay         float64
	Dampening           float64 // of Momentum
	Nesterov            bool    // of Momentum
	// MaxUnorm above 0 bounds the norm of a tensor's step: lr is multiplied by min(1, MaxUnorm·||p||/||u||), u being the step over lr
	// without decay. LAMB is Adam and LARS is Momentum with it, as bitsandbytes has them (it never makes a step longer). A tensor of
	// zeros is not bounded, or it would never move.
	MaxUnorm  float64
	SkipZeros bool // elements whose gradient is 0 keep parameter and moments, and are not decayed
	WeightRounding
}

// decayOrder is when the weight decay happens.
type decayOrder uint8

const (
	decayCoupled decayOrder = iota // added to the gradient
	decayBefore                    // p *= 1 - lr·wd, then the step
	decayAfter
)

// ruleRow says what a rule consists of.
type ruleRow struct {
	name     string
	unsigned []bool // one entry a moment: whether it has no negative values and takes the book of squares in 8 bits
	decay    decayOrder
	eps      bool                                                // uses Eps, which must be positive
	betas    int                                                 // how many it reads
	unormEps bool                                                // the bound of MaxUnorm is MaxUnorm·||p|| + Eps
	step     func(e *ruleEnv) (d, factor Value, moments []Value) // rate is lr·factor; an absent factor is 1
}

var ruleRows [numRules]ruleRow

func init() {
	ruleRows = [numRules]ruleRow{
		Adam:      {name: "adam", unsigned: []bool{false, true}, decay: decayAfter, eps: true, betas: 2, step: stepAdam},
		AdamTorch: {name: "adamw_torch", unsigned: []bool{false, true}, decay: decayBefore, eps: true, betas: 2, step: stepAdamTorch},
		AdEMAMix:  {name: "ademamix", unsigned: []bool{false, true, false}, decay: decayAfter, eps: true, betas: 3, step: stepAdEMAMix},
		Lion:      {name: "lion", unsigned: []bool{false}, decay: decayBefore, betas: 2, step: stepLion},
		Momentum:  {name: "sgd", unsigned: []bool{false}, betas: 1, unormEps: true, step: stepMomentum},
		// In 8 bits bitsandbytes keeps these squares in the signed book, like every single moment.
		RMSprop: {name: "rmsprop", unsigned: []bool{false}, eps: true, betas: 1, unormEps: true, step: stepRMSprop},
		Adagrad: {name: "adagrad", unsigned: []bool{false}, eps: true, unormEps: true, step: stepAdagrad},
	}
}

// String is the rule's name in op names and reports.
func (r Rule) String() string {
	if r >= numRules {
		return fmt.Sprintf("rule %d", uint8(r))
	}
	return ruleRows[r].name
}

// Moments says of each moment of the rule whether it takes the unsigned book in 8 bits; it is empty for plain SGD.
func (h Hyper) Moments() (unsigned []bool) {
	if h.Rule == Momentum && h.Beta1 == 0 {
		return nil
	}
	return ruleRows[h.Rule].unsigned
}

// DecayFirst reports whether the decay multiplies the parameter before the step, DecayLast after it; if neither, it is added to the
// gradient.
func (h Hyper) DecayFirst() bool { return ruleRows[h.Rule].decay == decayBefore }

// DecayLast is explained with DecayFirst.
func (h Hyper) DecayLast() bool { return ruleRows[h.Rule].decay == decayAfter }

// UnormEps is what is added to the bound MaxUnorm·||p||: Eps for the rules with a single moment, else 0.
func (h Hyper) UnormEps() float64 {
	if ruleRows[h.Rule].unormEps {
		return h.Eps
	}
	return 0
}

// Check returns what is wrong with the hyperparameters.
func (h Hyper) Check() error {
	if h.Rule >= numRules || h.Rounding >= numRoundings {
		return fmt.Errorf("%v with rounding %d is unknown", h.Rule, h.Rounding)
	}
	row := ruleRows[h.Rule]
	for i, b := range []float64{h.Beta1, h.Beta2, h.Beta3}[:row.betas] {
		if !isBeta(b) {
			what, one := h.betaName(i)
			return fmt.Errorf("%s must be in [0, 1) as float32, %s is %v", what, one, b)
		}
	}
	switch {
	case row.eps && !(h.Eps >= leastNormal && h.Eps <= 1e30):
		return fmt.Errorf("eps %v must be positive and a normal number of float32, such as 1e-8", h.Eps)
	case !nonNegative(h.Eps):
		return fmt.Errorf("eps %v must not be negative", h.Eps)
	case !nonNegative(h.WeightDecay):
		return fmt.Errorf("weight decay %v must not be negative", h.WeightDecay)
	case !nonNegative(h.MaxUnorm):
		return fmt.Errorf("max_unorm %v must not be negative", h.MaxUnorm)
	case h.Rule == Momentum && !(h.Dampening >= 0 && h.Dampening <= 1):
		return fmt.Errorf("dampening %v must be in [0, 1]", h.Dampening)
	case h.Rule == Momentum && h.Nesterov && (h.Beta1 == 0 || h.Dampening != 0):
		return fmt.Errorf("nesterov needs momentum and no dampening")
	}
	if h.Rule == AdEMAMix {
		return h.checkAdEMAMix()
	}
	return nil
}

// leastNormal is the smallest float32 with all its digits: a smaller eps can become 0 by a bias correction, and 0/0 a step.
const leastNormal = 1.0 / (1 << 63) / (1 << 63)

// isBeta reports whether b can be what is kept of an average: in [0, 1), also as the float32 that is computed with.
func isBeta(b float64) bool { return b >= 0 && float32(b) < 1 }

// betaName is what users call the betas of a rule, and beta i.
func (h Hyper) betaName(i int) (all, one string) {
	switch h.Rule {
	case Momentum:
		return "momentum", "momentum"
	case RMSprop:
		return "alpha", "alpha"
	}
	return "betas", fmt.Sprintf("beta %d", i+1)
}

func (h Hyper) checkAdEMAMix() error {
	switch {
	case !nonNegative(h.Alpha):
		return fmt.Errorf("alpha %v must not be negative", h.Alpha)
	case !nonNegative(h.TAlpha) || !nonNegative(h.TBeta3):
		return fmt.Errorf("t_alpha %v and t_beta3 %v are numbers of steps, 0 for none", h.TAlpha, h.TBeta3)
	case h.TBeta3 > 0 && !(h.Beta1 > 0 && h.Beta3 > 0):
		return fmt.Errorf("t_beta3 needs a first and a third beta above 0, they are %v and %v", h.Beta1, h.Beta3)
	}
	return nil
}

// nonNegative reports whether x is at least 0 and finite in float32.
func nonNegative(x float64) bool { return x >= 0 && x <= 1e30 }

// ruleEnv is what the equations of a rule work on: float32 values over the slab.
type ruleEnv struct {
	Hyper
	p, g    Value // g times gscale
	s       []Value
	step    Value
	decay   Value        // weight decay by element, or one for all
	rounded tensor.DType // what a gradient is rounded to after a coupled decay; Invalid: nothing
}

// beta returns a beta as the kernels have it, a float32, and one minus it.
func beta(b float64) (float64, float64) {
	f := float32(b)
	return float64(f), float64(1 - f)
}

// average is b·s + n·x.
func average(s Value, b float64, x Value, n float64) Value { return Add(Scale(s, b), Scale(x, n)) }

// averageSquare is b·s + n·x².
func averageSquare(s Value, b float64, x Value, n float64) Value {
	return Add(Scale(s, b), Mul(Scale(x, n), x))
}

// biasCorrection is 1 - beta^step, computed in float64.
func biasCorrection(beta float64, step Value) Value {
	t := Cast(step, tensor.F64)
	return Cast(Sub(Scalar(t, 1), Pow(Scalar(t, beta), t)), tensor.F32)
}

func stepAdam(e *ruleEnv) (d, factor Value, moments []Value) {
	b1, n1 := beta(e.Beta1)
	b2, n2 := beta(e.Beta2)
	m, v := average(e.s[0], b1, e.g, n1), averageSquare(e.s[1], b2, e.g, n2)
	c1, c2 := fastCorrection(b1, e.step), Sqrt(fastCorrection(b2, e.step))
	return Div(m, Add(Sqrt(v), Scale(c2, e.Eps))), Div(c2, c1), []Value{m, v}
}

func stepAdamTorch(e *ruleEnv) (d, factor Value, moments []Value) {
	m, v := average(e.s[0], e.Beta1, e.g, 1-e.Beta1), averageSquare(e.s[1], e.Beta2, e.g, 1-e.Beta2)
	c1, c2 := biasCorrection(e.Beta1, e.step), Sqrt(biasCorrection(e.Beta2, e.step))
	return Div(m, AddScalar(Div(Sqrt(v), c2), e.Eps)), Div(Scalar(c1, 1), c1), []Value{m, v}
}

func stepAdEMAMix(e *ruleEnv) (d, factor Value, moments []Value) {
	b1, n1 := beta(e.Beta1)
	b2, n2 := beta(e.Beta2)
	alpha, b3 := e.schedules()
	m, v := average(e.s[0], b1, e.g, n1), averageSquare(e.s[1], b2, e.g, n2)
	slow := Add(Mul(e.s[2], b3), Mul(e.g, Sub(Scalar(b3, 1), b3)))
	c1, c2 := fastCorrection(b1, e.step), Sqrt(fastCorrection(b2, e.step))
	d = Div(Add(Div(m, c1), Mul(slow, alpha)), AddScalar(Div(Sqrt(v), c2), e.Eps))
	return d, Value{}, []Value{m, v, slow}
}

// schedules are AdEMAMix's alpha and beta3 at the step.
func (e *ruleEnv) schedules() (alpha, b3 Value) {
	t := Cast(e.step, tensor.F64)
	alpha, b3 = Scalar(t, e.Alpha), Scalar(t, e.Beta3)
	if e.TAlpha > 0 {
		alpha = Min(Scale(t, e.Alpha/e.TAlpha), alpha)
	}
	if e.TBeta3 > 0 {
		l1, l3, x := Log(Scalar(t, e.Beta1)), Log(b3), Scale(t, 1/e.TBeta3)
		b3 = Min(Exp(Div(Mul(l1, l3), Add(Mul(Sub(Scalar(t, 1), x), l3), Mul(x, l1)))), b3)
	}
	return Cast(alpha, tensor.F32), Cast(b3, tensor.F32)
}

func stepLion(e *ruleEnv) (d, factor Value, moments []Value) {
	b1, n1 := beta(e.Beta1)
	b2, n2 := beta(e.Beta2)
	return Sign(average(e.s[0], b1, e.g, n1)), Value{}, []Value{average(e.s[0], b2, e.g, n2)}
}

// coupled is the gradient with the decay added.
func (e *ruleEnv) coupled() Value {
	g := Add(e.g, Mul(e.decay, e.p))
	if e.rounded == tensor.Invalid {
		return g
	}
	decays := BroadcastTo(Less(Scalar(e.decay, 0), e.decay), g.Shape().Dims()...)
	return Where(decays, Cast(Cast(g, e.rounded), tensor.F32), e.g)
}

func stepMomentum(e *ruleEnv) (d, factor Value, moments []Value) {
	g := e.coupled()
	if e.Beta1 == 0 {
		return g, Value{}, nil
	}
	first := BroadcastTo(LessEqual(e.step, Scalar(e.step, 1)), g.Shape().Dims()...)
	m := Where(first, g, average(e.s[0], e.Beta1, g, 1-e.Dampening))
	if e.Nesterov {
		return Add(g, Scale(m, e.Beta1)), Value{}, []Value{m}
	}
	return m, Value{}, []Value{m}
}

func stepRMSprop(e *ruleEnv) (d, factor Value, moments []Value) {
	b1, n1 := beta(e.Beta1)
	g := e.coupled()
	v := averageSquare(e.s[0], b1, g, n1)
	return Div(g, AddScalar(Sqrt(v), e.Eps)), Value{}, []Value{v}
}

func stepAdagrad(e *ruleEnv) (d, factor Value, moments []Value) {
	g := e.coupled()
	v := Add(e.s[0], Square(g))
	return Div(g, AddScalar(Sqrt(v), e.Eps)), Value{}, []Value{v}
}
