package layers

import (
	"math"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
)

// ConvOptions are the settings of convolution layers.
type ConvOptions struct {
	ops.WindowOptions
	Groups    int   // 0: 1
	NoBias    bool  // leave the bias out
	OutputPad []int // of transposed convolutions, see ops.ConvOptions
}

// Conv is a convolution over one to three spatial axes, channels first: PyTorch's Conv1d, Conv2d and Conv3d. Weight is
// (out, in/Groups, K...) and is cast to the input's dtype.
type Conv struct {
	Weight *graph.Var `name:"weight"`
	Bias   *graph.Var `name:"bias"`

	Options ConvOptions
}

// NewConv takes weight and bias from src, with PyTorch's initialisation: uniform within 1/sqrt(in/Groups·taps).
func NewConv(src Source, in, out int, kernel []int, o ConvOptions) *Conv {
	per := in / max(o.Groups, 1)
	c := &Conv{Options: o}
	c.Weight, c.Bias = convVars(src, out, per, kernel, out, o.NoBias)
	return c
}

// convVars declares a weight (rows, cols, K...), whose fan-in is cols·taps, and a bias (out).
func convVars(src Source, rows, cols int, kernel []int, out int, noBias bool) (w, b *graph.Var) {
	fan := cols
	for _, k := range kernel {
		fan *= k
	}
	init := Uniform(1 / math.Sqrt(float64(max(fan, 1))))
	w = src.Var("weight", init, append([]int{rows, cols}, kernel...)...)
	if !noBias {
		b = src.Var("bias", init, out)
	}
	return w, b
}

// Forward maps x (N, in, S...) to (N, out, P...) in x's dtype.
func (c *Conv) Forward(x graph.Value) graph.Value {
	return convolved(x, c.Weight, c.Bias, c.Options, ops.Conv)
}

// ConvTranspose is a transposed convolution over one to three spatial axes: PyTorch's ConvTranspose1d, 2d and 3d. Weight is
// (in, out/Groups, K...) and is cast to the input's dtype.
type ConvTranspose struct {
	Weight *graph.Var `name:"weight"`
	Bias   *graph.Var `name:"bias"`

	Options ConvOptions
}

// NewConvTranspose takes weight and bias from src, with PyTorch's initialisation: uniform within 1/sqrt(out/Groups·taps).
func NewConvTranspose(src Source, in, out int, kernel []int, o ConvOptions) *ConvTranspose {
	c := &ConvTranspose{Options: o}
	c.Weight, c.Bias = convVars(src, in, out/max(o.Groups, 1), kernel, out, o.NoBias)
	return c
}

// Forward maps x (N, in, P...) to (N, out, S...) in x's dtype.
func (c *ConvTranspose) Forward(x graph.Value) graph.Value {
	return convolved(x, c.Weight, c.Bias, c.Options, ops.ConvTranspose)
}

func convolved(x graph.Value, w, b *graph.Var, o ConvOptions, f func(x, w graph.Value, o ops.ConvOptions) graph.Value) graph.Value {
	if !x.Valid() {
		return x
	}
	return f(x, ops.Cast(x.Graph().Read(w), x.DType()), ops.ConvOptions{WindowOptions: o.WindowOptions, Groups: o.Groups,
		Bias: readOptional(x, b), OutputPad: o.OutputPad})
}

// readOptional reads a variable, or gives the absent value for nil.
func readOptional(x graph.Value, v *graph.Var) graph.Value {
	if v == nil {
		return graph.Value{}
	}
	return x.Graph().Read(v)
}
