package ops

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// TokenLossOp is the cross-entropy of each token: for logits (..., V) and labels (...) i32 it gives loss = lse - logits[label]
// and lse = log Σ e^logits, both (...) in f32 (f64 for f64 logits). A negative label (-100 by custom) ignores its token: both
// outputs are 0 there. lse is rounded, and its error is that of the loss and, relative, of the gradient's probabilities: 6e-8 of lse in
// f32, 0.1% for logits of 20,000. A label of V or more makes the run fail on the CPU and the loss NaN on a device that can not tell; it is never a class.
type TokenLossOp struct{}

var (
	_ graph.Differentiable = TokenLossOp{}
	_ graph.Decomposable   = TokenLossOp{}
	_ graph.Coster         = TokenLossOp{}
)

// Name implements graph.Op.
func (TokenLossOp) Name() string { return "token_loss" }

// NumOut is the number of outputs: loss and lse.
func (TokenLossOp) NumOut() int { return 2 }

// Infer implements graph.Op.
func (TokenLossOp) Infer(in []tensor.Type) ([]tensor.Type, error) {
	if err := arity(in, 2); err != nil {
		return nil, err
	}
	row, err := lossRows(in[0], in[1])
	return []tensor.Type{row, row}, err
}

// lossRows checks logits (..., V) against labels (...) and returns the type of a per-token result.
func lossRows(logits, labels tensor.Type) (tensor.Type, error) {
	if err := floatRows(logits); err != nil {
		return tensor.Type{}, err
	}
	dims := logits.Shape.Dims()
	if want := tensor.T(tensor.I32, dims[:len(dims)-1]...); labels != want {
		return tensor.Type{}, fmt.Errorf("the labels are %v, must be %v", labels, want)
	}
	if logits.Dim(-1) == 0 {
		return tensor.Type{}, fmt.Errorf("there are no classes")
	}
	return labels.With(wide(logits.DType)), nil
}

// VJP implements graph.Differentiable.
func (TokenLossOp) VJP(n *graph.Node, gy []Value, _ []bool) []Value {
	return grads(2, indexed{0, one(TokenLossGradOp{}, n.In[0], n.In[1], n.Output(1), gy[0], gy[1])})
}

// Decompose implements graph.Decomposable.
func (TokenLossOp) Decompose(in []Value) []Value {
	z := Cast(in[0], wide(in[0].DType()))
	peak := MaxOf(z, -1)
	lse := Add(peak, Log(Sum(Exp(Sub(z, keepLast(peak))), -1)))
	zero := Scalar(z, 0)
	at := Sum(Where(labelHits(in[1], z.Dim(-1)), z, zero), -1)
	counts := Counted(in[1])
	return []Value{Where(counts, Sub(lse, at), zero), Where(counts, lse, zero)}
}

// labelHits is the bool (..., V) that is true at each token's label.
func labelHits(labels Value, v int) Value {
	return Equal(keepLast(labels), Iota(labels.Graph(), tensor.T(tensor.I32, v), 0))
}

// Cost implements graph.Coster.
func (TokenLossOp) Cost(in, out []tensor.Type) (flops, bytes int64) { return rowCost(8, in, out) }

// TokenLossGradOp is the gradient of TokenLossOp: for logits (..., V), labels (...), lse (...) and the cotangents gloss, glse
// (...) of its outputs, either of which may be absent, it gives dlogits = softmax·(gloss + glse) - onehot·gloss in the logits'
// dtype, 0 in the rows of ignored tokens.
type TokenLossGradOp struct{}

var (
	_ graph.Decomposable = TokenLossGradOp{}
	_ graph.Aliaser      = TokenLossGradOp{}
	_ graph.Coster       = TokenLossGradOp{}
)

// Name implements graph.Op.
func (TokenLossGradOp) Name() string { return "token_loss_grad" }

// Infer implements graph.Op.
func (TokenLossGradOp) Infer(in []tensor.Type) ([]tensor.Type, error) {
	if len(in) != 5 {
		return nil, fmt.Errorf("takes 5 inputs, got %d", len(in))
	}
	if err := arity(in[:3], 3); err != nil {
		return nil, err
	}
	row, err := lossRows(in[0], in[1])
	if err != nil {
		return nil, err
	}
	return in[:1], lossCotangents(row, in[2], in[3], in[4])
}

