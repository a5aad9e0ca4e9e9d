package optest

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// channelCases are the normalisations of (N, C, S...).
func channelCases() []Case {
	x, flat, c := Arg{Dims: []int{3, 4, 5, 2}}, Arg{Dims: []int{7, 3}}, Arg{Dims: []int{4}}
	variance := Arg{Dims: []int{4}, Lo: 0.5, Hi: 2}
	tol := map[tensor.DType]float64{tensor.F32: 1e-5}
	batch := func(in []graph.Value) []graph.Value {
		v := append(append([]graph.Value(nil), in...), graph.Value{}, graph.Value{})
		y, mean, variance := ops.BatchNorm(v[0], v[1], v[2], 1e-5)
		return []graph.Value{y, mean, variance}
	}
	out := []Case{
		{Name: "batch_norm", In: []Arg{x, c, c}, Tol: tol, Bad: [][]Arg{{x, {Dims: []int{3}}, c}, {{Dims: []int{4}}, c, c}, {{Dims: []int{0, 4, 2}}, c, c}},
			Build: func(_ *graph.Graph, in []graph.Value) []graph.Value { return batch(in) }},
		{Name: "batch_norm_plain", In: []Arg{flat}, Tol: tol,
			Build: func(_ *graph.Graph, in []graph.Value) []graph.Value { return batch(in) }},
		{Name: "batch_norm_wide", In: []Arg{{Dims: []int{9, 2, 31, 33}}, {Dims: []int{2}}}, Order: 1, Tol: tol,
			Build: func(_ *graph.Graph, in []graph.Value) []graph.Value { return batch(in)[:1] }},
		{Name: "batch_norm_fixed", In: []Arg{x, c, c, c, variance}, Bad: [][]Arg{{x, c, c, c, {Dims: []int{5}}}, {{Dims: []int{4}}, c, c, c, c}},
			Build: func(_ *graph.Graph, in []graph.Value) []graph.Value {
				return one(ops.BatchNormFixed(in[0], in[1], in[2], in[3], in[4], 1e-5))
			}},
		{Name: "lrn", In: []Arg{x}, Bad: [][]Arg{{flat}},
			Build: func(_ *graph.Graph, in []graph.Value) []graph.Value {
				return one(ops.LocalResponseNorm(in[0], 4, 0.3, 0.75, 2))
			}},
	}
	for _, groups := range []int{1, 2, 4} {
		out = append(out, Case{Name: fmt.Sprintf("group_norm_%d", groups), In: []Arg{x, c, c}, Tol: tol,
			Bad: [][]Arg{{x, {Dims: []int{3}}, c}, {{Dims: []int{4}}, c, c}, {{Dims: []int{2, 4, 0}}, c, c}},
			Build: func(_ *graph.Graph, in []graph.Value) []graph.Value {
				return one(ops.GroupNorm(in[0], groups, in[1], in[2], 1e-5))
			}})
	}
	for _, p := range []float64{1, 2, 3} {
		out = append(out, Case{Name: fmt.Sprintf("lp_normalize_%v", p), In: []Arg{x}, Tol: tol, Bad: [][]Arg{{{}}},
			Build: func(_ *graph.Graph, in []graph.Value) []graph.Value {
				return one(ops.LpNormalize(in[0], p, 1, 1e-12))
			}})
	}
	return out
}

