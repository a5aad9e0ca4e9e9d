package optest

import (
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// convTol allows for sums in float32 that are added in another order.
var convTol = map[tensor.DType]float64{tensor.F32: 5e-6}

func convCases() []Case {
	at := func(stride, dilation, pad, end []int) ops.WindowOptions {
		return ops.WindowOptions{Stride: stride, Dilation: dilation, Pad: pad, PadEnd: end}
	}
	x1, w1 := Arg{Dims: []int{2, 4, 7}}, Arg{Dims: []int{6, 2, 3}}
	x2, w2 := Arg{Dims: []int{2, 3, 5, 7}}, Arg{Dims: []int{4, 3, 3, 2}}
	b2 := Arg{Dims: []int{4}}
	conv := func(name string, o ops.ConvOptions, order int, in []Arg, bad ...[]Arg) Case {
		return Case{Name: "conv_" + name, In: in, Order: order, Tol: convTol, Bad: bad,
			Build: func(_ *graph.Graph, in []graph.Value) []graph.Value {
				o := o
				if len(in) > 2 {
					o.Bias = in[2]
				}
				return one(ops.Conv(in[0], in[1], o))
			}}
	}
	transposed := func(name string, o ops.ConvOptions, order int, in []Arg, bad ...[]Arg) Case {
		return Case{Name: "conv_transpose_" + name, In: in, Order: order, Tol: convTol, Bad: bad,
			Build: func(_ *graph.Graph, in []graph.Value) []graph.Value { return one(ops.ConvTranspose(in[0], in[1], o)) }}
	}
	depth := ops.ConvOptions{Groups: 4, WindowOptions: at(nil, nil, []int{2}, []int{0})}
	wide := Case{Name: "conv_tiles", In: []Arg{{Dims: []int{1, 3, 13, 17}}, {Dims: []int{5, 3, 3, 3}}}, Order: 1, Tol: convTol,
		Build: func(_ *graph.Graph, in []graph.Value) []graph.Value {
			return one(ops.Conv(in[0], in[1], ops.ConvOptions{WindowOptions: at(nil, nil, []int{1}, nil)}))
		}}
	return []Case{
		conv("1d", ops.ConvOptions{Groups: 2, WindowOptions: at([]int{2}, nil, []int{1}, nil)}, 2, []Arg{x1, w1},
			[]Arg{x1, {Dims: []int{6, 4, 3}}}, []Arg{x1, {Dims: []int{5, 2, 3}}}, []Arg{{Dims: []int{2, 4, 0}}, w1}, []Arg{x1, {Dims: []int{6, 2, 9, 1}}}),
		conv("depthwise", depth, 2, []Arg{x1, {Dims: []int{4, 1, 3}}}),
		conv("2d", ops.ConvOptions{WindowOptions: at([]int{2, 1}, []int{1, 2}, []int{1, 0}, []int{2, 1})}, 2, []Arg{x2, w2, b2},
			[]Arg{x2, w2, {Dims: []int{3}}}, []Arg{x2, {Dims: []int{4, 3, 9, 2}}, b2}),
		conv("1x1", ops.ConvOptions{}, 2, []Arg{x2, {Dims: []int{4, 3, 1, 1}}}),
		conv("3d", ops.ConvOptions{WindowOptions: at([]int{1, 2, 1}, nil, []int{0, 1, 1}, nil)}, 1,
			[]Arg{{Dims: []int{1, 2, 3, 4, 3}}, {Dims: []int{2, 2, 2, 3, 3}}}),
		conv("no_rows", ops.ConvOptions{}, 1, []Arg{{Dims: []int{0, 3, 5, 7}}, w2}),
		conv("cropped", ops.ConvOptions{WindowOptions: at([]int{3}, nil, []int{0}, []int{-2})}, 2, []Arg{x1, {Dims: []int{2, 4, 1}}}),
		wide,
		transposed("1d", ops.ConvOptions{Groups: 2, WindowOptions: at([]int{3}, []int{2}, []int{2}, nil), OutputPad: []int{2}}, 2,
			[]Arg{x1, {Dims: []int{4, 3, 3}}}, []Arg{x1, {Dims: []int{3, 3, 3}}}, []Arg{{Dims: []int{2, 4, 1, 1}}, w1}),
		transposed("2d", ops.ConvOptions{WindowOptions: at([]int{3, 2}, nil, []int{1}, []int{0}), OutputPad: []int{1}}, 2,
			[]Arg{x2, {Dims: []int{3, 2, 3, 3}}}),
		transposed("tiles", ops.ConvOptions{WindowOptions: at([]int{2}, nil, []int{1}, nil)}, 1,
			[]Arg{{Dims: []int{1, 5, 13, 11}}, {Dims: []int{5, 3, 4, 4}}}),
	}
}
