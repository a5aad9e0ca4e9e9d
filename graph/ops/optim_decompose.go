package ops

import (
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// updateIn are the inputs of an update by name.
type updateIn struct {
	p, g                 Value
	states               []Value
	lr, step, gscale, ok Value
}

func splitUpdate(in []Value) updateIn {
	n := len(in) - 4
	return updateIn{in[0], in[1], in[2:n], in[n], in[n+1], in[n+2], in[n+3]}
}

// Decompose implements graph.Decomposable.
func (o Update) Decompose(in []Value) []Value {
	u := splitUpdate(in)
	g := u.p.Graph()
	grad := Mul(Cast(u.g, tensor.F32), u.gscale)
	k := len(o.Moments())
	var rounded tensor.DType
	if d := u.g.Type().DType; d != tensor.F32 {
		rounded = d
	}
	used := o.used(grad, o.Layout.mask(g))
	p1, moments, norm := o.step(o.Layout, u, grad, u.states[:k], rounded)
	pairs, comp := o.store(o.Layout, u, p1, used)
	for i, m := range moments {
		pairs = append(pairs, [2]Value{u.states[i], Where(used, m, u.states[i])})
	}
	if o.MaxUnorm > 0 {
		pairs = append(pairs, [2]Value{u.states[k], norm})
	}
	return keepUnless(u.ok, append(pairs, comp...)...)
}

// Decompose implements graph.Decomposable: dequantize, update, quantize.
func (o Update8bit) Decompose(in []Value) []Value {
	u := splitUpdate(in)
	inside := o.Layout.mask(u.p.Graph())
	scaled := Mul(Cast(u.g, tensor.F32), u.gscale)
	finite := And(inside, IsFinite(scaled))
	used := o.used(scaled, finite)
	unsigned := o.Moments()
	k := len(unsigned)
	zero := Fill(u.p.Graph(), tensor.F32, 0)
	grad := Where(finite, scaled, zero)
	var old []Value
	for i := range unsigned {
		m := DequantizeFrom8(u.states[i], u.states[k+i], SlabAlign, unsigned[i])
		old = append(old, Where(finite, m, zero))
	}
	p1, moments, norm := o.step(o.Layout, u, grad, old, tensor.Invalid)
	pairs, comp := o.store(o.Layout, u, p1, used)
	var scales [][2]Value
	held := IsFinite(moments[0])
	for _, m := range moments[1:] {
		held = And(held, IsFinite(m))
	}
	for i, m := range moments {
		m = Where(held, m, zero)
		c, a := QuantizeTo8(Quantize8{Blocksize: SlabAlign, Unsigned: unsigned[i], Moment: !unsigned[i]}, Where(used, m, old[i]))
		pairs = append(pairs, [2]Value{u.states[i], Where(inside, c, u.states[i])})
		scales = append(scales, [2]Value{u.states[k+i], a})
	}
	pairs = append(pairs, scales...)
	if o.MaxUnorm > 0 {
		pairs = append(pairs, [2]Value{u.states[2*k], norm})
	}
	return keepUnless(u.ok, append(pairs, comp...)...)
}

// used narrows the mask of the elements that are updated.
func (h Hyper) used(grad, mask Value) Value {
	if !h.SkipZeros {
		return mask
	}
	return And(mask, NotEqual(grad, Scalar(grad, 0)))
}

// step computes the new parameters in float32 and the moments, and the squared norm of each tensor's step over lr where it is bounded.
func (h Hyper) step(l *Layout, u updateIn, grad Value, moments []Value, rounded tensor.DType) (p1 Value, next []Value, norm Value) {
	g, row := u.p.Graph(), ruleRows[h.Rule]
	wd := l.perElement(g, func(i int) float64 { return l.decay(i, h.WeightDecay) })
	lr := l.rates(u.lr)
	e := &ruleEnv{Hyper: h, p: h.wide(l, u), g: grad, s: moments, step: u.step, decay: wd, rounded: rounded}
	d, factor, next := row.step(e)
	if factor.Absent() {
		factor = Fill(g, tensor.F32, 1)
	}
	rate := Mul(lr, factor)
	if h.MaxUnorm > 0 {
		var scale Value
		scale, norm = h.boundStep(l, e, factor)
		rate = Mul(rate, scale)
	}
	round := func(x Value) Value {
		if h.Rounding != Nearest {
			return x // once, at the end
		}
		return Cast(Cast(x, u.p.Type().DType), tensor.F32)
	}
	if h.Rule == Lion && u.states[0].Type().DType == tensor.U8 {
		rate = round(rate) // the step, which has its size, passes through the parameters' type
	}
	decay := Sub(Fill(g, tensor.F32, 1), Mul(lr, wd))
	p := e.p
	if row.decay == decayBefore {
		p = round(Mul(p, decay))
	}
	p = round(Sub(p, Mul(rate, d)))
	if row.decay == decayAfter {
		p = Mul(p, decay)
	}
	return p, next, norm
}

// boundStep returns the factor that keeps the norm of each tensor's step within MaxUnorm times that of its parameters, by element,
// and the squared norms.
func (h Hyper) boundStep(l *Layout, e *ruleEnv, factor Value) (scale, norms Value) {
	g := e.p.Graph()
	bare := *e
	bare.decay, bare.rounded = Fill(g, tensor.F32, 0), tensor.Invalid
	d, _, _ := ruleRows[h.Rule].step(&bare)
	d = Mul(d, factor)
	var scales, squares []Value
	for i, at := range l.Offsets {
		end := at + l.Sizes[i]
		u2 := SumOfSquares(Slice(d, 0, at, end))
		p2 := SumOfSquares(Slice(e.p, 0, at, end))
		bound, u := AddScalar(Scale(Sqrt(p2), h.MaxUnorm), h.UnormEps()), Sqrt(u2)
		bounded := And(Less(bound, u), Less(Scalar(p2, 0), p2))
		scales = append(scales, Where(bounded, Div(bound, u), Scalar(u, 1)))
		squares = append(squares, Reshape(u2, 1))
	}
	if len(squares) == 0 {
		return Fill(g, tensor.F32, 1), BroadcastTo(Fill(g, tensor.F32, 0), 0)
	}
	return l.perTensor(g, scales), Concat(0, squares...)
}

// keepUnless returns the new values where ok is positive, else the old ones.
func keepUnless(ok Value, pairs ...[2]Value) []Value {
	out := make([]Value, len(pairs))
	cond := Less(Scalar(ok, 0), ok)
	for i, p := range pairs {
		out[i] = Where(BroadcastTo(cond, p[0].Shape().Dims()...), p[1], p[0])
	}
	return out
}
