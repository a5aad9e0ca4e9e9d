package ops

import "github.com/bitsandbyes/bitsandbyes/tensor"

// Ceil rounds up.
func Ceil(x Value) Value { return unary(FnCeil, x) }

// Round rounds to the nearest integer, halves to the even one.
func Round(x Value) Value { return unary(FnRound, x) }

// Trunc rounds towards zero.
func Trunc(x Value) Value { return unary(FnTrunc, x) }

// Expm1 returns e^x - 1 without cancellation near 0.
func Expm1(x Value) Value { return unary(FnExpm1, x) }

// Log1p returns log(1+x) without cancellation near 0.
func Log1p(x Value) Value { return unary(FnLog1p, x) }

// Tan returns the tangent of x in radians.
func Tan(x Value) Value { return unary(FnTan, x) }

// Asin returns the arcsine in radians, NaN outside [-1, 1].
func Asin(x Value) Value { return unary(FnAsin, x) }

// Acos returns the arccosine in radians, NaN outside [-1, 1].
func Acos(x Value) Value { return unary(FnAcos, x) }

// Atan returns the arctangent in radians.
func Atan(x Value) Value { return unary(FnAtan, x) }

// Sinh returns the hyperbolic sine.
func Sinh(x Value) Value { return unary(FnSinh, x) }

// Cosh returns the hyperbolic cosine.
func Cosh(x Value) Value { return unary(FnCosh, x) }

// Asinh returns the inverse hyperbolic sine.
func Asinh(x Value) Value { return unary(FnAsinh, x) }

// Acosh returns the inverse hyperbolic cosine, NaN below 1.
func Acosh(x Value) Value { return unary(FnAcosh, x) }

// Atanh returns the inverse hyperbolic tangent, NaN outside [-1, 1].
func Atanh(x Value) Value { return unary(FnAtanh, x) }

// Reciprocal returns 1/x.
func Reciprocal(x Value) Value { return Div(Scalar(x, 1), x) }

// Rem returns the remainder of x/y with the sign of x, as C's fmod and Go's %; integers give 0 for a zero divisor.
func Rem(x, y Value) Value { return binary(FnRem, x, y) }

// Mod returns the remainder of x/y with the sign of y, as Python's %; integers give 0 for a zero divisor.
func Mod(x, y Value) Value { return binary(FnMod, x, y) }

// IsNaN is true where x is not a number.
func IsNaN(x Value) Value { return NotEqual(x, x) }

// IsInf is true where x is infinite, of either sign.
func IsInf(x Value) Value { return Not(Or(IsFinite(x), IsNaN(x))) }

// Xor returns x != y of bools.
func Xor(x, y Value) Value {
	if x.Valid() && x.DType() != tensor.Bool {
		return fail("xor", x, "xor is not defined on %v", x.DType())
	}
	return NotEqual(x, y)
}

// BitAnd returns the bitwise and of integers.
func BitAnd(x, y Value) Value { return binary(FnBitAnd, x, y) }

// BitOr returns the bitwise or of integers.
func BitOr(x, y Value) Value { return binary(FnBitOr, x, y) }

// BitXor returns the bitwise exclusive or of integers.
func BitXor(x, y Value) Value { return binary(FnBitXor, x, y) }

// BitNot inverts every bit of an integer.
func BitNot(x Value) Value { return unary(FnBitNot, x) }

// ShiftLeft returns x·2^y of integers, dropping high bits; a negative count gives 0.
func ShiftLeft(x, y Value) Value { return binary(FnShl, x, y) }

// ShiftRight returns x/2^y of integers, rounded down; a negative count gives 0.
func ShiftRight(x, y Value) Value { return binary(FnShr, x, y) }

// Clamp limits x to [lo, hi], which broadcast and may depend on other values; an absent bound does not limit. Where x is
// outside, the gradient goes to the bound; where lo exceeds hi, the result is hi.
func Clamp(x, lo, hi Value) Value {
	if !lo.Absent() {
		x = Max(x, lo)
	}
	if !hi.Absent() {
		x = Min(x, hi)
	}
	return x
}
