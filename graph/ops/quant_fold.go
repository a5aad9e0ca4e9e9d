package ops

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// FoldedQuantMatMul multiplies by a frozen weight in 4 bits and an adapter at once: y = x·W'ᵀ, or x·W' where Of.Trans, for W' = W + Alpha·B·A. W' is
// summed in float32 (float64 for f64) and rounded once to the dtype of x, as W alone is in QuantMatMul. The inputs are x, the parts of the weight as for
// QuantMatMul, A (Rank, K) and B (N, Rank), both of x's dtype. It is what a plan makes of a product and an adapter's beside it where it may (RunLoRA, arXiv
// 2312.03415, multiplies a dense weight so): y and dx are then one product each, and what the adapter adds is never stored by itself.
//
// It is differentiable in x, A and B. The gradients of A and B are those of the adapter apart.
type FoldedQuantMatMul struct {
	Of    QuantMatMul
	Rank  int
	Alpha float32
}

var (
	_ graph.Folder         = QuantMatMul{}
	_ graph.Accumulator    = FoldedQuantMatMul{}
	_ graph.Differentiable = FoldedQuantMatMul{}
	_ graph.Decomposable   = FoldedQuantMatMul{}
	_ graph.Frozen         = FoldedQuantMatMul{}
	_ graph.Coster         = FoldedQuantMatMul{}
)

// Folded implements graph.Folder: of products by matrices as adapters store them.
func (o QuantMatMul) Folded(n, inner, outer *graph.Node, factor float64) (op graph.Op, in []Value, ok bool) {
	narrow := MatMul{TransB: !o.Trans}
	if inner.Op != narrow || outer.Op != narrow || inner.In[1].Rank() != 2 || outer.In[1].Rank() != 2 {
		return nil, nil, false
	}
	a, b := inner.In[1], outer.In[1]
	if o.Trans {
		a, b = b, a
	}
	in = append(n.In[:len(n.In):len(n.In)], a, b)
	f := FoldedQuantMatMul{o, a.Dim(0), float32(factor)}
	types := make([]tensor.Type, len(in))
	for i, v := range in {
		types[i] = v.Type()
	}
	_, err := f.Infer(types)
	return f, in, err == nil
}

// Name implements graph.Op.
func (FoldedQuantMatMul) Name() string { return "folded_quant_matmul" }

// String prints the attributes with the scheme's name.
func (o FoldedQuantMatMul) String() string {
	text := weightText(o.Of.Scheme, o.Of.Blocksize, o.Of.N, o.Of.K, o.Of.Nested)
	if o.Of.Trans {
		text += " trans"
	}
	return fmt.Sprintf("folded_quant_matmul{%s + %g rank %d}", text, o.Alpha, o.Rank)
}

// Infer implements graph.Op.
func (o FoldedQuantMatMul) Infer(in []tensor.Type) ([]tensor.Type, error) {
	if err := arity(in, 3+o.Of.weights()); err != nil {
		return nil, fmt.Errorf("x, the parts of the weight, A and B: %w", err)
	}
	last := len(in) - 2
	out, err := o.Of.Infer(in[:last])
	if err != nil {
		return nil, err
	}
	for i, want := range []tensor.Type{tensor.T(in[0].DType, max(o.Rank, 0), o.Of.K), tensor.T(in[0].DType, o.Of.N, max(o.Rank, 0))} {
		if o.Rank < 1 || in[last+i] != want {
			return nil, fmt.Errorf("adapter weight %c of rank %d must be %v with a rank of at least 1, got %v", "AB"[i], o.Rank, want, in[last+i])
		}
	}
	return out, nil
}

// VJP implements graph.Differentiable. With u the rows of n features and v those of k (x and gy, or gy and x where W is transposed), dB = α·uᵀ·(v·Aᵀ) and
// dA = α·(u·B)ᵀ·v.
func (o FoldedQuantMatMul) VJP(n *graph.Node, gy []Value, need []bool) []Value {
	x, last := n.In[0], len(n.In)-2
	a, b := n.In[last], n.In[last+1]
	v := Reshape(x, leadSize(x), o.Of.inner())
	u := Reshape(gy[0], leadSize(x), o.Of.outer())
	if o.Of.Trans {
		u, v = v, u
	}
	out := make([]Value, len(n.In))
	if need[0] {
		back := o
		back.Of.Trans = !o.Of.Trans
		out[0] = one(back, append([]Value{gy[0]}, n.In[1:]...)...)
	}
	if need[last] {
		out[last] = Scale(one(MatMul{TransA: true}, Dot(u, b), v), float64(o.Alpha))
	}
	if need[last+1] {
		out[last+1] = Scale(one(MatMul{TransA: true}, u, Linear(v, a)), float64(o.Alpha))
	}
	return out
}

