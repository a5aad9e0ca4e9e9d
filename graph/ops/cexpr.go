package ops

import "github.com/bitsandbyes/bitsandbyes/tensor"

// CPreamble returns the macros under which the C column of Table is an expression in the arithmetic type of d: float for f16,
// bf16 and f32, double for f64, an unsigned 64-bit integer for u64, a signed one for other integers and bool (NUM, EXP and the other
// floating functions are then not defined). It is plain text valid in C with <math.h>, in CUDA C, and in OpenCL C where expf and its like are defined as the
// generic names. Operands must be plain variables: macros repeat them. Integer overflow wraps, so C needs -fwrapv.
func CPreamble(d tensor.DType) string {
	switch d {
	case tensor.F64:
		return cDouble + cFloating
	case tensor.F16, tensor.BF16, tensor.F32:
		return cFloat + cFloating
	case tensor.U64:
		return cUnsigned
	}
	return cInteger
}

const cFloat = `#define NUM(x) x##f
#define EXP(x) expf(x)
#define LOG(x) logf(x)
#define POW(x, y) powf(x, y)
#define SQRT(x) sqrtf(x)
#define SIN(x) sinf(x)
#define COS(x) cosf(x)
#define TANH(x) tanhf(x)
#define ERF(x) erff(x)
#define FLOOR(x) floorf(x)
#define ABS(x) fabsf(x)
#define EXPM1(x) expm1f(x)
#define LOG1P(x) log1pf(x)
#define TAN(x) tanf(x)
#define ASIN(x) asinf(x)
#define ACOS(x) acosf(x)
#define ATAN(x) atanf(x)
#define SINH(x) sinhf(x)
#define COSH(x) coshf(x)
#define ASINH(x) asinhf(x)
#define ACOSH(x) acoshf(x)
#define ATANH(x) atanhf(x)
#define CEIL(x) ceilf(x)
#define RINT(x) rintf(x)
#define TRUNC(x) truncf(x)
#define REM(x, y) fmodf(x, y)
`

const cDouble = `#define NUM(x) x
#define EXP(x) exp(x)
#define LOG(x) log(x)
#define POW(x, y) pow(x, y)
#define SQRT(x) sqrt(x)
#define SIN(x) sin(x)
#define COS(x) cos(x)
#define TANH(x) tanh(x)
#define ERF(x) erf(x)
#define FLOOR(x) floor(x)
#define ABS(x) fabs(x)
#define EXPM1(x) expm1(x)
#define LOG1P(x) log1p(x)
#define TAN(x) tan(x)
#define ASIN(x) asin(x)
#define ACOS(x) acos(x)
#define ATAN(x) atan(x)
#define SINH(x) sinh(x)
#define COSH(x) cosh(x)
#define ASINH(x) asinh(x)
#define ACOSH(x) acosh(x)
#define ATANH(x) atanh(x)
#define CEIL(x) ceil(x)
#define RINT(x) rint(x)
#define TRUNC(x) trunc(x)
#define REM(x, y) fmod(x, y)
`

// cFloating passes a NaN of either operand on through MIN and MAX, as Go and PyTorch do and fminf does not.
const cFloating = `#define DIV(x, y) ((x) / (y))
#define MIN(x, y) ((x) != (x) || (x) < (y) ? (x) : (y))
#define MAX(x, y) ((x) != (x) || (x) > (y) ? (x) : (y))
#define ISFINITE(x) ((x) - (x) == 0)
`

// cInteger divides as the table does: 0 for a zero divisor, and no trap for the least integer by -1. Shifts by a negative count
// give 0, by 64 or more what is left of the number: nothing, or its sign.
const cInteger = `#define DIV(x, y) ((y) == 0 ? 0 : (y) == -1 ? -(x) : (x) / (y))
#define MIN(x, y) ((x) < (y) ? (x) : (y))
#define MAX(x, y) ((x) > (y) ? (x) : (y))
#define ABS(x) ((x) < 0 ? -(x) : (x))
#define FLOOR(x) (x)
#define CEIL(x) (x)
#define RINT(x) (x)
#define TRUNC(x) (x)
#define REM(x, y) ((y) == 0 || (y) == -1 ? 0 : (x) % (y))
#define SHL(x, y) ((y) < 0 || (y) > 63 ? 0 : (x) << (y))
#define SHR(x, y) ((y) < 0 ? 0 : (x) >> ((y) > 63 ? 63 : (y)))
`

// cUnsigned differs where the highest bit is no sign.
const cUnsigned = `#define DIV(x, y) ((y) == 0 ? 0 : (x) / (y))
#define MIN(x, y) ((x) < (y) ? (x) : (y))
#define MAX(x, y) ((x) > (y) ? (x) : (y))
#define ABS(x) (x)
#define FLOOR(x) (x)
#define CEIL(x) (x)
#define RINT(x) (x)
#define TRUNC(x) (x)
#define REM(x, y) ((y) == 0 ? 0 : (x) % (y))
#define SHL(x, y) ((y) > 63 ? 0 : (x) << (y))
#define SHR(x, y) ((y) > 63 ? 0 : (x) >> (y))
`

// CUndef removes the macros again, so that one source can hold functions of several arithmetic types.
const CUndef = `#undef NUM
#undef EXP
#undef LOG
#undef POW
#undef SQRT
#undef SIN
#undef COS
#undef TANH
#undef ERF
#undef FLOOR
#undef ABS
#undef DIV
#undef MIN
#undef MAX
#undef ISFINITE
#undef EXPM1
#undef LOG1P
#undef TAN
#undef ASIN
#undef ACOS
#undef ATAN
#undef SINH
#undef COSH
#undef ASINH
#undef ACOSH
#undef ATANH
#undef CEIL
#undef RINT
#undef TRUNC
#undef REM
#undef SHL
#undef SHR
`
