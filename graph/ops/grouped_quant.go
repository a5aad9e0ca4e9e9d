package ops

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// QuantGroupedMatMul is GroupedMatMul by a frozen weight (Experts, N, K) in 4 bits, blocks cut from it in flat row-major order: they may
// span rows and experts. The inputs are x, the i32 offsets (Experts+1) and the parts of the weight as for Dequantize. Values are
// rounded to the dtype of x, products are summed in float32 and rounded once. It is differentiable in x alone: dx is the same op with Trans
// flipped.
type QuantGroupedMatMul struct {
	Scheme    quant.Scheme
	Blocksize int
	Experts   int
	N, K      int // of one expert's stored matrix (out, in), whatever Trans
	Nested    bool
	Trans     bool
}

// Int8GroupedMatMul is GroupedMatMul by a frozen int8 weight that is dequantized on the way. The inputs are x, the i32 offsets
// (E+1), the codes i8 (E, N, K) and one absmax f32 a row, E*N of them. Weights are code·(absmax·(1/127)) rounded to the dtype of x; x
// stays in floating point. It is differentiable in x alone.
type Int8GroupedMatMul struct{ Trans bool }

var (
	_ graph.Differentiable = QuantGroupedMatMul{}
	_ graph.Decomposable   = QuantGroupedMatMul{}
	_ graph.Frozen         = QuantGroupedMatMul{}
	_ graph.Coster         = QuantGroupedMatMul{}
	_ graph.Differentiable = Int8GroupedMatMul{}
	_ graph.Decomposable   = Int8GroupedMatMul{}
	_ graph.Frozen         = Int8GroupedMatMul{}
	_ graph.Coster         = Int8GroupedMatMul{}
)

// QuantGroupedLinear returns w[e]·x[i] (w[e]ᵀ·x[i] with o.Trans) for the rows of each expert and the parts of a quantized weight: codes,
// absmax and, nested, nested_absmax and offset.
func QuantGroupedLinear(o QuantGroupedMatMul, x, offsets Value, weight ...Value) Value {
	return one(o, append([]Value{x, offsets}, weight...)...)
}

// Int8GroupedLinear returns w[e]·x[i] for the rows of each expert and an int8 weight of codes and statistics.
func Int8GroupedLinear(x, offsets, codes, stats Value) Value {
	return one(Int8GroupedMatMul{}, x, offsets, codes, stats)
}

// Name implements graph.Op.
func (QuantGroupedMatMul) Name() string { return "quant_grouped_matmul" }

// Name implements graph.Op.
func (Int8GroupedMatMul) Name() string { return "int8_grouped_matmul" }

// String prints the attributes with the scheme's name.
func (o QuantGroupedMatMul) String() string {
	text := fmt.Sprintf("%d experts %s", o.Experts, weightText(o.Scheme, o.Blocksize, o.N, o.K, o.Nested))
	if o.Trans {
		text += " trans"
	}
	return "quant_grouped_matmul{" + text + "}"
}

// Infer implements graph.Op.
func (o QuantGroupedMatMul) Infer(in []tensor.Type) ([]tensor.Type, error) {
	if len(in) < 2 {
		return nil, fmt.Errorf("takes x, offsets and the parts of a weight, got %d inputs", len(in))
	}
	if o.Experts < 0 || o.N < 0 || o.K < 0 || !tensor.S(o.Experts, o.N, o.K).Valid() {
		return nil, fmt.Errorf("a weight of %d x %d x %d is not valid", o.Experts, o.N, o.K)
	}
	if err := checkGroups(in[0], in[1], o.Experts); err != nil {
		return nil, err
	}
	if err := checkWeight(in[2:], o.Scheme, o.Blocksize, o.Experts*o.N, o.K, o.Nested); err != nil {
		return nil, err
	}
	return groupedResult(in[0], o.N, o.K, o.Trans)
}

// groupedResult is the type of a grouped product by matrices (n, k), or their transposes.
func groupedResult(x tensor.Type, n, k int, trans bool) ([]tensor.Type, error) {
	if trans {
		n, k = k, n
	}
	if x.Dim(1) != k {
		return nil, fmt.Errorf("x is %v, its last axis must be %d", x, k)
	}
	return []tensor.Type{tensor.T(x.DType, x.Dim(0), n)}, nil
}

// Infer implements graph.Op.
func (o Int8GroupedMatMul) Infer(in []tensor.Type) ([]tensor.Type, error) {
	if err := arity(in, 4); err != nil {
		return nil, err
	}
	w := in[2]
	if w.DType != tensor.I8 || w.Rank() != 3 {
		return nil, fmt.Errorf("the codes of the weight must be i8 (experts, out, in), got %v", w)
	}
	if err := checkGroups(in[0], in[1], w.Dim(0)); err != nil {
		return nil, err
	}
	if err := checkStats("the weight's absmax", in[3], w.Dim(0)*w.Dim(1)); err != nil {
		return nil, err
	}
	return groupedResult(in[0], w.Dim(1), w.Dim(2), o.Trans)
}

// VJP implements graph.Differentiable.
func (o QuantGroupedMatMul) VJP(n *graph.Node, gy []Value, _ []bool) []Value {
	back := o
	back.Trans = !o.Trans
	return grads(len(n.In), indexed{0, QuantGroupedLinear(back, gy[0], n.In[1], n.In[2:]...)})
}

// VJP implements graph.Differentiable.
func (o Int8GroupedMatMul) VJP(n *graph.Node, gy []Value, _ []bool) []Value {
	return grads(4, indexed{0, one(Int8GroupedMatMul{!o.Trans}, gy[0], n.In[1], n.In[2], n.In[3])})
}

// FrozenInput implements graph.Frozen.
func (QuantGroupedMatMul) FrozenInput(i int) string { return frozenGroup(i) }

// FrozenInput implements graph.Frozen.
func (Int8GroupedMatMul) FrozenInput(i int) string { return frozenGroup(i) }

func frozenGroup(i int) string {
	if i < 2 {
		return ""
	}
	return frozenWeight
}

// Cost implements graph.Coster.
func (QuantGroupedMatMul) Cost(in, out []tensor.Type) (flops, bytes int64) {
	return GroupedMatMul{}.Cost(in, out)
}

// Cost implements graph.Coster.
func (Int8GroupedMatMul) Cost(in, out []tensor.Type) (flops, bytes int64) {
	return GroupedMatMul{}.Cost(in, out)
}

// Decompose implements graph.Decomposable: the whole weight is dequantized.
func (o QuantGroupedMatMul) Decompose(in []Value) []Value {
	w := one(Dequantize{o.Scheme, o.Blocksize, o.Experts * o.N, o.K, in[0].DType(), o.Nested}, in[2:]...)
	return []Value{one(GroupedMatMul{o.Trans}, in[0], Reshape(w, o.Experts, o.N, o.K), in[1])}
}

// Decompose implements graph.Decomposable: the whole weight is dequantized.
func (o Int8GroupedMatMul) Decompose(in []Value) []Value {
	w := one(DequantizeRows8{To: in[0].DType(), ScaleFirst: true}, in[2], in[3])
	return []Value{one(GroupedMatMul(o), in[0], w, in[1])}
}
