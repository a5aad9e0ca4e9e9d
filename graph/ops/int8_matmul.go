package ops

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// MaxInt8Inner is the longest inner axis whose sum of int8 products cannot leave int32: 128²·131071 < 2³¹.
const MaxInt8Inner = 1<<17 - 1

// Int8MatMul is the exact product of int8 matrices in int32: op(A)·op(B), A (M, K) or (K, M) with TransA, B (K, N) or (N, K) with
// TransB. K is at most MaxInt8Inner.
type Int8MatMul struct{ TransA, TransB bool }

var (
	_ graph.Frozen = Int8MatMul{}
	_ graph.Coster = Int8MatMul{}
)

// Int8Dot returns the int32 product of two int8 matrices; see Int8MatMul.
func Int8Dot(o Int8MatMul, a, b Value) Value { return one(o, a, b) }

// Name implements graph.Op.
func (Int8MatMul) Name() string { return "int8_matmul" }

// Infer implements graph.Op.
func (o Int8MatMul) Infer(in []tensor.Type) ([]tensor.Type, error) {
	if err := arity(in, 2); err != nil {
		return nil, err
	}
	a, b := in[0], in[1]
	if a.DType != tensor.I8 || b.DType != tensor.I8 || a.Rank() != 2 || b.Rank() != 2 {
		return nil, fmt.Errorf("takes two i8 matrices, got %v and %v", a, b)
	}
	m, k, n, k2 := MatMul(o).dims(a, b)
	if k != k2 {
		return nil, fmt.Errorf("inner dimensions differ: %d and %d", k, k2)
	}
	if err := checkInner8(k); err != nil {
		return nil, err
	}
	return []tensor.Type{tensor.T(tensor.I32, m, n)}, nil
}

func checkInner8(k int) error {
	if k > MaxInt8Inner {
		return fmt.Errorf("an inner dimension of %d can overflow the int32 sum; at most %d: split it", k, MaxInt8Inner)
	}
	return nil
}

// FrozenInput implements graph.Frozen.
func (Int8MatMul) FrozenInput(int) string {
	return "integers have no gradient; ops.Int8Linear has the gradient of LLM.int8()"
}

// Cost implements graph.Coster.
func (o Int8MatMul) Cost(in, out []tensor.Type) (flops, bytes int64) {
	return MatMul(o).Cost(in, out)
}

// Int8WeightMatMul multiplies by a frozen int8 weight W (N, K) that is dequantized on the way: y = x·Wᵀ, x (..., K) -> (..., N), or
// with Trans y = x·W, x (..., N) -> (..., K). The inputs are x (a float), the codes i8 (N, K) and one absmax f32 a row. Weights are
// code·(absmax·(1/127)) rounded to the dtype of x, products are summed in float32 and rounded once. With Trans it is the input gradient
// of Linear8bitLt; without, a product with 8-bit weights and activations as they are. It is differentiable in x alone: dx is the same op with
// Trans flipped.
type Int8WeightMatMul struct{ Trans bool }

var (
	_ graph.Differentiable = Int8WeightMatMul{}
	_ graph.Decomposable   = Int8WeightMatMul{}
	_ graph.Frozen         = Int8WeightMatMul{}
	_ graph.Coster         = Int8WeightMatMul{}
)

// Int8WeightLinear returns x·Wᵀ (x·W with o.Trans) for a weight of codes and statistics; see Int8WeightMatMul.
func Int8WeightLinear(o Int8WeightMatMul, x, codes, stats Value) Value {
	return one(o, x, codes, stats)
}

// Name implements graph.Op.
func (Int8WeightMatMul) Name() string { return "int8_weight_matmul" }

// extents are the last axis of x and of y for a weight.
func (o Int8WeightMatMul) extents(w tensor.Type) (inner, outer int) {
	if o.Trans {
		return w.Dim(0), w.Dim(1)
	}
	return w.Dim(1), w.Dim(0)
}

// Infer implements graph.Op.
func (o Int8WeightMatMul) Infer(in []tensor.Type) ([]tensor.Type, error) {
	if err := arity(in, 3); err != nil {
		return nil, err
	}
	if !in[0].DType.IsFloat() {
		return nil, fmt.Errorf("x must be a float, got %v; cast it to the compute dtype", in[0])
	}
	if err := checkWeight8(in[1], in[2]); err != nil {
		return nil, err
	}
	inner, outer := o.extents(in[1])
	dims := in[0].Shape.Dims()
	if len(dims) == 0 || dims[len(dims)-1] != inner {
		return nil, fmt.Errorf("x is %v, its last axis must be %d", in[0], inner)
	}
	dims[len(dims)-1] = outer
	return []tensor.Type{tensor.T(in[0].DType, dims...)}, nil
}

// checkWeight8 checks the parts of an int8 weight.
func checkWeight8(codes, stats tensor.Type) error {
	if codes.DType != tensor.I8 || codes.Rank() != 2 {
		return fmt.Errorf("the codes of the weight must be an i8 matrix (out, in), got %v", codes)
	}
	return checkStats("the weight's absmax", stats, codes.Dim(0))
}

// VJP implements graph.Differentiable.
func (o Int8WeightMatMul) VJP(n *graph.Node, gy []Value, _ []bool) []Value {
	return grads(3, indexed{0, one(Int8WeightMatMul{!o.Trans}, gy[0], n.In[1], n.In[2])})
}

// FrozenInput implements graph.Frozen.
func (Int8WeightMatMul) FrozenInput(i int) string {
	if i == 0 {
		return ""
	}
	return frozenWeight
}

// Cost implements graph.Coster.
func (o Int8WeightMatMul) Cost(in, out []tensor.Type) (flops, bytes int64) {
	_, outer := o.extents(in[1])
	return 2 * int64(in[0].Size()) * int64(outer), sumBytes(in) + sumBytes(out)
}

// Decompose implements graph.Decomposable: the whole weight is dequantized.
func (o Int8WeightMatMul) Decompose(in []Value) []Value {
	x := in[0]
	w := one(DequantizeRows8{To: x.DType(), ScaleFirst: true}, in[1], in[2])
	inner, outer := o.extents(in[1].Type())
	dims := x.Shape().Dims()
	dims[len(dims)-1] = outer
	y := one(MatMul{TransB: !o.Trans}, Reshape(x, leadSize(x), inner), w)
	return []Value{Reshape(y, dims...)}
}
