package ops

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// MaxPoolOp takes the largest element that each window sees: x (N, C, S...) of a float dtype gives y (N, C, P...) and the i32
// position of that element in its channel (flat, row-major; the first of equals). A NaN is larger than any number. Padding is
// never taken.
type MaxPoolOp struct{ Window }

// PoolCount is what a SumPoolOp divides its sums by.
type PoolCount uint8

// The divisors.
const (
	PoolSum    PoolCount = iota // nothing
	PoolSeen                    // the elements that the window sees
	PoolPadded                  // and the padding; not what ceil mode adds beyond it
)

// SumPoolOp adds up what each window sees of x (N, C, S...), as (N, C, P...), and divides by Count. Beyond is the part of Hi
// that rounding up has added to the padding. Sums are kept at least in float32.
type SumPoolOp struct {
	Window
	Count  PoolCount
	Beyond [MaxWindow]int32
}

// SumUnpoolOp is the transpose of SumPoolOp, to the spatial extents Size: y (N, C, P...) gives x (N, C, S...).
type SumUnpoolOp struct {
	SumPoolOp
	Size [MaxWindow]int64
}

var (
	_ graph.Differentiable = MaxPoolOp{}
	_ graph.Decomposable   = MaxPoolOp{}
	_ graph.Coster         = MaxPoolOp{}
	_ graph.Differentiable = SumPoolOp{}
	_ graph.Decomposable   = SumPoolOp{}
	_ graph.Coster         = SumPoolOp{}
	_ graph.Differentiable = SumUnpoolOp{}
	_ graph.Decomposable   = SumUnpoolOp{}
	_ graph.Coster         = SumUnpoolOp{}
)

// Name implements graph.Op.
func (MaxPoolOp) Name() string { return "max_pool" }

// Name implements graph.Op.
func (SumPoolOp) Name() string { return "sum_pool" }

// Name implements graph.Op.
func (SumUnpoolOp) Name() string { return "sum_unpool" }

// NumOut is the number of outputs: y and the positions.
func (MaxPoolOp) NumOut() int { return 2 }

// pooled is the type of y for x, or why the window does not fit.
func (w Window) pooled(x tensor.Type) (tensor.Type, error) {
	out, err := w.outDims(x)
	if err != nil {
		return tensor.Type{}, err
	}
	if !x.DType.IsFloat() {
		return tensor.Type{}, fmt.Errorf("not defined on %v; cast to a float dtype", x.DType)
	}
	if product(x.Shape.Dims()[2:]) > 1<<31-1 {
		return tensor.Type{}, fmt.Errorf("a channel of %v has more than 2^31-1 elements", x)
	}
	for i, p := range out {
		if at := w.blind(i, x.Dim(2+i), p); at >= 0 {
			return tensor.Type{}, fmt.Errorf("window %d of axis %d sees only padding; pad less than the kernel's extent %d", at, i, w.Extent(i))
		}
	}
	return tensor.T(x.DType, append(x.Shape.Dims()[:2], out...)...), nil
}

// blind is the first of p output positions that sees none of n elements of an axis, or -1. Where the first tap is on an element there
// is nothing to ask, so only the positions over the padding are walked.
func (w Window) blind(axis, n, p int) int {
	s, lo := int(w.Stride[axis]), int(w.Lo[axis])
	for at := range min((lo+s-1)/s, p) {
		if w.within(axis, at, 0, n) == 0 {
			return at
		}
	}
	for at := max((n+lo+s-1)/s, 0); at < p; at++ {
		if w.within(axis, at, 0, n) == 0 {
			return at
		}
	}
	return -1
}

// within counts the taps of an output position that fall on input positions [lo, hi) of an axis.
func (w Window) within(axis, at, lo, hi int) (count int) {
	for k := range int(w.Kernel[axis]) {
		if i := at*int(w.Stride[axis]) + k*int(w.Dilation[axis]) - int(w.Lo[axis]); i >= lo && i < hi {
			count++
		}
	}
	return count
}

// Infer implements graph.Op.
func (o MaxPoolOp) Infer(in []tensor.Type) ([]tensor.Type, error) {
	if err := arity(in, 1); err != nil {
		return nil, err
	}
	y, err := o.pooled(in[0])
	return []tensor.Type{y, y.With(tensor.I32)}, err
}

// Infer implements graph.Op.
func (o SumPoolOp) Infer(in []tensor.Type) ([]tensor.Type, error) {
	if err := arity(in, 1); err != nil {
		return nil, err
	}
	y, err := o.pooled(in[0])
	return []tensor.Type{y}, err
}

// Infer implements graph.Op.
func (o SumUnpoolOp) Infer(in []tensor.Type) ([]tensor.Type, error) {
	if err := arity(in, 1); err != nil {
		return nil, err
	}
	if in[0].Rank() != o.rank()+2 || o.check() != nil {
		return nil, fmt.Errorf("the input must have two and %d spatial axes, got %v", o.Rank, in[0])
	}
	x := tensor.T(in[0].DType, append(in[0].Shape.Dims()[:2], ints(o.Size, o.rank())...)...)
	if !x.Shape.Valid() {
		return nil, fmt.Errorf("the output size %v is not valid", o.Size[:o.rank()])
	}
	y, err := o.pooled(x)
	if err == nil && y != in[0] {
		err = fmt.Errorf("the input is %v, must be %v", in[0], y)
	}
	return []tensor.Type{x}, err
}

// VJP implements graph.Differentiable.
func (o MaxPoolOp) VJP(n *graph.Node, gy []Value, _ []bool) []Value {
	if gy[0].Absent() {
		return make([]Value, 1)
	}
	return []Value{MaxUnpool(gy[0], n.Output(1), n.In[0].Shape().Dims()[2:]...)}
}

