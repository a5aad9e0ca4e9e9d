package ops

import (
	"fmt"
	"math"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Func names a row of Table.
type Func uint8

// The pointwise functions.
const (
	FnFill Func = iota
	FnCast
	FnAdd
	FnSub
	FnMul
	FnDiv
	FnMin
	FnMax
	FnPow
	FnEq
	FnNe
	FnLt
	FnLe
	FnAnd
	FnOr
	FnNot
	FnWhere
	FnNeg
	FnAbs
	FnSign
	FnFloor
	FnExp
	FnLog
	FnSqrt
	FnRsqrt
	FnSin
	FnCos
	FnTanh
	FnErf
	FnSigmoid
	FnSiLU
	FnGELU
	FnGELUTanh
	FnReLU
	FnIsFinite
	FnCeil
	FnRound
	FnTrunc
	FnExpm1
	FnLog1p
	FnTan
	FnAsin
	FnAcos
	FnAtan
	FnSinh
	FnCosh
	FnAsinh
	FnAcosh
	FnAtanh
	FnSoftplus
	FnRem
	FnMod
	FnBitAnd
	FnBitOr
	FnBitXor
	FnBitNot
	FnShl
	FnShr
	NumFuncs
)

// Block32 computes dst[i] from a[i], b[i], c[i]; unused operands are nil. dst may be the same slice as an operand.
type Block32 func(dst, a, b, c []float32)

// Row is all that is known of one pointwise function. C is the same function as an expression in a, b, c, valid in C, CUDA C
// and OpenCL C under a dozen macros (EXP, LOG, ...), so that a fused kernel is the concatenation of expressions.
type Row struct {
	Name      string
	Arity     int
	Accepts   Accepts
	Predicate bool // the result is bool
	C         string
	F64       func(a, b, c float64) float64
	F32       Block32                   // nil: F64 on widened elements
	I64       func(a, b, c int64) int64 // nil: not defined on integers
	VJP       func(n *graph.Node, gy Value, need []bool) []Value
}

// Accepts is the set of dtypes a row takes.
type Accepts uint8

// The dtype sets.
const (
	Floats  Accepts = iota // f16, bf16, f32, f64
	Numbers                // floats and integers
	Bools                  // bool
	Any                    // all of them
	Ints                   // signed and unsigned integers
)

func (r *Row) accepts(d tensor.DType) error {
	ok := false
	switch r.Accepts {
	case Floats:
		ok = d.IsFloat()
	case Numbers:
		ok = d.IsFloat() || d.IsInt()
	case Bools:
		ok = d == tensor.Bool
	case Any:
		ok = true
	case Ints:
		ok = d.IsInt()
	}
	if !ok {
		return fmt.Errorf("%s is not defined on %v", r.Name, d)
	}
	return nil
}

// Table holds the pointwise functions, indexed by Func. It must not be changed.
var Table = [NumFuncs]Row{
	FnFill: {Name: "fill", Arity: 0, Accepts: Any},
	FnCast: {Name: "cast", Arity: 1, Accepts: Any, C: "a", F64: first64, I64: first, VJP: vjpCast},

	FnAdd: {Name: "add", Arity: 2, Accepts: Numbers, C: "a + b", F64: func(a, b, _ float64) float64 { return a + b },
		F32: add32, I64: func(a, b, _ int64) int64 { return a + b }, VJP: vjpAdd},
	FnSub: {Name: "sub", Arity: 2, Accepts: Numbers, C: "a - b", F64: func(a, b, _ float64) float64 { return a - b },
		F32: sub32, I64: func(a, b, _ int64) int64 { return a - b }, VJP: vjpSub},
	FnMul: {Name: "mul", Arity: 2, Accepts: Numbers, C: "a * b", F64: func(a, b, _ float64) float64 { return a * b },
		F32: mul32, I64: func(a, b, _ int64) int64 { return a * b }, VJP: vjpMul},
	FnDiv: {Name: "div", Arity: 2, Accepts: Numbers, C: "DIV(a, b)", F64: func(a, b, _ float64) float64 { return a / b },
		F32: div32, I64: divInt, VJP: vjpDiv},
	FnMin: {Name: "min", Arity: 2, Accepts: Numbers, C: "MIN(a, b)", F64: func(a, b, _ float64) float64 { return min(a, b) },
		F32: min32, I64: func(a, b, _ int64) int64 { return min(a, b) }, VJP: vjpMin},
	FnMax: {Name: "max", Arity: 2, Accepts: Numbers, C: "MAX(a, b)", F64: func(a, b, _ float64) float64 { return max(a, b) },
		F32: max32, I64: func(a, b, _ int64) int64 { return max(a, b) }, VJP: vjpMax},
	FnPow: {Name: "pow", Arity: 2, Accepts: Floats, C: "POW(a, b)", F64: func(a, b, _ float64) float64 { return math.Pow(a, b) }, VJP: vjpPow},

	FnEq: {Name: "eq", Arity: 2, Accepts: Any, Predicate: true, C: "a == b", F64: func(a, b, _ float64) float64 { return truth(a == b) },
		I64: func(a, b, _ int64) int64 { return truthInt(a == b) }},
	FnNe: {Name: "ne", Arity: 2, Accepts: Any, Predicate: true, C: "a != b", F64: func(a, b, _ float64) float64 { return truth(a != b) },
		I64: func(a, b, _ int64) int64 { return truthInt(a != b) }},
	FnLt: {Name: "lt", Arity: 2, Accepts: Numbers, Predicate: true, C: "a < b", F64: func(a, b, _ float64) float64 { return truth(a < b) },
		I64: func(a, b, _ int64) int64 { return truthInt(a < b) }},
	FnLe: {Name: "le", Arity: 2, Accepts: Numbers, Predicate: true, C: "a <= b", F64: func(a, b, _ float64) float64 { return truth(a <= b) },
		I64: func(a, b, _ int64) int64 { return truthInt(a <= b) }},
	FnAnd: {Name: "and", Arity: 2, Accepts: Bools, C: "a && b", F64: func(a, b, _ float64) float64 { return truth(a != 0 && b != 0) },
		I64: func(a, b, _ int64) int64 { return a & b }},
	FnOr: {Name: "or", Arity: 2, Accepts: Bools, C: "a || b", F64: func(a, b, _ float64) float64 { return truth(a != 0 || b != 0) },
		I64: func(a, b, _ int64) int64 { return a | b }},
	FnNot: {Name: "not", Arity: 1, Accepts: Bools, C: "!a", F64: func(a, _, _ float64) float64 { return truth(a == 0) },
		I64: func(a, _, _ int64) int64 { return a ^ 1 }},
	FnWhere: {Name: "where", Arity: 3, Accepts: Any, C: "a ? b : c", F64: where64, F32: where32, I64: whereInt, VJP: vjpWhere},

	FnNeg: {Name: "neg", Arity: 1, Accepts: Numbers, C: "-a", F64: func(a, _, _ float64) float64 { return -a },
		F32: neg32, I64: func(a, _, _ int64) int64 { return -a }, VJP: vjpNeg},
	FnAbs: {Name: "abs", Arity: 1, Accepts: Numbers, C: "ABS(a)", F64: func(a, _, _ float64) float64 { return math.Abs(a) },
		I64: func(a, _, _ int64) int64 { return max(a, -a) }, VJP: vjpAbs},
	FnSign: {Name: "sign", Arity: 1, Accepts: Numbers, C: "a != a ? a : (a > 0) - (a < 0)", F64: sign64, I64: signInt},
	FnFloor: {Name: "floor", Arity: 1, Accepts: Numbers, C: "FLOOR(a)", F64: func(a, _, _ float64) float64 { return math.Floor(a) },
		I64: first},
	FnExp:  {Name: "exp", Arity: 1, Accepts: Floats, C: "EXP(a)", F64: func(a, _, _ float64) float64 { return math.Exp(a) }, F32: exp32, VJP: vjpExp},
	FnLog:  {Name: "log", Arity: 1, Accepts: Floats, C: "LOG(a)", F64: func(a, _, _ float64) float64 { return math.Log(a) }, VJP: vjpLog},
	FnSqrt: {Name: "sqrt", Arity: 1, Accepts: Floats, C: "SQRT(a)", F64: func(a, _, _ float64) float64 { return math.Sqrt(a) }, F32: sqrt32, VJP: vjpSqrt},
	FnRsqrt: {Name: "rsqrt", Arity: 1, Accepts: Floats, C: "1 / SQRT(a)", F64: func(a, _, _ float64) float64 { return 1 / math.Sqrt(a) },
		VJP: vjpRsqrt},
	FnSin:  {Name: "sin", Arity: 1, Accepts: Floats, C: "SIN(a)", F64: func(a, _, _ float64) float64 { return math.Sin(a) }, VJP: vjpSin},
	FnCos:  {Name: "cos", Arity: 1, Accepts: Floats, C: "COS(a)", F64: func(a, _, _ float64) float64 { return math.Cos(a) }, VJP: vjpCos},
	FnTanh: {Name: "tanh", Arity: 1, Accepts: Floats, C: "TANH(a)", F64: func(a, _, _ float64) float64 { return math.Tanh(a) }, VJP: vjpTanh},
	FnErf:  {Name: "erf", Arity: 1, Accepts: Floats, C: "ERF(a)", F64: func(a, _, _ float64) float64 { return math.Erf(a) }, VJP: vjpErf},
	FnSigmoid: {Name: "sigmoid", Arity: 1, Accepts: Floats, C: "1 / (1 + EXP(-a))", F64: sigmoid64, F32: sigmoid32,
		VJP: vjpSigmoid},
	FnSiLU: {Name: "silu", Arity: 1, Accepts: Floats, C: "a / (1 + EXP(-a))", F64: silu64, F32: silu32, VJP: vjpSiLU},
	FnGELU: {Name: "gelu", Arity: 1, Accepts: Floats, C: "NUM(0.5) * a * (1 + ERF(a * NUM(0.70710678118654752)))", F64: gelu64,
		VJP: vjpGELU},
	FnGELUTanh: {Name: "gelu_tanh", Arity: 1, Accepts: Floats,
		C:   "NUM(0.5) * a * (1 + TANH(NUM(0.79788456080286536) * (a + NUM(0.044715) * a * a * a)))",
		F64: geluTanh64, VJP: vjpGELUTanh},
	FnReLU: {Name: "relu", Arity: 1, Accepts: Floats, C: "a > 0 ? a : 0", F64: func(a, _, _ float64) float64 { return relu64(a) },
		F32: relu32, VJP: vjpReLU},
	FnIsFinite: {Name: "is_finite", Arity: 1, Accepts: Floats, Predicate: true, C: "ISFINITE(a)", F64: func(a, _, _ float64) float64 { return truth(a-a == 0) }},

	FnCeil:  {Name: "ceil", Arity: 1, Accepts: Numbers, C: "CEIL(a)", F64: func(a, _, _ float64) float64 { return math.Ceil(a) }, I64: first},
	FnRound: {Name: "round", Arity: 1, Accepts: Numbers, C: "RINT(a)", F64: func(a, _, _ float64) float64 { return math.RoundToEven(a) }, I64: first},
	FnTrunc: {Name: "trunc", Arity: 1, Accepts: Numbers, C: "TRUNC(a)", F64: func(a, _, _ float64) float64 { return math.Trunc(a) }, I64: first},
	FnExpm1: {Name: "expm1", Arity: 1, Accepts: Floats, C: "EXPM1(a)", F64: func(a, _, _ float64) float64 { return math.Expm1(a) }, F32: expm1Of32, VJP: vjpExpm1},
	FnLog1p: {Name: "log1p", Arity: 1, Accepts: Floats, C: "LOG1P(a)", F64: func(a, _, _ float64) float64 { return math.Log1p(a) }, VJP: vjpLog1p},
	FnTan:   {Name: "tan", Arity: 1, Accepts: Floats, C: "TAN(a)", F64: func(a, _, _ float64) float64 { return math.Tan(a) }, VJP: vjpTan},
	FnAsin:  {Name: "asin", Arity: 1, Accepts: Floats, C: "ASIN(a)", F64: func(a, _, _ float64) float64 { return math.Asin(a) }, VJP: vjpAsin},
	FnAcos:  {Name: "acos", Arity: 1, Accepts: Floats, C: "ACOS(a)", F64: func(a, _, _ float64) float64 { return math.Acos(a) }, VJP: vjpAcos},
	FnAtan:  {Name: "atan", Arity: 1, Accepts: Floats, C: "ATAN(a)", F64: func(a, _, _ float64) float64 { return math.Atan(a) }, VJP: vjpAtan},
	FnSinh:  {Name: "sinh", Arity: 1, Accepts: Floats, C: "SINH(a)", F64: func(a, _, _ float64) float64 { return math.Sinh(a) }, VJP: vjpSinh},
	FnCosh:  {Name: "cosh", Arity: 1, Accepts: Floats, C: "COSH(a)", F64: func(a, _, _ float64) float64 { return math.Cosh(a) }, VJP: vjpCosh},
	FnAsinh: {Name: "asinh", Arity: 1, Accepts: Floats, C: "ASINH(a)", F64: func(a, _, _ float64) float64 { return math.Asinh(a) }, VJP: vjpAsinh},
	FnAcosh: {Name: "acosh", Arity: 1, Accepts: Floats, C: "ACOSH(a)", F64: func(a, _, _ float64) float64 { return math.Acosh(a) }, VJP: vjpAcosh},
	FnAtanh: {Name: "atanh", Arity: 1, Accepts: Floats, C: "ATANH(a)", F64: func(a, _, _ float64) float64 { return math.Atanh(a) }, VJP: vjpAtanh},
	FnSoftplus: {Name: "softplus", Arity: 1, Accepts: Floats, C: "(a < 0 ? 0 : a) + LOG1P(EXP(-ABS(a)))", F64: softplus64,
		F32: softplus32, VJP: vjpSoftplus},
	FnRem: {Name: "rem", Arity: 2, Accepts: Numbers, C: "REM(a, b)", F64: func(a, b, _ float64) float64 { return math.Mod(a, b) },
		I64: remInt, VJP: vjpRem},
	FnMod: {Name: "mod", Arity: 2, Accepts: Numbers, C: "REM(a, b) + (REM(a, b) != 0 && (REM(a, b) < 0) != (b < 0) ? b : 0)", F64: mod64,
		I64: modInt, VJP: vjpRem},
	FnBitAnd: {Name: "bit_and", Arity: 2, Accepts: Ints, C: "a & b", I64: func(a, b, _ int64) int64 { return a & b }},
	FnBitOr:  {Name: "bit_or", Arity: 2, Accepts: Ints, C: "a | b", I64: func(a, b, _ int64) int64 { return a | b }},
	FnBitXor: {Name: "bit_xor", Arity: 2, Accepts: Ints, C: "a ^ b", I64: func(a, b, _ int64) int64 { return a ^ b }},
	FnBitNot: {Name: "bit_not", Arity: 1, Accepts: Ints, C: "~a", I64: func(a, _, _ int64) int64 { return ^a }},
	FnShl:    {Name: "shift_left", Arity: 2, Accepts: Ints, C: "SHL(a, b)", I64: shlInt},
	FnShr:    {Name: "shift_right", Arity: 2, Accepts: Ints, C: "SHR(a, b)", I64: shrInt},
}
