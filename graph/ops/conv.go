package ops

import (
	"fmt"
	"math"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// ConvOp is the convolution of neural networks (a cross-correlation) with Groups: x (N, C, S...) and w (O, C/Groups, K...) of
// one float dtype give y (N, O, P...), y[o, p] = Σ w[o, c, k]·x[c, p·stride + k·dilation - pad], zeros outside x. Sums are kept
// in float32 (float64 for f64) and rounded once.
//
// With ConvTransposeOp and ConvWeightOp it is one form, linear in x, w and y: each of the three is the gradient of the form by
// the argument it computes, so that the family is closed under differentiation of any order.
type ConvOp struct {
	Window
	Groups int32
}

// ConvTransposeOp is the transpose of ConvOp for fixed w: y (N, O, P...) and w (O, C/Groups, K...) give x (N, C, S...) with the
// spatial extents Size, which the window maps to P.
type ConvTransposeOp struct {
	Window
	Groups int32
	Size   [MaxWindow]int64
}

// ConvWeightOp is the gradient of ConvOp by its weight: x (N, C, S...) and y (N, O, P...) give w (O, C/Groups, K...),
// w[o, c, k] = Σ y[o, p]·x[c, p·stride + k·dilation - pad].
type ConvWeightOp struct {
	Window
	Groups int32
}

var (
	_ graph.Differentiable = ConvOp{}
	_ graph.Decomposable   = ConvOp{}
	_ graph.Coster         = ConvOp{}
	_ graph.Differentiable = ConvTransposeOp{}
	_ graph.Decomposable   = ConvTransposeOp{}
	_ graph.Coster         = ConvTransposeOp{}
	_ graph.Differentiable = ConvWeightOp{}
	_ graph.Decomposable   = ConvWeightOp{}
	_ graph.Coster         = ConvWeightOp{}
)

// Name implements graph.Op.
func (ConvOp) Name() string { return "conv" }

// Name implements graph.Op.
func (ConvTransposeOp) Name() string { return "conv_transpose" }

// Name implements graph.Op.
func (ConvWeightOp) Name() string { return "conv_weight" }

// ConvDims are the extents of a convolution.
type ConvDims struct {
	N, C, O  int   // rows, input and output channels
	Groups   int   // which share the channels
	In, Out  []int // spatial extents of x and y
	Taps     int   // kernel elements
	PerGroup int   // C/Groups·Taps: the summands of an element of y
}

// Dims reads the extents off the types of x (N, C, S...), w (O, C/Groups, K...) and y (N, O, P...), and checks that they agree.
func (w Window) Dims(groups int, xt, wt, yt tensor.Type) (d ConvDims, err error) {
	out, err := w.outDims(xt)
	if err != nil {
		return d, err
	}
	d = ConvDims{N: xt.Dim(0), C: xt.Dim(1), Groups: groups, In: xt.Shape.Dims()[2:], Out: out, Taps: w.Taps(), O: wt.Dim(0)}
	if groups < 1 || d.C < 1 || d.C%groups != 0 || d.O%groups != 0 || d.O < 1 {
		return d, fmt.Errorf("%d input and %d output channels do not divide into %d groups", d.C, d.O, groups)
	}
	d.PerGroup = d.C / groups * d.Taps
	wantW := tensor.T(xt.DType, append([]int{d.O, d.C / groups}, w.kernelDims()...)...)
	wantY := tensor.T(xt.DType, append([]int{d.N, d.O}, out...)...)
	switch {
	case !xt.DType.IsFloat():
		return d, fmt.Errorf("not defined on %v; cast to a float dtype", xt.DType)
	case wt != wantW:
		return d, fmt.Errorf("the weight is %v, must be %v for %d channels in %d groups", wt, wantW, d.C, groups)
	case yt != wantY:
		return d, fmt.Errorf("the output is %v, must be %v", yt, wantY)
	}
	return d, nil
}

// Infer implements graph.Op.
func (o ConvOp) Infer(in []tensor.Type) ([]tensor.Type, error) {
	if err := arity(in, 2); err != nil {
		return nil, err
	}
	x, w := in[0], in[1]
	out, err := o.outDims(x)
	if err != nil {
		return nil, err
	}
	y := tensor.T(x.DType, append([]int{x.Dim(0), w.Dim(0)}, out...)...)
	_, err = o.Dims(int(o.Groups), x, w, y)
	return []tensor.Type{y}, err
}

// Infer implements graph.Op.
func (o ConvTransposeOp) Infer(in []tensor.Type) ([]tensor.Type, error) {
	if err := arity(in, 2); err != nil {
		return nil, err
	}
	y, w := in[0], in[1]
	if y.Rank() != o.rank()+2 || w.Rank() != o.rank()+2 || o.check() != nil {
		return nil, fmt.Errorf("the input and the weight must have two and %d spatial axes, got %v and %v", o.Rank, y, w)
	}
	x := tensor.T(y.DType, append([]int{y.Dim(0), w.Dim(1) * int(o.Groups)}, ints(o.Size, o.rank())...)...)
	if !x.Shape.Valid() {
		return nil, fmt.Errorf("the output size %v is not valid", o.Size[:o.rank()])
	}
	_, err := o.Dims(int(o.Groups), x, w, y)
	return []tensor.Type{x}, err
}

// Infer implements graph.Op.
func (o ConvWeightOp) Infer(in []tensor.Type) ([]tensor.Type, error) {
	if err := arity(in, 2); err != nil {
		return nil, err
	}
	if err := o.check(); err != nil {
		return nil, err
	}
	x, y := in[0], in[1]
	w := tensor.T(x.DType, append([]int{y.Dim(1), x.Dim(1) / max(int(o.Groups), 1)}, o.kernelDims()...)...)
	_, err := o.Dims(int(o.Groups), x, w, y)
	return []tensor.Type{w}, err
}

// VJP implements graph.Differentiable.
func (o ConvOp) VJP(n *graph.Node, gy []Value, need []bool) []Value {
	x, w := n.In[0], n.In[1]
	return lazily(need,
		func() Value { return one(ConvTransposeOp{o.Window, o.Groups, int64s(x.Shape().Dims()[2:])}, gy[0], w) },
		func() Value { return one(ConvWeightOp(o), x, gy[0]) })
}

// VJP implements graph.Differentiable.
func (o ConvTransposeOp) VJP(n *graph.Node, gx []Value, need []bool) []Value {
	y, w := n.In[0], n.In[1]
	return lazily(need,
		func() Value { return one(ConvOp{o.Window, o.Groups}, gx[0], w) },
		func() Value { return one(ConvWeightOp{o.Window, o.Groups}, gx[0], y) })
}

// VJP implements graph.Differentiable.
func (o ConvWeightOp) VJP(n *graph.Node, gw []Value, need []bool) []Value {
	x, y := n.In[0], n.In[1]
	return lazily(need,
		func() Value { return one(ConvTransposeOp{o.Window, o.Groups, int64s(x.Shape().Dims()[2:])}, y, gw[0]) },
		func() Value { return one(ConvOp(o), x, gw[0]) })
}

// Decompose implements graph.Decomposable: the windows side by side (im2col), then a matrix product.
func (o ConvOp) Decompose(in []Value) []Value {
	dt := in[0].DType()
	x, w := Cast(in[0], wide(dt)), Cast(in[1], wide(dt))
	out, _ := o.outDims(x.Type())
	n, ch, g := x.Dim(0), w.Dim(0), int(o.Groups)
	cols := o.columns(x, g, out) // (N, g, C/g·K, P)
	filters := BroadcastTo(Reshape(w, 1, g, ch/g, cols.Dim(2)), n, g, ch/g, cols.Dim(2))
	y := Dot(filters, cols)
	return []Value{Cast(Reshape(y, append([]int{n, ch}, out...)...), dt)}
}

// columns lays the windows of x side by side: (N, g, C/g·K, P).
func (w Window) columns(x Value, g int, out []int) Value {
	return Reshape(w.unfold(x, out), x.Dim(0), g, x.Dim(1)/g*w.Taps(), product(out))
}

// Decompose implements graph.Decomposable.
func (o ConvTransposeOp) Decompose(in []Value) []Value {
	dt := in[0].DType()
	y, w := Cast(in[0], wide(dt)), Cast(in[1], wide(dt))
	n, ch, g, c := y.Dim(0), w.Dim(0), int(o.Groups), w.Dim(1)
	out := y.Shape().Dims()[2:]
	filters := BroadcastTo(Reshape(w, 1, g, ch/g, c*o.Taps()), n, g, ch/g, c*o.Taps())
	cols := one(MatMul{TransA: true}, filters, Reshape(y, n, g, ch/g, product(out)))
	dims := append(append([]int{n, c * g}, o.kernelDims()...), out...)
	return []Value{Cast(o.fold(Reshape(cols, dims...), out, ints(o.Size, o.rank())), dt)}
}

// Decompose implements graph.Decomposable.
func (o ConvWeightOp) Decompose(in []Value) []Value {
	dt := in[0].DType()
	x, y := Cast(in[0], wide(dt)), Cast(in[1], wide(dt))
	n, ch, g := x.Dim(0), y.Dim(1), int(o.Groups)
	out := y.Shape().Dims()[2:]
	cols := o.columns(x, g, out)
	rows := Reshape(y, n, g, ch/g, product(out))
	flat := func(v Value) Value { return Reshape(Transpose(v, 1, 2, 0, 3), g, v.Dim(2), n*v.Dim(3)) }
	w := one(MatMul{TransB: true}, flat(rows), flat(cols))
	return []Value{Cast(Reshape(w, append([]int{ch, x.Dim(1) / g}, o.kernelDims()...)...), dt)}
}

// Cost implements graph.Coster.
func (o ConvOp) Cost(in, out []tensor.Type) (flops, bytes int64) {
	return convCost(in[1], out[0], in, out)
}

// Cost implements graph.Coster.
func (o ConvTransposeOp) Cost(in, out []tensor.Type) (flops, bytes int64) {
	return convCost(in[1], in[0], in, out)
}

// Cost implements graph.Coster.
func (o ConvWeightOp) Cost(in, out []tensor.Type) (flops, bytes int64) {
	return convCost(out[0], in[1], in, out)
}

func convCost(w, y tensor.Type, in, out []tensor.Type) (flops, bytes int64) {
	return 2 * int64(y.Size()) * int64(w.Size()/max(w.Dim(0), 1)), sumBytes(in) + sumBytes(out)
}

// ConvOptions are the settings of Conv and ConvTranspose.
type ConvOptions struct {
	WindowOptions
	Groups int   // 0: 1
	Bias   Value // (O), cast to x's dtype; may be absent
	// OutputPad adds positions after each axis of a transposed convolution: one entry an axis, or one for all. A convolution maps
	// several sizes to one; this says which of them is meant.
	OutputPad []int
}

// Conv is the convolution of x (N, C, S...) with w (O, C/Groups, K...) over one to three spatial axes, plus the bias.
func Conv(x, w Value, o ConvOptions) Value {
	win, ok := o.window("conv", x, w)
	if !ok {
		return absorb(x)
	}
	return o.biased(one(ConvOp{win, int32(max(o.Groups, 1))}, x, w))
}

// ConvTranspose is the transposed convolution of y (N, C, P...) with w (C, O/Groups, K...), weights as PyTorch's
// ConvTranspose layers store them: (N, O, S...) with S = (P-1)·stride - pads + dilation·(K-1) + 1 + OutputPad.
func ConvTranspose(y, w Value, o ConvOptions) Value {
	win, ok := o.window("conv_transpose", y, w)
	if !ok {
		return absorb(y)
	}
	var extra [MaxWindow]int32
	if err := spreadAxes("output padding", o.OutputPad, 0, extra[:win.Rank]); err != nil {
		return fail("conv_transpose", y, "%v", err)
	}
	op := ConvTransposeOp{Groups: int32(max(o.Groups, 1))}
	for i := range win.rank() {
		if extra[i] < 0 {
			return fail("conv_transpose", y, "the output padding must not be negative, got %d", extra[i])
		}
		win.Hi[i] -= extra[i]
		size := (y.Dim(2+i)-1)*int(win.Stride[i]) - int(win.Lo[i]) - int(win.Hi[i]) + win.Extent(i)
		if size < 0 {
			return fail("conv_transpose", y, "axis %d would have the size %d", i, size)
		}
		op.Size[i] = int64(size)
	}
	op.Window = win
	return o.biased(one(op, y, w))
}

// window takes the kernel's extents from the weight.
func (o ConvOptions) window(name string, x, w Value) (Window, bool) {
	if !x.Valid() || !w.Valid() {
		if x.Valid() && w.Absent() {
			fail(name, x, "the weight is absent")
		}
		return Window{}, false
	}
	if w.Rank() < 3 || x.Rank() != w.Rank() {
		fail(name, x, "the input and the weight %v must both have two axes and one to %d spatial ones", w.Type(), MaxWindow)
		return Window{}, false
	}
	if o.Groups < 0 || o.Groups > math.MaxInt32 {
		fail(name, x, "%d groups are out of range", o.Groups)
		return Window{}, false
	}
	win, err := o.Window(w.Shape().Dims()[2:]...)
	if err != nil {
		fail(name, x, "%v", err)
	}
	return win, err == nil
}

func (o ConvOptions) biased(y Value) Value {
	if o.Bias.Absent() || !y.Valid() {
		return y
	}
	return Add(y, channelwise(o.Bias, y))
}

// channelwise gives a vector (C) the shape and dtype in which it broadcasts over x (N, C, S...).
func channelwise(v, x Value) Value {
	if !v.Valid() || !x.Valid() {
		return v
	}
	if v.Rank() != 1 || v.Dim(0) != x.Dim(1) {
		return fail("channels", v, "the vector must have an entry for each of the %d channels of %v", x.Dim(1), x.Type())
	}
	dims := make([]int, x.Rank()-1)
	for i := range dims {
		dims[i] = 1
	}
	dims[0] = v.Dim(0)
	return Reshape(castLike(v, x), dims...)
}
