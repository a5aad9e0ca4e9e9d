package onnx

import (
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func init() {
	register("Conv", Operator{Build: conv})
	register("ConvTranspose", Operator{Build: convTranspose})
	register("ConvInteger", Operator{Build: convInteger, NoGrad: integers})
	register("CausalConvWithState", Operator{Build: causalConv})
	register("MaxPool", Operator{Build: maxPool, Kinks: true})
	register("AveragePool", Operator{Build: func(n *Node) []graph.Value {
		o, kernel := pooling(n)
		o.CountPad = n.Bool("count_include_pad")
		return one(ops.AvgPool(n.In(0), kernel, o))
	}})
	register("LpPool", Operator{Build: func(n *Node) []graph.Value {
		o, kernel := pooling(n)
		return one(ops.LpPool(n.In(0), float64(n.Int("p")), kernel, o))
	}})
	register("GlobalAveragePool", Operator{Build: unaryOp(ops.GlobalAvgPool)})
	register("GlobalMaxPool", Operator{Build: unaryOp(ops.GlobalMaxPool), Kinks: true})
}

// window reads strides, dilations and padding for a kernel over the spatial axes of x.
func window(n *Node, x graph.Value, kernel []int) ops.WindowOptions {
	o := ops.WindowOptions{Stride: n.Ints("strides"), Dilation: n.Ints("dilations")}
	if o.Stride == nil {
		o.Stride = []int{1}
	}
	mode := n.String("auto_pad")
	if pads := n.Ints("pads"); pads != nil && (mode == "NOTSET" || mode == "") {
		o.Pad, o.PadEnd = pads[:len(pads)/2], pads[len(pads)/2:]
		return o
	}
	if mode != "SAME_UPPER" && mode != "SAME_LOWER" {
		return o
	}
	for i, k := range kernel {
		s, d := at(o.Stride, i, 1), at(o.Dilation, i, 1)
		size := x.Dim(2 + i)
		total := max(((size+s-1)/s-1)*s+(k-1)*d+1-size, 0)
		lo := total / 2
		if mode == "SAME_LOWER" {
			lo = total - total/2
		}
		o.Pad, o.PadEnd = append(o.Pad, lo), append(o.PadEnd, total-lo)
	}
	return o
}

// at is entry i of a list, its only entry, or a default.
func at(list []int, i, def int) int {
	switch {
	case len(list) == 0:
		return def
	case len(list) == 1:
		return list[0]
	}
	return list[i]
}

// kernelOf is the kernel's extents by the weight.
func kernelOf(w graph.Value) []int { return w.Shape().Dims()[2:] }

func conv(n *Node) []graph.Value {
	x, w := n.In(0), n.In(1)
	return one(ops.Conv(x, w, ops.ConvOptions{WindowOptions: window(n, x, kernelOf(w)), Groups: n.Int("group"), Bias: n.In(2)}))
}

func convTranspose(n *Node) []graph.Value {
	x, w := n.In(0), n.In(1)
	kernel := kernelOf(w)
	o := ops.ConvOptions{WindowOptions: window(n, x, kernel), Groups: n.Int("group"), Bias: n.In(2), OutputPad: n.Ints("output_padding")}
	if shape := n.Ints("output_shape"); shape != nil {
		o.Pad, o.PadEnd = nil, nil
		for i, k := range kernel {
			s := at(o.Stride, i, 1)
			total := (x.Dim(2+i)-1)*s + at(o.OutputPad, i, 0) + (k-1)*at(o.Dilation, i, 1) + 1 - shape[i]
			half := total >> 1 // rounded down, also where the output is larger than the windows reach
			o.Pad, o.PadEnd = append(o.Pad, total-half), append(o.PadEnd, half)
		}
	} else if n.String("auto_pad") == "SAME_UPPER" || n.String("auto_pad") == "SAME_LOWER" {
		return n.Fail("transposed convolution with auto_pad and no output shape")
	}
	return one(ops.ConvTranspose(x, w, o))
}

// convInteger computes in float64, where products of bytes and their sums are exact.
func convInteger(n *Node) []graph.Value {
	centred := func(i, zero int) graph.Value {
		x := ops.Cast(n.In(i), tensor.F64)
		if !n.Has(zero) {
			return x
		}
		z := ops.Cast(n.In(zero), tensor.F64)
		if z.Rank() == 1 && z.Dim(0) > 1 {
			z = ops.Reshape(z, z.Dim(0), 1, 1, 1)
		}
		return ops.Sub(x, z)
	}
	x, w := centred(0, 2), centred(1, 3)
	y := ops.Conv(x, w, ops.ConvOptions{WindowOptions: window(n, x, kernelOf(w)), Groups: n.Int("group")})
	return one(ops.Cast(y, tensor.I32))
}

// causalConv is a depthwise convolution over the past state and the new positions, of which the last are the next state.
func causalConv(n *Node) []graph.Value {
	x, w := n.In(0), n.In(1) // (B, C, T) and (C, 1, K)
	k := w.Dim(2)
	all := ops.PadAxis(x, 2, k-1, 0, 0)
	if n.Has(3) {
		all = ops.Concat(2, n.In(3), x)
	}
	y := ops.Conv(all, w, ops.ConvOptions{Groups: x.Dim(1), Bias: n.In(2)})
	switch act := n.String("activation"); act {
	case "silu", "swish":
		y = ops.SiLU(y)
	case "none", "":
	default:
		return n.Fail("activation %s", act)
	}
	return []graph.Value{y, ops.Slice(all, 2, all.Dim(2)-(k-1), all.Dim(2))}
}

func pooling(n *Node) (ops.PoolOptions, []int) {
	kernel := n.Ints("kernel_shape")
	return ops.PoolOptions{WindowOptions: window(n, n.In(0), kernel), Ceil: n.Bool("ceil_mode")}, kernel
}

func maxPool(n *Node) []graph.Value {
	o, kernel := pooling(n)
	y, idx := ops.MaxPoolIndices(n.In(0), kernel, o)
	if !n.Wants(1) {
		return one(y)
	}
	if n.Bool("storage_order") {
		return n.Fail("positions in column-major order")
	}
	x := n.In(0) // positions count through the whole tensor
	channels := x.Dim(0) * x.Dim(1)
	base := ops.Iota(n.Graph(), tensor.T(tensor.I64, channels, 1), 0)
	flat := ops.Add(ops.Reshape(ops.Cast(idx, tensor.I64), channels, -1), ops.Scale(base, float64(x.Type().Size()/max(channels, 1))))
	return []graph.Value{y, ops.Reshape(flat, idx.Shape().Dims()...)}
}