// VJP implements graph.Differentiable.
func (o SumPoolOp) VJP(n *graph.Node, gy []Value, _ []bool) []Value {
	return []Value{one(SumUnpoolOp{o, int64s(n.In[0].Shape().Dims()[2:])}, gy[0])}
}

// VJP implements graph.Differentiable.
func (o SumUnpoolOp) VJP(_ *graph.Node, gx []Value, _ []bool) []Value {
	return []Value{one(o.SumPoolOp, gx[0])}
}

// Decompose implements graph.Decomposable.
func (o MaxPoolOp) Decompose(in []Value) []Value {
	x := in[0]
	out, _ := o.outDims(x.Type())
	if x.Type().Size() == 0 {
		y := Reshape(x, append(x.Shape().Dims()[:2], out...)...)
		return []Value{y, Cast(y, tensor.I32)}
	}
	flat := append(x.Shape().Dims()[:2], o.Taps(), product(out))
	seen := Reshape(o.unfold(x, out), flat...)
	at, inside := o.sources(x, out)
	low := Cast(Fill(x.Graph(), tensor.F32, negInf), x.DType())
	seen = Where(inside, seen, low)
	y := MaxOf(seen, 2)
	most := Reshape(y, flat[0], flat[1], 1, flat[3])
	best := And(inside, Or(Equal(seen, most), IsNaN(seen))) // padding is as low as -Inf; a NaN is the most
	pick := Equal(Iota(x.Graph(), tensor.T(tensor.I32, o.Taps(), 1), 0), Reshape(ArgMax(Cast(best, tensor.U8), 2), flat[0], flat[1], 1, flat[3]))
	idx := Sum(Where(pick, at, Scalar(at, 0)), 2)
	dims := append(flat[:2:2], out...)
	return []Value{Reshape(y, dims...), Reshape(idx, dims...)}
}

// sources are the i32 (taps, positions) flat position in a channel of x that each tap sees, and whether there is one.
func (w Window) sources(x Value, out []int) (at, inside Value) {
	for i := range out {
		dims := make([]int, 2*w.rank())
		for j := range dims {
			dims[j] = 1
		}
		dims[i], dims[w.rank()+i] = int(w.Kernel[i]), out[i]
		n := x.Dim(2 + i)
		pos := Reshape(w.positions(x, i, out[i]), dims...)
		ok := And(GreaterEqual(pos, Scalar(pos, 0)), Less(pos, Scalar(pos, float64(n))))
		if at.Absent() {
			at, inside = pos, ok
			continue
		}
		at, inside = Add(Scale(at, float64(n)), pos), And(inside, ok)
	}
	return Reshape(at, w.Taps(), product(out)), Reshape(inside, w.Taps(), product(out))
}

// Decompose implements graph.Decomposable.
func (o SumPoolOp) Decompose(in []Value) []Value {
	x := Cast(in[0], wide(in[0].DType()))
	out, _ := o.outDims(x.Type())
	taps := make([]int, o.rank())
	for i := range taps {
		taps[i] = 2 + i
	}
	y := Sum(o.unfold(x, out), taps...)
	return []Value{Cast(o.divided(y, x.Shape().Dims()[2:]), in[0].DType())}
}

// Decompose implements graph.Decomposable.
func (o SumUnpoolOp) Decompose(in []Value) []Value {
	y := Cast(in[0], wide(in[0].DType()))
	size, out := ints(o.Size, o.rank()), y.Shape().Dims()[2:]
	y = o.divided(y, size)
	dims := y.Shape().Dims()[:2]
	lead := append(dims[:2:2], onesOf(o.rank())...)
	u := BroadcastTo(Reshape(y, append(lead, out...)...), append(append(dims[:2:2], o.kernelDims()...), out...)...)
	return []Value{Cast(o.fold(u, out, size), in[0].DType())}
}

func onesOf(n int) []int {
	out := make([]int, n)
	for i := range out {
		out[i] = 1
	}
	return out
}

// divided divides sums y (N, C, P...) over an input of spatial extents in.
func (o SumPoolOp) divided(y Value, in []int) Value {
	if o.Count == PoolSum {
		return y
	}
	for i, n := range in {
		inv := tensor.New(tensor.T(y.DType(), append([]int{y.Dim(2 + i)}, onesOf(o.rank()-1-i)...)...))
		for p, c := range o.Counts(i, n, y.Dim(2+i)) {
			inv.Set(p, 1/float64(c))
		}
		y = Mul(y, y.Graph().Const(inv))
	}
	return y
}

// Counts is what the sums of the p output positions of an axis of n elements are divided by; a window's divisor is the product
// over its axes.
func (o SumPoolOp) Counts(axis, n, p int) []int {
	out := make([]int, p)
	for at := range out {
		switch o.Count {
		case PoolSeen:
			out[at] = o.within(axis, at, 0, n)
		case PoolPadded:
			out[at] = o.within(axis, at, -int(o.Lo[axis]), n+int(o.Hi[axis]-o.Beyond[axis]))
		default:
			out[at] = 1
		}
	}
	return out
}

// Cost implements graph.Coster.
func (o MaxPoolOp) Cost(in, out []tensor.Type) (flops, bytes int64) {
	return int64(out[0].Size()) * int64(o.Taps()), sumBytes(in) + sumBytes(out)
}

// Cost implements graph.Coster.
func (o SumPoolOp) Cost(in, out []tensor.Type) (flops, bytes int64) {
	return int64(out[0].Size()) * int64(o.Taps()), sumBytes(in) + sumBytes(out)
}

// Cost implements graph.Coster.
func (o SumUnpoolOp) Cost(in, out []tensor.Type) (flops, bytes int64) {
	return int64(in[0].Size()) * int64(o.Taps()), sumBytes(in) + sumBytes(out)
}
