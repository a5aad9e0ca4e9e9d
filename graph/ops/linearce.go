package ops

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// LinearCrossEntropyOp is TokenLossOp on the logits x·wᵀ without ever holding them: for x (N, C), w (V, C) of one dtype and
// labels (N) i32 it gives loss (N) and lse (N), in f32 (f64 for f64). Kernels make the logits tile by tile in the wide type and
// skip the rows of ignored tokens; the gradient makes them again (Wijmans et al. 2024, "Cut Your Losses").
//
// With Wide w is in 16 bits and read as x's type, float32 or float64.
type LinearCrossEntropyOp struct{ Wide bool }

var (
	_ graph.Widener        = LinearCrossEntropyOp{}
	_ graph.Differentiable = LinearCrossEntropyOp{}
	_ graph.Decomposable   = LinearCrossEntropyOp{}
	_ graph.Coster         = LinearCrossEntropyOp{}
	_ graph.Joiner         = LinearCrossEntropyOp{}
)

// Name implements graph.Op.
func (LinearCrossEntropyOp) Name() string { return "linear_cross_entropy" }

// NumOut is the number of outputs: loss and lse.
func (LinearCrossEntropyOp) NumOut() int { return 2 }

// Infer implements graph.Op.
func (o LinearCrossEntropyOp) Infer(in []tensor.Type) ([]tensor.Type, error) {
	if err := arity(in, 3); err != nil {
		return nil, err
	}
	row, err := linearLossRows(in[0], in[1], in[2], o.Wide)
	return []tensor.Type{row, row}, err
}

func linearLossRows(x, w, labels tensor.Type, wide bool) (tensor.Type, error) {
	switch {
	case wide && (x.DType != tensor.F32 && x.DType != tensor.F64 || w.DType != tensor.BF16 && w.DType != tensor.F16):
		return tensor.Type{}, fmt.Errorf("x is %v and w %v, must be f32 and bf16 or f16", x.DType, w.DType)
	case x.Rank() != 2 || w.Rank() != 2 || x.Dim(1) != w.Dim(1):
		return tensor.Type{}, fmt.Errorf("x is %v and w %v, must be (N, C) and (V, C)", x, w)
	case !wide && x.DType != w.DType:
		return tensor.Type{}, fmt.Errorf("dtypes differ: %v and %v; cast one of them", x.DType, w.DType)
	}
	return lossRows(tensor.T(x.DType, x.Dim(0), w.Dim(0)), labels)
}

// Widened implements graph.Widener.
func (LinearCrossEntropyOp) Widened(narrow []bool) (graph.Op, bool) {
	return LinearCrossEntropyOp{Wide: true}, !narrow[0] && narrow[1]
}

// VJP implements graph.Differentiable. A frozen head gets no gradient.
func (o LinearCrossEntropyOp) VJP(n *graph.Node, gy []Value, need []bool) []Value {
	w := n.In[1]
	if need[1] {
		w = o.head(w, n.In[0])
	}
	grad := LinearCrossEntropyGradOp{NeedX: need[0], NeedW: need[1], Wide: o.Wide && !need[1]}
	out := spread(apply(grad, n.In[0], w, n.In[2], n.Output(1), gy[0], gy[1]), need...)
	if o.Wide && need[1] {
		out[1] = Cast(out[1], n.In[1].DType())
	}
	return out
}

// head is the weight as x is multiplied by it.
func (o LinearCrossEntropyOp) head(w, x Value) Value {
	if o.Wide {
		return castLike(w, x)
	}
	return w
}

// Decompose implements graph.Decomposable.
func (o LinearCrossEntropyOp) Decompose(in []Value) []Value {
	return apply(TokenLossOp{}, Linear(in[0], o.head(in[1], in[0])), in[2])
}

// Cost implements graph.Coster.
func (LinearCrossEntropyOp) Cost(in, out []tensor.Type) (flops, bytes int64) {
	return linearLossFlops(in, 1), sumBytes(in) + sumBytes(out)
}

func linearLossFlops(in []tensor.Type, products int) int64 {
	return 2 * int64(in[0].Size()) * int64(in[1].Dim(0)) * int64(products)
}

