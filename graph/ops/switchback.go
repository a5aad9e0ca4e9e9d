package ops

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// SwitchBack is a linear layer for training in int8 (Wortsman et al. 2023, arXiv 2304.13013, algorithms 1 and 3): y = x·wᵀ + bias with x
// (..., K), w (N, K), an optional bias (N) of x's dtype. x is quantized by row and w as a whole (one absmax) before an exact int32
// product; the input gradient quantizes dy and w the same way. The weight gradient dyᵀ·x, a sum over all tokens that int8 would spoil, stays
// in x's dtype. Values are scaled in float32 and rounded once.
//
// Vectorwise gives w an absmax a row in the forward product and a column in the gradient's. Saved keeps the int8 codes of x for the weight
// gradient instead of x itself (algorithm 3, a quarter of the memory of float32), whose rounding then reaches the gradient.
type SwitchBack struct{ Vectorwise, Saved bool }

var (
	_ graph.Differentiable = SwitchBack{}
	_ graph.Decomposable   = SwitchBack{}
	_ graph.Coster         = SwitchBack{}
)

// SwitchBackLinear applies SwitchBack; bias may be absent.
func SwitchBackLinear(o SwitchBack, x, w, bias Value) Value { return one(o, x, w, bias) }

// Name implements graph.Op.
func (SwitchBack) Name() string { return "switchback" }

// Infer implements graph.Op.
func (o SwitchBack) Infer(in []tensor.Type) ([]tensor.Type, error) {
	if len(in) != 3 {
		return nil, fmt.Errorf("takes 3 inputs (the bias may be absent), got %d", len(in))
	}
	if o.Vectorwise && o.Saved {
		return nil, fmt.Errorf("vector-wise scales and saved codes cannot be combined; use one of them")
	}
	if w := in[1]; w.Rank() != 2 || quantizable(in[1:2]) != nil {
		return nil, fmt.Errorf("the weight must be a matrix (out, in) of f32, f16 or bf16, got %v", w)
	}
	if err := checkInner8(in[1].Dim(0)); err != nil {
		return nil, err
	}
	return inferLinear8(in[0], in[1], in[2], 0)
}

// VJP implements graph.Differentiable.
func (o SwitchBack) VJP(n *graph.Node, gy []Value, need []bool) []Value {
	x, w := n.In[0], n.In[1]
	g := matrix(gy[0])
	return lazily(need,
		func() Value {
			codes, stats, _ := quantizeRows(strictRows, g)
			wc, ws := o.columns(w)
			acc := one(Int8MatMul{}, codes, wc)
			return Reshape(scaledProduct(acc, stats, ws, Value{}, x.DType()), x.Shape().Dims()...)
		},
		func() Value {
			seen := matrix(x)
			if o.Saved {
				codes, stats, _ := quantizeRows(strictRows, seen)
				seen = one(DequantizeRows8{To: x.DType()}, codes, stats)
			}
			return Cast(one(MatMul{TransA: true}, g, seen), w.DType())
		},
		func() Value { return gy[0] })
}

// rows quantizes w for x·wᵀ: codes (N, K) and N statistics, or one.
func (o SwitchBack) rows(w Value) (codes, stats Value) {
	if o.Vectorwise {
		codes, stats, _ = quantizeRows(strictRows, w)
		return codes, stats
	}
	return wholeTo8(w)
}

// columns quantizes w for dy·w: codes (N, K) and K statistics, or one.
func (o SwitchBack) columns(w Value) (codes, stats Value) {
	if o.Vectorwise {
		return quantizeColumns(strictColumns, w)
	}
	return wholeTo8(w)
}

// wholeTo8 quantizes a tensor with one absmax.
func wholeTo8(w Value) (codes, stats Value) {
	codes, stats, _ = quantizeRows(strictRows, Reshape(w, 1, w.Type().Size()))
	return Reshape(codes, w.Shape().Dims()...), stats
}

// scaledProduct is acc·row·column/127² + bias in float32, rounded to d. One column statistic serves all columns.
func scaledProduct(acc, rowStats, colStats, bias Value, d tensor.DType) Value {
	scale := Scale(Reshape(colStats, 1, colStats.Type().Size()), 1.0/(127*127))
	y := Mul(Mul(Cast(acc, tensor.F32), Reshape(rowStats, acc.Dim(0), 1)), scale)
	if !bias.Absent() {
		y = Add(y, Cast(bias, tensor.F32))
	}
	return Cast(y, d)
}

// Cost implements graph.Coster.
func (SwitchBack) Cost(in, out []tensor.Type) (flops, bytes int64) {
	return 2 * int64(in[0].Size()) * int64(in[1].Dim(0)), sumBytes(in) + sumBytes(out)
}

// Decompose implements graph.Decomposable.
func (o SwitchBack) Decompose(in []Value) []Value {
	x, w := matrix(in[0]), in[1]
	codes, stats, _ := quantizeRows(strictRows, x)
	wc, ws := o.rows(w)
	y := scaledProduct(one(Int8MatMul{TransB: true}, codes, wc), stats, ws, in[2], x.DType())
	dims := in[0].Shape().Dims()
	dims[len(dims)-1] = w.Dim(0)
	return []Value{Reshape(y, dims...)}
}
