package ops

import (
	"fmt"
	"math"

	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// LinearAttendOptions are the optional parts of LinearAttend, each absent if not used.
type LinearAttendOptions struct {
	Scale float64 // on the output; 0: 1/sqrt(D)
	State Value   // (B, Hkv, D, Dv): the state before the first step; absent: 0
	Decay Value   // (B, Hkv, T, D) or (B, Hkv, T, 1): logarithm of the share of the state that each step keeps
	Beta  Value   // (B, Hkv, T, 1): strength of the delta rule; absent: no delta rule
}

// LinearAttend is attention whose memory is a matrix S (D, Dv) a head (Katharopoulos et al. 2020), with decay (Yang et al. 2023)
// and the delta rule (Schlag et al. 2021, Yang et al. 2024): at each step S = e^decay·S, then S += kᵀ·u with u = v, or
// u = beta·(v - k·S) under the delta rule, and the output is scale·q·S. q is (B, Hq, T, D), k (B, Hkv, T, D), v
// (B, Hkv, T, Dv); query head h reads state h / (Hq/Hkv). It returns the output (B, Hq, T, Dv) and the last state, computed at
// least in float32. The graph has a few nodes a step: it is meant for short sequences and for decoding.
func LinearAttend(q, k, v Value, o LinearAttendOptions) (y, state Value) {
	if !q.Valid() || !k.Valid() || !v.Valid() {
		if q.Valid() && (k.Absent() || v.Absent()) {
			fail("linear_attend", q, "k or v is absent")
		}
		return absorb(q), absorb(q)
	}
	if err := o.check(q.Type(), k.Type(), v.Type()); err != nil {
		bad := fail("linear_attend", q, "%v", err)
		return bad, bad
	}
	d := wide(q.DType())
	b, hkv, t, size := k.Dim(0), k.Dim(1), k.Dim(2), k.Dim(3)
	if o.Scale == 0 {
		o.Scale = 1 / math.Sqrt(float64(size))
	}
	state = castLike(o.State, Cast(q, d))
	if state.Absent() {
		state = BroadcastTo(Fill(q.Graph(), d, 0), b, hkv, size, v.Dim(3))
	}
	groups := Transpose(Reshape(Scale(Cast(q, d), o.Scale), b, hkv, q.Dim(1)/hkv, t, size), 0, 1, 3, 2, 4) // (B, Hkv, T, Hq/Hkv, D)
	k, v = Cast(k, d), Cast(v, d)
	at := func(x Value, i int) Value { return Slice(x, 2, i, i+1) } // (B, Hkv, 1, ...)
	outs := make([]Value, t)
	for i := range t {
		key, u := at(k, i), at(v, i)
		if !o.Decay.Absent() {
			state = Mul(state, Transpose(Exp(Cast(at(o.Decay, i), d))))
		}
		if !o.Beta.Absent() {
			u = Mul(Cast(at(o.Beta, i), d), Sub(u, Dot(key, state)))
		}
		state = Add(state, Mul(Transpose(key), u))
		query := Reshape(at(groups, i), b, hkv, q.Dim(1)/hkv, size)
		outs[i] = Reshape(Dot(query, state), b, q.Dim(1), 1, v.Dim(3))
	}
	return Cast(Concat(2, outs...), q.DType()), Cast(state, q.DType())
}

func (o LinearAttendOptions) check(q, k, v tensor.Type) error {
	if q.Rank() != 4 || k.Rank() != 4 || v.Rank() != 4 || !q.DType.IsFloat() || k.DType != q.DType || v.DType != q.DType {
		return fmt.Errorf("q, k and v must be (B, H, T, D) of one float dtype, got %v, %v and %v", q, k, v)
	}
	b, h, t, d := k.Dim(0), k.Dim(1), k.Dim(2), k.Dim(3)
	switch {
	case h < 1 || t < 1 || d < 1 || q.Dim(1)%h != 0:
		return fmt.Errorf("%d query heads are no multiple of the key heads, or an axis of %v is empty", q.Dim(1), k)
	case q.Dim(0) != b || q.Dim(2) != t || q.Dim(3) != d || v.Dim(0) != b || v.Dim(1) != h || v.Dim(2) != t:
		return fmt.Errorf("q %v and v %v do not fit k %v", q.Shape, v.Shape, k.Shape)
	}
	for _, x := range []struct {
		name string
		v    Value
		ok   []tensor.Shape
	}{
		{"state", o.State, []tensor.Shape{tensor.S(b, h, d, v.Dim(3))}},
		{"decay", o.Decay, []tensor.Shape{tensor.S(b, h, t, d), tensor.S(b, h, t, 1)}},
		{"beta", o.Beta, []tensor.Shape{tensor.S(b, h, t, 1)}},
	} {
		if x.v.Valid() && (!x.v.DType().IsFloat() || (x.v.Shape() != x.ok[0] && x.v.Shape() != x.ok[len(x.ok)-1])) {
			return fmt.Errorf("the %s is %v, must be a float of shape %v", x.name, x.v.Type(), x.ok[0])
		}
	}
	return nil
}
