package ops

import "github.com/bitsandbyes/bitsandbyes/tensor"

// Activations that are short formulas of table functions: they fuse into one kernel on every device. SiLU, GELU, ReLU, Sigmoid
// and Tanh are rows of the table themselves. Where a formula has two branches, the one that is not taken is kept finite, so
// that neither it nor its gradient can turn into 0·∞.

// onFloats is f(x), with one error where x is not floating point.
func onFloats(name string, x Value, f func() Value) Value {
	switch {
	case !x.Valid():
		return x
	case !x.DType().IsFloat():
		return fail(name, x, "%s is not defined on %v; cast first", name, x.DType())
	}
	return f()
}

// Softplus returns log(1+e^x) without overflow.
func Softplus(x Value) Value { return unary(FnSoftplus, x) }

// LogSigmoid returns log(sigmoid(x)) without underflow.
func LogSigmoid(x Value) Value { return Neg(Softplus(Neg(x))) }

// ELU returns x where x > 0, else alpha·(e^x - 1) (Clevert et al. 2016).
func ELU(x Value, alpha float64) Value {
	return onFloats("elu", x, func() Value { return positiveOr(x, Scale(Expm1(Min(x, Scalar(x, 0))), alpha)) })
}

// Constants of SELU: the fixed point of zero mean and unit variance.
const (
	seluAlpha = 1.67326324235437728481704
	seluScale = 1.05070098735548049341933
)

// SELU returns λ·ELU(x, α) with the self-normalising constants of Klambauer et al. 2017.
func SELU(x Value) Value { return Scale(ELU(x, seluAlpha), seluScale) }

// CELU returns x where x > 0, else alpha·(e^(x/alpha) - 1) (Barron 2017); alpha must not be 0.
func CELU(x Value, alpha float64) Value {
	if alpha == 0 {
		return fail("celu", x, "alpha must not be 0")
	}
	return onFloats("celu", x, func() Value {
		return positiveOr(x, Scale(Expm1(Scale(Min(x, Scalar(x, 0)), 1/alpha)), alpha))
	})
}

// LeakyReLU returns x where x > 0, else slope·x.
func LeakyReLU(x Value, slope float64) Value {
	return onFloats("leaky_relu", x, func() Value { return positiveOr(x, Scale(x, slope)) })
}

// PReLU returns x where x > 0, else slope·x for a learned slope (He et al. 2015) that broadcasts to x: shape () for one, (C, 1, 1)
// for one a channel of (N, C, H, W).
func PReLU(x, slope Value) Value {
	return onFloats("prelu", x, func() Value {
		if !fits(slope, x) {
			return fail("prelu", x, "the slope %v does not broadcast to the input %v", slope.Type(), x.Type())
		}
		return positiveOr(x, Mul(x, slope))
	})
}

// fits reports whether v broadcasts to the shape of x; an absent or poisoned v is left to what uses it.
func fits(v, x Value) bool {
	if !v.Valid() {
		return true
	}
	s, err := tensor.Broadcast(v.Shape(), x.Shape())
	return err == nil && s == x.Shape()
}

// positiveOr is x where x > 0, else y.
func positiveOr(x, y Value) Value { return Where(Greater(x, Scalar(x, 0)), x, y) }

// ReLU6 returns min(max(x, 0), 6).
func ReLU6(x Value) Value { return Hardtanh(x, 0, 6) }

// Hardtanh limits x to [lo, hi]; the gradient is zero outside and at the bounds.
func Hardtanh(x Value, lo, hi float64) Value {
	return onFloats("hardtanh", x, func() Value {
		l, h := Scalar(x, lo), Scalar(x, hi)
		return Where(GreaterEqual(x, h), h, Where(LessEqual(x, l), l, x))
	})
}

// HardSigmoid returns min(max(alpha·x + beta, 0), 1); PyTorch has alpha 1/6 and beta 1/2, ONNX 0.2 and 0.5.
func HardSigmoid(x Value, alpha, beta float64) Value {
	return onFloats("hard_sigmoid", x, func() Value { return Hardtanh(AddScalar(Scale(x, alpha), beta), 0, 1) })
}

// HardSwish returns x·HardSigmoid(x, 1/6, 1/2) (Howard et al. 2019).
func HardSwish(x Value) Value {
	return onFloats("hard_swish", x, func() Value { return Mul(x, HardSigmoid(x, 1.0/6, 0.5)) })
}

// Swish returns x·sigmoid(beta·x) (Ramachandran et al. 2017); SiLU is beta 1, QuickGELU beta 1.702.
func Swish(x Value, beta float64) Value {
	return onFloats("swish", x, func() Value { return Mul(x, Sigmoid(Scale(x, beta))) })
}

// Mish returns x·tanh(softplus(x)) (Misra 2019).
func Mish(x Value) Value {
	return onFloats("mish", x, func() Value { return Mul(x, Tanh(Softplus(x))) })
}

// Softsign returns x/(1+|x|).
func Softsign(x Value) Value {
	return onFloats("softsign", x, func() Value { return Div(x, AddScalar(Abs(x), 1)) })
}

// Tanhshrink returns x - tanh(x).
func Tanhshrink(x Value) Value {
	return onFloats("tanhshrink", x, func() Value { return Sub(x, Tanh(x)) })
}

// Softshrink moves x towards 0 by lambda, to 0 where |x| <= lambda.
func Softshrink(x Value, lambda float64) Value { return Shrink(x, lambda, lambda) }

// Hardshrink sets x to 0 where |x| <= lambda.
func Hardshrink(x Value, lambda float64) Value { return Shrink(x, lambda, 0) }

// Shrink moves x towards 0 by bias where |x| > lambda, and is 0 elsewhere.
func Shrink(x Value, lambda, bias float64) Value {
	return onFloats("shrink", x, func() Value {
		low := Where(Less(x, Scalar(x, -lambda)), AddScalar(x, bias), Scalar(x, 0))
		return Where(Greater(x, Scalar(x, lambda)), AddScalar(x, -bias), low)
	})
}

// Threshold returns x where x > t, else the value v.
func Threshold(x Value, t, v float64) Value {
	return onFloats("threshold", x, func() Value { return Where(Greater(x, Scalar(x, t)), x, Scalar(x, v)) })
}

// GLU splits x into halves a, b along an axis and returns a·sigmoid(b) (Dauphin et al. 2017).
func GLU(x Value, axis int) Value {
	a, ok := axisOf("glu", x, axis)
	if !ok {
		return absorb(x)
	}
	n := x.Dim(a)
	if n%2 != 0 {
		return fail("glu", x, "axis %d has %d elements, which do not halve", axis, n)
	}
	return onFloats("glu", x, func() Value { return Mul(Slice(x, a, 0, n/2), Sigmoid(Slice(x, a, n/2, n))) })
}

// SwiGLU returns SiLU(gate)·up (Shazeer 2020).
func SwiGLU(gate, up Value) Value { return Mul(SiLU(gate), up) }

// GEGLU returns GELU(gate)·up (Shazeer 2020).
func GEGLU(gate, up Value) Value { return Mul(GELU(gate), up) }

// ReGLU returns ReLU(gate)·up (Shazeer 2020).
func ReGLU(gate, up Value) Value { return Mul(ReLU(gate), up) }
