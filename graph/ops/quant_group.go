package ops

import (
	"fmt"
	"strings"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// GroupMost is how many products a MatMulGroup or a QuantMatMulGroup has at most.
const GroupMost = 4

// groupRank is up to how many rows the right operand of a thin product has: ranks of adapters.
const groupRank = 64

// QuantMatMulGroup is products of one x (..., K) by N frozen weights in 4 bits, (N_i, K), each with an output of its own, (..., N_i). To each an
// adapter's part may be added: with a Rank r there are s, of x's dtype and r elements for each row of x, and B (N_i, r), of x's dtype or float32, and
// the output is x·Wᵀ + s·Bᵀ with B's values times Alpha in float32, rounded to x's dtype. A Bias, (N_i) values of x's dtype, or of float32 and rounded to it, is
// added to each row. All is summed in float32 and rounded once. The inputs are x, and for each product the parts of its weight as for QuantMatMul, then the bias
// if it has one, and then s and B if it has a Rank. It is what a plan makes of the projections of a token, which read the same input: one launch for all.
type QuantMatMulGroup struct {
	Of [GroupMost]QuantProduct // the first N; the others are zero
	N  int8
}

// QuantProduct is one product of a QuantMatMulGroup. Its weight is not transposed.
type QuantProduct struct {
	QuantMatMul
	Bias  bool
	Rank  int // 0: no adapter's part is added
	Alpha float32
}

var (
	_ graph.Decomposable = QuantMatMulGroup{}
	_ graph.Coster       = QuantMatMulGroup{}
	_ graph.Grouper      = QuantMatMulGroup{}
	_ graph.Grouper      = QuantMatMul{}
	_ graph.Absorber     = AddQuantMatMul{}
	_ graph.Absorber     = QuantMatMulGroup{}
	_ graph.Absorber     = AddMatMul{}
	_ graph.Absorber     = Pointwise{}
)

// Name implements graph.Op.
func (QuantMatMulGroup) Name() string { return "quant_matmul_group" }

// NumOut is the number of outputs, one for each product.
func (o QuantMatMulGroup) NumOut() int { return int(o.N) }

// String prints the attributes of each product.
func (o QuantMatMulGroup) String() string {
	var list []string
	for _, q := range o.products() {
		text := weightText(q.Scheme, q.Blocksize, q.N, q.K, q.Nested)
		if q.Bias {
			text += " + bias"
		}
		if q.Rank > 0 {
			text += fmt.Sprintf(" + %g rank %d", q.Alpha, q.Rank)
		}
		list = append(list, text)
	}
	return "quant_matmul_group{" + strings.Join(list, ", ") + "}"
}

func (o QuantMatMulGroup) products() []QuantProduct { return o.Of[:min(max(o.N, 0), GroupMost)] }

// weights is how many inputs the parts of the weight are.
func (o QuantMatMul) weights() int {
	if o.Nested {
		return 4
	}
	return 2
}

// inputs is how many inputs beside x belong to a product.
func (o QuantProduct) inputs() int {
	n := o.weights()
	if o.Bias {
		n++
	}
	if o.Rank > 0 {
		n += 2
	}
	return n
}

// BiasAt is which of the product's own inputs is its bias, if it has one.
func (o QuantProduct) BiasAt() int { return o.weights() }

// Inputs calls f with each product and which inputs are its own: the weight's parts, then the bias where it has one, then s and B where it has a Rank.
func (o QuantMatMulGroup) Inputs(f func(i int, q QuantProduct, from, to int)) {
	at := 1
	for i, q := range o.products() {
		f(i, q, at, at+q.inputs())
		at += q.inputs()
	}
}

// Infer implements graph.Op.
func (o QuantMatMulGroup) Infer(in []tensor.Type) (out []tensor.Type, err error) {
	if o.N < 1 || o.N > GroupMost {
		return nil, fmt.Errorf("a group has 1 to %d products, not %d", GroupMost, o.N)
	}
	want := 1
	o.Inputs(func(_ int, _ QuantProduct, _, to int) { want = to })
	if err := arity(in, want); err != nil {
		return nil, err
	}
	o.Inputs(func(i int, q QuantProduct, from, to int) {
		var t []tensor.Type
		if err == nil {
			t, err = q.infer(in[0], in[from:to])
		}
		if err != nil {
			err = fmt.Errorf("product %d: %w", i, err)
			return
		}
		out = append(out, t...)
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// infer takes the inputs of one product.
func (o QuantProduct) infer(x tensor.Type, in []tensor.Type) ([]tensor.Type, error) {
	if o.Trans || o.Rank < 0 {
		return nil, fmt.Errorf("a weight that is transposed, or rank %d, is not supported", o.Rank)
	}
	out, err := o.QuantMatMul.Infer(append([]tensor.Type{x}, in[:o.weights()]...))
	if err != nil {
		return nil, err
	}
	if o.Bias {
		if b := in[o.BiasAt()]; b.DType != x.DType && b.DType != tensor.F32 || b.Rank() != 1 || b.Dim(0) != o.N {
			return nil, fmt.Errorf("bias must be %v or f32, (%d), got %v", x.DType, o.N, b)
		}
	}
	if o.Rank == 0 {
		return out, nil
	}
	s, b := in[len(in)-2], in[len(in)-1]
	switch rows := tensor.S(x.Shape.Dims()[:x.Rank()-1]...).Size(); {
	case s.DType != x.DType || s.Size() != rows*o.Rank:
		return nil, fmt.Errorf("s must be %v with %d elements, got %v", x.DType, rows*o.Rank, s)
	case b.DType != x.DType && b.DType != tensor.F32 || b.Rank() != 2 || b.Dim(0) != o.N || b.Dim(1) != o.Rank:
		return nil, fmt.Errorf("adapter weight B must be %v or f32, (%d, %d), got %v", x.DType, o.N, o.Rank, b)
	}
	return out, nil
}

// Decompose implements graph.Decomposable.
func (o QuantMatMulGroup) Decompose(in []Value) (out []Value) {
	x := in[0]
	o.Inputs(func(_ int, q QuantProduct, from, to int) {
		weight := in[from : from+q.weights()]
		var y Value
		if q.Rank == 0 {
			y = QuantLinear(q.QuantMatMul, x, weight...)
		} else {
			s, b := in[to-2], in[to-1]
			c := Linear(Reshape(s, leadSize(x), q.Rank), Cast(Scale(b, float64(q.Alpha)), x.DType()))
			dims := append(x.Shape().Dims()[:x.Rank()-1], q.N)
			y = one(AddQuantMatMul{q.QuantMatMul}, append([]Value{Reshape(c, dims...), x}, weight...)...)
		}
		if q.Bias {
			y = Add(y, Cast(in[from+q.BiasAt()], x.DType()))
		}
		out = append(out, y)
	})
	return out
}

// Cost implements graph.Coster.
func (o QuantMatMulGroup) Cost(in, out []tensor.Type) (flops, bytes int64) {
	for i, q := range o.products() {
		flops += 2 * int64(out[i].Size()) * int64(q.K+q.Rank)
	}
	return flops, sumBytes(in) + sumBytes(out)
}

// quantKind is what products of a group have in common beside x, which could be read with another last axis: kernels are made for one code book and one
// kind of scales.
type quantKind struct {
	scheme quant.Scheme
	nested bool
	cols   int
}

// Grouping implements graph.Grouper.
func (o QuantMatMul) Grouping(*graph.Node) (shared int, kind any, ok bool) {
	return 0, quantKind{o.Scheme, o.Nested, o.K}, !o.Trans
}

// Grouping hides that of QuantMatMul.
func (AddQuantMatMul) Grouping(*graph.Node) (shared int, kind any, ok bool) { return 0, nil, false }

// Grouped implements graph.Grouper.
func (o QuantMatMul) Grouped(nodes []*graph.Node) (graph.Op, []Value, bool) { return groupQuant(nodes) }

// Grouping implements graph.Grouper: of single products with an adapter's part or a bias.
func (o QuantMatMulGroup) Grouping(*graph.Node) (shared int, kind any, ok bool) {
	return 0, quantKind{o.Of[0].Scheme, o.Of[0].Nested, o.Of[0].K}, o.N == 1
}

// Grouped implements graph.Grouper.
func (o QuantMatMulGroup) Grouped(nodes []*graph.Node) (graph.Op, []Value, bool) {
	return groupQuant(nodes)
}

// groupQuant is the product of the first node's x by the weights of all.
func groupQuant(nodes []*graph.Node) (graph.Op, []Value, bool) {
	var g QuantMatMulGroup
	in := nodes[0].In[:1:1]
	for _, n := range nodes[:min(len(nodes), GroupMost)] {
		switch o := n.Op.(type) {
		case QuantMatMul:
			g.Of[g.N] = QuantProduct{QuantMatMul: o}
		case QuantMatMulGroup:
			g.Of[g.N] = o.Of[0]
		default:
			return nil, nil, false
		}
		g.N++
		in = append(in, n.In[1:]...)
	}
	return g, in, g.N > 1
}

// Absorbed implements graph.Absorber: what is added is s·Bᵀ.
func (o AddQuantMatMul) Absorbed(n *graph.Node, i int, by *graph.Node) (graph.Op, []Value, bool) {
	m, ok := by.Op.(MatMul)
	if i != 0 || !ok || o.Trans || m.TransA || !m.TransB || n.Out[0].Shape != o.shape(n.In[1].Type()) {
		return nil, nil, false
	}
	return QuantProduct{QuantMatMul: o.QuantMatMul}.adapted(n.In[1:], by.In)
}

// adapted is the product of the inputs, with s·Bᵀ added.
func (o QuantProduct) adapted(in, low []Value) (graph.Op, []Value, bool) {
	if low[0].Rank() != 2 || low[1].Rank() != 2 || low[1].Dim(0) != o.N || low[1].Dim(1) < 1 || low[1].Dim(1) > groupRank {
		return nil, nil, false
	}
	o.Rank, o.Alpha = low[1].Dim(1), 1
	return QuantMatMulGroup{Of: [GroupMost]QuantProduct{o}, N: 1}, append(in[:len(in):len(in)], low...), true
}

// Absorbed implements graph.Absorber: the adapter's part of a product with a bias takes the product in.
func (o AddMatMul) Absorbed(n *graph.Node, i int, by *graph.Node) (graph.Op, []Value, bool) {
	g, ok := by.Op.(QuantMatMulGroup)
	if q := g.Of[0]; !ok || i != 0 || g.N != 1 || q.Rank > 0 || o.TransA || !o.TransB || o.Alpha != 1 || n.In[1].DType() != by.In[0].DType() {
		return nil, nil, false
	}
	return g.Of[0].adapted(by.In, n.In[1:])
}

// Absorbed implements graph.Absorber: a sum with a bias takes in the product by a weight in 4 bits that the bias is added to.
func (o Pointwise) Absorbed(n *graph.Node, i int, by *graph.Node) (graph.Op, []Value, bool) {
	q, ok := by.Op.(QuantMatMul)
	if o.F != FnAdd || !ok || q.Trans {
		return nil, nil, false
	}
	bias := n.In[1-i]
	if !bias.Valid() || bias.Rank() != 1 || bias.Dim(0) != q.N || bias.DType() != by.In[0].DType() || n.In[i].Dim(-1) != q.N {
		return nil, nil, false
	}
	g := QuantMatMulGroup{N: 1}
	g.Of[0] = QuantProduct{QuantMatMul: q, Bias: true}
	return g, append(by.In[:len(by.In):len(by.In)], bias), true
}

// shape is that of the product by x.
func (o QuantMatMul) shape(x tensor.Type) tensor.Shape {
	dims := x.Shape.Dims()
	dims[len(dims)-1] = o.outer()
	return tensor.S(dims...)
}

// Absorbed implements graph.Absorber: a cast of a bias or of B from float32, and then a number that B is multiplied by.
func (o QuantMatMulGroup) Absorbed(n *graph.Node, i int, by *graph.Node) (op graph.Op, in []Value, ok bool) {
	o.Inputs(func(k int, q QuantProduct, from, to int) {
		bias, b := q.Bias && from+q.BiasAt() == i, q.Rank > 0 && to-1 == i
		if !bias && !b {
			return
		}
		if c, casts := by.Op.(graph.Caster); casts && c.Casts() {
			ok = (bias || q.Alpha == 1) && by.In[0].DType() == tensor.F32
			in = replaced(n.In, i, by.In[0])
			return
		}
		if bias {
			return
		}
		v, f := scaledBy(by)
		if ok = f != 0 && q.Alpha == 1 && n.In[i].DType() == tensor.F32; ok {
			o.Of[k].Alpha, in = f, replaced(n.In, i, v)
		}
	})
	return o, in, ok
}

// replaced is a list with another value at i.
func replaced(in []Value, i int, v Value) []Value {
	out := append([]Value(nil), in...)
	out[i] = v
	return out
}

// scaledBy returns what a node multiplies by a number; factor is 0 where it does anything else.
func scaledBy(n *graph.Node) (v Value, factor float32) {
	op, ok := n.Op.(graph.Linear)
	if !ok {
		return Value{}, 0
	}
	factors, ok := op.Factors(n.In)
	if !ok {
		return Value{}, 0
	}
	for i, f := range factors {
		switch {
		case f == 0:
		case factor != 0:
			return Value{}, 0
		default:
			v, factor = n.In[i], float32(f)
		}
	}
	if !v.Valid() || v.Type() != n.Out[0] {
		return Value{}, 0
	}
	return v, factor
}
