package ops

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// LayerNormOp gives each row mean 0 and variance 1 (Ba et al. 2016): y = (x - mean) / sqrt(var + Eps) · w + b, for x (..., C)
// and w, b (C) of one dtype; w and b may each be absent. The variance is the biased one. Statistics are kept at least in
// float32 and the result is rounded once.
type LayerNormOp struct{ Eps float64 }

var (
	_ graph.Differentiable = LayerNormOp{}
	_ graph.Decomposable   = LayerNormOp{}
	_ graph.Aliaser        = LayerNormOp{}
	_ graph.Coster         = LayerNormOp{}
	_ graph.Merger         = LayerNormOp{}
)

// Name implements graph.Op.
func (LayerNormOp) Name() string { return "layernorm" }

// Infer implements graph.Op.
func (o LayerNormOp) Infer(in []tensor.Type) ([]tensor.Type, error) {
	if len(in) != 3 {
		return nil, fmt.Errorf("takes 3 inputs, got %d", len(in))
	}
	if err := arity(in[:1], 1); err != nil {
		return nil, err
	}
	return in[:1], normRows(o.Eps, in[0], in[1], in[2])
}

// VJP implements graph.Differentiable.
func (o LayerNormOp) VJP(n *graph.Node, gy []Value, need []bool) []Value {
	return spread(apply(LayerNormGradOp{o.Eps, need[0], need[1], need[2]}, n.In[0], n.In[1], gy[0]), need...)
}

// Decompose implements graph.Decomposable.
func (o LayerNormOp) Decompose(in []Value) []Value {
	d := in[0].DType()
	y, _ := centred(Cast(in[0], wide(d)), o.Eps)
	if !in[1].Absent() {
		y = Mul(y, Cast(in[1], wide(d)))
	}
	if !in[2].Absent() {
		y = Add(y, Cast(in[2], wide(d)))
	}
	return []Value{Cast(y, d)}
}

// Alias implements graph.Aliaser.
func (LayerNormOp) Alias() []graph.AliasPair { return []graph.AliasPair{{Out: 0, In: 0}} }

// Cost implements graph.Coster.
func (LayerNormOp) Cost(in, out []tensor.Type) (flops, bytes int64) { return rowCost(8, in, out) }

// LayerNormGradOp is the gradient of LayerNormOp from x (..., C), w (C) or absent, and the cotangent gy (..., C). Its outputs
// are dx (..., C) if NeedX, dw (C) if NeedW, db (C) if NeedB, in this order. With r = 1/sqrt(var + Eps) and x̂ = (x - mean)·r:
// dx = r·(gy·w - mean(gy·w) - x̂·mean(gy·w·x̂)), dw = Σ gy·x̂, db = Σ gy.
type LayerNormGradOp struct {
	Eps                 float64
	NeedX, NeedW, NeedB bool
}

var (
	_ graph.Decomposable = LayerNormGradOp{}
	_ graph.Aliaser      = LayerNormGradOp{}
	_ graph.Coster       = LayerNormGradOp{}
)

// Name implements graph.Op.
func (LayerNormGradOp) Name() string { return "layernorm_grad" }

// NumOut is the number of outputs.
func (o LayerNormGradOp) NumOut() int { return countTrue(o.NeedX, o.NeedW, o.NeedB) }

// Infer implements graph.Op.
func (o LayerNormGradOp) Infer(in []tensor.Type) ([]tensor.Type, error) {
	if len(in) != 3 {
		return nil, fmt.Errorf("takes 3 inputs, got %d", len(in))
	}
	if err := arity([]tensor.Type{in[0], in[2]}, 2); err != nil {
		return nil, err
	}
	if err := normGradRows(o.Eps, in[0], in[1], in[2], o.NumOut()); err != nil {
		return nil, err
	}
	row := tensor.T(in[0].DType, in[0].Dim(-1))
	return picked([]tensor.Type{in[0], row, row}, o.NeedX, o.NeedW, o.NeedB), nil
}

// Decompose implements graph.Decomposable.
func (o LayerNormGradOp) Decompose(in []Value) []Value {
	d := in[0].DType()
	g := Cast(in[2], wide(d))
	xh, r := centred(Cast(in[0], wide(d)), o.Eps)
	var out []Value
	if o.NeedX {
		gw := g
		if !in[1].Absent() {
			gw = Mul(g, Cast(in[1], wide(d)))
		}
		shift := keepLast(Mean(gw, -1))
		tilt := keepLast(Mean(Mul(gw, xh), -1))
		out = append(out, Cast(Mul(r, Sub(Sub(gw, shift), Mul(xh, tilt))), d))
	}
	if o.NeedW {
		out = append(out, Cast(sumRows(Mul(g, xh)), d))
	}
	if o.NeedB {
		out = append(out, Cast(sumRows(g), d))
	}
	return out
}

// Alias implements graph.Aliaser.
func (o LayerNormGradOp) Alias() []graph.AliasPair {
	if !o.NeedX {
		return nil
	}
	return []graph.AliasPair{{Out: 0, In: 0}, {Out: 0, In: 2}}
}

// Cost implements graph.Coster.
func (LayerNormGradOp) Cost(in, out []tensor.Type) (flops, bytes int64) { return rowCost(16, in, out) }

// LayerNorm normalises x (..., C) along its last axis, scales by w (C) and adds b (C); w and b may be absent and are cast to
// x's dtype.
func LayerNorm(x, w, b Value, eps float64) Value {
	return one(LayerNormOp{eps}, x, castLike(w, x), castLike(b, x))
}

// centred returns the normalised rows and 1/sqrt(var + eps), with the last axis kept.
func centred(x Value, eps float64) (xh, r Value) {
	c := Sub(x, keepLast(Mean(x, -1)))
	r = rmsScale(c, eps)
	return Mul(c, r), r
}
