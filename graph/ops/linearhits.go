package ops

import (
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// LinearHitsOp is what an evaluation asks of the logits x·wᵀ, without ever holding them: for x (N, C), w (V, C) of one dtype and labels (N)
// i32 it gives the loss (N) of LinearCrossEntropyOp and whether no class has a larger logit than the label, 1 or 0 (N), both in f32 (f64
// for f64) and 0 where the label is negative.
//
// With Wide w is in 16 bits and read as x's type, float32 or float64.
type LinearHitsOp struct{ Wide bool }

var (
	_ graph.Widener      = LinearHitsOp{}
	_ graph.Decomposable = LinearHitsOp{}
	_ graph.Coster       = LinearHitsOp{}
)

// Name implements graph.Op.
func (LinearHitsOp) Name() string { return "linear_hits" }

// NumOut is the number of outputs: loss and hit.
func (LinearHitsOp) NumOut() int { return 2 }

// Infer implements graph.Op.
func (o LinearHitsOp) Infer(in []tensor.Type) ([]tensor.Type, error) {
	return LinearCrossEntropyOp(o).Infer(in)
}

// Widened implements graph.Widener.
func (LinearHitsOp) Widened(narrow []bool) (graph.Op, bool) {
	return LinearHitsOp{Wide: true}, !narrow[0] && narrow[1]
}

// Decompose implements graph.Decomposable. A gradient goes through it, to the loss alone.
func (o LinearHitsOp) Decompose(in []Value) []Value {
	z := Linear(in[0], LinearCrossEntropyOp(o).head(in[1], in[0]))
	return []Value{TokenLoss(z, in[2]), TokenHits(z, in[2])}
}

// Cost implements graph.Coster.
func (LinearHitsOp) Cost(in, out []tensor.Type) (flops, bytes int64) {
	return LinearCrossEntropyOp{}.Cost(in, out)
}

// TokenHits is 1 where no class has a larger score than the label and 0 elsewhere, for scores (..., V) and labels (...) i32: 0 where they are
// negative. The result is f32, f64 for f64.
func TokenHits(logits, labels Value) Value {
	if !logits.Valid() || !labels.Valid() {
		return absorb(logits)
	}
	z := Cast(logits, wide(logits.DType()))
	at := Sum(Where(labelHits(labels, z.Dim(-1)), z, Scalar(z, 0)), -1)
	return Where(And(Counted(labels), LessEqual(MaxOf(z, -1), at)), Scalar(z, 1), Scalar(z, 0))
}

// LinearHits returns TokenLoss and TokenHits of Linear(x, w) without holding the logits: x (..., C), w (V, C), labels (...) i32 with negative
// values ignored. The results are shaped like labels.
func LinearHits(x, w, labels Value) (loss, hit Value) {
	if x.Valid() && labels.Valid() && x.Rank() != 2 && x.Rank() > 0 {
		dims := labels.Shape().Dims()
		if want := x.Shape().Dims(); tensor.S(want[:len(want)-1]...) != labels.Shape() {
			bad := fail("linear_hits", x, "the labels are %v, must be one a row of x", labels.Type())
			return bad, bad
		}
		loss, hit = LinearHits(Reshape(x, rows(x.Shape().Dims()), x.Dim(-1)), w, Reshape(labels, labels.Type().Size()))
		if !loss.Valid() {
			return loss, hit
		}
		return Reshape(loss, dims...), Reshape(hit, dims...)
	}
	out := apply(LinearHitsOp{}, x, w, labels)
	return out[0], out[len(out)-1]
}