// elementLossCases are the losses over classes on axis 1 and over elements.
func elementLossCases() []Case {
	labels := Arg{Dims: []int{2, 3}, DType: tensor.I32, Values: []float64{0, 4, -100, 2, 1, 3}}
	logits, weights := Arg{Dims: []int{2, 5, 3}}, Arg{Dims: []int{5}, Lo: 0.1, Hi: 2, NoGrad: true}
	tol := map[tensor.DType]float64{tensor.F32: 1e-5}
	classes := func(name string, f func(s, y graph.Value, o ops.ClassLossOptions) graph.Value, o ops.ClassLossOptions, in ...Arg) Case {
		return Case{Name: name, In: in, Tol: tol, Bad: [][]Arg{{logits, {Dims: []int{2, 5}, DType: tensor.I32}}, {logits, {Dims: []int{2, 3}}}},
			Build: func(_ *graph.Graph, in []graph.Value) []graph.Value {
				o := o
				if len(in) > 2 {
					o.Weight = in[2]
				}
				return one(f(in[0], in[1], o))
			}}
	}
	out := []Case{
		classes("class_loss", ops.ClassLoss, ops.ClassLossOptions{Ignore: []int{3}}, logits, labels, weights),
		classes("class_loss_plain", ops.ClassLoss, ops.ClassLossOptions{}, logits, labels),
		classes("class_loss_none", ops.ClassLoss, ops.ClassLossOptions{Reduction: ops.LossNone}, logits, labels, weights),
		classes("class_loss_smooth", ops.ClassLoss, ops.ClassLossOptions{Smoothing: 0.1}, logits, labels, weights),
		classes("nll_loss", ops.NLLLoss, ops.ClassLossOptions{Reduction: ops.LossSum, Ignore: []int{0}}, logits, labels, weights),
	}
	x, y, prob := Arg{Dims: []int{3, 5}}, Arg{Dims: []int{3, 5}}, Arg{Dims: []int{3, 5}, Lo: 0.05, Hi: 0.95}
	huber := func(x, y graph.Value, r ops.LossReduction) graph.Value { return ops.HuberLoss(x, y, 0.7, r) }
	smooth := func(x, y graph.Value, r ops.LossReduction) graph.Value { return ops.SmoothL1Loss(x, y, 0.7, r) }
	for _, r := range []ops.LossReduction{ops.LossMean, ops.LossNone} {
		out = append(out, elementLossCase(fmt.Sprintf("mse_loss_%d", r), r, x, y, ops.MSELoss),
			elementLossCase(fmt.Sprintf("l1_loss_%d", r), r, x, y, ops.L1Loss),
			elementLossCase(fmt.Sprintf("huber_loss_%d", r), r, x, y, huber), elementLossCase(fmt.Sprintf("smooth_l1_%d", r), r, x, y, smooth))
	}
	binary := func(x, y graph.Value, r ops.LossReduction) graph.Value { return ops.BinaryLoss(x, y, graph.Value{}, r) }
	kl := func(logTarget bool) func(x, y graph.Value, r ops.LossReduction) graph.Value {
		return func(x, y graph.Value, r ops.LossReduction) graph.Value { return ops.KLDivLoss(x, y, logTarget, r) }
	}
	return append(out, elementLossCase("binary_loss", ops.LossMean, x, prob, binary),
		elementLossCase("binary_loss_at_zero", ops.LossSum, Arg{Dims: []int{1, 2}, Values: []float64{0, 0}}, Arg{Dims: []int{1, 2}, Lo: 0, Hi: 1}, binary),
		elementLossCase("kl_div", ops.LossBatchMean, x, prob, kl(false)), elementLossCase("kl_div_log", ops.LossSum, x, y, kl(true)),
		Case{Name: "binary_loss_positive", In: []Arg{x, prob, {Dims: []int{5}, Lo: 0.5, Hi: 3}}, Tol: tol, Bad: [][]Arg{{x, prob, {Dims: []int{4}}}},
			Build: func(_ *graph.Graph, in []graph.Value) []graph.Value {
				return one(ops.BinaryLoss(in[0], in[1], in[2], ops.LossMean))
			}})
}

func elementLossCase(name string, r ops.LossReduction, x, y Arg, f func(x, y graph.Value, r ops.LossReduction) graph.Value) Case {
	return Case{Name: name, In: []Arg{x, y}, Bad: [][]Arg{{x, {Dims: []int{5}}}, {x, {Dims: x.Dims, DType: tensor.I32}}},
		Tol:   map[tensor.DType]float64{tensor.F32: 1e-5},
		Build: func(_ *graph.Graph, in []graph.Value) []graph.Value { return one(f(in[0], in[1], r)) }}
}