// FrozenInput implements graph.Frozen.
func (o FoldedQuantMatMul) FrozenInput(i int) string {
	if i > o.Of.weights() {
		return ""
	}
	return o.Of.FrozenInput(i)
}

// Cost implements graph.Coster.
func (o FoldedQuantMatMul) Cost(in, out []tensor.Type) (flops, bytes int64) {
	return o.flops(in[0]), sumBytes(in) + sumBytes(out)
}

func (o FoldedQuantMatMul) flops(x tensor.Type) int64 {
	return 2*int64(x.Size())*int64(o.Of.outer()) + 2*int64(o.Of.N)*int64(o.Of.K)*int64(o.Rank)
}

// Decompose implements graph.Decomposable.
func (o FoldedQuantMatMul) Decompose(in []Value) []Value {
	x, last, sum := in[0], len(in)-2, tensor.F32
	if x.DType() == tensor.F64 {
		sum = tensor.F64
	}
	q := o.Of
	w := one(Dequantize{q.Scheme, q.Blocksize, q.N, q.K, sum, q.Nested}, in[1:last]...)
	w = Add(w, Scale(Dot(Cast(in[last+1], sum), Cast(in[last], sum)), float64(o.Alpha)))
	dims := append(x.Shape().Dims()[:x.Rank()-1], q.outer())
	y := one(MatMul{TransB: !q.Trans}, Reshape(x, leadSize(x), q.inner()), Cast(w, x.DType()))
	return []Value{Reshape(y, dims...)}
}

// AddTo implements graph.Accumulator, as QuantMatMul does.
func (o FoldedQuantMatMul) AddTo(factor float64, n *graph.Node) (graph.Op, bool) {
	return AddFoldedQuantMatMul{o}, factor == 1 && n.Out[0].DType != tensor.F64
}

// AddFoldedQuantMatMul is C + the product of FoldedQuantMatMul, with the shape of C, which has the product's dtype and as many elements. The sum is rounded
// once. The inputs are C, then those of FoldedQuantMatMul.
type AddFoldedQuantMatMul struct{ Product FoldedQuantMatMul }

var (
	_ graph.Differentiable = AddFoldedQuantMatMul{}
	_ graph.Decomposable   = AddFoldedQuantMatMul{}
	_ graph.Frozen         = AddFoldedQuantMatMul{}
	_ graph.Coster         = AddFoldedQuantMatMul{}
	_ graph.Aliaser        = AddFoldedQuantMatMul{}
)

// Name implements graph.Op.
func (AddFoldedQuantMatMul) Name() string { return "add_folded_quant_matmul" }

// String prints the attributes with the scheme's name.
func (o AddFoldedQuantMatMul) String() string { return "add_" + o.Product.String() }

// Infer implements graph.Op.
func (o AddFoldedQuantMatMul) Infer(in []tensor.Type) ([]tensor.Type, error) {
	if len(in) == 0 {
		return nil, fmt.Errorf("takes what the product is added to, x, the parts of the weight, A and B, got nothing")
	}
	p, err := o.Product.Infer(in[1:])
	if err != nil {
		return nil, err
	}
	if c := in[0]; c.DType != p[0].DType || c.Size() != p[0].Size() {
		return nil, fmt.Errorf("cannot add a product %v to %v: dtypes and numbers of elements must be equal", p[0], c)
	}
	return in[:1], nil
}

// VJP implements graph.Differentiable.
func (o AddFoldedQuantMatMul) VJP(n *graph.Node, gy []Value, need []bool) []Value {
	p, err := o.Product.Infer(n.InTypes()[1:])
	if err != nil {
		return append([]Value{fail(o.Name(), gy[0], "%v", err)}, make([]Value, len(n.In)-1)...)
	}
	product := &graph.Node{Op: o.Product, In: n.In[1:], Out: p}
	return append([]Value{gy[0]}, o.Product.VJP(product, []Value{Reshape(gy[0], p[0].Shape.Dims()...)}, need[1:])...)
}

// FrozenInput implements graph.Frozen.
func (o AddFoldedQuantMatMul) FrozenInput(i int) string {
	if i == 0 {
		return ""
	}
	return o.Product.FrozenInput(i - 1)
}

// Cost implements graph.Coster.
func (o AddFoldedQuantMatMul) Cost(in, out []tensor.Type) (flops, bytes int64) {
	return o.Product.flops(in[1]), sumBytes(in) + sumBytes(out)
}

// Alias implements graph.Aliaser.
func (AddFoldedQuantMatMul) Alias() []graph.AliasPair { return []graph.AliasPair{{Out: 0, In: 0}} }

// Decompose implements graph.Decomposable.
func (o AddFoldedQuantMatMul) Decompose(in []Value) []Value {
	return []Value{Add(in[0], Reshape(one(o.Product, in[1:]...), in[0].Shape().Dims()...))}
}
