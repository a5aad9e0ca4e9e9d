package optest

import (
	"fmt"
	"slices"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// unaryShape is a row that rearranges one input, in every dtype.
func unaryShape(name string, dims []int, f func(x graph.Value) graph.Value, bad ...[]int) Case {
	c := Case{Name: name, In: []Arg{{Dims: dims}}, DTypes: Any,
		Build: func(_ *graph.Graph, in []graph.Value) []graph.Value { return one(f(in[0])) }}
	for _, b := range bad {
		c.Bad = append(c.Bad, []Arg{{Dims: b}})
	}
	return c
}

func shapeCases() []Case {
	out := []Case{
		unaryShape("reshape", []int{2, 3, 4}, func(x graph.Value) graph.Value { return ops.Reshape(x, 4, -1) }, []int{3, 3}),
		unaryShape("reshape_scalar", []int{1, 1}, func(x graph.Value) graph.Value { return ops.Reshape(x) }, []int{2}),
		unaryShape("broadcast_last", []int{2, 3, 1}, func(x graph.Value) graph.Value { return ops.BroadcastTo(x, 2, 3, 5) }, []int{4, 1}),
		unaryShape("broadcast_lead", []int{3, 1}, func(x graph.Value) graph.Value { return ops.BroadcastTo(x, 2, 3, 4) }, []int{2, 1}),
		unaryShape("broadcast_scalar", nil, func(x graph.Value) graph.Value { return ops.BroadcastTo(x, 2, 3) }, []int{2}),
		unaryShape("slice_lead", []int{6, 3}, func(x graph.Value) graph.Value { return ops.Slice(x, 0, 1, 4) }, []int{2, 3}, nil),
		unaryShape("slice_last", []int{3, 7}, func(x graph.Value) graph.Value { return ops.Slice(x, -1, 2, 5) }, []int{3, 4}),
		unaryShape("slice_middle", []int{2, 5, 3}, func(x graph.Value) graph.Value { return ops.Slice(x, 1, -3, -1) }, []int{2, 2, 3}),
		unaryShape("slice_step", []int{2, 9}, func(x graph.Value) graph.Value { return ops.SliceStep(x, 1, 1, 8, 3) }, []int{2, 3}),
		unaryShape("slice_step_lead", []int{7, 2}, func(x graph.Value) graph.Value { return ops.SliceStep(x, 0, 0, 7, 2) }),
		unaryShape("slice_empty", []int{4, 3}, func(x graph.Value) graph.Value { return ops.Slice(x, 1, 2, 2) }),
		unaryShape("pad_lead", []int{2, 3}, func(x graph.Value) graph.Value { return ops.PadAxis(x, 0, 2, 1, 0) }, nil),
		unaryShape("pad_last", []int{2, 3}, func(x graph.Value) graph.Value { return ops.PadAxis(x, 1, 1, 2, 1) }),
		unaryShape("pad_middle", []int{2, 3, 2}, func(x graph.Value) graph.Value { return ops.PadAxis(x, 1, 0, 2, 0) }),
		{Name: "split", In: []Arg{{Dims: []int{2, 6}}}, DTypes: Any, Bad: [][]Arg{{{Dims: []int{2, 7}}}, {{Dims: []int{6}}}},
			Build: func(_ *graph.Graph, in []graph.Value) []graph.Value { return ops.Split(in[0], 1, 1, 2, 3) }},
		{Name: "concat_lead", In: []Arg{{Dims: []int{2, 3}}, {Dims: []int{1, 3}}, {Dims: []int{4, 3}}}, DTypes: Any,
			Build: func(_ *graph.Graph, in []graph.Value) []graph.Value { return one(ops.Concat(0, in...)) },
			Bad:   [][]Arg{{{Dims: []int{2, 3}}, {Dims: []int{2, 4}}}, {{Dims: []int{2, 3}}, {Dims: []int{3}}}, {{}, {}}}},
		{Name: "concat_last", In: []Arg{{Dims: []int{2, 3}}, {Dims: []int{2, 1}}}, DTypes: Any,
			Build: func(_ *graph.Graph, in []graph.Value) []graph.Value { return one(ops.Concat(-1, in...)) }},
		{Name: "concat_twice_same", In: []Arg{{Dims: []int{2, 3}}}, DTypes: Any,
			Build: func(_ *graph.Graph, in []graph.Value) []graph.Value { return one(ops.Concat(1, in[0], in[0])) }},
		{Name: "causal_mask", In: []Arg{{Dims: []int{3, 5}}}, NoGrad: "the result is bool",
			Build: func(g *graph.Graph, in []graph.Value) []graph.Value {
				return one(ops.Where(ops.CausalMask(g, 3, 5, 2), in[0], ops.Scalar(in[0], -1)))
			}},
	}
	for _, axis := range []int{0, 1, -1} {
		out = append(out, Case{Name: fmt.Sprintf("iota_%d", axis), In: []Arg{{Dims: []int{2, 3, 4}}}, DTypes: Numbers,
			NoGrad: "does not depend on its input",
			Build:  func(g *graph.Graph, in []graph.Value) []graph.Value { return one(ops.Iota(g, in[0].Type(), axis)) },
			Bad:    [][]Arg{{{}}}})
	}
	perms := [][]int{{1, 0}, {0, 2, 1}, {2, 1, 0}, {1, 2, 0}, {0, 2, 1, 3}, {3, 1, 0, 2}}
	sizes := []int{3, 4, 5, 2}
	for _, p := range perms {
		out = append(out, unaryShape(fmt.Sprintf("transpose%v", p), sizes[:len(p)], func(x graph.Value) graph.Value {
			return ops.Transpose(x, p...)
		}, []int{2}))
	}
	out = append(out, unaryShape("transpose_view", []int{1, 4, 1, 3}, func(x graph.Value) graph.Value { return ops.Transpose(x, 1, 0, 3, 2) }),
		unaryShape("transpose_default", []int{2, 3, 4}, func(x graph.Value) graph.Value { return ops.Transpose(x) }, []int{2}))
	return out
}

func indexCases() []Case {
	idx := Arg{Dims: []int{2, 3}, DType: tensor.I32, Values: []float64{0, 3, 3, -1, 4, 1}}
	vec := Arg{Dims: []int{5}, DType: tensor.I32, Values: []float64{2, 0, 2, 9, 1}}
	gather := func(axis int) func(*graph.Graph, []graph.Value) []graph.Value {
		return func(_ *graph.Graph, in []graph.Value) []graph.Value { return one(ops.Gather(in[0], axis, in[1])) }
	}
	scatter := func(axis, size int) func(*graph.Graph, []graph.Value) []graph.Value {
		return func(_ *graph.Graph, in []graph.Value) []graph.Value {
			return one(ops.ScatterAdd(in[0], axis, in[1], size))
		}
	}
	bad := [][]Arg{{{Dims: []int{4}}, {Dims: []int{2}, DType: tensor.I16}}, {{}, {Dims: []int{2}, DType: tensor.I32}}}
	return slices.Concat(elementCases(), orderCases(), gridCases(), statCases(), einsumCases(), []Case{
		{Name: "gather_rows", In: []Arg{{Dims: []int{4, 3}}, idx}, DTypes: Any, Build: gather(0), Bad: bad},
		{Name: "gather_columns", In: []Arg{{Dims: []int{2, 4}}, vec}, DTypes: Any, Build: gather(1)},
		{Name: "gather_middle", In: []Arg{{Dims: []int{2, 4, 3}}, vec}, Build: gather(1)},
		{Name: "gather_scalar", In: []Arg{{Dims: []int{4, 3}}, {DType: tensor.I32, Values: []float64{2}}}, Build: gather(0)},
		{Name: "embed", In: []Arg{{Dims: []int{5, 8}}, vec}, Build: func(_ *graph.Graph, in []graph.Value) []graph.Value { return one(ops.Embed(in[0], in[1])) }},
		{Name: "scatter_add_rows", In: []Arg{{Dims: []int{2, 3, 4}}, idx}, DTypes: Numbers, Build: scatter(0, 4),
			Bad: [][]Arg{{{Dims: []int{2, 2}}, {Dims: []int{3}, DType: tensor.I32}}, {{Dims: []int{3}, DType: tensor.Bool}, {Dims: []int{3}, DType: tensor.I32}}}},
		{Name: "scatter_add_middle", In: []Arg{{Dims: []int{2, 5, 3}}, vec}, Build: scatter(1, 4)},
		{Name: "scatter_add_last", In: []Arg{{Dims: []int{2, 5}}, vec}, Build: scatter(-1, 3)},
		{Name: "one_hot", In: []Arg{idx}, NoGrad: "depends on integers only", DTypes: []tensor.DType{tensor.F32},
			Build: func(_ *graph.Graph, in []graph.Value) []graph.Value { return one(ops.OneHot(in[0], 4, tensor.F32)) },
			Bad:   [][]Arg{{{Dims: []int{3}, DType: tensor.F32}}}},
	})
}
