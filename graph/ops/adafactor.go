package ops

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Adafactor is the update of Shazeer & Stern 2018 (arXiv 1804.04235, algorithm 4), which keeps of the second moments of a matrix only
// the means of its rows and columns. With b = 1 - t^(-Decay), G the gradient times gscale and s = G² + Eps1, for a matrix:
//
//	R = b·R + (1-b)·rowmean(s);  C = b·C + (1-b)·colmean(s);  V = R·C/mean(R)
//	U = G/sqrt(V);  U /= max(1, RMS(U)/Clip);  with Beta1: M = Beta1·M + (1-Beta1)·U, U = M
//	p *= 1 - lr·wd;  p -= lr·max(Eps2, RMS(p))·U
//
// Other tensors keep V itself. A tensor of more than two dimensions is a matrix of its first and the rest.
//
// Inputs: p (the layout's type), g (p's dtype or float32), the states of States, lr, step, gscale, ok. Outputs: p and the states.
// All-zero states are a start.
type Adafactor struct {
	Decay      float64 // 0.8 in the paper
	Eps1, Eps2 float64 // 1e-30 and 1e-3 in the paper
	Clip       float64 // 1 in the paper
	Beta1      float64 // 0: no first moment
	// Relative bounds lr by 1/sqrt(t), Absolute leaves out the factor max(Eps2, RMS(p)).
	Relative, Absolute bool
	WeightDecay        float64
	WeightRounding
	Layout *Layout
}

var (
	_ graph.Aliaser      = Adafactor{}
	_ graph.Decomposable = Adafactor{}
	_ graph.Coster       = Adafactor{}
)

// Name implements graph.Op.
func (Adafactor) Name() string { return "adafactor" }

// States lists the states under the names that transformers gives them; those of which no tensor has any are left out.
func (o Adafactor) States() []StateSpec {
	var out []StateSpec
	for _, s := range []StateSpec{
		{"exp_avg_sq_row", o.Layout.counts(EachRow), EachRow}, {"exp_avg_sq_col", o.Layout.counts(EachColumn), EachColumn},
		{"exp_avg_sq", o.Layout.counts(EachLoose), EachLoose}, {"exp_avg", o.Layout.TypeOf(tensor.F32), EachElement},
	} {
		if s.Type.Size() > 0 && (s.Each != EachElement || o.Beta1 > 0) {
			out = append(out, s)
		}
	}
	return append(out, o.comp(o.Layout)...)
}

// NumOut is the number of outputs.
func (o Adafactor) NumOut() int {
	if o.Layout.Check() != nil {
		return 1
	}
	return 1 + len(o.States())
}

// Infer implements graph.Op.
func (o Adafactor) Infer(in []tensor.Type) ([]tensor.Type, error) {
	switch err := o.Layout.Check(); {
	case err != nil:
		return nil, err
	case !(o.Decay > 0 && o.Decay <= 1):
		return nil, fmt.Errorf("decay rate %v must be in (0, 1]", o.Decay)
	case !(float32(o.Eps1) > 0 && o.Eps1 < 1) || !(o.Eps2 >= 0 && o.Eps2 < 1):
		return nil, fmt.Errorf("eps (%v, %v) must be in (0, 1)", o.Eps1, o.Eps2)
	case !(o.Clip > 0 && o.Clip <= 1e30):
		return nil, fmt.Errorf("clip threshold %v must be positive", o.Clip)
	case !isBeta(o.Beta1):
		return nil, fmt.Errorf("momentum %v must be in [0, 1) as float32", o.Beta1)
	case o.Rounding >= numRoundings:
		return nil, fmt.Errorf("rounding %d is unknown", o.Rounding)
	case !nonNegative(o.WeightDecay):
		return nil, fmt.Errorf("weight decay %v must not be negative", o.WeightDecay)
	}
	return inferUpdate(in, o.Layout, o.States())
}

// Alias implements graph.Aliaser.
func (o Adafactor) Alias() []graph.AliasPair { return aliasUpdate(o.NumOut()) }

// Cost implements graph.Coster.
func (o Adafactor) Cost(in, out []tensor.Type) (flops, bytes int64) {
	return 16 * int64(o.Layout.Total), sumBytes(in) + sumBytes(out)
}

