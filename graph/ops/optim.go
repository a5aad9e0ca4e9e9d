package ops

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Updates of whole slabs. Besides slabs they take four float32 scalars that are computed in the graph, so that neither a schedule,
// clipping nor a non-finite step needs the host: lr; step, the number of this update, from 1; gscale, a factor of the gradient (one
// over the tokens, the loss scale and clipping in one); and ok, where 0 (or NaN) changes nothing, bit for bit.

// AdamW is decoupled weight decay Adam (Loshchilov & Hutter 2019, arXiv 1711.05101) as torch.optim.AdamW computes it in float32:
//
//	g *= gscale; p *= 1 - lr·wd; m = b1·m + (1-b1)·g; v = b2·v + (1-b2)·g²
//	p -= lr/(1-b1^t) · m/(sqrt(v)/sqrt(1-b2^t) + eps)
//
// Inputs: p, g, m, v (float32 slabs), lr, step, gscale, ok. Outputs: p, m, v.
type AdamW struct {
	Beta1, Beta2, Eps, WeightDecay float64
	DecayLast                      bool // multiply by 1 - lr·wd after the update, as bitsandbytes' CUDA kernels do
	Layout                         *Layout
}

// AdamW8bit is bitsandbytes' blockwise 8-bit Adam (Dettmers et al. 2022, arXiv 2110.02861) as its CUDA kernel computes it, with the
// decay after the update, 1-b1 and 1-b2 in float32, and blocks of SlabAlign elements: m in the signed dynamic code book, whose codes
// keep the sign of m, v in the unsigned one. An element whose gradient is not finite gets m = v = 0 and keeps p.
//
// Inputs: p, g (float32 slabs), codes of m, codes of v (u8 slabs), absmax of m, absmax of v (float32, one a block), lr, step, gscale,
// ok. Outputs: p, codes of m, codes of v, absmax of m, absmax of v. All-zero states are a start.
type AdamW8bit struct {
	Beta1, Beta2, Eps, WeightDecay float64
	Layout                         *Layout
}

// SGD is gradient descent as torch.optim.SGD computes it in float32, the decay coupled:
//
//	d = g·gscale + wd·p; buf = d at step 1, else momentum·buf + (1-dampening)·d
//	p -= lr·(d + momentum·buf with Nesterov, else buf)
//
// Inputs: p, g, buf (float32 slabs), lr, step, gscale, ok. Outputs: p, buf. Without Momentum buf is absent and there is no second
// output.
type SGD struct {
	Momentum, Dampening, WeightDecay float64
	Nesterov                         bool
	Layout                           *Layout
}

var (
	_ graph.Aliaser      = AdamW{}
	_ graph.Decomposable = AdamW{}
	_ graph.Coster       = AdamW{}
	_ graph.Aliaser      = AdamW8bit{}
	_ graph.Decomposable = AdamW8bit{}
	_ graph.Coster       = AdamW8bit{}
	_ graph.Aliaser      = SGD{}
	_ graph.Decomposable = SGD{}
	_ graph.Coster       = SGD{}
)

// UpdateScalars are the scalar inputs of an update.
type UpdateScalars struct{ LR, Step, GScale, OK Value }

// Name implements graph.Op.
func (AdamW) Name() string { return "adamw" }

// Name implements graph.Op.
func (AdamW8bit) Name() string { return "adamw8bit" }

// Name implements graph.Op.
func (SGD) Name() string { return "sgd" }

// NumOut is the number of outputs.
func (AdamW) NumOut() int { return 3 }

// NumOut is the number of outputs.
func (AdamW8bit) NumOut() int { return 5 }

// NumOut is the number of outputs.
func (o SGD) NumOut() int {
	if o.Momentum == 0 {
		return 1
	}
	return 2
}

// Apply emits the update.
func (o AdamW) Apply(p, g, m, v Value, s UpdateScalars) (p1, m1, v1 Value) {
	out := apply(o, p, g, m, v, s.LR, s.Step, s.GScale, s.OK)
	return out[0], out[1], out[2]
}

// Apply emits the update; it returns the new p, codes of m and of v, and scales of m and of v.
func (o AdamW8bit) Apply(p, g Value, codes, absmax [2]Value, s UpdateScalars) (p1 Value, codes1, absmax1 [2]Value) {
	out := apply(o, p, g, codes[0], codes[1], absmax[0], absmax[1], s.LR, s.Step, s.GScale, s.OK)
	return out[0], [2]Value{out[1], out[2]}, [2]Value{out[3], out[4]}
}

// Apply emits the update; buf and the second result are absent without Momentum.
func (o SGD) Apply(p, g, buf Value, s UpdateScalars) (p1, buf1 Value) {
	out := apply(o, p, g, buf, s.LR, s.Step, s.GScale, s.OK)
	if o.Momentum == 0 {
		return out[0], Value{}
	}
	return out[0], out[1]
}

