package vec

import (
	"math"

	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// twins are the functions in Go, one element at a time: what runs without assembly, and what the loops are compared with.
var twins = [NumOps]twin{
	OpAdd:       {"add", 2, func(a, b, _ float32) float32 { return a + b }},
	OpSub:       {"sub", 2, func(a, b, _ float32) float32 { return a - b }},
	OpMul:       {"mul", 2, func(a, b, _ float32) float32 { return a * b }},
	OpDiv:       {"div", 2, func(a, b, _ float32) float32 { return a / b }},
	OpMin:       {"min", 2, func(a, b, _ float32) float32 { return min(a, b) }},
	OpMax:       {"max", 2, func(a, b, _ float32) float32 { return max(a, b) }},
	OpEq:        {"eq", 2, func(a, b, _ float32) float32 { return truth(a == b) }},
	OpNe:        {"ne", 2, func(a, b, _ float32) float32 { return truth(a != b) }},
	OpLt:        {"lt", 2, func(a, b, _ float32) float32 { return truth(a < b) }},
	OpLe:        {"le", 2, func(a, b, _ float32) float32 { return truth(a <= b) }},
	OpWhere:     {"where", 3, pick},
	OpNeg:       {"neg", 1, func(a, _, _ float32) float32 { return -a }},
	OpAbs:       {"abs", 1, wide(math.Abs)},
	OpSign:      {"sign", 1, one(sign)},
	OpReLU:      {"relu", 1, one(relu)},
	OpFloor:     {"floor", 1, wide(math.Floor)},
	OpCeil:      {"ceil", 1, wide(math.Ceil)},
	OpRound:     {"round", 1, wide(math.RoundToEven)},
	OpTrunc:     {"trunc", 1, wide(math.Trunc)},
	OpSqrt:      {"sqrt", 1, wide(math.Sqrt)},
	OpFinite:    {"finite", 1, func(a, _, _ float32) float32 { return truth(a-a == 0) }},
	OpNot:       {"not", 1, func(a, _, _ float32) float32 { return truth(a == 0) }},
	OpRoundBF16: {"round_bf16", 1, one(func(x float32) float32 { return tensor.ToBF16(x).Float32() })},
	OpRoundF16:  {"round_f16", 1, one(func(x float32) float32 { return tensor.ToF16(x).Float32() })},
	OpExp:       {"exp", 1, one(exp32)},
	OpExpm1:     {"expm1", 1, wide(math.Expm1)},
	OpSigmoid:   {"sigmoid", 1, one(sigmoid32)},
	OpSiLU:      {"silu", 1, one(silu32)},
	OpGELU:      {"gelu", 1, wide(func(x float64) float64 { return x / 2 * math.Erfc(-x/math.Sqrt2) })},
	OpGELUTanh:  {"gelu_tanh", 1, one(geluTanh32)},
	OpSoftplus:  {"softplus", 1, wide(softplus)},
	OpTanh:      {"tanh", 1, wide(math.Tanh)},
	OpErf:       {"erf", 1, wide(math.Erf)},
	OpLog:       {"log", 1, wide(math.Log)},
	OpLog1p:     {"log1p", 1, wide(math.Log1p)},
	OpRsqrt:     {"rsqrt", 1, wide(func(x float64) float64 { return 1 / math.Sqrt(x) })},
	OpSin:       {"sin", 1, wide(math.Sin)},
	OpCos:       {"cos", 1, wide(math.Cos)},
}

func one(f func(float32) float32) func(a, b, c float32) float32 {
	return func(a, _, _ float32) float32 { return f(a) }
}

func wide(f func(float64) float64) func(a, b, c float32) float32 {
	return func(a, _, _ float32) float32 { return float32(f(float64(a))) }
}

func truth(b bool) float32 {
	if b {
		return 1
	}
	return 0
}

func pick(a, b, c float32) float32 {
	if a != 0 {
		return b
	}
	return c
}

func sign(x float32) float32 {
	switch {
	case x > 0:
		return 1
	case x < 0:
		return -1
	}
	return x
}

func relu(x float32) float32 {
	if x > 0 {
		return x
	}
	return 0
}

func softplus(x float64) float64 {
	if x < 0 {
		return math.Log1p(math.Exp(x))
	}
	return x + math.Log1p(math.Exp(-x))
}
