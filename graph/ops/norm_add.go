package ops

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// AddNormOp is a residual sum and its norm: from a, b (..., C), w and bias (C) of one dtype it gives a + b, rounded, and RMSNormOp of that, or
// LayerNormOp with Centre. w and bias may be absent with Centre; without, bias must be. It is what a plan makes of the two, so that the sum is not read back.
type AddNormOp struct {
	Eps    float64
	Centre bool
}

// AddRMSNormGradOp is c + dx for the dx of RMSNormGradOp, rounded once: from c, x (..., C), w (C) and gy (..., C). It is what a plan makes of the
// gradient that a residual stream gets through a norm with frozen weights.
type AddRMSNormGradOp struct{ Eps float64 }

var (
	_ graph.Decomposable = AddNormOp{}
	_ graph.Aliaser      = AddNormOp{}
	_ graph.Coster       = AddNormOp{}
	_ graph.Decomposable = AddRMSNormGradOp{}
	_ graph.Aliaser      = AddRMSNormGradOp{}
	_ graph.Apart        = AddRMSNormGradOp{}
	_ graph.Coster       = AddRMSNormGradOp{}
)

// Name implements graph.Op.
func (AddNormOp) Name() string { return "add_norm" }

// Name implements graph.Op.
func (AddRMSNormGradOp) Name() string { return "add_rmsnorm_grad" }

// NumOut is the number of outputs: the sum and its norm.
func (AddNormOp) NumOut() int { return 2 }

// Infer implements graph.Op.
func (o AddNormOp) Infer(in []tensor.Type) ([]tensor.Type, error) {
	if len(in) != 4 {
		return nil, fmt.Errorf("takes 4 inputs, got %d", len(in))
	}
	need := 3
	if o.Centre {
		need = 2
	}
	if err := arity(in[:need], need); err != nil {
		return nil, err
	}
	switch {
	case in[0] != in[1]:
		return nil, fmt.Errorf("cannot add %v and %v: they must be alike", in[0], in[1])
	case !o.Centre && in[3].DType != tensor.Invalid:
		return nil, fmt.Errorf("RMSNorm has no bias")
	}
	return in[:2], normRows(o.Eps, in[0], in[2], in[3])
}

// Decompose implements graph.Decomposable.
func (o AddNormOp) Decompose(in []Value) []Value {
	sum := Add(in[0], in[1])
	if o.Centre {
		return []Value{sum, one(LayerNormOp{o.Eps}, sum, in[2], in[3])}
	}
	return []Value{sum, one(RMSNormOp{o.Eps}, sum, in[2])}
}

// Alias implements graph.Aliaser.
func (AddNormOp) Alias() []graph.AliasPair {
	return []graph.AliasPair{{Out: 0, In: 0}, {Out: 0, In: 1}, {Out: 1, In: 0}, {Out: 1, In: 1}}
}

// Cost implements graph.Coster.
func (AddNormOp) Cost(in, out []tensor.Type) (flops, bytes int64) { return rowCost(7, in, out) }

// Merged implements graph.Merger: with the sum of two values that is normalised.
func (o RMSNormOp) Merged(n *graph.Node, i int) (graph.Op, []Value, bool) {
	terms, ok := plainSum(n, i)
	return AddNormOp{Eps: o.Eps}, append(terms, n.In[1], Value{}), ok
}

// Merged implements graph.Merger: with the sum of two values that is normalised.
func (o LayerNormOp) Merged(n *graph.Node, i int) (graph.Op, []Value, bool) {
	terms, ok := plainSum(n, i)
	return AddNormOp{Eps: o.Eps, Centre: true}, append(terms, n.In[1], n.In[2]), ok
}

// plainSum returns the terms of n's input i, which must be the first, if it is a sum of two values of its type.
func plainSum(n *graph.Node, i int) ([]Value, bool) {
	m := n.In[i].Node()
	if i != 0 || m.Op != (Pointwise{F: FnAdd}) || m.In[0].Type() != m.Out[0] || m.In[1].Type() != m.Out[0] {
		return nil, false
	}
	return m.In[:2:2], true
}

// AddTo implements graph.Accumulator for dx alone. Float64 is for checking gradients, where the plain form is what is checked.
func (o RMSNormGradOp) AddTo(factor float64, n *graph.Node) (graph.Op, bool) {
	return AddRMSNormGradOp{o.Eps}, o.NeedX && !o.NeedW && factor == 1 && n.Out[0].DType != tensor.F64
}

// Infer implements graph.Op.
func (o AddRMSNormGradOp) Infer(in []tensor.Type) ([]tensor.Type, error) {
	if err := arity(in, 4); err != nil {
		return nil, err
	}
	if in[0] != in[1] {
		return nil, fmt.Errorf("cannot add a gradient of %v to %v", in[1], in[0])
	}
	return in[:1], normGradRows(o.Eps, in[1], in[2], in[3], 1)
}

// Decompose implements graph.Decomposable.
func (o AddRMSNormGradOp) Decompose(in []Value) []Value {
	return []Value{Add(in[0], one(RMSNormGradOp{Eps: o.Eps, NeedX: true}, in[1:]...))}
}

// Alias implements graph.Aliaser.
func (AddRMSNormGradOp) Alias() []graph.AliasPair {
	return []graph.AliasPair{{Out: 0, In: 0}, {Out: 0, In: 1}, {Out: 0, In: 3}}
}

// Apart implements graph.Apart.
func (AddRMSNormGradOp) Apart() {}

// Cost implements graph.Coster.
func (AddRMSNormGradOp) Cost(in, out []tensor.Type) (flops, bytes int64) { return rowCost(12, in, out) }
