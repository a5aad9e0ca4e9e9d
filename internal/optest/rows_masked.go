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

// linearAttendCases are attentions with a matrix as memory.
func linearAttendCases() []Case {
	q, k, v := Arg{Dims: []int{2, 4, 3, 5}}, Arg{Dims: []int{2, 2, 3, 5}, Lo: -0.5, Hi: 0.5}, Arg{Dims: []int{2, 2, 3, 2}}
	state, decay, beta := Arg{Dims: []int{2, 2, 5, 2}}, Arg{Dims: []int{2, 2, 3, 5}, Lo: -1, Hi: 0}, Arg{Dims: []int{2, 2, 3, 1}, Lo: 0, Hi: 1}
	tol := map[tensor.DType]float64{tensor.F32: 1e-5}
	return []Case{
		{Name: "linear_attend", In: []Arg{q, k, v}, Tol: tol, Bad: [][]Arg{{q, k, {Dims: []int{2, 2, 4, 2}}}, {q, {Dims: []int{2, 3, 3, 5}}, {Dims: []int{2, 3, 3, 2}}}},
			Build: func(_ *graph.Graph, in []graph.Value) []graph.Value {
				y, s := ops.LinearAttend(in[0], in[1], in[2], ops.LinearAttendOptions{})
				return []graph.Value{y, s}
			}},
		{Name: "linear_attend_gated_delta", In: []Arg{q, k, v, state, decay, beta}, Tol: tol, Bad: [][]Arg{{q, k, v, state, decay, decay}},
			Build: func(_ *graph.Graph, in []graph.Value) []graph.Value {
				y, s := ops.LinearAttend(in[0], in[1], in[2], ops.LinearAttendOptions{State: in[3], Decay: in[4], Beta: in[5]})
				return []graph.Value{y, s}
			}},
	}
}
