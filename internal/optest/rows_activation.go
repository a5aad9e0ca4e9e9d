package optest

import (
	"math"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

var specials = []float64{math.Inf(1), math.Inf(-1), math.NaN(), 0, -1}

// activationCases are the compositions of table functions: their gradients, and that no element type breaks them.
func activationCases() []Case {
	var out []Case
	for _, a := range []struct {
		name string
		f    func(x graph.Value) graph.Value
	}{
		{"log_sigmoid", ops.LogSigmoid}, {"selu", ops.SELU}, {"relu6", ops.ReLU6}, {"hard_swish", ops.HardSwish}, {"mish", ops.Mish},
		{"softsign", ops.Softsign}, {"tanhshrink", ops.Tanhshrink}, {"reciprocal", ops.Reciprocal},
		{"elu", func(x graph.Value) graph.Value { return ops.ELU(x, 0.7) }},
		{"celu", func(x graph.Value) graph.Value { return ops.CELU(x, 0.7) }},
		{"leaky_relu", func(x graph.Value) graph.Value { return ops.LeakyReLU(x, 0.1) }},
		{"hardtanh", func(x graph.Value) graph.Value { return ops.Hardtanh(x, -0.5, 0.75) }},
		{"hard_sigmoid", func(x graph.Value) graph.Value { return ops.HardSigmoid(x, 0.2, 0.5) }},
		{"swish", func(x graph.Value) graph.Value { return ops.Swish(x, 1.702) }},
		{"softshrink", func(x graph.Value) graph.Value { return ops.Softshrink(x, 0.5) }},
		{"hardshrink", func(x graph.Value) graph.Value { return ops.Hardshrink(x, 0.5) }},
		{"threshold", func(x graph.Value) graph.Value { return ops.Threshold(x, 0.1, 20) }},
		{"glu", func(x graph.Value) graph.Value { return ops.GLU(x, -1) }},
	} {
		c := Case{Name: a.name, In: []Arg{{Dims: []int{5, 14}}},
			Build: func(_ *graph.Graph, in []graph.Value) []graph.Value { return one(a.f(in[0])) },
			Bad:   [][]Arg{{{Dims: []int{3}, DType: tensor.Bool}}}}
		if a.name == "glu" {
			c.Bad = append(c.Bad, []Arg{{Dims: []int{2, 3}}}, []Arg{{}})
		}
		if a.name == "reciprocal" {
			c.In[0].Lo, c.In[0].Hi = 0.5, 3
		}
		if a.name == "threshold" || a.name == "hardshrink" || a.name == "softshrink" {
			c.In[0].Values = []float64{-2, -0.75, -0.375, 0.25, 0.625, 1.5, 3} // the same side of the bound in every dtype
		}
		c.Tol = map[tensor.DType]float64{tensor.F16: 4e-3, tensor.BF16: 3.2e-2} // a rounding an operation
		out = append(out, c)
	}
	gates := []struct {
		name string
		f    func(a, b graph.Value) graph.Value
	}{{"swiglu", ops.SwiGLU}, {"geglu", ops.GEGLU}, {"reglu", ops.ReGLU}}
	for _, g := range gates {
		out = append(out, Case{Name: g.name, In: []Arg{{Dims: []int{3, 7}}, {Dims: []int{3, 7}}},
			Build: func(_ *graph.Graph, in []graph.Value) []graph.Value { return one(g.f(in[0], in[1])) }})
	}
	return append(out,
		Case{Name: "prelu", In: []Arg{{Dims: []int{2, 3, 4}}, {Dims: []int{3, 1}}}, Bad: [][]Arg{{{Dims: []int{2, 3, 4}}, {Dims: []int{3}}}},
			Build: func(_ *graph.Graph, in []graph.Value) []graph.Value { return one(ops.PReLU(in[0], in[1])) }},
		Case{Name: "clamp", In: []Arg{{Dims: []int{4, 6}}, {Dims: []int{6}, Lo: -1, Hi: -0.2}, {Lo: 0.3, Hi: 1}},
			Build: func(_ *graph.Graph, in []graph.Value) []graph.Value { return one(ops.Clamp(in[0], in[1], in[2])) },
			Bad:   [][]Arg{{{Dims: []int{4, 6}}, {Dims: []int{5}}, {}}}},
		Case{Name: "clamp_below", In: []Arg{{Dims: []int{9}}, {Values: []float64{0.1}}},
			Build: func(_ *graph.Graph, in []graph.Value) []graph.Value {
				return one(ops.Clamp(in[0], in[1], graph.Value{}))
			}},
		Case{Name: "xor", DTypes: Bools, In: []Arg{{Dims: []int{8}}, {Dims: []int{8}}}, NoGrad: "the result is bool",
			Build: func(_ *graph.Graph, in []graph.Value) []graph.Value { return one(ops.Xor(in[0], in[1])) },
			Bad:   [][]Arg{{{Dims: []int{3}, DType: tensor.F32}, {Dims: []int{3}, DType: tensor.F32}}}},
		Case{Name: "is_inf", In: []Arg{{Dims: []int{5}, Values: specials}}, NoGrad: "the result is bool",
			Build: func(_ *graph.Graph, in []graph.Value) []graph.Value { return one(ops.IsInf(in[0])) }},
		Case{Name: "is_nan", In: []Arg{{Dims: []int{5}, Values: specials}}, NoGrad: "the result is bool",
			Build: func(_ *graph.Graph, in []graph.Value) []graph.Value { return one(ops.IsNaN(in[0])) }},
	)
}