// Infer implements graph.Op.
func (o AdamW) Infer(in []tensor.Type) ([]tensor.Type, error) {
	if err := checkAdam(o.Beta1, o.Beta2, o.Eps, o.WeightDecay, o.Layout); err != nil {
		return nil, err
	}
	slab := o.Layout.Type()
	if err := checkUpdate(in, slab, slab, slab, slab); err != nil {
		return nil, err
	}
	return []tensor.Type{slab, slab, slab}, nil
}

// Infer implements graph.Op.
func (o AdamW8bit) Infer(in []tensor.Type) ([]tensor.Type, error) {
	if err := checkAdam(o.Beta1, o.Beta2, o.Eps, o.WeightDecay, o.Layout); err != nil {
		return nil, err
	}
	slab, codes, scales := o.Layout.Type(), tensor.T(tensor.U8, o.Layout.Total), tensor.T(tensor.F32, o.Layout.Total/SlabAlign)
	if err := checkUpdate(in, slab, slab, codes, codes, scales, scales); err != nil {
		return nil, err
	}
	return []tensor.Type{slab, codes, codes, scales, scales}, nil
}

// Infer implements graph.Op.
func (o SGD) Infer(in []tensor.Type) ([]tensor.Type, error) {
	switch err := o.Layout.Check(); {
	case err != nil:
		return nil, err
	case !share(o.Momentum) || !(o.WeightDecay >= 0) || !(o.Dampening >= 0 && o.Dampening <= 1):
		return nil, fmt.Errorf("momentum must be in [0, 1), dampening in [0, 1] and weight decay not negative")
	case o.Nesterov && (o.Momentum == 0 || o.Dampening != 0):
		return nil, fmt.Errorf("nesterov needs momentum and no dampening")
	}
	slab := o.Layout.Type()
	buf := slab
	if o.Momentum == 0 {
		buf = tensor.Type{}
	}
	if err := checkUpdate(in, slab, slab, buf); err != nil {
		return nil, err
	}
	return []tensor.Type{slab, slab}[:o.NumOut()], nil
}

// share reports whether x is in [0, 1).
func share(x float64) bool { return x >= 0 && x < 1 }

func checkAdam(b1, b2, eps, wd float64, l *Layout) error {
	if err := l.Check(); err != nil {
		return err
	}
	if !share(b1) || !share(b2) || !(float32(eps) > 0) || !(wd >= 0) {
		return fmt.Errorf("betas (%v, %v) must be in [0, 1), eps %v positive and weight decay %v not negative", b1, b2, eps, wd)
	}
	return nil
}

// checkUpdate compares the inputs with the slabs wanted and the four scalars after them.
func checkUpdate(in []tensor.Type, want ...tensor.Type) error {
	scalar := tensor.T(tensor.F32)
	want = append(want, scalar, scalar, scalar, scalar)
	if len(in) != len(want) {
		return fmt.Errorf("takes %d inputs, got %d", len(want), len(in))
	}
	for i := range want {
		if in[i] != want[i] {
			return fmt.Errorf("input %d must be %v, got %v", i, want[i], in[i])
		}
	}
	return nil
}

// Alias implements graph.Aliaser: an element is read before it is written.
func (AdamW) Alias() []graph.AliasPair {
	return []graph.AliasPair{{Out: 0, In: 0}, {Out: 1, In: 2}, {Out: 2, In: 3}}
}

// Alias implements graph.Aliaser.
func (AdamW8bit) Alias() []graph.AliasPair {
	return []graph.AliasPair{{Out: 0, In: 0}, {Out: 1, In: 2}, {Out: 2, In: 3}, {Out: 3, In: 4}, {Out: 4, In: 5}}
}

// Alias implements graph.Aliaser.
func (o SGD) Alias() []graph.AliasPair {
	return []graph.AliasPair{{Out: 0, In: 0}, {Out: 1, In: 2}}[:o.NumOut()]
}

// Cost implements graph.Coster.
func (o AdamW) Cost(in, out []tensor.Type) (flops, bytes int64) {
	return 14 * int64(o.Layout.Total), sumBytes(in) + sumBytes(out)
}

// Cost implements graph.Coster.
func (o AdamW8bit) Cost(in, out []tensor.Type) (flops, bytes int64) {
	return 24 * int64(o.Layout.Total), sumBytes(in) + sumBytes(out)
}

// Cost implements graph.Coster.
func (o SGD) Cost(in, out []tensor.Type) (flops, bytes int64) {
	return 6 * int64(o.Layout.Total), sumBytes(in) + sumBytes(out)
}

