package ops

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Permute reorders axes: output axis i is input axis Perm[i], for the first Rank entries.
type Permute struct {
	Rank int8
	Perm [tensor.MaxRank]int8
}

var _ graph.Differentiable = Permute{}

// Name implements graph.Op.
func (Permute) Name() string { return "transpose" }

// String prints the permutation.
func (o Permute) String() string { return fmt.Sprintf("transpose{%v}", o.Perm[:o.Rank]) }

// Infer implements graph.Op.
func (o Permute) Infer(in []tensor.Type) ([]tensor.Type, error) {
	if err := arity(in, 1); err != nil {
		return nil, err
	}
	if int(o.Rank) != in[0].Rank() {
		return nil, fmt.Errorf("permutes %d axes, the input has %d", o.Rank, in[0].Rank())
	}
	seen := 0
	dims := make([]int, o.Rank)
	for i, p := range o.Perm[:o.Rank] {
		if p < 0 || p >= o.Rank || seen>>p&1 == 1 {
			return nil, fmt.Errorf("%v is not a permutation of the axes", o.Perm[:o.Rank])
		}
		seen |= 1 << p
		dims[i] = in[0].Dim(int(p))
	}
	return []tensor.Type{tensor.T(in[0].DType, dims...)}, nil
}

// VJP implements graph.Differentiable by the inverse permutation.
func (o Permute) VJP(_ *graph.Node, gy []Value, _ []bool) []Value {
	inv := Permute{Rank: o.Rank}
	for i, p := range o.Perm[:o.Rank] {
		inv.Perm[p] = int8(i)
	}
	return []Value{one(inv, gy[0])}
}

// View reports that moving axes of extent 1 keeps the bytes in place.
func (o Permute) View(in []tensor.Type) (int64, bool) {
	last := int8(-1)
	for _, p := range o.Perm[:o.Rank] {
		if in[0].Dim(int(p)) == 1 {
			continue
		}
		if p < last {
			return 0, false
		}
		last = p
	}
	return 0, true
}

// Transpose reorders the axes of x; without perm the last two are swapped.
func Transpose(x Value, perm ...int) Value {
	if !x.Valid() {
		return x
	}
	if len(perm) == 0 && x.Rank() >= 2 {
		for i := range x.Rank() {
			perm = append(perm, i)
		}
		n := len(perm)
		perm[n-1], perm[n-2] = perm[n-2], perm[n-1]
	}
	if len(perm) > tensor.MaxRank {
		return fail("transpose", x, "%d axes given, at most %d", len(perm), tensor.MaxRank)
	}
	o := Permute{Rank: int8(len(perm))}
	identity := true
	for i, p := range perm {
		if p < 0 || p >= x.Rank() {
			return fail("transpose", x, "%v is not a permutation of the axes", perm)
		}
		o.Perm[i] = int8(p)
		identity = identity && i == p
	}
	if identity && len(perm) == x.Rank() {
		return x
	}
	return one(o, x)
}

// Expand repeats x to a larger shape by NumPy's rule.
type Expand struct{ Shape tensor.Shape }

var _ graph.Differentiable = Expand{}

// Name implements graph.Op.
func (Expand) Name() string { return "broadcast" }

// Infer implements graph.Op.
func (o Expand) Infer(in []tensor.Type) ([]tensor.Type, error) {
	if err := arity(in, 1); err != nil {
		return nil, err
	}
	s, err := tensor.Broadcast(in[0].Shape, o.Shape)
	if err != nil || s != o.Shape {
		return nil, fmt.Errorf("cannot broadcast %v to %v", in[0], o.Shape)
	}
	return []tensor.Type{{DType: in[0].DType, Shape: o.Shape}}, nil
}

// VJP implements graph.Differentiable.
func (Expand) VJP(n *graph.Node, gy []Value, _ []bool) []Value {
	return []Value{SumTo(gy[0], n.In[0].Shape())}
}

// BroadcastTo repeats x to the given shape by NumPy's rule.
func BroadcastTo(x Value, dims ...int) Value {
	if x.Valid() && x.Shape() == tensor.S(dims...) {
		return x
	}
	return one(Expand{tensor.S(dims...)}, x)
}
