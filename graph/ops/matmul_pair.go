package ops

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// MatMulPair is two products of one large matrix X (M, N): T = AlphaT·X·B with B (N, R), and D = AlphaD·Xᵀ·S with S (M, R), which is
// stored (R, M) with TransS. With Add there is a fourth input C of D's shape, in float32 or X's dtype, which D is added to and takes the dtype of. Both are summed as MatMul's and AddMatMul's.
// It is what a plan makes of the gradients of an adapter, which both read that of the layer's output: X need be read only once.
type MatMulPair struct {
	AlphaT, AlphaD float32
	TransS, Add    bool
}

var (
	_ graph.Decomposable   = MatMulPair{}
	_ graph.Differentiable = MatMulPair{}
	_ graph.Coster         = MatMulPair{}
	_ graph.Aliaser        = MatMulPair{}
	_ graph.Sharer         = MatMul{}
	_ graph.Sharer         = ScaleMatMul{}
)

// Name implements graph.Op.
func (MatMulPair) Name() string { return "matmul_pair" }

// NumOut is the number of outputs: T and D.
func (MatMulPair) NumOut() int { return 2 }

func (o MatMulPair) inputs() int {
	if o.Add {
		return 4
	}
	return 3
}

// Infer implements graph.Op.
func (o MatMulPair) Infer(in []tensor.Type) ([]tensor.Type, error) {
	if err := arity(in, o.inputs()); err != nil {
		return nil, err
	}
	for i, t := range in[:3] {
		if t.Rank() != 2 {
			return nil, fmt.Errorf("input %d must be a matrix, got %v", i, t)
		}
	}
	if in[1].Dim(1) != o.rank(in[2]) {
		return nil, fmt.Errorf("both products must have equally many columns, got %v and %v", in[1], in[2])
	}
	t, err := MatMul{}.Infer(in[:2])
	if err != nil {
		return nil, fmt.Errorf("first product: %w", err)
	}
	if !o.Add {
		d, err := o.product().Infer([]tensor.Type{in[0], in[2]})
		if err != nil {
			return nil, fmt.Errorf("second product: %w", err)
		}
		return append(t, d...), nil
	}
	d, err := o.second().Infer([]tensor.Type{in[3], in[0], in[2]})
	if err != nil {
		return nil, fmt.Errorf("second product: %w", err)
	}
	return append(t, d...), nil
}

// rank is the number of columns of S.
func (o MatMulPair) rank(s tensor.Type) int {
	if o.TransS {
		return s.Dim(0)
	}
	return s.Dim(1)
}

// product is the second product, and second that with the sum.
func (o MatMulPair) product() MatMul { return MatMul{TransA: true, TransB: o.TransS} }
func (o MatMulPair) second() AddMatMul {
	return AddMatMul{TransA: true, TransB: o.TransS, Alpha: o.AlphaD}
}

// Decompose implements graph.Decomposable.
func (o MatMulPair) Decompose(in []Value) []Value {
	t := Scale(one(MatMul{}, in[0], in[1]), float64(o.AlphaT))
	if o.Add {
		return []Value{t, one(o.second(), in[3], in[0], in[2])}
	}
	return []Value{t, Scale(one(o.product(), in[0], in[2]), float64(o.AlphaD))}
}

// VJP implements graph.Differentiable by the gradients of both products.
func (o MatMulPair) VJP(n *graph.Node, gy []Value, need []bool) []Value {
	out := make([]Value, len(n.In))
	if gy[0].Valid() {
		g := Scale(gy[0], float64(o.AlphaT))
		copy(out, MatMul{}.VJP(&graph.Node{In: n.In[:2]}, []Value{g}, need[:2]))
	}
	if !gy[1].Valid() {
		return out
	}
	in, wants := []Value{n.In[0], n.In[2]}, []bool{need[0], need[2]}
	var more []Value
	if o.Add {
		all := o.second().VJP(&graph.Node{In: append([]Value{n.In[3]}, in...)}, gy[1:], append([]bool{need[3]}, wants...))
		out[3], more = all[0], all[1:]
	} else {
		more = o.product().VJP(&graph.Node{In: in}, []Value{Scale(gy[1], float64(o.AlphaD))}, wants)
	}
	out[2] = more[1]
	if out[0].Valid() && more[0].Valid() {
		out[0] = Add(out[0], more[0])
	} else if more[0].Valid() {
		out[0] = more[0]
	}
	return out
}

// Cost implements graph.Coster.
func (MatMulPair) Cost(in, out []tensor.Type) (flops, bytes int64) {
	return 4 * int64(in[0].Size()) * int64(in[1].Dim(-1)), sumBytes(in) + sumBytes(out)
}

// Alias implements graph.Aliaser: D takes the place of C.
func (o MatMulPair) Alias() []graph.AliasPair {
	if !o.Add {
		return nil
	}
	return []graph.AliasPair{{Out: 1, In: 3}}
}

// Shared implements graph.Sharer.
func (o MatMul) Shared(n, other *graph.Node) (graph.Op, []Value, bool) {
	return ScaleMatMul{o, 1}.Shared(n, other)
}

// Shared implements graph.Sharer: of X·B with Xᵀ·S, both thin, by itself, times a number or added to something of its shape.
func (o ScaleMatMul) Shared(n, other *graph.Node) (graph.Op, []Value, bool) {
	if o.TransA || o.TransB || n.In[0].Rank() != 2 {
		return nil, nil, false
	}
	pair, in, second := MatMulPair{AlphaT: o.Alpha, AlphaD: 1}, n.In[:2:2], other.In
	var product MatMul
	switch d := other.Op.(type) {
	case MatMul:
		product = d
	case ScaleMatMul:
		product, pair.AlphaD = d.MatMul, d.Alpha
	case AddMatMul:
		if other.In[0].Rank() != 2 {
			return nil, nil, false
		}
		product, pair.AlphaD, pair.Add, second = MatMul{d.TransA, d.TransB}, d.Alpha, true, other.In[1:]
	default:
		return nil, nil, false
	}
	pair.TransS = product.TransB
	rank := in[1].Dim(1)
	if !product.TransA || second[0] != in[0] || pair.rank(second[1].Type()) != rank || 4*rank > min(in[0].Dim(0), in[0].Dim(1)) {
		return nil, nil, false // of another matrix, or not thin
	}
	if pair.Add && other.In[0].Dim(1) != rank {
		return nil, nil, false // added to something of another shape
	}
	in = append(in, second[1])
	if pair.Add {
		in = append(in, other.In[0])
	}
	return pair, in, true
}

// Shared hides that of MatMul.
func (WideMatMul) Shared(_, _ *graph.Node) (graph.Op, []Value, bool) { return nil, nil, false }
