package ops

import (
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// LinearLossUnitOp is LinearCrossEntropyOp with one more output, the gradient of each token's own loss with respect to its row of x: for x (N, C),
// w (V, C) and labels (N) it gives loss (N), lse (N) and (softmax - onehot)·w (N, C) in x's dtype, 0 in the rows of ignored tokens. With a frozen
// head that is all the backward pass needs, times the cotangent of each loss, and the logits are made once.
//
// With Wide w is in 16 bits and read as x's type.
type LinearLossUnitOp struct{ Wide bool }

var (
	_ graph.Decomposable = LinearLossUnitOp{}
	_ graph.Coster       = LinearLossUnitOp{}
)

// Name implements graph.Op.
func (LinearLossUnitOp) Name() string { return "linear_loss_unit" }

// NumOut is the number of outputs: loss, lse and the gradient.
func (LinearLossUnitOp) NumOut() int { return 3 }

// Infer implements graph.Op.
func (o LinearLossUnitOp) Infer(in []tensor.Type) ([]tensor.Type, error) {
	rows, err := LinearCrossEntropyOp(o).Infer(in)
	if err != nil {
		return nil, err
	}
	return append(rows, in[0]), nil
}

// Decompose implements graph.Decomposable.
func (o LinearLossUnitOp) Decompose(in []Value) []Value {
	out := apply(LinearCrossEntropyOp(o), in...)
	ones := BroadcastTo(Scalar(out[0], 1), in[0].Dim(0))
	return append(out[:2:2], one(LinearCrossEntropyGradOp{NeedX: true, Wide: o.Wide}, in[0], in[1], in[2], out[1], ones, Value{}))
}

// Cost implements graph.Coster.
func (LinearLossUnitOp) Cost(in, out []tensor.Type) (flops, bytes int64) {
	return linearLossFlops(in, 2), sumBytes(in) + sumBytes(out)
}

// Joined implements graph.Joiner, with the gradient for a frozen head and a loss whose lse nothing is differentiated through. Binary16 is
// left out: the small probabilities of a large vocabulary need the loss scale, which the cotangent brings.
func (o LinearCrossEntropyOp) Joined(n, later *graph.Node) (graph.Op, func(in, more []Value) []Value, bool) {
	grad, ok := later.Op.(LinearCrossEntropyGradOp)
	if !ok || grad.NeedW || grad.Wide != o.Wide || n.In[0].DType() == tensor.F16 {
		return nil, nil, false
	}
	for i := range 3 {
		if later.In[i] != n.In[i] {
			return nil, nil, false
		}
	}
	if later.In[3] != n.Output(1) || later.In[4].Absent() || !later.In[5].Absent() {
		return nil, nil, false
	}
	return LinearLossUnitOp(o), func(in, more []Value) []Value {
		unit := more[0]
		d := wide(unit.DType())
		return []Value{Cast(Mul(Cast(unit, d), keepLast(in[4])), unit.DType())}
	}, true
}