// LinearCrossEntropyGradOp is the gradient of LinearCrossEntropyOp from x (N, C), w (V, C), labels, lse (N) and the cotangents
// gloss, glse (N) of its outputs, either of which may be absent. Its outputs are dx (N, C) if NeedX, then dw (V, C) if NeedW.
// With Wide w is in 16 bits, read as x's type, and there is no dw.
type LinearCrossEntropyGradOp struct{ NeedX, NeedW, Wide bool }

var (
	_ graph.Widener      = LinearCrossEntropyGradOp{}
	_ graph.Decomposable = LinearCrossEntropyGradOp{}
	_ graph.Coster       = LinearCrossEntropyGradOp{}
)

// Name implements graph.Op.
func (LinearCrossEntropyGradOp) Name() string { return "linear_cross_entropy_grad" }

// NumOut is the number of outputs.
func (o LinearCrossEntropyGradOp) NumOut() int { return countTrue(o.NeedX, o.NeedW) }

// Infer implements graph.Op.
func (o LinearCrossEntropyGradOp) Infer(in []tensor.Type) ([]tensor.Type, error) {
	if len(in) != 6 {
		return nil, fmt.Errorf("takes 6 inputs, got %d", len(in))
	}
	if o.NumOut() == 0 {
		return nil, fmt.Errorf("no gradient is needed")
	}
	if o.Wide && o.NeedW {
		return nil, fmt.Errorf("the gradient of a weight that is read as float32 is that of its cast; give the cast weight")
	}
	if err := arity(in[:4], 4); err != nil {
		return nil, err
	}
	row, err := linearLossRows(in[0], in[1], in[2], o.Wide)
	if err != nil {
		return nil, err
	}
	return picked(in[:2], o.NeedX, o.NeedW), lossCotangents(row, in[3], in[4], in[5])
}

// Widened implements graph.Widener.
func (o LinearCrossEntropyGradOp) Widened(narrow []bool) (graph.Op, bool) {
	o.Wide = true
	return o, !o.NeedW && !narrow[0] && narrow[1]
}

// Decompose implements graph.Decomposable.
func (o LinearCrossEntropyGradOp) Decompose(in []Value) []Value {
	w := LinearCrossEntropyOp{Wide: o.Wide}.head(in[1], in[0])
	d := one(TokenLossGradOp{}, Linear(in[0], w), in[2], in[3], in[4], in[5])
	var out []Value
	if o.NeedX {
		out = append(out, Dot(d, w))
	}
	if o.NeedW {
		out = append(out, one(MatMul{TransA: true}, d, in[0]))
	}
	return out
}

// Cost implements graph.Coster.
func (o LinearCrossEntropyGradOp) Cost(in, out []tensor.Type) (flops, bytes int64) {
	return linearLossFlops(in, 1+o.NumOut()), sumBytes(in) + sumBytes(out)
}

// LinearCrossEntropy returns TokenLoss(Linear(x, w), labels) without holding the logits: x (..., C), w (V, C), labels (...) i32
// with negative values ignored. The result is shaped like labels.
func LinearCrossEntropy(x, w, labels Value) Value {
	loss, _ := LinearCrossEntropyLSE(x, w, labels)
	return loss
}

// LinearCrossEntropyLSE is LinearCrossEntropy that also returns lse = log Σ e^logits of each token, 0 where ignored.
func LinearCrossEntropyLSE(x, w, labels Value) (loss, lse Value) {
	if x.Valid() && labels.Valid() && x.Rank() != 2 && x.Rank() > 0 {
		dims := labels.Shape().Dims()
		if want := x.Shape().Dims(); tensor.S(want[:len(want)-1]...) != labels.Shape() {
			bad := fail("linear_cross_entropy", x, "the labels are %v, must be one a row of x", labels.Type())
			return bad, bad
		}
		loss, lse = LinearCrossEntropyLSE(Reshape(x, rows(x.Shape().Dims()), x.Dim(-1)), w, Reshape(labels, labels.Type().Size()))
		if !loss.Valid() {
			return loss, lse
		}
		return Reshape(loss, dims...), Reshape(lse, dims...)
	}
	out := apply(LinearCrossEntropyOp{}, x, w, labels)
	return out[0], out[len(out)-1]
}