// lossCotangents checks the per-token inputs of a loss gradient; cotangents may be absent.
func lossCotangents(row, lse tensor.Type, gs ...tensor.Type) error {
	if lse != row {
		return fmt.Errorf("lse is %v, must be %v", lse, row)
	}
	for _, g := range gs {
		if g.DType != tensor.Invalid && g != row {
			return fmt.Errorf("a cotangent is %v, must be %v", g, row)
		}
	}
	return nil
}

// Decompose implements graph.Decomposable.
func (TokenLossGradOp) Decompose(in []Value) []Value {
	z := Cast(in[0], wide(in[0].DType()))
	gloss, glse := orZeros(in[3], in[2]), orZeros(in[4], in[2])
	p := Exp(Sub(z, keepLast(in[2])))
	hit := Where(labelHits(in[1], z.Dim(-1)), keepLast(gloss), Scalar(z, 0))
	d := Sub(Mul(p, keepLast(Add(gloss, glse))), hit)
	return []Value{Cast(Where(keepLast(Counted(in[1])), d, Scalar(z, 0)), in[0].DType())}
}

func orZeros(v, like Value) Value {
	if v.Absent() {
		return ZerosLike(like)
	}
	return v
}

// Alias implements graph.Aliaser: the gradient may be written over the logits.
func (TokenLossGradOp) Alias() []graph.AliasPair { return []graph.AliasPair{{Out: 0, In: 0}} }

// Cost implements graph.Coster.
func (TokenLossGradOp) Cost(in, out []tensor.Type) (flops, bytes int64) { return rowCost(8, in, out) }

// Counted is true where a label is not ignored.
func Counted(labels Value) Value { return GreaterEqual(labels, Scalar(labels, 0)) }

// TokenLoss returns the cross-entropy of each token (...), 0 where ignored: logits (..., V), labels (...) i32 with negative
// values ignored. It is f32, or f64 for f64 logits.
func TokenLoss(logits, labels Value) Value { return one(TokenLossOp{}, logits, labels) }

// TokenLossLSE is TokenLoss that also returns lse = log Σ e^logits of each token, 0 where ignored, as a z-loss needs it.
func TokenLossLSE(logits, labels Value) (loss, lse Value) {
	out := apply(TokenLossOp{}, logits, labels)
	return out[0], out[len(out)-1]
}

// CrossEntropySum is the sum of TokenLoss over all tokens.
func CrossEntropySum(logits, labels Value) Value { return Sum(TokenLoss(logits, labels)) }

// CrossEntropy is the mean of TokenLoss over the tokens that are not ignored, 0 if there are none.
func CrossEntropy(logits, labels Value) Value { return MeanLoss(TokenLoss(logits, labels), labels) }

// CrossEntropyWeighted is Σ w·loss / Σ w over the tokens that are not ignored, for f32 weights (...) >= 0; 0 if Σ w is 0.
func CrossEntropyWeighted(logits, labels, weights Value) Value {
	return WeightedLoss(TokenLoss(logits, labels), labels, weights)
}

// MeanLoss averages a per-token loss over the tokens whose label is not negative, 0 if there are none.
func MeanLoss(loss, labels Value) Value {
	if !loss.Valid() {
		return loss
	}
	count := Sum(Cast(Counted(labels), loss.DType()))
	return Div(Sum(loss), Max(count, Scalar(count, 1)))
}

// WeightedLoss is Σ w·loss / Σ w over the tokens whose label is not negative, 0 if Σ w is 0.
func WeightedLoss(loss, labels, weights Value) Value {
	if !loss.Valid() || !weights.Valid() {
		return one(Pointwise{F: FnMul}, loss, weights)
	}
	w := Where(Counted(labels), castLike(weights, loss), Scalar(loss, 0))
	total := Sum(w)
	none := Equal(total, Scalar(total, 0))
	return Div(Sum(Mul(w, loss)), Where(none, Scalar(total, 1), total))
}
