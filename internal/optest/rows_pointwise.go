package optest

import (
	"math"
	"slices"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// domain is where a pointwise function is smooth enough for central differences, and tolerances that differ from the default.
type domain struct {
	lo, hi float64
	tol    map[tensor.DType]float64
}

var domains = map[ops.Func]domain{
	ops.FnDiv:   {lo: 0.5, hi: 3},
	ops.FnPow:   {lo: 0.5, hi: 3, tol: map[tensor.DType]float64{tensor.F32: 4e-6}},
	ops.FnLog:   {lo: 0.3, hi: 5},
	ops.FnSqrt:  {lo: 0.3, hi: 5},
	ops.FnRsqrt: {lo: 0.3, hi: 5},
	ops.FnAbs:   {lo: 0.3, hi: 5},
	ops.FnSign:  {lo: -3, hi: 3},
	ops.FnFloor: {lo: -3, hi: 3},
	ops.FnExp:   {lo: -3, hi: 3},
	ops.FnReLU:  {lo: -3, hi: 3},
	ops.FnMin:   {lo: -3, hi: 3},
	ops.FnMax:   {lo: -3, hi: 3},
	ops.FnCeil:  {lo: -3, hi: 3},
	ops.FnRound: {lo: -3, hi: 3},
	ops.FnTrunc: {lo: -3, hi: 3},
	ops.FnExpm1: {lo: -3, hi: 3},
	ops.FnLog1p: {lo: -0.7, hi: 5},
	ops.FnTan:   {lo: -1.2, hi: 1.2},
	ops.FnAsin:  {lo: -0.9, hi: 0.9},
	ops.FnAcos:  {lo: -0.9, hi: 0.9},
	ops.FnAcosh: {lo: 1.2, hi: 5},
	ops.FnAtanh: {lo: -0.9, hi: 0.9},
	ops.FnRem:   {lo: 0.5, hi: 3},
	ops.FnMod:   {lo: 0.5, hi: 3},
}

func pointwiseCases() []Case {
	var out []Case
	for f := ops.FnFill + 1; f < ops.NumFuncs; f++ {
		if f != ops.FnCast && f != ops.FnWhere {
			out = append(out, tableCase(f))
		}
	}
	return slices.Concat(out, castCases(), otherPointwise(), activationCases())
}

// tableCase is the row of one pointwise function of one or two operands.
func tableCase(f ops.Func) Case {
	r := ops.Table[f]
	d := domains[f]
	c := Case{Name: r.Name, Tol: d.tol, Build: func(g *graph.Graph, in []graph.Value) []graph.Value {
		return g.Apply(ops.Pointwise{F: f}, in...)
	}}
	for range r.Arity {
		c.In = append(c.In, Arg{Dims: []int{3, 5, 7}, Lo: d.lo, Hi: d.hi})
	}
	switch r.Accepts {
	case ops.Numbers:
		c.DTypes = Numbers
	case ops.Bools:
		c.DTypes = Bools
	case ops.Any:
		c.DTypes = Any
	case ops.Ints:
		c.DTypes = Ints
	}
	if f == ops.FnDiv || f == ops.FnAbs || f == ops.FnSign || f == ops.FnFloor || f == ops.FnMin || f == ops.FnMax {
		for i := range c.In {
			c.In[i].Lo, c.In[i].Hi = d.lo, d.hi
		}
	}
	switch {
	case r.Predicate || r.Accepts == ops.Bools:
		c.NoGrad = "the result is bool"
	case r.Accepts == ops.Ints:
		c.NoGrad = "integers"
	case r.VJP == nil:
		c.NoGrad = "piecewise constant: the gradient is zero"
	}
	c.Bad = badPointwise(r)
	c.Bench = []int{1 << 20}
	return c
}

func badPointwise(r ops.Row) [][]Arg {
	var bad [][]Arg
	if r.Accepts == ops.Floats {
		bad = append(bad, repeatArg(Arg{Dims: []int{3}, DType: tensor.I32}, r.Arity))
	}
	if r.Accepts == ops.Bools || r.Accepts == ops.Ints {
		bad = append(bad, repeatArg(Arg{Dims: []int{3}, DType: tensor.F32}, r.Arity))
	}
	if r.Arity == 2 {
		bad = append(bad, []Arg{{Dims: []int{3}}, {Dims: []int{4}}}, []Arg{{Dims: []int{3}, DType: tensor.F32}, {Dims: []int{3}, DType: tensor.I32}})
	}
	return bad
}

func repeatArg(a Arg, n int) []Arg {
	var out []Arg
	for range n {
		out = append(out, a)
	}
	return out
}

// castCases convert from the dtype of the case to each dtype.
func castCases() []Case {
	var out []Case
	for _, to := range Any {
		c := Case{
			Name: "cast_" + to.String(), In: []Arg{{Dims: []int{4, 9}, Lo: -6, Hi: 100}}, DTypes: Any,
			Build: func(_ *graph.Graph, in []graph.Value) []graph.Value { return one(ops.Cast(in[0], to)) },
			Tol:   castLimits(to),
		}
		c.NoGrad = "covered by the mixed-precision rows"
		out = append(out, c)
	}
	edges := []float64{0, 0.5, -0.5, 1.5, 2.5, 127, 128, 255, 256, -128, -129, 32767, 65504, 65520, 1e9, -1e9, 3e9, 1e19, -1e19, 1e-8, math.Inf(1), math.Inf(-1)}
	for _, to := range Any {
		out = append(out, Case{
			Name: "cast_edges_" + to.String(), In: []Arg{{Dims: []int{len(edges)}, Values: edges}}, DTypes: []tensor.DType{tensor.F64, tensor.F32},
			Build:  func(_ *graph.Graph, in []graph.Value) []graph.Value { return one(ops.Cast(in[0], to)) },
			Tol:    castLimits(to),
			NoGrad: "covered by the mixed-precision rows",
		})
	}
	return out
}

// castLimits: the result is rounded to the target whatever the source.
func castLimits(to tensor.DType) map[tensor.DType]float64 {
	lim := map[tensor.DType]float64{}
	for d, t := range Limits {
		lim[d] = max(t, Limits[to])
	}
	return lim
}

func one(v graph.Value) []graph.Value { return []graph.Value{v} }

func otherPointwise() []Case {
	edges := []float64{math.Inf(1), math.Inf(-1), math.NaN(), 0, 1, -1, 1e-30, 100, -100, 1e30}
	out := []Case{
		{Name: "where", DTypes: Any, In: []Arg{{Dims: []int{3, 5}, DType: tensor.Bool}, {Dims: []int{3, 5}}, {Dims: []int{3, 5}}},
			Build: func(_ *graph.Graph, in []graph.Value) []graph.Value { return one(ops.Where(in[0], in[1], in[2])) },
			Bad:   [][]Arg{{{Dims: []int{3}, DType: tensor.F32}, {Dims: []int{3}}, {Dims: []int{3}}}}},
		{Name: "where_broadcast", In: []Arg{{Dims: []int{5}, DType: tensor.Bool}, {Dims: []int{3, 1}}, {}},
			Build: func(_ *graph.Graph, in []graph.Value) []graph.Value { return one(ops.Where(in[0], in[1], in[2])) }},
		{Name: "add_broadcast", DTypes: Numbers, In: []Arg{{Dims: []int{2, 3, 1, 5}}, {Dims: []int{4, 5}}},
			Build: func(_ *graph.Graph, in []graph.Value) []graph.Value { return one(ops.Add(in[0], in[1])) }},
		{Name: "mul_broadcast_both", In: []Arg{{Dims: []int{3, 1}}, {Dims: []int{1, 4}}},
			Build: func(_ *graph.Graph, in []graph.Value) []graph.Value { return one(ops.Mul(in[0], in[1])) }},
		{Name: "sub_scalar", In: []Arg{{}, {Dims: []int{1500}}},
			Build: func(_ *graph.Graph, in []graph.Value) []graph.Value { return one(ops.Sub(in[0], in[1])) }},
		{Name: "div_broadcast", In: []Arg{{Dims: []int{2, 3}}, {Dims: []int{3}, Lo: 1, Hi: 2}},
			Build: func(_ *graph.Graph, in []graph.Value) []graph.Value { return one(ops.Div(in[0], in[1])) }},
		{Name: "div_by_zero", DTypes: Ints, In: []Arg{{Dims: []int{4}}, {Dims: []int{4}, Values: []float64{0, 1, 2, 0}}},
			Build:  func(_ *graph.Graph, in []graph.Value) []graph.Value { return one(ops.Div(in[0], in[1])) },
			NoGrad: "integers"},
		{Name: "add_empty", In: []Arg{{Dims: []int{0, 3}}, {Dims: []int{3}}},
			Build: func(_ *graph.Graph, in []graph.Value) []graph.Value { return one(ops.Add(in[0], in[1])) }},
		{Name: "square_of_self", In: []Arg{{Dims: []int{6}}},
			Build: func(_ *graph.Graph, in []graph.Value) []graph.Value { return one(ops.Square(in[0])) }},
		{Name: "clip", In: []Arg{{Dims: []int{40}}},
			Build: func(_ *graph.Graph, in []graph.Value) []graph.Value { return one(ops.Clip(in[0], -0.5, 0.75)) }},
		{Name: "fill", DTypes: Any, In: []Arg{{Dims: []int{2, 3}}}, NoGrad: "does not depend on its input",
			Build: func(_ *graph.Graph, in []graph.Value) []graph.Value { return one(ops.ZerosLike(in[0])) }},
		{Name: "stop_grad", In: []Arg{{Dims: []int{5}}}, NoGrad: "the gradient is zero by purpose",
			Build: func(g *graph.Graph, in []graph.Value) []graph.Value { return g.Apply(ops.Barrier{}, in[0]) }},
		{Name: "depend", In: []Arg{{Dims: []int{5}}, {Dims: []int{2}, NoGrad: true}},
			Build: func(_ *graph.Graph, in []graph.Value) []graph.Value { return one(ops.After(in[0], in[1])) }},
		{Name: "mixed_cast", In: []Arg{{Dims: []int{8}}}, Tol: castLimits(tensor.F32), Order: 1, GradTol: 1e-5,
			Build: func(_ *graph.Graph, in []graph.Value) []graph.Value {
				return one(ops.Cast(ops.Square(ops.Cast(ops.Scale(in[0], 3), tensor.F64)), in[0].DType()))
			}},
	}
	for _, f := range []ops.Func{ops.FnExp, ops.FnSigmoid, ops.FnTanh, ops.FnReLU, ops.FnIsFinite, ops.FnSqrt, ops.FnNeg, ops.FnSign} {
		out = append(out, Case{Name: ops.Table[f].Name + "_edges", In: []Arg{{Dims: []int{len(edges)}, Values: edges}},
			Build:  func(g *graph.Graph, in []graph.Value) []graph.Value { return g.Apply(ops.Pointwise{F: f}, in[0]) },
			NoGrad: "infinite values",
			Exclude: map[tensor.DType]string{
				tensor.F16: "1e30 is infinite in f16 and finite in the reference"}})
	}
	return out
}
