package ops

import (
	"fmt"
	"math"
	"math/bits"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Reduction is how Reduce combines elements.
type Reduction uint8

// The reductions. ArgMax and ArgMin give the i32 index of the first largest or smallest element along a single axis.
const (
	RedSum Reduction = iota
	RedMax
	RedMin
	RedProd
	RedArgMax
	RedArgMin
)

var reductionNames = [...]string{"sum", "max", "min", "prod", "argmax", "argmin"}

// Reduce combines the elements along the axes whose bits are set in Axes. The reduced axes are dropped. Sums are accumulated at
// least in float32, in an order fixed by the shape, so that results do not depend on the number of threads. Integers are
// combined in 64 bits: i64 and u64 wrap, narrower types saturate once at the end. A NaN wins over every number.
type Reduce struct {
	Kind Reduction
	Axes uint16
}

var _ graph.Differentiable = Reduce{}

// Name implements graph.Op.
func (o Reduce) Name() string { return "reduce_" + reductionNames[o.Kind] }

// Infer implements graph.Op.
func (o Reduce) Infer(in []tensor.Type) ([]tensor.Type, error) {
	if err := arity(in, 1); err != nil {
		return nil, err
	}
	t := in[0]
	if t.DType == tensor.Bool {
		return nil, fmt.Errorf("not defined on bool; cast first")
	}
	if o.Axes>>t.Rank() != 0 {
		return nil, fmt.Errorf("an axis is out of range for rank %d", t.Rank())
	}
	var dims []int
	for i := range t.Rank() {
		if o.Axes>>i&1 == 0 {
			dims = append(dims, t.Dim(i))
		} else if t.Dim(i) == 0 && o.Kind != RedSum && o.Kind != RedProd {
			return nil, fmt.Errorf("axis %d is empty", i)
		}
	}
	d := t.DType
	if o.Kind == RedArgMax || o.Kind == RedArgMin {
		d = tensor.I32
		if bits.OnesCount16(o.Axes) != 1 || t.Dim(bits.TrailingZeros16(o.Axes)) > math.MaxInt32 {
			return nil, fmt.Errorf("takes one axis of at most 2^31-1 elements: the index is i32")
		}
	}
	return []tensor.Type{tensor.T(d, dims...)}, nil
}

// VJP implements graph.Differentiable.
func (o Reduce) VJP(n *graph.Node, gy []Value, _ []bool) []Value {
	x := n.In[0]
	dims := x.Shape().Dims()
	keep := x.Shape().Dims()
	for i := range keep {
		if o.Axes>>i&1 == 1 {
			keep[i] = 1
		}
	}
	g := Reshape(gy[0], keep...)
	switch o.Kind {
	case RedSum:
		return []Value{BroadcastTo(g, dims...)}
	case RedMax, RedMin: // ties share the gradient equally
		hit := Cast(Equal(x, Reshape(n.Output(0), keep...)), x.DType())
		count := Reshape(one(Reduce{RedSum, o.Axes}, hit), keep...)
		return []Value{Mul(hit, Div(g, count))}
	case RedProd:
		return []Value{Mul(g, prodOfOthers(x, o.Axes))}
	}
	return []Value{{}}
}

// Sum adds along the axes (all without any), dropping them.
func Sum(x Value, axes ...int) Value { return reduce(RedSum, x, axes) }

// MaxOf returns the largest element along the axes (all without any).
func MaxOf(x Value, axes ...int) Value { return reduce(RedMax, x, axes) }

// MinOf returns the smallest element along the axes (all without any).
func MinOf(x Value, axes ...int) Value { return reduce(RedMin, x, axes) }

// Prod multiplies along the axes (all without any).
func Prod(x Value, axes ...int) Value { return reduce(RedProd, x, axes) }

// prodOfOthers is, for each element, the product of the others along the axes: of those before it times those after it. Nothing
// is divided, so that zeros, also several, give the exact gradient of the product, and it is a polynomial for further ones.
func prodOfOthers(x Value, axes uint16) Value {
	var perm []int
	for _, reduced := range []uint16{0, 1} {
		for i := range x.Rank() {
			if axes>>i&1 == reduced {
				perm = append(perm, i)
			}
		}
	}
	kept := x.Rank() - bits.OnesCount16(axes)
	t := Transpose(x, perm...)
	flat := Reshape(t, append(t.Shape().Dims()[:kept:kept], tensor.S(t.Shape().Dims()[kept:]...).Size())...)
	others := Mul(CumProd(flat, -1, Cumulative{Exclusive: true}), CumProd(flat, -1, Cumulative{Exclusive: true, Reverse: true}))
	back := make([]int, len(perm))
	for i, p := range perm {
		back[p] = i
	}
	return Transpose(Reshape(others, t.Shape().Dims()...), back...)
}

// ArgMax returns the i32 index of the first largest element along one axis; the first NaN counts as the largest.
func ArgMax(x Value, axis int) Value { return reduce(RedArgMax, x, []int{axis}) }

// ArgMin returns the i32 index of the first smallest element along one axis; the first NaN counts as the smallest.
func ArgMin(x Value, axis int) Value { return reduce(RedArgMin, x, []int{axis}) }

// Mean averages along the axes (all without any).
func Mean(x Value, axes ...int) Value {
	if !x.Valid() {
		return x
	}
	if !x.DType().IsFloat() {
		return fail("mean", x, "not defined on %v; cast first", x.DType())
	}
	s := Sum(x, axes...)
	if !s.Valid() {
		return s
	}
	return Scale(s, float64(s.Type().Size())/float64(max(x.Type().Size(), 1)))
}

func reduce(kind Reduction, x Value, axes []int) Value {
	if !x.Valid() {
		return x
	}
	var mask uint16
	for _, a := range axes {
		i, ok := axisOf("reduce_"+reductionNames[kind], x, a)
		if !ok {
			return absorb(x)
		}
		mask |= 1 << i
	}
	if len(axes) == 0 {
		mask = 1<<x.Rank() - 1
	}
	if mask == 0 && kind != RedArgMax && kind != RedArgMin {
		return x
	}
	return one(Reduce{kind, mask}, x)
}

// SumTo adds up the axes along which x was broadcast from shape s, the inverse of NumPy broadcasting.
func SumTo(x Value, s tensor.Shape) Value {
	if !x.Valid() || x.Shape() == s {
		return x
	}
	var mask uint16
	lead := x.Rank() - s.Rank()
	for i := range x.Rank() {
		if i < lead || (s.Dim(i-lead) == 1 && x.Dim(i) != 1) {
			mask |= 1 << i
		}
	}
	return Reshape(one(Reduce{RedSum, mask}, x), s.Dims()...)
}
