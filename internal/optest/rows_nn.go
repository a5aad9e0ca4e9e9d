package optest

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

type build = func(g *graph.Graph, in []graph.Value) []graph.Value

func normCases() []Case {
	x, wide := Arg{Dims: []int{2, 3, 8}}, Arg{Dims: []int{5, 130}}
	w, b := Arg{Dims: []int{8}}, Arg{Dims: []int{8}}
	out := []Case{
		{Name: "rms_norm", In: []Arg{x, w}, Bad: [][]Arg{{x, {Dims: []int{7}}}, {{}, w}},
			Build: func(_ *graph.Graph, in []graph.Value) []graph.Value { return one(ops.RMSNorm(in[0], in[1], 1e-5)) }},
		{Name: "rms_norm_wide", In: []Arg{wide, {Dims: []int{130}}}, Order: 1,
			Build: func(_ *graph.Graph, in []graph.Value) []graph.Value { return one(ops.RMSNorm(in[0], in[1], 1e-6)) }},
		{Name: "layer_norm", In: []Arg{x, w, b}, Bad: [][]Arg{{x, {Dims: []int{7}}, b}, {{}, w, b}},
			Build: func(_ *graph.Graph, in []graph.Value) []graph.Value {
				return one(ops.LayerNorm(in[0], in[1], in[2], 1e-5))
			}},
		{Name: "layer_norm_plain", In: []Arg{wide}, Order: 1,
			Build: func(_ *graph.Graph, in []graph.Value) []graph.Value {
				return one(ops.LayerNorm(in[0], graph.Value{}, graph.Value{}, 1e-5))
			}},
	}
	for _, centre := range []bool{false, true} {
		name, params := "add_norm_rms", []Arg{x, x, w}
		if centre {
			name, params = "add_norm_layer", []Arg{x, x, w, b}
		}
		out = append(out, Case{Name: name, In: params, Order: 1, Build: func(g *graph.Graph, in []graph.Value) []graph.Value {
			return g.Apply(ops.AddNormOp{Eps: 1e-5, Centre: centre}, append(in, graph.Value{})[:4]...)
		}})
	}
	out = append(out, Case{Name: "add_rms_norm_grad", In: []Arg{x, x, w, x}, Order: 1,
		Build: func(g *graph.Graph, in []graph.Value) []graph.Value {
			return g.Apply(ops.AddRMSNormGradOp{Eps: 1e-5}, in...)
		}})
	for _, axis := range []int{-1, 1} {
		out = append(out,
			Case{Name: fmt.Sprintf("softmax_%d", axis), In: []Arg{{Dims: []int{2, 5, 7}}}, Bad: [][]Arg{{{}}},
				Build: func(_ *graph.Graph, in []graph.Value) []graph.Value { return one(ops.Softmax(in[0], axis)) }},
			Case{Name: fmt.Sprintf("log_softmax_%d", axis), In: []Arg{{Dims: []int{2, 5, 7}}}, Bad: [][]Arg{{{}}},
				Build: func(_ *graph.Graph, in []graph.Value) []graph.Value { return one(ops.LogSoftmax(in[0], axis)) }})
	}
	tables := Arg{Dims: []int{2, 3, 2}, DType: tensor.F32, NoGrad: true}
	for _, inter := range []bool{false, true} {
		out = append(out, Case{Name: fmt.Sprintf("rope_%v", inter), In: []Arg{{Dims: []int{2, 3, 2, 6}}, tables, tables},
			Build: func(_ *graph.Graph, in []graph.Value) []graph.Value { return one(ops.RoPE(in[0], in[1], in[2], inter)) },
			Bad:   [][]Arg{{{Dims: []int{2, 3}}, tables, tables}}})
	}
	ids := Arg{Dims: []int{2, 3}, DType: tensor.I32, Lo: 0, Hi: 50}
	key := Arg{Dims: []int{2}, DType: tensor.U32, Lo: 0, Hi: 1000}
	return append(out,
		Case{Name: "dropout", In: []Arg{{Dims: []int{2, 3, 9}}, key, ids, ids}, Bad: [][]Arg{{{Dims: []int{2, 3, 9}}, {Dims: []int{3}, DType: tensor.U32}, ids, ids}},
			Build: func(_ *graph.Graph, in []graph.Value) []graph.Value {
				return one(ops.Dropout(in[0], in[1], in[2], in[3], 0.3, 5))
			}},
		Case{Name: "philox", In: []Arg{key, ids, ids}, DTypes: []tensor.DType{tensor.F32}, NoGrad: "the result is an integer",
			Build: func(g *graph.Graph, in []graph.Value) []graph.Value {
				return g.Apply(ops.PhiloxOp{Site: 3, N: 7}, in...)
			}})
}

