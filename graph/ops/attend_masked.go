package ops

import (
	"fmt"
	"math"

	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// MaskedOptions are the settings of AttendMasked. Mask and Bias broadcast against the scores (B, Hq, Tq, Tk).
type MaskedOptions struct {
	Scale   float64 // 0: 1/sqrt(D)
	SoftCap float64 // c: scores become c·tanh(score/c), before masks; 0: none
	Mask    Value   // bool: true where a query sees a key; absent: everywhere
	Bias    Value   // added to the scores; NoKeys or less, -Inf too, hides a key; absent: nothing
	// Weights is applied to the attention weights (B, Hq, Tq, Tk) before they average v: dropout. nil: nothing is.
	Weights func(w Value) Value
}

// Attended are the stages of an attention, each (B, Hq, Tq, Tk) but Out (B, Hq, Tq, Dv).
type Attended struct {
	Scores  Value // scale·q·k, at least in f32
	Capped  Value // after SoftCap
	Masked  Value // with the bias, -Inf where a key is not seen
	Weights Value // after the softmax: 0 in the rows of queries that see no key
	Out     Value // in q's dtype
}

// AttendMasked is attention of q (B, Hq, Tq, D) over k (B, Hkv, Tk, D) and v (B, Hkv, Tk, Dv) under any mask, with the scores in
// memory. Hkv divides Hq: query head h reads key head h / (Hq/Hkv). A query that sees no key gives zeros. Where no mask beyond
// causality, windows, documents and lengths is needed, Attend does without the scores.
func AttendMasked(q, k, v Value, o MaskedOptions) Attended {
	if !q.Valid() || !k.Valid() || !v.Valid() {
		if q.Valid() && (k.Absent() || v.Absent()) {
			fail("attend_masked", q, "k or v is absent")
		}
		return failed(absorb(q))
	}
	if err := o.check(q.Type(), k.Type(), v.Type()); err != nil {
		return failed(fail("attend_masked", q, "%v", err))
	}
	d := wide(q.DType())
	b, hq, tq, hkv, tk := q.Dim(0), q.Dim(1), q.Dim(2), k.Dim(1), k.Dim(2)
	grouped := func(x Value) Value { return Reshape(x, b, hkv, hq/hkv*tq, x.Dim(3)) }
	if o.Scale == 0 {
		o.Scale = 1 / math.Sqrt(float64(max(q.Dim(3), 1)))
	}
	var a Attended
	scores := one(MatMul{TransB: true}, grouped(Scale(Cast(q, d), o.Scale)), Cast(k, d))
	a.Scores = Reshape(scores, b, hq, tq, tk)
	a.Capped = a.Scores
	if o.SoftCap != 0 {
		a.Capped = Scale(Tanh(Scale(a.Scores, 1/o.SoftCap)), o.SoftCap)
	}
	a.Masked, a.Weights = o.weigh(a.Capped)
	w := a.Weights
	if o.Weights != nil {
		w = o.Weights(w)
	}
	out := Dot(grouped(w), Cast(v, d))
	a.Out = Cast(Reshape(out, b, hq, tq, v.Dim(3)), q.DType())
	return a
}

func failed(bad Value) Attended { return Attended{bad, bad, bad, bad, bad} }

// weigh masks the scores and takes the softmax. A key that is not seen gets a finite low score inside, so that no NaN arises in
// a row without keys, neither forward nor backward.
func (o MaskedOptions) weigh(s Value) (masked, weights Value) {
	see := o.Mask
	if !o.Bias.Absent() {
		bias := Cast(o.Bias, s.DType())
		open := Not(LessEqual(bias, Scalar(bias, NoKeys))) // NaN too, which must show
		s = Add(s, Where(open, bias, Scalar(bias, 0)))
		if see.Absent() {
			see = open
		} else {
			see = And(see, open)
		}
	}
	if see.Absent() {
		return s, Softmax(s, -1)
	}
	w := Softmax(Where(see, s, Scalar(s, NoKeys)), -1)
	return Where(see, s, Scalar(s, negInf)), Where(see, w, Scalar(w, 0))
}

func (o MaskedOptions) check(q, k, v tensor.Type) error {
	switch {
	case q.Rank() != 4 || k.Rank() != 4 || v.Rank() != 4:
		return fmt.Errorf("q, k and v must be (B, H, T, D), got %v, %v and %v", q, k, v)
	case !q.DType.IsFloat() || k.DType != q.DType || v.DType != q.DType:
		return fmt.Errorf("q, k and v must share one float dtype, got %v, %v, %v; cast them", q.DType, k.DType, v.DType)
	case k.Dim(0) != q.Dim(0) || v.Dim(0) != q.Dim(0) || k.Dim(3) != q.Dim(3) || v.Dim(1) != k.Dim(1) || v.Dim(2) != k.Dim(2):
		return fmt.Errorf("k %v and v %v do not fit q %v", k.Shape, v.Shape, q.Shape)
	case k.Dim(1) < 1 || q.Dim(1)%k.Dim(1) != 0:
		return fmt.Errorf("%d query heads are no multiple of %d key heads", q.Dim(1), k.Dim(1))
	case k.Dim(2) < 1:
		return fmt.Errorf("there are no keys")
	case !(o.SoftCap >= 0):
		return fmt.Errorf("the soft cap must not be negative, got %v", o.SoftCap)
	}
	scores := tensor.S(q.Dim(0), q.Dim(1), q.Dim(2), k.Dim(2))
	for _, m := range []Value{o.Mask, o.Bias} {
		if !m.Valid() {
			continue
		}
		if s, err := tensor.Broadcast(m.Shape(), scores); err != nil || s != scores {
			return fmt.Errorf("the mask %v does not broadcast to the scores %v", m.Type(), scores)
		}
	}
	if o.Mask.Valid() && o.Mask.DType() != tensor.Bool {
		return fmt.Errorf("the mask must be bool, got %v; an additive one goes into Bias", o.Mask.DType())
	}
	if o.Bias.Valid() && !o.Bias.DType().IsFloat() {
		return fmt.Errorf("the bias must be a float, got %v", o.Bias.DType())
	}
	return nil
}
