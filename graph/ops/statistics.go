package ops

import "github.com/bitsandbyes/bitsandbyes/tensor"

// Compositions of reductions. Each works along the given axes (all without any) and drops them; 16-bit floats are computed in
// float32 where squares or exponentials arise.

// keepAxes gives a value reduced along axes of x those axes back, with extent 1.
func keepAxes(r, x Value, axes []int) Value {
	if !r.Valid() || !x.Valid() {
		return r
	}
	dims := x.Shape().Dims()
	for i := range dims {
		if len(axes) == 0 {
			dims[i] = 1
		}
	}
	for _, a := range axes {
		if i, ok := x.Shape().Axis(a); ok {
			dims[i] = 1
		}
	}
	return Reshape(r, dims...)
}

// inWide is f(x) computed at least in float32 and rounded once.
func inWide(name string, x Value, f func(x Value) Value) Value {
	return onFloats(name, x, func() Value { return Cast(f(Cast(x, wide(x.DType()))), x.DType()) })
}

// LogSumExp returns log Σ e^x without overflow: the largest element is subtracted first. Rows of only -Inf give -Inf, with gradient 0.
func LogSumExp(x Value, axes ...int) Value {
	return inWide("log_sum_exp", x, func(x Value) Value {
		top := MaxOf(x, axes...)
		if !top.Valid() {
			return top
		}
		top = one(Barrier{}, Where(IsFinite(top), top, Scalar(top, 0))) // any shift is right, so it needs no gradient
		sum := Sum(Exp(Sub(x, keepAxes(top, x, axes))), axes...)
		none := Equal(sum, Scalar(sum, 0)) // the logarithm has no slope here
		return Where(none, Scalar(sum, negInf), Add(Log(Where(none, Scalar(sum, 1), sum)), top))
	})
}

// L1Norm returns Σ|x|.
func L1Norm(x Value, axes ...int) Value { return Sum(Abs(x), axes...) }

// SumSquare returns Σx².
func SumSquare(x Value, axes ...int) Value {
	if x.Valid() && isHalfType(x.DType()) {
		return Cast(Sum(Square(Cast(x, tensor.F32)), axes...), x.DType())
	}
	return Sum(Square(x), axes...)
}

// L2Norm returns √Σx². At 0, where the norm has no slope, the gradient is 0.
func L2Norm(x Value, axes ...int) Value {
	return inWide("l2_norm", x, func(x Value) Value { return safeSqrt(SumSquare(x, axes...)) })
}

// safeSqrt is √s with gradient 0 at s = 0.
func safeSqrt(s Value) Value {
	if !s.Valid() {
		return s
	}
	none := Equal(s, Scalar(s, 0))
	return Where(none, Scalar(s, 0), Sqrt(Where(none, Scalar(s, 1), s)))
}

// Var returns the variance Σ(x-mean)²/(N-correction): correction 1 is the unbiased estimate, 0 the variance of the elements
// themselves. The mean is subtracted first, so that nothing cancels.
func Var(x Value, correction int, axes ...int) Value {
	return inWide("var", x, func(x Value) Value {
		mean := Mean(x, axes...)
		if !mean.Valid() {
			return mean
		}
		n := x.Type().Size()/max(mean.Type().Size(), 1) - correction
		if n <= 0 {
			return fail("var", x, "%d elements are too few for correction %d", n+correction, correction)
		}
		return Scale(SumSquare(Sub(x, keepAxes(mean, x, axes)), axes...), 1/float64(n))
	})
}

// Std returns the square root of Var; where it is 0 the gradient is 0.
func Std(x Value, correction int, axes ...int) Value { return safeSqrt(Var(x, correction, axes...)) }

// AnyOf is true where some element of the bool x is.
func AnyOf(x Value, axes ...int) Value { return reduceBool("any", MaxOf, x, axes) }

// AllOf is true where every element of the bool x is.
func AllOf(x Value, axes ...int) Value { return reduceBool("all", MinOf, x, axes) }

func reduceBool(name string, f func(Value, ...int) Value, x Value, axes []int) Value {
	if x.Valid() && x.DType() != tensor.Bool {
		return fail(name, x, "%s is defined on bool, got %v; compare first", name, x.DType())
	}
	return Cast(f(Cast(x, tensor.U8), axes...), tensor.Bool)
}
