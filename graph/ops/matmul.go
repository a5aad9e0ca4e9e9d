package ops

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// MatMul is the batched matrix product op(A)·op(B), accumulated in float32 (float64 for f64) and rounded once. A is
// (..., M, K), or (..., K, M) with TransA; B is (..., K, N), or (..., N, K) with TransB; the leading axes are equal.
//
// Dot builds the product of two values, Linear that by a weight (out, in), and Einsum any other.
type MatMul struct{ TransA, TransB bool }

var (
	_ graph.Differentiable = MatMul{}
	_ graph.Coster         = MatMul{}
)

// Name implements graph.Op.
func (MatMul) Name() string { return "matmul" }

// Infer implements graph.Op.
func (o MatMul) Infer(in []tensor.Type) ([]tensor.Type, error) {
	if err := arity(in, 2); err != nil {
		return nil, err
	}
	a, b := in[0], in[1]
	switch {
	case a.DType != b.DType:
		return nil, fmt.Errorf("dtypes differ: %v and %v; cast one of them", a.DType, b.DType)
	case !a.DType.IsFloat():
		return nil, fmt.Errorf("not defined on %v", a.DType)
	case a.Rank() < 2 || a.Rank() != b.Rank():
		return nil, fmt.Errorf("ranks must be equal and at least 2, got %d and %d", a.Rank(), b.Rank())
	}
	m, k, n, k2 := o.dims(a, b)
	if k != k2 {
		return nil, fmt.Errorf("inner dimensions differ: %d and %d", k, k2)
	}
	dims := a.Shape.Dims()
	for i := range dims[:len(dims)-2] {
		if dims[i] != b.Dim(i) {
			return nil, fmt.Errorf("batch dimensions differ: %d and %d on axis %d", dims[i], b.Dim(i), i)
		}
	}
	dims[len(dims)-2], dims[len(dims)-1] = m, n
	return []tensor.Type{tensor.T(a.DType, dims...)}, nil
}

func (o MatMul) dims(a, b tensor.Type) (m, k, n, k2 int) {
	m, k, k2, n = a.Dim(-2), a.Dim(-1), b.Dim(-2), b.Dim(-1)
	if o.TransA {
		m, k = k, m
	}
	if o.TransB {
		k2, n = n, k2
	}
	return m, k, n, k2
}

// VJP implements graph.Differentiable: dA = dY·Bᵀ, dB = Aᵀ·dY, with the transpositions that fold into the op.
func (o MatMul) VJP(n *graph.Node, gy []Value, need []bool) []Value {
	a, b, g := n.In[0], n.In[1], gy[0]
	mm := func(x, y Value, tx, ty bool) Value { return one(MatMul{tx, ty}, x, y) }
	return lazily(need,
		func() Value {
			if o.TransA {
				return mm(b, g, o.TransB, true)
			}
			return mm(g, b, false, !o.TransB)
		},
		func() Value {
			if o.TransB {
				return mm(g, a, true, o.TransA)
			}
			return mm(a, g, !o.TransA, false)
		})
}

// Cost implements graph.Coster.
func (o MatMul) Cost(in, out []tensor.Type) (flops, bytes int64) {
	_, k, _, _ := o.dims(in[0], in[1])
	return 2 * int64(out[0].Size()) * int64(k), sumBytes(in) + sumBytes(out)
}

// Dot returns a·b: a (..., M, K), b (..., K, N). A b of rank 2 is shared by all leading axes of a.
func Dot(a, b Value) Value { return matmul(a, b, false) }

// Linear returns x·wᵀ for a weight stored (out, in), as checkpoints have it: x (..., in) -> (..., out).
func Linear(x, w Value) Value { return matmul(x, w, true) }

func matmul(a, b Value, transB bool) Value {
	if !a.Valid() || !b.Valid() || b.Rank() != 2 || a.Rank() == 2 {
		return one(MatMul{TransB: transB}, a, b)
	}
	if a.Rank() == 0 {
		return fail("matmul", a, "the left side is a scalar")
	}
	dims := a.Shape().Dims()
	k := dims[len(dims)-1]
	y := one(MatMul{TransB: transB}, Reshape(a, rows(dims), k), b)
	return Reshape(y, append(dims[:len(dims)-1:len(dims)-1], y.Dim(-1))...)
}

// rows is the number of vectors along the last axis.
func rows(dims []int) int {
	n := 1
	for _, d := range dims[:len(dims)-1] {
		n *= d
	}
	return n
}
