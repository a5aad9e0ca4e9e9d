package ops

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Int8Linear is the product of LLM.int8() (Dettmers et al. 2022, arXiv 2208.07339) with a frozen weight, as bitsandbytes' Linear8bitLt
// computes it on a GPU. The inputs are x (..., K) of f32, f16 or bf16, the weight's codes i8 (N, K) and absmax f32 (N), and an optional
// bias (N) of x's dtype; the result is (..., N) in x's dtype.
//
// x is rounded to f16 and quantized by row; int8 products are summed exactly in int32 and dequantized with both statistics, through f16
// whatever the dtype of x (beyond 65504 that is an infinity), and the bias is added there. Where an element of the f16 x reaches
// Threshold > 0, its whole column stays out of the int8 product and is multiplied as it is, in x's dtype, with the dequantized codes of the
// weight's column, summed in float32 and added before the last rounding.
//
// A row of x that holds NaN gives a row of NaN; the library passes over it.
//
// The gradient of x is the library's: dy·W with W = code·(absmax/127) in x's dtype, as if nothing had been rounded (a straight-through
// estimate). Codes and statistics are frozen.
type Int8Linear struct{ Threshold float32 }

// Int8MasterLinear is Int8Linear with a trained weight w (N, K) in floating point, quantized by row at each step from its f16 values:
// Linear8bitLt with has_fp16_weights. The inputs are x, w and an optional bias in x's dtype. The gradient of x is Int8Linear's. The
// gradient of w is, at threshold 0, the int8 product of dy and x, both rounded to f16 and quantized by column, dequantized through f16;
// above 0 it is dyᵀ·x in x's dtype.
type Int8MasterLinear struct{ Threshold float32 }

var (
	_ graph.Differentiable = Int8Linear{}
	_ graph.Decomposable   = Int8Linear{}
	_ graph.Frozen         = Int8Linear{}
	_ graph.Coster         = Int8Linear{}
	_ graph.Differentiable = Int8MasterLinear{}
	_ graph.Decomposable   = Int8MasterLinear{}
	_ graph.Coster         = Int8MasterLinear{}
)

// LinearInt8 applies Int8Linear; bias may be absent.
func LinearInt8(x, codes, stats, bias Value, threshold float32) Value {
	return one(Int8Linear{threshold}, x, codes, stats, bias)
}

// LinearInt8Master applies Int8MasterLinear; bias may be absent.
func LinearInt8Master(x, w, bias Value, threshold float32) Value {
	return one(Int8MasterLinear{threshold}, x, w, bias)
}

// Name implements graph.Op.
func (Int8Linear) Name() string { return "int8_linear" }

// Name implements graph.Op.
func (Int8MasterLinear) Name() string { return "int8_master_linear" }

// Infer implements graph.Op.
func (o Int8Linear) Infer(in []tensor.Type) ([]tensor.Type, error) {
	if len(in) != 4 {
		return nil, fmt.Errorf("takes 4 inputs (the bias may be absent), got %d", len(in))
	}
	if err := checkWeight8(in[1], in[2]); err != nil {
		return nil, err
	}
	return inferLinear8(in[0], in[1], in[3], o.Threshold)
}

// inferLinear8 checks x and bias against a weight (N, K).
func inferLinear8(x, w, bias tensor.Type, threshold float32) ([]tensor.Type, error) {
	if err := checkThreshold(threshold); err != nil {
		return nil, err
	}
	if err := quantizable([]tensor.Type{x}); err != nil {
		return nil, err
	}
	dims := x.Shape.Dims()
	if len(dims) == 0 || dims[len(dims)-1] != w.Dim(1) {
		return nil, fmt.Errorf("x is %v, its last axis must be %d", x, w.Dim(1))
	}
	if err := checkInner8(w.Dim(1)); err != nil {
		return nil, err
	}
	if bias.DType != tensor.Invalid && bias != tensor.T(x.DType, w.Dim(0)) {
		return nil, fmt.Errorf("the bias must be %v, got %v; cast it", tensor.T(x.DType, w.Dim(0)), bias)
	}
	dims[len(dims)-1] = w.Dim(0)
	return []tensor.Type{tensor.T(x.DType, dims...)}, nil
}

