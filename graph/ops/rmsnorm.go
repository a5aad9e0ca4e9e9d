package ops

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// RMSNormOp scales each row by its root mean square (Zhang & Sennrich 2019): y = x / sqrt(mean(x²) + Eps) · w, for x (..., C)
// and w (C) of one dtype. Statistics are kept at least in float32 and the result is rounded once.
type RMSNormOp struct{ Eps float64 }

var (
	_ graph.Differentiable = RMSNormOp{}
	_ graph.Decomposable   = RMSNormOp{}
	_ graph.Aliaser        = RMSNormOp{}
	_ graph.Coster         = RMSNormOp{}
	_ graph.Merger         = RMSNormOp{}
)

// Name implements graph.Op.
func (RMSNormOp) Name() string { return "rmsnorm" }

// Infer implements graph.Op.
func (o RMSNormOp) Infer(in []tensor.Type) ([]tensor.Type, error) {
	if err := arity(in, 2); err != nil {
		return nil, err
	}
	return in[:1], normRows(o.Eps, in[0], in[1])
}

// VJP implements graph.Differentiable.
func (o RMSNormOp) VJP(n *graph.Node, gy []Value, need []bool) []Value {
	return spread(apply(RMSNormGradOp{o.Eps, need[0], need[1]}, n.In[0], n.In[1], gy[0]), need...)
}

// Decompose implements graph.Decomposable.
func (o RMSNormOp) Decompose(in []Value) []Value {
	d := in[0].DType()
	x, w := Cast(in[0], wide(d)), Cast(in[1], wide(d))
	return []Value{Cast(Mul(Mul(x, rmsScale(x, o.Eps)), w), d)}
}

// Alias implements graph.Aliaser.
func (RMSNormOp) Alias() []graph.AliasPair { return []graph.AliasPair{{Out: 0, In: 0}} }

// Cost implements graph.Coster.
func (RMSNormOp) Cost(in, out []tensor.Type) (flops, bytes int64) { return rowCost(4, in, out) }

// RMSNormGradOp is the gradient of RMSNormOp from x (..., C), w (C) and the cotangent gy (..., C). Its outputs are dx (..., C)
// if NeedX, then dw (C) if NeedW; what is not needed does not exist. With r = 1/sqrt(mean(x²) + Eps) and x̂ = x·r:
// dx = r·(gy·w - x̂·mean(gy·w·x̂)), dw = Σ gy·x̂.
type RMSNormGradOp struct {
	Eps          float64
	NeedX, NeedW bool
}

var (
	_ graph.Accumulator  = RMSNormGradOp{}
	_ graph.Decomposable = RMSNormGradOp{}
	_ graph.Aliaser      = RMSNormGradOp{}
	_ graph.Coster       = RMSNormGradOp{}
)

// Name implements graph.Op.
func (RMSNormGradOp) Name() string { return "rmsnorm_grad" }

// NumOut is the number of outputs.
func (o RMSNormGradOp) NumOut() int { return countTrue(o.NeedX, o.NeedW) }

// Infer implements graph.Op.
func (o RMSNormGradOp) Infer(in []tensor.Type) ([]tensor.Type, error) {
	if err := arity(in, 3); err != nil {
		return nil, err
	}
	if err := normGradRows(o.Eps, in[0], in[1], in[2], o.NumOut()); err != nil {
		return nil, err
	}
	return picked(in[:2], o.NeedX, o.NeedW), nil
}

// Decompose implements graph.Decomposable.
func (o RMSNormGradOp) Decompose(in []Value) []Value {
	d := in[0].DType()
	x, w, g := Cast(in[0], wide(d)), Cast(in[1], wide(d)), Cast(in[2], wide(d))
	r := rmsScale(x, o.Eps)
	xh := Mul(x, r)
	var out []Value
	if o.NeedX {
		gw := Mul(g, w)
		mean := keepLast(Mean(Mul(gw, xh), -1))
		out = append(out, Cast(Mul(r, Sub(gw, Mul(xh, mean))), d))
	}
	if o.NeedW {
		out = append(out, Cast(sumRows(Mul(g, xh)), d))
	}
	return out
}

// Alias implements graph.Aliaser.
func (o RMSNormGradOp) Alias() []graph.AliasPair {
	if !o.NeedX {
		return nil
	}
	return []graph.AliasPair{{Out: 0, In: 0}, {Out: 0, In: 2}}
}

// Cost implements graph.Coster.
func (RMSNormGradOp) Cost(in, out []tensor.Type) (flops, bytes int64) { return rowCost(11, in, out) }

// RMSNorm normalises x (..., C) along its last axis and scales it by w (C), which is cast to x's dtype.
func RMSNorm(x, w Value, eps float64) Value { return one(RMSNormOp{eps}, x, castLike(w, x)) }

// rmsScale is 1/sqrt(mean(x²) + eps) of each row, with the last axis kept.
func rmsScale(x Value, eps float64) Value {
	return keepLast(Rsqrt(AddScalar(Mean(Square(x), -1), eps)))
}

// castLike casts a present value to the dtype of another.
func castLike(v, like Value) Value {
	if !v.Valid() || !like.Valid() || !v.DType().IsFloat() {
		return v
	}
	return Cast(v, like.DType())
}

// normRows checks x (..., C) and the present ones of the parameters (C).
func normRows(eps float64, x tensor.Type, params ...tensor.Type) error {
	if err := floatRows(x); err != nil {
		return err
	}
	if !(eps >= 0) {
		return fmt.Errorf("eps must not be negative, got %v", eps)
	}
	for _, w := range params {
		if want := tensor.T(x.DType, x.Dim(-1)); w.DType != tensor.Invalid && w != want {
			return fmt.Errorf("a parameter is %v, must be %v", w, want)
		}
	}
	return nil
}

func normGradRows(eps float64, x, w, gy tensor.Type, outs int) error {
	if outs == 0 {
		return fmt.Errorf("no gradient is needed")
	}
	if gy != x {
		return fmt.Errorf("the cotangent is %v, must be %v", gy, x)
	}
	return normRows(eps, x, w)
}

// picked keeps the types whose flag is set.
func picked(ts []tensor.Type, flags ...bool) []tensor.Type {
	var out []tensor.Type
	for i, f := range flags {
		if f {
			out = append(out, ts[i])
		}
	}
	return out
}
