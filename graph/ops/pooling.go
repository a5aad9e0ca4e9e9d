package ops

import (
	"math"
	"slices"

	"github.com/bitsandbyes/bitsandbyes/tensor"
)

var negInf = math.Inf(-1)

// PoolOptions are the settings of a pooling. The stride's default is the kernel, as in PyTorch.
type PoolOptions struct {
	WindowOptions
	// Ceil rounds the number of windows up: the last one may hang over the padding's end, but must start before it.
	Ceil bool
	// CountPad counts padding as elements in an average.
	CountPad bool
}

// MaxPool takes the largest element of each window of x (N, C, S...), over one to three spatial axes.
func MaxPool(x Value, kernel []int, o PoolOptions) Value {
	y, _ := MaxPoolIndices(x, kernel, o)
	return y
}

// MaxPoolIndices is MaxPool that also returns the i32 flat position of each largest element in its channel, as MaxUnpool takes
// it.
func MaxPoolIndices(x Value, kernel []int, o PoolOptions) (y, idx Value) {
	w, _, ok := o.pool("max_pool", x, kernel)
	if !ok {
		return absorb(x), absorb(x)
	}
	out := apply(MaxPoolOp{w}, x)
	return out[0], out[1]
}

// AvgPool averages each window of x (N, C, S...): over the elements it sees, or with CountPad over padding too.
func AvgPool(x Value, kernel []int, o PoolOptions) Value {
	w, beyond, ok := o.pool("avg_pool", x, kernel)
	if !ok {
		return absorb(x)
	}
	if o.CountPad {
		return one(SumPoolOp{w, PoolPadded, beyond}, x)
	}
	return one(SumPoolOp{Window: w, Count: PoolSeen}, x)
}

// LpPool is (Σ |x|^p)^(1/p) over each window of x (N, C, S...), for p >= 1. It is computed at least in float32; its gradient is
// 0 where a window is all zeros.
func LpPool(x Value, p float64, kernel []int, o PoolOptions) Value {
	w, _, ok := o.pool("lp_pool", x, kernel)
	if !ok {
		return absorb(x)
	}
	if !(p >= 1) || math.IsInf(p, 1) {
		return fail("lp_pool", x, "p must be finite and at least 1, got %v; the limit of large p is MaxPool of the absolute values", p)
	}
	z := Cast(x, wide(x.DType()))
	return Cast(root(one(SumPoolOp{Window: w}, power(z, p)), p), x.DType())
}

// power is |x|^p.
func power(x Value, p float64) Value {
	switch p {
	case 1:
		return Abs(x)
	case 2:
		return Square(x)
	}
	return Pow(Abs(x), Scalar(x, p))
}

// root is s^(1/p) for s >= 0, with gradient 0 at 0.
func root(s Value, p float64) Value {
	if p == 1 || !s.Valid() {
		return s
	}
	none := Equal(s, Scalar(s, 0))
	safe := Where(none, Scalar(s, 1), s)
	r := Sqrt(safe)
	if p != 2 {
		r = Pow(safe, Scalar(s, 1/p))
	}
	return Where(none, Scalar(s, 0), r)
}

// pool makes the window; beyond is what Ceil adds to the padding after each axis.
func (o PoolOptions) pool(name string, x Value, kernel []int) (w Window, beyond [MaxWindow]int32, ok bool) {
	if !x.Valid() {
		return w, beyond, false
	}
	if o.Stride == nil {
		o.Stride = kernel
	}
	w, err := o.Window(kernel...)
	if err != nil {
		fail(name, x, "%v", err)
		return w, beyond, false
	}
	if !o.Ceil || x.Rank() != w.rank()+2 {
		return w, beyond, true
	}
	for i := range w.rank() {
		n, s := x.Dim(2+i), int(w.Stride[i])
		room := n + int(w.Lo[i]) + int(w.Hi[i]) - w.Extent(i)
		if room < 0 || room%s == 0 {
			continue
		}
		steps := room/s + 1
		if steps*s >= n+int(w.Lo[i]) {
			continue // the window would start in the padding
		}
		beyond[i] = int32(steps*s - room)
		w.Hi[i] += beyond[i]
	}
	return w, beyond, true
}