// Infer implements graph.Op.
func (o Int8MasterLinear) Infer(in []tensor.Type) ([]tensor.Type, error) {
	if len(in) != 3 {
		return nil, fmt.Errorf("takes 3 inputs (the bias may be absent), got %d", len(in))
	}
	if w := in[1]; w.Rank() != 2 || quantizable(in[1:2]) != nil {
		return nil, fmt.Errorf("the weight must be a matrix (out, in) of f32, f16 or bf16, got %v", w)
	}
	return inferLinear8(in[0], in[1], in[2], o.Threshold)
}

// VJP implements graph.Differentiable.
func (o Int8Linear) VJP(n *graph.Node, gy []Value, need []bool) []Value {
	return lazily(need,
		func() Value { return one(Int8WeightMatMul{Trans: true}, gy[0], n.In[1], n.In[2]) },
		func() Value { return Value{} }, func() Value { return Value{} },
		func() Value { return gy[0] })
}

// VJP implements graph.Differentiable.
func (o Int8MasterLinear) VJP(n *graph.Node, gy []Value, need []bool) []Value {
	x, w := n.In[0], n.In[1]
	return lazily(need,
		func() Value {
			codes, stats, _ := quantizeRows(strictRows, Cast(w, tensor.F16))
			return one(Int8WeightMatMul{Trans: true}, gy[0], codes, stats)
		},
		func() Value { return Cast(o.weightGrad(matrix(gy[0]), matrix(x)), w.DType()) },
		func() Value { return gy[0] })
}

// weightGrad returns gyᵀ·x (N, K) for gy (M, N) and x (M, K).
func (o Int8MasterLinear) weightGrad(gy, x Value) Value {
	if o.Threshold > 0 {
		return one(MatMul{TransA: true}, gy, x)
	}
	gc, gs := quantizeColumns(strictColumns, Cast(gy, tensor.F16))
	xc, xs := quantizeColumns(strictColumns, Cast(x, tensor.F16))
	acc := one(Int8MatMul{TransA: true}, gc, xc)
	return one(DequantizeProduct8{tensor.F16}, acc, gs, xs, Value{})
}

// matrix views x (..., C) as (rows, C).
func matrix(x Value) Value {
	if !x.Valid() || x.Rank() == 0 {
		return x
	}
	return Reshape(x, leadSize(x), x.Dim(-1))
}

// FrozenInput implements graph.Frozen.
func (Int8Linear) FrozenInput(i int) string {
	if i == 1 || i == 2 {
		return frozenWeight
	}
	return ""
}

// Cost implements graph.Coster.
func (Int8Linear) Cost(in, out []tensor.Type) (flops, bytes int64) {
	return 2 * int64(in[0].Size()) * int64(in[1].Dim(0)), sumBytes(in) + sumBytes(out)
}

// Cost implements graph.Coster.
func (Int8MasterLinear) Cost(in, out []tensor.Type) (flops, bytes int64) {
	return 2 * int64(in[0].Size()) * int64(in[1].Dim(0)), sumBytes(in) + sumBytes(out)
}

// Decompose implements graph.Decomposable. Which columns hold outliers is known at run time only, so the product of outliers is a full one
// with zeros in the other columns.
func (o Int8Linear) Decompose(in []Value) []Value {
	x, w, stats, bias := matrix(in[0]), in[1], in[2], in[3]
	codes, rowStats, outliers := quantizeRows(QuantizeRows8{o.Threshold, true}, Cast(x, tensor.F16))
	acc := one(Int8MatMul{TransB: true}, codes, w)
	y := one(DequantizeProduct8{x.DType()}, acc, rowStats, stats, bias)
	if o.Threshold > 0 {
		kept := Cast(Where(outliers, x, Scalar(x, 0)), tensor.F32)
		values := Cast(one(DequantizeRows8{To: x.DType()}, w, stats), tensor.F32)
		y = Cast(Add(Cast(y, tensor.F32), one(MatMul{TransB: true}, kept, values)), x.DType())
	}
	dims := in[0].Shape().Dims()
	dims[len(dims)-1] = w.Dim(0)
	return []Value{Reshape(y, dims...)}
}

// Decompose implements graph.Decomposable.
func (o Int8MasterLinear) Decompose(in []Value) []Value {
	codes, stats, _ := quantizeRows(strictRows, Cast(in[1], tensor.F16))
	return []Value{one(Int8Linear(o), in[0], codes, stats, in[2])}
}
