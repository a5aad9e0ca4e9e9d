package ops

import (
	"fmt"
	"math"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon) moves matrices along their momentum with all singular values brought
// near 1 by Newton-Schulz steps, here in float32. With G the gradient times gscale, a matrix of r rows and c columns:
//
//	M = b·M + (1-b)·G;  X = (1-b)·G + b·M, over its Frobenius norm
//	Steps times: A = XXᵀ;  X = 3.4445·X + (-4.7750·A + 2.0315·AA)·X
//	p *= 1 - lr·wd;  p -= lr·scale·X,  scale = sqrt(max(1, r/c)), or 0.2·sqrt(max(r, c)) with MatchRMS
//
// MatchRMS (Liu et al. 2025, arXiv 2502.16982) gives steps of the size of AdamW's, so that its learning rates and decays hold. A tensor
// of more than two dimensions is a matrix of its first and the rest.
//
// Inputs: p (the layout's type), g (p's dtype or float32), momentum (float32), lr, step, gscale, ok. Outputs: p, momentum.
type Muon struct {
	Momentum    float64 // 0.95 usually
	Steps       int     // 5 usually
	MatchRMS    bool
	WeightDecay float64
	WeightRounding
	Layout *Layout
}

var (
	_ graph.Aliaser      = Muon{}
	_ graph.Decomposable = Muon{}
	_ graph.Coster       = Muon{}
)

// maxMuonSteps bounds the Newton-Schulz steps; 5 do, more than 10 gain nothing.
const maxMuonSteps = 20

// Name implements graph.Op.
func (Muon) Name() string { return "muon" }

// States lists the one state, under torch's name, and with Kahan rounding comp.
func (o Muon) States() []StateSpec {
	return append([]StateSpec{{"momentum_buffer", o.Layout.TypeOf(tensor.F32), EachElement}}, o.comp(o.Layout)...)
}

// NumOut is the number of outputs.
func (o Muon) NumOut() int {
	if o.Compensated(o.Layout) {
		return 3
	}
	return 2
}

// Infer implements graph.Op.
func (o Muon) Infer(in []tensor.Type) ([]tensor.Type, error) {
	switch err := o.Layout.Check(); {
	case err != nil:
		return nil, err
	case !isBeta(o.Momentum):
		return nil, fmt.Errorf("momentum %v must be in [0, 1) as float32", o.Momentum)
	case o.Steps < 1 || o.Steps > maxMuonSteps:
		return nil, fmt.Errorf("%d Newton-Schulz steps; use 1 to %d, usually 5", o.Steps, maxMuonSteps)
	case o.Rounding >= numRoundings:
		return nil, fmt.Errorf("rounding %d is unknown", o.Rounding)
	case !nonNegative(o.WeightDecay):
		return nil, fmt.Errorf("weight decay %v must not be negative", o.WeightDecay)
	}
	for i, n := range o.Layout.Sizes {
		if rows, _ := o.Layout.Matrix(i); rows == 0 && n > 0 {
			return nil, fmt.Errorf("tensor %d is no matrix; update it by another rule", i)
		}
	}
	return inferUpdate(in, o.Layout, o.States())
}

// Alias implements graph.Aliaser.
func (o Muon) Alias() []graph.AliasPair { return aliasUpdate(o.NumOut()) }

// Cost implements graph.Coster.
func (o Muon) Cost(in, out []tensor.Type) (flops, bytes int64) {
	for i := range o.Layout.Sizes {
		r, c := o.Layout.Matrix(i)
		small := int64(min(r, c))
		flops += int64(o.Steps) * (4*small*int64(r)*int64(c) + 2*small*small*small)
	}
	return flops + 10*int64(o.Layout.Total), sumBytes(in) + sumBytes(out)
}

// Decompose implements graph.Decomposable, one matrix after another.
func (o Muon) Decompose(in []Value) []Value {
	u := splitUpdate(in)
	g, l := u.p.Graph(), o.Layout
	grad := Mul(Cast(u.g, tensor.F32), u.gscale)
	m := average(u.states[0], o.Momentum, grad, 1-o.Momentum)
	ahead := average(m, o.Momentum, grad, 1-o.Momentum)
	d := l.join(g, func(i int) Value {
		rows, cols := l.Matrix(i)
		at := l.Offsets[i]
		x := Orthogonalize(Reshape(Slice(ahead, 0, at, at+l.Sizes[i]), rows, cols), o.Steps)
		return Reshape(Scale(x, o.Scale(rows, cols)), rows*cols)
	})
	rate := l.rates(u.lr)
	wd := l.perElement(g, func(i int) float64 { return l.decay(i, o.WeightDecay) })
	p := Mul(o.wide(l, u), Sub(Fill(g, tensor.F32, 1), Mul(rate, wd)))
	inside := l.mask(g)
	pairs, comp := o.store(l, u, Sub(p, Mul(rate, d)), inside)
	pairs = append(pairs, [2]Value{u.states[0], Where(inside, m, u.states[0])})
	return keepUnless(u.ok, append(pairs, comp...)...)
}

// Scale is the factor of a step of a matrix.
func (o Muon) Scale(rows, cols int) float64 {
	if o.MatchRMS {
		return 0.2 * math.Sqrt(float64(max(rows, cols)))
	}
	return math.Sqrt(max(1, float64(rows)/float64(cols)))
}

// Orthogonalize brings the singular values of a matrix near 1, to about 0.7 to 1.2, by Newton-Schulz steps of the fifth degree with
// the coefficients of Muon. A matrix of zeros stays one.
func Orthogonalize(x Value, steps int) Value {
	tall := x.Type().Dim(0) > x.Type().Dim(1)
	if tall {
		x = Transpose(x, 1, 0)
	}
	x = Div(x, AddScalar(Sqrt(SumOfSquares(x)), 1e-7))
	for range steps {
		a := Linear(x, x)
		x = Add(Scale(x, 3.4445), Dot(Add(Scale(a, -4.7750), Scale(Dot(a, a), 2.0315)), x))
	}
	if tall {
		x = Transpose(x, 1, 0)
	}
	return x
}