// GlobalAvgPool averages x (N, C, S...) over all spatial axes, which stay with extent 1.
func GlobalAvgPool(x Value) Value { return global("global_avg_pool", x, Mean) }

// GlobalMaxPool is the largest element of each channel of x (N, C, S...); the spatial axes stay with extent 1.
func GlobalMaxPool(x Value) Value { return global("global_max_pool", x, MaxOf) }

func global(name string, x Value, f func(Value, ...int) Value) Value {
	if !x.Valid() {
		return x
	}
	if x.Rank() < 3 {
		return fail(name, x, "the input must be (N, C) and spatial axes")
	}
	var axes []int
	for i := 2; i < x.Rank(); i++ {
		axes = append(axes, i)
	}
	return Reshape(f(x, axes...), append(x.Shape().Dims()[:2], onesOf(x.Rank()-2)...)...)
}

// AdaptiveAvgPool averages x (N, C, S...) to the given spatial extents: output i of m over an axis of n elements averages
// elements floor(i·n/m) up to ceil((i+1)·n/m), as in PyTorch.
func AdaptiveAvgPool(x Value, out ...int) Value {
	return adaptive("adaptive_avg_pool", x, out, func(x Value, axis, m int) Value {
		dims := slices.Repeat([]int{1}, x.Rank())
		dims[axis] = m
		share := tensor.New(tensor.T(x.DType(), dims...))
		for i := range m {
			lo, hi := adaptiveRange(i, x.Dim(axis), m)
			share.Set(i, 1/float64(hi-lo))
		}
		// elements outside, which a shorter range takes to the common width, are zeros
		sum := Sum(Gather(x, axis, adaptiveIndex(x, axis, m, func(at, hi int) int {
			if at < hi {
				return at
			}
			return -1
		})), axis+1)
		return Mul(sum, x.Graph().Const(share))
	})
}

// AdaptiveMaxPool takes the largest elements of x (N, C, S...) over the ranges of AdaptiveAvgPool.
func AdaptiveMaxPool(x Value, out ...int) Value {
	return adaptive("adaptive_max_pool", x, out, func(x Value, axis, m int) Value {
		return MaxOf(Gather(x, axis, adaptiveIndex(x, axis, m, func(at, hi int) int { return min(at, hi-1) })), axis+1)
	})
}

// adaptiveIndex is the i32 (m, width) positions of the elements of each range of an axis, as many as the widest has; pick says which
// one stands at a position that may lie beyond the range's end hi.
func adaptiveIndex(x Value, axis, m int, pick func(at, hi int) int) Value {
	n, width := x.Dim(axis), 1
	for i := range m {
		lo, hi := adaptiveRange(i, n, m)
		width = max(width, hi-lo)
	}
	idx := tensor.New(tensor.T(tensor.I32, m, width))
	at := tensor.Data[int32](idx)
	for i := range at {
		lo, hi := adaptiveRange(i/width, n, m)
		at[i] = int32(pick(lo+i%width, hi))
	}
	return x.Graph().Const(idx)
}

// maxAdaptive bounds the positions that an axis is pooled from and to.
const maxAdaptive = 1 << 26

func adaptiveRange(i, n, m int) (lo, hi int) { return i * n / m, ((i+1)*n + m - 1) / m }

// adaptive pools one axis after the other, at least in float32.
func adaptive(name string, x Value, out []int, axis func(x Value, axis, m int) Value) Value {
	if !x.Valid() {
		return x
	}
	if len(out) < 1 || x.Rank() != len(out)+2 || !x.DType().IsFloat() {
		return fail(name, x, "the input must be (N, C) and %d spatial axes of a float dtype", len(out))
	}
	y := Cast(x, wide(x.DType()))
	for i, m := range out {
		if n := x.Dim(2 + i); m < 1 || n < 1 || m > maxAdaptive/n {
			return fail(name, x, "cannot pool axis %d of %d elements to %d positions", 2+i, n, m)
		}
		if m != y.Dim(2+i) {
			y = axis(y, 2+i, m)
		}
	}
	return Cast(y, x.DType())
}