func lossCases() []Case {
	labels := Arg{Dims: []int{2, 3}, DType: tensor.I32, Values: []float64{0, 4, -100, 2, 1, -100}}
	logits := Arg{Dims: []int{2, 3, 5}}
	weights := Arg{Dims: []int{2, 3}, DType: tensor.F32, Lo: 0.1, Hi: 2, NoGrad: true}
	x, w := Arg{Dims: []int{2, 3, 8}}, Arg{Dims: []int{5, 8}}
	lce := map[tensor.DType]float64{tensor.F32: 1e-5}
	return []Case{
		{Name: "token_loss", In: []Arg{logits, labels}, Tol: lce, Bad: [][]Arg{{logits, {Dims: []int{2, 4}, DType: tensor.I32}}},
			Build: func(_ *graph.Graph, in []graph.Value) []graph.Value { return one(ops.TokenLoss(in[0], in[1])) }},
		{Name: "token_loss_lse", In: []Arg{logits, labels}, Tol: lce,
			Build: func(_ *graph.Graph, in []graph.Value) []graph.Value {
				loss, lse := ops.TokenLossLSE(in[0], in[1])
				return []graph.Value{loss, lse}
			}},
		{Name: "cross_entropy", In: []Arg{logits, labels}, Tol: lce,
			Build: func(_ *graph.Graph, in []graph.Value) []graph.Value { return one(ops.CrossEntropy(in[0], in[1])) }},
		{Name: "cross_entropy_weighted", In: []Arg{logits, labels, weights}, Tol: lce,
			Build: func(_ *graph.Graph, in []graph.Value) []graph.Value {
				return one(ops.CrossEntropyWeighted(in[0], in[1], in[2]))
			}},
		{Name: "linear_cross_entropy", In: []Arg{x, w, labels}, Tol: lce, Bad: [][]Arg{{x, {Dims: []int{5, 7}}, labels}},
			Build: func(_ *graph.Graph, in []graph.Value) []graph.Value {
				return one(ops.LinearCrossEntropy(in[0], in[1], in[2]))
			}},
		{Name: "linear_cross_entropy_wide", In: []Arg{{Dims: []int{6, 8}}, {Dims: []int{5, 8}, DType: tensor.BF16, NoGrad: true}, {Dims: []int{6}, DType: tensor.I32, Lo: -1, Hi: 5}},
			DTypes: []tensor.DType{tensor.F32}, Tol: lce, Build: func(g *graph.Graph, in []graph.Value) []graph.Value {
				return g.Apply(ops.LinearCrossEntropyOp{Wide: true}, in...)
			}},
		{Name: "linear_loss_unit", In: []Arg{{Dims: []int{6, 8}}, w, {Dims: []int{6}, DType: tensor.I32, Values: []float64{0, 4, -100, 2, 1, -1}}}, Tol: lce, Order: 1,
			Build: func(g *graph.Graph, in []graph.Value) []graph.Value { return g.Apply(ops.LinearLossUnitOp{}, in...) }},
		{Name: "linear_hits", In: []Arg{x, w, labels}, Tol: lce, Bad: [][]Arg{{x, {Dims: []int{5, 7}}, labels}},
			Build: func(_ *graph.Graph, in []graph.Value) []graph.Value {
				loss, hit := ops.LinearHits(in[0], in[1], in[2])
				return []graph.Value{loss, hit}
			}},
		{Name: "linear_cross_entropy_lse", In: []Arg{x, w, labels}, Tol: lce,
			Build: func(_ *graph.Graph, in []graph.Value) []graph.Value {
				loss, lse := ops.LinearCrossEntropyLSE(in[0], in[1], in[2])
				return []graph.Value{loss, lse}
			}},
	}
}