// decayFactor is 1 - lr·wd for each element.
func decayFactor(l *Layout, lr Value, wd float64) Value {
	g := lr.Graph()
	rate := l.perElement(g, func(i int) float64 { return l.lrScale(i) * l.decay(i, wd) })
	return Sub(Fill(g, tensor.F32, 1), Mul(lr, rate))
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

// Decompose implements graph.Decomposable.
func (o AdamW) Decompose(in []Value) []Value {
	p, grad, m, v, lr, step, gscale, ok := in[0], in[1], in[2], in[3], in[4], in[5], in[6], in[7]
	l, g := o.Layout, p.Graph()
	grad = Mul(grad, gscale)
	m1 := Add(Scale(m, o.Beta1), Scale(grad, 1-o.Beta1))
	v1 := Add(Scale(v, o.Beta2), Mul(Scale(grad, 1-o.Beta2), grad))
	c1, c2 := biasCorrection(o.Beta1, step), biasCorrection(o.Beta2, step)
	rate := Mul(Div(lr, c1), l.perElement(g, l.lrScale))
	update := Mul(rate, Div(m1, AddScalar(Div(Sqrt(v1), Sqrt(c2)), o.Eps)))
	decay := decayFactor(l, lr, o.WeightDecay)
	p1 := Sub(Mul(p, decay), update)
	if o.DecayLast {
		p1 = Mul(Sub(p, update), decay)
	}
	return keepUnless(ok, [2]Value{p, p1}, [2]Value{m, m1}, [2]Value{v, v1})
}

// biasCorrection is 1 - beta^step, computed in float64.
func biasCorrection(beta float64, step Value) Value {
	t := Cast(step, tensor.F64)
	return Cast(Sub(Scalar(t, 1), Pow(Scalar(t, beta), t)), tensor.F32)
}

// Decompose implements graph.Decomposable: dequantize, update, quantize.
func (o AdamW8bit) Decompose(in []Value) []Value {
	p, grad, lr, step, gscale, ok := in[0], in[1], in[6], in[7], in[8], in[9]
	l := o.Layout
	b1, b2 := float64(float32(o.Beta1)), float64(float32(o.Beta2))
	inside := l.mask(p.Graph())
	zero := Scalar(p, 0)
	used := And(inside, IsFinite(grad))
	grad = Where(used, Mul(grad, gscale), zero)
	m := DequantizeFrom8(in[2], in[4], SlabAlign, false)
	v := DequantizeFrom8(in[3], in[5], SlabAlign, true)
	m1 := Where(used, Add(Scale(m, b1), Scale(grad, 1-b1)), zero)
	v1 := Where(used, Add(Scale(v, b2), Mul(Scale(grad, 1-b2), grad)), zero)
	c1, c2 := biasCorrection(b1, step), Sqrt(biasCorrection(b2, step))
	rate := Mul(Div(Mul(lr, c2), c1), l.perElement(p.Graph(), l.lrScale))
	update := Mul(rate, Div(m1, Add(Sqrt(v1), Scale(c2, o.Eps))))
	p1 := Where(used, Mul(Sub(p, update), decayFactor(l, lr, o.WeightDecay)), p)
	mc, ma := QuantizeTo8(Quantize8{Blocksize: SlabAlign, Moment: true}, m1)
	vc, va := QuantizeTo8(Quantize8{Blocksize: SlabAlign, Unsigned: true}, v1)
	mc, vc = Where(inside, mc, in[2]), Where(inside, vc, in[3])
	return keepUnless(ok, [2]Value{p, p1}, [2]Value{in[2], mc}, [2]Value{in[3], vc}, [2]Value{in[4], ma}, [2]Value{in[5], va})
}

// Decompose implements graph.Decomposable.
func (o SGD) Decompose(in []Value) []Value {
	p, grad, buf, lr, step, gscale, ok := in[0], in[1], in[2], in[3], in[4], in[5], in[6]
	l, g := o.Layout, p.Graph()
	wd := l.perElement(g, func(i int) float64 { return l.decay(i, o.WeightDecay) })
	d := Add(Mul(grad, gscale), Mul(wd, p))
	rate := Mul(lr, l.perElement(g, l.lrScale))
	if o.Momentum == 0 {
		return keepUnless(ok, [2]Value{p, Sub(p, Mul(rate, d))})
	}
	first := BroadcastTo(LessEqual(step, Scalar(step, 1)), l.Total)
	buf1 := Where(first, d, Add(Scale(buf, o.Momentum), Scale(d, 1-o.Dampening)))
	move := buf1
	if o.Nesterov {
		move = Add(d, Scale(buf1, o.Momentum))
	}
	return keepUnless(ok, [2]Value{p, Sub(p, Mul(rate, move))}, [2]Value{buf, buf1})
}
