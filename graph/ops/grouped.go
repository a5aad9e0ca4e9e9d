package ops

import (
	"fmt"
	"math"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// GroupByExpert sorts assignments by expert. The input is i32 of any shape with n elements, the expert of each assignment. The outputs
// are i32: order (n), the assignments in ascending order of their expert, those of one expert in their own order; inverse (n), where each
// assignment went; and offsets (Experts+1): the sorted assignments of expert e are offsets[e] to offsets[e+1]-1. Nothing is dropped and no
// capacity exists; assignments to no expert (outside [0, Experts)) come last, from offsets[Experts] on.
type GroupByExpert struct{ Experts int }

// GroupedMatMul multiplies the rows of each expert by that expert's matrix: x (R, K), w (E, N, K) and i32 offsets (E+1), ascending
// within [0, R], give y (R, N) with y[i] = w[e]·x[i] for offsets[e] <= i < offsets[e+1]; with Trans, x (R, N) gives y (R, K) with
// y[i] = w[e]ᵀ·x[i]. Rows of no expert are zero. The dtypes are equal, or w is bf16 or f16 under an f32 x and is widened as it is read.
// Products are summed in float32 (float64 for f64) and rounded once. The gradient of x is the same op with Trans flipped, that of w
// GroupedOuter.
type GroupedMatMul struct{ Trans bool }

// GroupedOuter is the transpose of GroupedMatMul in w: a (R, N), b (R, K) and offsets (E+1) give (E, N, K), the sums of a[i]·b[i]ᵀ over the
// rows of each expert. An expert without rows gets zeros. Summed in float32 (float64 for f64) and rounded once.
type GroupedOuter struct{}

var (
	_ graph.Decomposable   = GroupByExpert{}
	_ graph.Frozen         = GroupByExpert{}
	_ graph.Differentiable = GroupedMatMul{}
	_ graph.Decomposable   = GroupedMatMul{}
	_ graph.Coster         = GroupedMatMul{}
	_ graph.Differentiable = GroupedOuter{}
	_ graph.Decomposable   = GroupedOuter{}
	_ graph.Coster         = GroupedOuter{}
)

// SortByExpert applies GroupByExpert to the experts of assignments, i32 of any shape.
func SortByExpert(expert Value, experts int) (order, inverse, offsets Value) {
	out := apply(GroupByExpert{experts}, expert)
	return out[0], out[1], out[2]
}

// GroupedLinear returns w[e]·x[i] for the rows of each expert, for weights stored (experts, out, in): x (R, in) -> (R, out). A weight of
// another dtype is cast to x's, except that 16-bit weights under an f32 x are widened where they are read.
func GroupedLinear(x, w, offsets Value) Value {
	if !x.Valid() || !w.Valid() || !widens(x.Type(), w.Type()) {
		w = castLike(w, x)
	}
	return one(GroupedMatMul{}, x, w, offsets)
}

// widens reports whether w can be read under x without a cast.
func widens(x, w tensor.Type) bool {
	return x.DType == w.DType || x.DType == tensor.F32 && (w.DType == tensor.BF16 || w.DType == tensor.F16)
}

// Name implements graph.Op.
func (GroupByExpert) Name() string { return "group_by_expert" }

// Name implements graph.Op.
func (GroupedMatMul) Name() string { return "grouped_matmul" }

// Name implements graph.Op.
func (GroupedOuter) Name() string { return "grouped_outer" }

// NumOut is 3: order, inverse and offsets.
func (GroupByExpert) NumOut() int { return 3 }

// Infer implements graph.Op.
func (o GroupByExpert) Infer(in []tensor.Type) ([]tensor.Type, error) {
	if err := arity(in, 1); err != nil {
		return nil, err
	}
	n := in[0].Size()
	switch {
	case in[0].DType != tensor.I32:
		return nil, fmt.Errorf("experts must be i32, got %v; cast them", in[0])
	case o.Experts < 1 || o.Experts >= math.MaxInt32 || n > math.MaxInt32:
		return nil, fmt.Errorf("%d experts and %d assignments: there must be at least one expert, and i32 must hold both", o.Experts, n)
	}
	return []tensor.Type{tensor.T(tensor.I32, n), tensor.T(tensor.I32, n), tensor.T(tensor.I32, o.Experts+1)}, nil
}

// FrozenInput implements graph.Frozen.
func (GroupByExpert) FrozenInput(int) string {
	return "which expert a token goes to is an integer; the gradient of routing flows through the weights of the chosen experts"
}

// Decompose implements graph.Decomposable.
func (o GroupByExpert) Decompose(in []Value) []Value {
	e := Reshape(in[0], in[0].Type().Size())
	none := Scalar(e, float64(o.Experts))
	e = Where(And(GreaterEqual(e, Scalar(e, 0)), Less(e, none)), e, none)
	order := ArgSort(e, 0, false)
	first := Iota(e.Graph(), tensor.T(tensor.I32, 1, o.Experts+1), 1)
	below := Cast(Less(Reshape(e, e.Dim(0), 1), first), tensor.I32)
	return []Value{order, ArgSort(order, 0, false), Sum(below, 0)}
}

// checkGroups checks the rows and offsets of grouped products.
func checkGroups(rows, offsets tensor.Type, experts int) error {
	switch {
	case rows.Rank() != 2 || !rows.DType.IsFloat():
		return fmt.Errorf("rows must be a float matrix, got %v", rows)
	case experts < 1:
		return fmt.Errorf("there must be at least one expert")
	case offsets.DType != tensor.I32 || offsets.Rank() != 1 || offsets.Dim(0) != experts+1:
		return fmt.Errorf("the offsets of %d experts must be %v, got %v", experts, tensor.T(tensor.I32, experts+1), offsets)
	}
	return nil
}

// Infer implements graph.Op.
func (o GroupedMatMul) Infer(in []tensor.Type) ([]tensor.Type, error) {
	if err := arity(in, 3); err != nil {
		return nil, err
	}
	x, w := in[0], in[1]
	if w.Rank() != 3 {
		return nil, fmt.Errorf("the weight must be (experts, out, in), got %v", w)
	}
	if err := checkGroups(x, in[2], w.Dim(0)); err != nil {
		return nil, err
	}
	if !widens(x, w) {
		return nil, fmt.Errorf("dtypes differ: x is %v, the weight %v; cast one of them", x.DType, w.DType)
	}
	return groupedResult(x, w.Dim(1), w.Dim(2), o.Trans)
}

// VJP implements graph.Differentiable.
func (o GroupedMatMul) VJP(n *graph.Node, gy []Value, need []bool) []Value {
	x, w, at := n.In[0], n.In[1], n.In[2]
	return lazily(need,
		func() Value { return one(GroupedMatMul{!o.Trans}, gy[0], w, at) },
		func() Value {
			if o.Trans {
				return Cast(one(GroupedOuter{}, x, gy[0], at), w.DType())
			}
			return Cast(one(GroupedOuter{}, gy[0], x, at), w.DType())
		},
		func() Value { return Value{} })
}

// Cost implements graph.Coster.
func (GroupedMatMul) Cost(in, out []tensor.Type) (flops, bytes int64) {
	return 2 * int64(in[0].Size()) * int64(out[0].Dim(1)), sumBytes(in) + sumBytes(out)
}

// Decompose implements graph.Decomposable: a product of all rows for each expert, of which its own are kept.
func (o GroupedMatMul) Decompose(in []Value) []Value {
	x, w := in[0], Cast(in[1], in[0].DType())
	outer := w.Dim(1)
	if o.Trans {
		outer = w.Dim(2)
	}
	y := BroadcastTo(Scalar(x, 0), x.Dim(0), outer)
	for e := range w.Dim(0) {
		each := Reshape(Slice(w, 0, e, e+1), w.Dim(1), w.Dim(2))
		y = Where(groupMask(x, in[2], e), one(MatMul{TransB: !o.Trans}, x, each), y)
	}
	return []Value{y}
}

// groupMask is true for the rows of an expert: (R, 1).
func groupMask(x, offsets Value, e int) Value {
	i := Iota(x.Graph(), tensor.T(tensor.I32, x.Dim(0), 1), 0)
	lo, hi := Reshape(Slice(offsets, 0, e, e+1), 1, 1), Reshape(Slice(offsets, 0, e+1, e+2), 1, 1)
	return And(GreaterEqual(i, lo), Less(i, hi))
}

// Infer implements graph.Op.
func (GroupedOuter) Infer(in []tensor.Type) ([]tensor.Type, error) {
	if err := arity(in, 3); err != nil {
		return nil, err
	}
	a, b := in[0], in[1]
	if err := checkGroups(a, in[2], in[2].Size()-1); err != nil {
		return nil, err
	}
	if b.Rank() != 2 || b.DType != a.DType || b.Dim(0) != a.Dim(0) {
		return nil, fmt.Errorf("the sides must be matrices of one dtype with equal rows, got %v and %v", a, b)
	}
	return []tensor.Type{tensor.T(a.DType, in[2].Dim(0)-1, a.Dim(1), b.Dim(1))}, nil
}

// VJP implements graph.Differentiable.
func (GroupedOuter) VJP(n *graph.Node, gy []Value, need []bool) []Value {
	a, b, at := n.In[0], n.In[1], n.In[2]
	return lazily(need,
		func() Value { return one(GroupedMatMul{}, b, gy[0], at) },
		func() Value { return one(GroupedMatMul{Trans: true}, a, gy[0], at) },
		func() Value { return Value{} })
}

// Cost implements graph.Coster.
func (GroupedOuter) Cost(in, out []tensor.Type) (flops, bytes int64) {
	return 2 * int64(in[0].Size()) * int64(in[1].Dim(1)), sumBytes(in) + sumBytes(out)
}

// Decompose implements graph.Decomposable: a product of all rows for each expert, the others' set to zero.
func (GroupedOuter) Decompose(in []Value) []Value {
	a, b := in[0], in[1]
	var each []Value
	for e := range in[2].Dim(0) - 1 {
		mask := groupMask(a, in[2], e)
		y := one(MatMul{TransA: true}, Where(mask, a, Scalar(a, 0)), Where(mask, b, Scalar(b, 0)))
		each = append(each, Reshape(y, 1, a.Dim(1), b.Dim(1)))
	}
	return []Value{Concat(0, each...)}
}
