package optest

import (
	"math"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// maskedCases are attentions whose scores lie in memory.
func maskedCases() []Case {
	q, k, v := Arg{Dims: []int{2, 4, 3, 5}}, Arg{Dims: []int{2, 2, 7, 5}}, Arg{Dims: []int{2, 2, 7, 3}}
	mask := Arg{Dims: []int{2, 1, 3, 7}, DType: tensor.Bool, Values: []float64{1, 0, 1, 1, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 0, 1, 1, 0}} // a query sees nothing
	bias, hidden := Arg{Dims: []int{4, 3, 7}}, Arg{Dims: []int{3, 7}, NoGrad: true, Values: []float64{0, math.Inf(-1), 0.5, 0, -1}}
	tol := map[tensor.DType]float64{tensor.F32: 1e-5}
	out := func(a ops.Attended) []graph.Value { return []graph.Value{a.Out, a.Weights, a.Scores} }
	return []Case{
		{Name: "attend_masked", In: []Arg{q, k, v, mask}, Tol: tol,
			Bad: [][]Arg{{q, k, {Dims: []int{2, 2, 6, 3}}, mask}, {q, {Dims: []int{2, 3, 7, 5}}, {Dims: []int{2, 3, 7, 3}}, mask}, {q, k, v, {Dims: []int{2, 2, 3, 7}, DType: tensor.Bool}}, {q, k, v, bias}},
			Build: func(_ *graph.Graph, in []graph.Value) []graph.Value {
				return out(ops.AttendMasked(in[0], in[1], in[2], ops.MaskedOptions{Mask: in[3], SoftCap: 2}))
			}},
		{Name: "attend_masked_bias", In: []Arg{q, k, v, bias}, Tol: tol,
			Build: func(_ *graph.Graph, in []graph.Value) []graph.Value {
				return out(ops.AttendMasked(in[0], in[1], in[2], ops.MaskedOptions{Bias: in[3], Scale: 0.3,
					Weights: func(w graph.Value) graph.Value { return ops.Square(w) }}))
			}},
		{Name: "attend_masked_hidden", In: []Arg{q, k, v, hidden, mask}, Tol: tol,
			Build: func(_ *graph.Graph, in []graph.Value) []graph.Value {
				return out(ops.AttendMasked(in[0], in[1], in[2], ops.MaskedOptions{Bias: in[3], Mask: in[4]}))
			}},
	}
}
