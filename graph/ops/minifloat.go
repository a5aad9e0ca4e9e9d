package ops

import (
	"math"

	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// MiniFloat is a binary floating-point format of at most 8 bits: a sign, Exponent bits with the usual bias 2^(Exponent-1)-1, and
// Mantissa bits, with subnormal numbers.
type MiniFloat struct {
	Exponent, Mantissa int
	Max                float64 // the largest finite value
	Beyond             float64 // what a larger value becomes when it is not saturated: infinity or NaN
	NoNaN              bool    // NaN becomes 0
}

// The formats of Micikevicius et al. 2022 and of the OCP microscaling specification.
var (
	E4M3 = MiniFloat{Exponent: 4, Mantissa: 3, Max: 448, Beyond: math.NaN()}
	E5M2 = MiniFloat{Exponent: 5, Mantissa: 2, Max: 57344, Beyond: math.Inf(1)}
	E2M1 = MiniFloat{Exponent: 2, Mantissa: 1, Max: 6, Beyond: 6, NoNaN: true}
)

// RoundFloat rounds x to the nearest value of a format, ties to the even mantissa; the result keeps x's type. Values beyond the
// largest finite one become it when saturate is set, infinities too. float64 is rounded to float32 first. There is no gradient.
func RoundFloat(x Value, f MiniFloat, saturate bool) Value {
	return onFloats("round_float", x, func() Value {
		d := x.DType()
		v := Cast(x, tensor.F32)
		low := 1 - (1<<(f.Exponent-1) - 1) // exponent of the smallest normal number
		small := Less(Abs(v), Scalar(v, math.Ldexp(1, low)))
		r := Where(small, roundStep(v, low-f.Mantissa), roundMantissa(v, f.Mantissa))
		top, beyond := Scalar(v, f.Max), Scalar(v, f.Beyond)
		if saturate || f.Beyond == f.Max {
			beyond = top
		}
		r = Where(LessEqual(Abs(r), top), r, Mul(beyond, Sign(v))) // NaN fails the comparison too
		if f.NoNaN {
			return Cast(Where(IsNaN(v), Scalar(v, 0), r), d)
		}
		return Cast(Where(IsNaN(v), v, r), d)
	})
}

// roundStep rounds small numbers to multiples of 2^e: added to a large number, the bits below that fall off.
func roundStep(v Value, e int) Value {
	large := Scalar(v, math.Ldexp(1.5, e+23))
	return Sub(Add(v, large), large)
}

// roundMantissa rounds float32 to m mantissa bits in integer arithmetic on its bits; the carry runs into the exponent as it should.
func roundMantissa(v Value, m int) Value {
	cut := 23 - m
	b := BitCast(v, tensor.I32)
	num := func(n int) Value { return Scalar(b, float64(n)) }
	odd := BitAnd(ShiftRight(b, num(cut)), num(1))
	b = BitAnd(Add(b, AddScalar(odd, float64(int(1)<<(cut-1)-1))), num(-1<<cut))
	return BitCast(b, tensor.F32)
}
