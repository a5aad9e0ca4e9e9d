package ops

import (
	"fmt"
	"math"
	"slices"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// LossReduction is how the losses of single elements become one.
type LossReduction uint8

// The reductions. LossBatchMean divides the sum by the first extent.
const (
	LossMean LossReduction = iota
	LossSum
	LossNone
	LossBatchMean
)

// ClassLossOptions are the settings of losses over classes.
type ClassLossOptions struct {
	Reduction LossReduction // LossMean divides by the sum of the counted labels' weights
	Weight    Value         // (C) a weight for each class; absent: 1
	// Ignore lists labels that do not count. Negative labels never do.
	Ignore []int
	// Smoothing in [0, 1) gives that share of each target to all classes alike (Szegedy et al. 2016).
	Smoothing float64
}

// ClassLoss is the cross-entropy of logits (N, C, d...) with i32 labels (N, d...), in f32 (f64 for f64). An ignored label's loss
// is 0; the mean of nothing is 0. A label of C or more, unless ignored, fails the run as in TokenLossOp, or with Smoothing makes
// the loss NaN. LossBatchMean is not defined.
func ClassLoss(logits, labels Value, o ClassLossOptions) Value {
	z, y, ok := o.rows("class_loss", logits, labels)
	if !ok {
		return absorb(logits)
	}
	if !(o.Smoothing >= 0 && o.Smoothing < 1) {
		return fail("class_loss", logits, "the smoothing must be in [0, 1), got %v", o.Smoothing)
	}
	if o.Smoothing == 0 {
		return o.reduce(o.weighed(TokenLoss(z, y), y), y)
	}
	logp := Cast(LogSoftmax(Cast(z, wide(z.DType())), -1), wide(z.DType()))
	hard := o.weighed(pickClass(logp, y), y)
	each := Neg(logp)
	if !o.Weight.Absent() {
		each = Mul(each, castLike(o.Weight, each))
	}
	even := Where(Counted(y), Scale(Sum(each, -1), 1/float64(z.Dim(-1))), Scalar(each, 0))
	return o.reduce(Add(Scale(hard, 1-o.Smoothing), Scale(even, o.Smoothing)), y)
}

// NLLLoss is -logp[label] of log-probabilities (N, C, d...) and i32 labels (N, d...); see ClassLoss, without
// Smoothing. A label of C or more, unless ignored, makes the loss NaN.
func NLLLoss(logp, labels Value, o ClassLossOptions) Value {
	z, y, ok := o.rows("nll_loss", logp, labels)
	if !ok {
		return absorb(logp)
	}
	if o.Smoothing != 0 {
		return fail("nll_loss", logp, "smoothing needs logits: use ClassLoss")
	}
	return o.reduce(o.weighed(pickClass(Cast(z, wide(z.DType())), y), y), y)
}

// rows moves the classes to the last axis and marks ignored labels with -100.
func (o ClassLossOptions) rows(name string, logits, labels Value) (z, y Value, ok bool) {
	if !logits.Valid() || !labels.Valid() {
		return z, y, false
	}
	if err := o.check(logits.Type(), labels.Type()); err != nil {
		fail(name, logits, "%v", err)
		return z, y, false
	}
	perm := []int{0}
	for i := 2; i < logits.Rank(); i++ {
		perm = append(perm, i)
	}
	z, y = Transpose(logits, append(perm, 1)...), labels
	for _, c := range o.Ignore {
		y = Where(Equal(y, Scalar(y, float64(c))), Scalar(y, -100), y)
	}
	return z, y, true
}

func (o ClassLossOptions) check(logits, labels tensor.Type) error {
	if logits.Rank() < 2 || !logits.DType.IsFloat() {
		return fmt.Errorf("scores must be (N, C, d...) of a float dtype, got %v", logits)
	}
	dims := slices.Delete(logits.Shape.Dims(), 1, 2)
	if want := tensor.T(tensor.I32, dims...); labels != want {
		return fmt.Errorf("the labels are %v, must be %v", labels, want)
	}
	if w := o.Weight.Type(); o.Weight.Valid() && (!w.DType.IsFloat() || w.Shape != tensor.S(logits.Dim(1))) {
		return fmt.Errorf("the class weights are %v, must be %d floats", w, logits.Dim(1))
	}
	if o.Reduction > LossNone {
		return fmt.Errorf("the reduction must be the mean, the sum or none")
	}
	return nil
}

// pickClass is -logp[label] (R...), 0 where the label does not count, and NaN where there is no such class: a wrong label must
// not pass for a good one.
func pickClass(logp, labels Value) Value {
	classes := logp.Dim(-1)
	loss := Neg(Sum(Where(labelHits(labels, classes), logp, Scalar(logp, 0)), -1))
	known := Where(Less(labels, Scalar(labels, float64(classes))), Scalar(loss, 1), Scalar(loss, -1))
	return Add(loss, Log(known))
}

func (o ClassLossOptions) weighed(loss, labels Value) Value {
	if o.Weight.Absent() {
		return loss
	}
	return Mul(loss, castLike(Gather(o.Weight, 0, labels), loss))
}

func (o ClassLossOptions) reduce(loss, labels Value) Value {
	switch {
	case o.Reduction == LossNone:
		return loss
	case o.Reduction == LossSum:
		return Sum(loss)
	case o.Weight.Absent():
		return MeanLoss(loss, labels)
	}
	total := Sum(castLike(Gather(o.Weight, 0, labels), loss)) // an ignored label gathers 0
	none := Equal(total, Scalar(total, 0))
	return Div(Sum(loss), Where(none, Scalar(total, 1), total))
}

// MSELoss is (x-y)², elements of one shape and float dtype; the result is f32 (f64 for f64).
func MSELoss(x, y Value, r LossReduction) Value {
	return elementLoss("mse_loss", x, y, r, func(x, y Value) Value { return Square(Sub(x, y)) })
}

// L1Loss is |x-y|; see MSELoss.
func L1Loss(x, y Value, r LossReduction) Value {
	return elementLoss("l1_loss", x, y, r, func(x, y Value) Value { return Abs(Sub(x, y)) })
}

// HuberLoss is d²/2 where |d| <= delta, else delta·(|d| - delta/2), with d = x-y and delta > 0 (Huber 1964); see MSELoss.
func HuberLoss(x, y Value, delta float64, r LossReduction) Value {
	if x.Valid() && (!(delta > 0) || math.IsInf(delta, 1)) {
		return fail("huber_loss", x, "delta must be positive and finite, got %v; without a bound the loss is MSELoss / 2", delta)
	}
	return elementLoss("huber_loss", x, y, r, func(x, y Value) Value {
		d := Abs(Sub(x, y))
		near := Scale(Square(d), 0.5)
		far := Scale(AddScalar(d, -delta/2), delta)
		return Where(LessEqual(d, Scalar(d, delta)), near, far)
	})
}

// SmoothL1Loss is HuberLoss divided by beta, and L1Loss for beta 0; see MSELoss.
func SmoothL1Loss(x, y Value, beta float64, r LossReduction) Value {
	if beta == 0 {
		return L1Loss(x, y, r)
	}
	h := HuberLoss(x, y, beta, r)
	if !h.Valid() {
		return h
	}
	return Scale(h, 1/beta)
}

// BinaryLoss is the cross-entropy of logits x with targets y in [0, 1]: -(p·y·log σ(x) + (1-y)·log(1-σ(x))), with a weight p of
// the positive class that broadcasts against x, or 1 if it is absent; see MSELoss. It overflows for no x.
func BinaryLoss(x, y, positive Value, r LossReduction) Value {
	if x.Valid() && !fits(positive, x) {
		return fail("binary_loss", x, "the weight of the positive class %v does not broadcast to the input %v", positive.Type(), x.Type())
	}
	return elementLoss("binary_loss", x, y, r, func(x, y Value) Value {
		low := Softplus(Neg(x)) // -log σ(x)
		rest := Mul(Sub(Scalar(x, 1), y), x)
		if positive.Absent() {
			return Add(rest, low)
		}
		extra := Mul(AddScalar(castLike(positive, x), -1), y)
		return Add(rest, Mul(AddScalar(extra, 1), low))
	})
}

// KLDivLoss is y·(log y - x) for log-probabilities x and probabilities y, 0 where y is 0, or e^y·(y - x) where logTarget says
// that y holds logarithms too; see MSELoss. LossBatchMean is the divergence's mathematical definition.
func KLDivLoss(x, y Value, logTarget bool, r LossReduction) Value {
	return elementLoss("kl_div_loss", x, y, r, func(x, y Value) Value {
		if logTarget {
			return Mul(Exp(y), Sub(y, x))
		}
		some := Greater(y, Scalar(y, 0))
		safe := Where(some, y, Scalar(y, 1))
		return Where(some, Mul(y, Sub(Log(safe), x)), Scalar(y, 0))
	})
}

// elementLoss computes a loss of two tensors of one shape, at least in float32, and reduces it.
func elementLoss(name string, x, y Value, r LossReduction, f func(x, y Value) Value) Value {
	if !x.Valid() || !y.Valid() {
		return one(Pointwise{F: FnSub}, x, y)
	}
	if r > LossBatchMean {
		return fail(name, x, "reduction %d is unknown", r)
	}
	if x.Shape() != y.Shape() || !x.DType().IsFloat() || !y.DType().IsFloat() {
		return x.Graph().Fail(name, []graph.Value{x, y}, fmt.Errorf("both must be floats of one shape"))
	}
	d := wide(x.DType())
	loss := f(Cast(x, d), Cast(y, d))
	if !loss.Valid() {
		return loss
	}
	switch r {
	case LossNone:
		return loss
	case LossSum:
		return Sum(loss)
	case LossBatchMean:
		if loss.Rank() < 1 {
			return fail(name, x, "there is no batch axis to divide by")
		}
		return Scale(Sum(loss), 1/float64(max(loss.Dim(0), 1)))
	}
	return Mean(loss)
}
