package ops

import (
	"fmt"
	"math"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// BatchNormOp gives each channel mean 0 and variance 1 over the rows and the spatial axes (Ioffe & Szegedy 2015):
// y = (x - mean) / sqrt(var + Eps) · w + b for x (N, C, S...) and w, b (C) of one dtype, each of which may be absent. The
// outputs are y and the statistics of the batch, mean (C) and the biased var (C), in f32 (f64 for f64).
type BatchNormOp struct{ Eps float64 }

// BatchNormGradOp is the gradient of BatchNormOp's y from x (N, C, S...), w (C, or absent), mean and var (C) and the cotangent
// gy (N, C, S...). Its outputs are dx if NeedX, then dw (C) if NeedW, then db (C) if NeedB. With r = 1/sqrt(var + Eps) and
// x̂ = (x-mean)·r: dx = w·r·(gy - mean(gy) - x̂·mean(gy·x̂)), dw = Σ gy·x̂, db = Σ gy.
type BatchNormGradOp struct {
	Eps                 float64
	NeedX, NeedW, NeedB bool
}

var (
	_ graph.Differentiable = BatchNormOp{}
	_ graph.Decomposable   = BatchNormOp{}
	_ graph.Coster         = BatchNormOp{}
	_ graph.Decomposable   = BatchNormGradOp{}
	_ graph.Coster         = BatchNormGradOp{}
)

// Name implements graph.Op.
func (BatchNormOp) Name() string { return "batchnorm" }

// Name implements graph.Op.
func (BatchNormGradOp) Name() string { return "batchnorm_grad" }

// NumOut is the number of outputs: y, mean and var.
func (BatchNormOp) NumOut() int { return 3 }

// NumOut is the number of outputs.
func (o BatchNormGradOp) NumOut() int { return countTrue(o.NeedX, o.NeedW, o.NeedB) }

// Infer implements graph.Op.
func (o BatchNormOp) Infer(in []tensor.Type) ([]tensor.Type, error) {
	if len(in) != 3 {
		return nil, fmt.Errorf("takes 3 inputs, got %d", len(in))
	}
	stat, err := channelStats(o.Eps, in[0], in[1:]...)
	return []tensor.Type{in[0], stat, stat}, err
}

// channelStats checks x (N, C, S...) and the present ones of the parameters (C), and returns the type of a statistic.
func channelStats(eps float64, x tensor.Type, params ...tensor.Type) (tensor.Type, error) {
	switch {
	case x.DType == tensor.Invalid:
		return x, fmt.Errorf("input 0 is absent")
	case x.Rank() < 2 || !x.DType.IsFloat():
		return x, fmt.Errorf("the input must be (N, C, S...) of a float dtype, got %v", x)
	case x.Dim(0) == 0 || product(x.Shape.Dims()[2:]) == 0:
		return x, fmt.Errorf("there is nothing to take statistics of in %v", x)
	case !(eps >= 0):
		return x, fmt.Errorf("eps must not be negative, got %v", eps)
	}
	for _, p := range params {
		if want := tensor.T(x.DType, x.Dim(1)); p.DType != tensor.Invalid && p != want {
			return x, fmt.Errorf("a parameter is %v, must be %v", p, want)
		}
	}
	return tensor.T(wide(x.DType), x.Dim(1)), nil
}

// Infer implements graph.Op.
func (o BatchNormGradOp) Infer(in []tensor.Type) ([]tensor.Type, error) {
	if len(in) != 5 {
		return nil, fmt.Errorf("takes 5 inputs, got %d", len(in))
	}
	stat, err := channelStats(o.Eps, in[0], in[1])
	switch {
	case err != nil:
		return nil, err
	case o.NumOut() == 0:
		return nil, fmt.Errorf("no gradient is needed")
	case in[2] != stat || in[3] != stat:
		return nil, fmt.Errorf("mean and var are %v and %v, must be %v", in[2], in[3], stat)
	case in[4] != in[0]:
		return nil, fmt.Errorf("the cotangent is %v, must be %v", in[4], in[0])
	}
	c := tensor.T(in[0].DType, in[0].Dim(1))
	return picked([]tensor.Type{in[0], c, c}, o.NeedX, o.NeedW, o.NeedB), nil
}

// VJP implements graph.Differentiable. Cotangents of the statistics, which gradients of gradients have, add
// gmean/M + 2·gvar·(x-mean)/M to dx, M elements a channel.
func (o BatchNormOp) VJP(n *graph.Node, gy []Value, need []bool) []Value {
	out := make([]Value, 3)
	x, w, mean, variance := n.In[0], n.In[1], n.Output(1), n.Output(2)
	if !gy[0].Absent() {
		want := []bool{need[0], need[1] && !w.Absent(), need[2] && !n.In[2].Absent()}
		out = spread(apply(BatchNormGradOp{o.Eps, want[0], want[1], want[2]}, x, w, mean, variance, gy[0]), want...)
	}
	if !need[0] {
		return out
	}
	per, z := 1/float64(x.Dim(0)*product(x.Shape().Dims()[2:])), Cast(x, wide(x.DType()))
	plus := func(v Value) {
		v = Cast(BroadcastTo(v, x.Shape().Dims()...), x.DType())
		if out[0].Absent() {
			out[0] = v
		} else {
			out[0] = Add(out[0], v)
		}
	}
	if !gy[1].Absent() {
		plus(channelwise(Scale(gy[1], per), z))
	}
	if !gy[2].Absent() {
		plus(Mul(channelwise(Scale(gy[2], 2*per), z), Sub(z, channelwise(mean, z))))
	}
	return out
}

// batchAxes are all axes but the channels'.
func batchAxes(rank int) []int {
	axes := []int{0}
	for i := 2; i < rank; i++ {
		axes = append(axes, i)
	}
	return axes
}

// Decompose implements graph.Decomposable.
func (o BatchNormOp) Decompose(in []Value) []Value {
	x := Cast(in[0], wide(in[0].DType()))
	axes := batchAxes(x.Rank())
	mean := Mean(x, axes...)
	c := Sub(x, channelwise(mean, x))
	variance := Mean(Square(c), axes...)
	y := Mul(c, channelwise(Rsqrt(AddScalar(variance, o.Eps)), x))
	return []Value{Cast(channelAffine(y, in[1], in[2]), in[0].DType()), mean, variance}
}

// channelAffine is x·w + b with w and b (C), each of which may be absent.
func channelAffine(x, w, b Value) Value {
	if !w.Absent() {
		x = Mul(x, channelwise(w, x))
	}
	if !b.Absent() {
		x = Add(x, channelwise(b, x))
	}
	return x
}

// Decompose implements graph.Decomposable.
func (o BatchNormGradOp) Decompose(in []Value) []Value {
	d := in[0].DType()
	x, g := Cast(in[0], wide(d)), Cast(in[4], wide(d))
	axes := batchAxes(x.Rank())
	r := channelwise(Rsqrt(AddScalar(in[3], o.Eps)), x)
	xh := Mul(Sub(x, channelwise(in[2], x)), r)
	var out []Value
	if o.NeedX {
		dx := Sub(Sub(g, channelwise(Mean(g, axes...), x)), Mul(xh, channelwise(Mean(Mul(g, xh), axes...), x)))
		out = append(out, Cast(channelAffine(Mul(dx, r), in[1], Value{}), d))
	}
	if o.NeedW {
		out = append(out, Cast(Sum(Mul(g, xh), axes...), d))
	}
	if o.NeedB {
		out = append(out, Cast(Sum(g, axes...), d))
	}
	return out
}

// Cost implements graph.Coster.
func (BatchNormOp) Cost(in, out []tensor.Type) (flops, bytes int64) { return rowCost(6, in, out) }

// Cost implements graph.Coster.
func (BatchNormGradOp) Cost(in, out []tensor.Type) (flops, bytes int64) { return rowCost(11, in, out) }

// BatchNorm normalises each channel of x (N, C, S...) by the statistics of the batch and scales it by w and b (C), each of which
// may be absent. It also returns the statistics: mean and the biased variance, (C) in f32 (f64 for f64).
func BatchNorm(x, w, b Value, eps float64) (y, mean, variance Value) {
	out := apply(BatchNormOp{eps}, x, castLike(w, x), castLike(b, x))
	return out[0], out[1], out[2]
}

// BatchNormFixed normalises each channel of x (N, C, S...) by given statistics (C), as evaluation does:
// y = (x - mean) / sqrt(variance + eps) · w + b, computed at least in float32; w and b may be absent.
func BatchNormFixed(x, w, b, mean, variance Value, eps float64) Value {
	if !x.Valid() || !mean.Valid() || !variance.Valid() {
		return absorb(x)
	}
	if x.Rank() < 2 || !x.DType().IsFloat() || !(eps >= 0) {
		return fail("batchnorm", x, "the input must be (N, C, S...) of a float dtype and eps not negative, got %v and %v", x.Type(), eps)
	}
	if err := channelVectors(x, w, b, mean, variance); err != nil {
		return fail("batchnorm", x, "%v", err)
	}
	z := Cast(x, wide(x.DType()))
	z = Mul(Sub(z, channelwise(mean, z)), channelwise(Rsqrt(AddScalar(castLike(variance, z), eps)), z))
	return Cast(channelAffine(z, w, b), x.DType())
}

// channelVectors checks the present ones of some parameters (C) of x (N, C, S...).
func channelVectors(x Value, params ...Value) error {
	for _, p := range params {
		if p.Valid() && (p.Shape() != tensor.S(x.Dim(1)) || !p.DType().IsFloat()) {
			return fmt.Errorf("a parameter is %v, must be %d floats", p.Type(), x.Dim(1))
		}
	}
	return nil
}

// GroupNorm normalises each of groups of channels of x (N, C, S...) over the group's channels and the spatial axes (Wu & He
// 2018), and scales channels by w and b (C), each of which may be absent. With as many groups as channels it is instance
// normalisation (Ulyanov et al. 2016).
func GroupNorm(x Value, groups int, w, b Value, eps float64) Value {
	if !x.Valid() {
		return x
	}
	if x.Rank() < 2 || !x.DType().IsFloat() {
		return fail("groupnorm", x, "the input must be (N, C, S...) of a float dtype")
	}
	n, c := x.Dim(0), x.Dim(1)
	if groups < 1 || c < 1 || c%groups != 0 {
		return fail("groupnorm", x, "%d channels do not divide into %d groups", c, groups)
	}
	if err := channelVectors(x, w, b); err != nil {
		return fail("groupnorm", x, "%v", err)
	}
	width := c / groups * product(x.Shape().Dims()[2:])
	if width == 0 {
		return fail("groupnorm", x, "there is nothing to take statistics of")
	}
	z := Cast(x, wide(x.DType()))
	y := LayerNorm(Reshape(z, n, groups, width), Value{}, Value{}, eps)
	return Cast(channelAffine(Reshape(y, x.Shape().Dims()...), w, b), x.DType())
}

// LocalResponseNorm divides x (N, C, S...) by (k + alpha/size · Σ x²)^beta, the sum over size neighbouring channels: size/2
// before and (size-1)/2 after each, as in PyTorch (Krizhevsky et al. 2012). It is computed at least in float32.
func LocalResponseNorm(x Value, size int, alpha, beta, k float64) Value {
	if !x.Valid() {
		return x
	}
	if x.Rank() < 3 || !x.DType().IsFloat() || size < 1 {
		return fail("lrn", x, "the input must be (N, C, S...) of a float dtype and the size positive, got %v and %d", x.Type(), size)
	}
	before, after := min(size/2, x.Dim(1)), min((size-1)/2, x.Dim(1)) // there is nothing beyond
	w, err := WindowOptions{Pad: []int{before, 0}, PadEnd: []int{after, 0}}.Window(before+1+after, 1)
	if err != nil {
		return fail("lrn", x, "%v", err)
	}
	z := Cast(x, wide(x.DType()))
	dims := x.Shape().Dims()
	squares := Reshape(Square(z), dims[0], 1, dims[1], product(dims[2:]))
	sum := Reshape(one(SumPoolOp{Window: w}, squares), dims...)
	base := AddScalar(Scale(sum, alpha/float64(size)), k)
	return Cast(Mul(z, Pow(base, Scalar(base, -beta))), x.DType())
}

// LpNormalize divides x by its p-norm along an axis, or by eps where that is larger, so that zeros stay zeros.
func LpNormalize(x Value, p float64, axis int, eps float64) Value {
	a, ok := axisOf("lp_normalize", x, axis)
	if !ok {
		return absorb(x)
	}
	if !x.DType().IsFloat() || !(p >= 1) || math.IsInf(p, 1) || !(eps > 0) {
		return fail("lp_normalize", x, "needs a float dtype, a finite p of at least 1 and a positive eps, got %v, %v and %v", x.DType(), p, eps)
	}
	z := Cast(x, wide(x.DType()))
	dims := x.Shape().Dims()
	dims[a] = 1
	norm := Reshape(root(Sum(power(z, p), a), p), dims...)
	return Cast(Div(z, Max(norm, Scalar(norm, eps))), x.DType())
}