// StateAt returns the place of a state among States, -1 if it is not there.
func StateAt(list []StateSpec, name string) int {
	for i, s := range list {
		if s.Name == name {
			return i
		}
	}
	return -1
}

// Decompose implements graph.Decomposable, one tensor after another.
func (o Adafactor) Decompose(in []Value) []Value {
	u := splitUpdate(in)
	g, l, specs := u.p.Graph(), o.Layout, o.States()
	wide := o.wide(l, u)
	next := make([][]Value, 1+len(specs)) // the parts of p and of each state
	lr := u.lr
	if o.Relative {
		lr = Min(lr, Rsqrt(u.step))
	}
	t := Cast(u.step, tensor.F64)
	b := Cast(Sub(Scalar(t, 1), Pow(t, Scalar(t, -o.Decay))), tensor.F32)
	for i := range l.Sizes {
		part := func(x Value, e Each) Value {
			lo, n := l.Span(e, i)
			return Slice(x, 0, lo, lo+n)
		}
		state := func(name string, e Each) Value { return part(u.states[StateAt(specs, name)], e) }
		set := func(name string, v Value) { next[1+StateAt(specs, name)] = append(next[1+StateAt(specs, name)], v) }
		grad := Mul(Cast(part(u.g, EachElement), tensor.F32), u.gscale)
		p := part(wide, EachElement)
		if l.Sizes[i] == 0 {
			continue
		}
		step := o.direction(grad, b, i, state, set)
		if o.Beta1 > 0 {
			step = average(state("exp_avg", EachElement), o.Beta1, step, 1-o.Beta1)
			set("exp_avg", step)
		}
		rate := Scale(lr, l.lrScale(i))
		if fixed := l.Rate(i, 0); fixed != 0 {
			rate = Fill(g, tensor.F32, fixed)
		}
		decay := AddScalar(Neg(Scale(rate, l.decay(i, o.WeightDecay))), 1)
		if !o.Absolute {
			rate = Mul(rate, Max(rms(p), Scalar(rate, o.Eps2)))
		}
		next[0] = append(next[0], Sub(Mul(p, decay), Mul(rate, step)))
	}
	return o.assemble(u, specs, next)
}

// direction advances the second moments of tensor i and returns the clipped step.
func (o Adafactor) direction(grad, b Value, i int, state func(string, Each) Value, set func(string, Value)) Value {
	square := AddScalar(Square(grad), o.Eps1)
	keep := func(old, v Value) Value { return Add(Mul(old, b), Mul(v, Sub(Scalar(b, 1), b))) }
	var step Value
	if rows, cols := o.Layout.Matrix(i); rows > 0 {
		m := Reshape(square, rows, cols)
		r, c := keep(state("exp_avg_sq_row", EachRow), Mean(m, 1)), keep(state("exp_avg_sq_col", EachColumn), Mean(m, 0))
		set("exp_avg_sq_row", r)
		set("exp_avg_sq_col", c)
		scale := Mul(Reshape(Rsqrt(Div(r, Mean(r))), rows, 1), Reshape(Rsqrt(c), 1, cols))
		step = Reshape(Mul(Reshape(grad, rows, cols), scale), rows*cols)
	} else {
		v := keep(state("exp_avg_sq", EachLoose), square)
		set("exp_avg_sq", v)
		step = Mul(grad, Rsqrt(v))
	}
	return Div(step, Max(Scale(rms(step), 1/o.Clip), Fill(grad.Graph(), tensor.F32, 1)))
}

func rms(x Value) Value { return Sqrt(Scale(SumOfSquares(x), 1/float64(x.Type().Size()))) }

// assemble puts the parts of the tensors together and keeps the old values where ok is 0.
func (o Adafactor) assemble(u updateIn, specs []StateSpec, next [][]Value) []Value {
	g := u.p.Graph()
	pairs, comp := o.store(o.Layout, u, o.Layout.joinParts(g, next[0]), o.Layout.mask(g))
	for j, s := range specs[:len(specs)-len(comp)] {
		whole := o.Layout.joinParts
		if s.Each != EachElement {
			whole = func(_ *graph.Graph, parts []Value) Value { return Concat(0, parts...) }
		}
		pairs = append(pairs, [2]Value{u.states[j], whole(g, next[1+j])})
	}
	return keepUnless(u.ok, append(pairs, comp...)...)
}
