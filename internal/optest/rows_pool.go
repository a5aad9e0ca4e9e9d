package optest

import (
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func poolCases() []Case {
	x1, x2, x3 := Arg{Dims: []int{2, 3, 11}}, Arg{Dims: []int{2, 2, 5, 7}}, Arg{Dims: []int{1, 2, 3, 4, 5}}
	empty := Arg{Dims: []int{0, 2, 5, 7}}
	win := func(stride, dilation, pad, end []int) ops.WindowOptions {
		return ops.WindowOptions{Stride: stride, Dilation: dilation, Pad: pad, PadEnd: end}
	}
	two := ops.PoolOptions{WindowOptions: win([]int{2, 1}, []int{1, 2}, []int{1, 0}, []int{0, 1})}
	ceil := ops.PoolOptions{WindowOptions: win([]int{2}, nil, []int{1}, nil), Ceil: true}
	padded := ops.PoolOptions{WindowOptions: win([]int{3}, nil, []int{1}, nil), Ceil: true, CountPad: true}
	row := func(name string, x Arg, f func(x graph.Value) []graph.Value, bad ...[]Arg) Case {
		return Case{Name: name, In: []Arg{x}, Bad: bad, Build: func(_ *graph.Graph, in []graph.Value) []graph.Value { return f(in[0]) }}
	}
	maxed := func(kernel []int, o ops.PoolOptions) func(x graph.Value) []graph.Value {
		return func(x graph.Value) []graph.Value {
			y, idx := ops.MaxPoolIndices(x, kernel, o)
			return []graph.Value{y, idx}
		}
	}
	avg := func(kernel []int, o ops.PoolOptions) func(x graph.Value) []graph.Value {
		return func(x graph.Value) []graph.Value { return one(ops.AvgPool(x, kernel, o)) }
	}
	lp := func(p float64) Case {
		return Case{Name: "lp_pool_" + string(rune('0'+int(p))), In: []Arg{x2}, GradTol: 1e-5, Tol: map[tensor.DType]float64{tensor.F32: 1e-5},
			Build: func(_ *graph.Graph, in []graph.Value) []graph.Value {
				return one(ops.LpPool(in[0], p, []int{2, 3}, two))
			}}
	}
	small := []Arg{{Dims: []int{2, 2, 1, 1}}}
	return []Case{
		row("max_pool_1d", x1, maxed([]int{3}, ceil), []Arg{x2}, []Arg{{Dims: []int{2, 3, 0}}}),
		row("max_pool_2d", x2, maxed([]int{3, 2}, two), small),
		row("max_pool_3d", x3, maxed([]int{2, 3, 2}, ops.PoolOptions{WindowOptions: win([]int{1}, nil, nil, nil)})),
		row("max_pool_no_rows", empty, maxed([]int{2, 2}, ops.PoolOptions{})),
		row("max_pool_blind", Arg{Dims: []int{1, 1, 3}}, maxed([]int{2}, ops.PoolOptions{}), []Arg{{Dims: []int{1, 1, 1}}}),
		row("avg_pool_1d", x1, avg([]int{3}, ceil), []Arg{x2}),
		row("avg_pool_2d", x2, avg([]int{3, 2}, two), small),
		row("avg_pool_padded", x2, avg([]int{3, 3}, padded)),
		row("avg_pool_3d", x3, avg([]int{2, 2, 3}, ops.PoolOptions{})),
		row("avg_pool_no_rows", empty, avg([]int{2, 2}, ops.PoolOptions{})),
		row("global_avg_pool", x3, func(x graph.Value) []graph.Value { return one(ops.GlobalAvgPool(x)) }, []Arg{{Dims: []int{2, 3}}}),
		row("global_max_pool", x3, func(x graph.Value) []graph.Value { return one(ops.GlobalMaxPool(x)) }, []Arg{{Dims: []int{2, 3}}}),
		row("adaptive_avg_pool", x2, func(x graph.Value) []graph.Value { return one(ops.AdaptiveAvgPool(x, 3, 7)) }, []Arg{x1}),
		row("adaptive_max_pool", x2, func(x graph.Value) []graph.Value { return one(ops.AdaptiveMaxPool(x, 4, 3)) }, []Arg{x1}),
		lp(1), lp(2), lp(4),
		{Name: "max_unpool", In: []Arg{{Dims: []int{2, 3, 4}}, {Dims: []int{2, 3, 4}, DType: tensor.I32, Lo: -1, Hi: 8}},
			Bad: [][]Arg{{{Dims: []int{2, 3, 4}}, {Dims: []int{2, 3, 5}, DType: tensor.I32}}},
			Build: func(_ *graph.Graph, in []graph.Value) []graph.Value {
				return one(ops.MaxUnpool(in[0], in[1], 7))
			}},
	}
}
