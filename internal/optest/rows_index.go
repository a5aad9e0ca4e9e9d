package optest

import (
	"fmt"
	"math"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func build1(f func(x graph.Value) graph.Value) func(*graph.Graph, []graph.Value) []graph.Value {
	return func(_ *graph.Graph, in []graph.Value) []graph.Value { return one(f(in[0])) }
}

func build2(f func(x, y graph.Value) graph.Value) func(*graph.Graph, []graph.Value) []graph.Value {
	return func(_ *graph.Graph, in []graph.Value) []graph.Value { return one(f(in[0], in[1])) }
}

func build3(f func(x, y, z graph.Value) graph.Value) func(*graph.Graph, []graph.Value) []graph.Value {
	return func(_ *graph.Graph, in []graph.Value) []graph.Value { return one(f(in[0], in[1], in[2])) }
}

// elementCases are gathers and scatters of single elements and of slices.
func elementCases() []Case {
	idx := Arg{Dims: []int{2, 3}, DType: tensor.I32, Values: []float64{1, 0, 3, 2, 9, -1}}
	wide := Arg{Dims: []int{2, 3}, DType: tensor.I64, Values: []float64{1, 0, 3, 2, 1 << 33, -1}}
	tuples := Arg{Dims: []int{4, 2}, DType: tensor.I32, Values: []float64{0, 1, 2, 0, 0, 1, 5, 0}}
	bad := [][]Arg{{{Dims: []int{2, 4}}, {Dims: []int{3}, DType: tensor.I32}}, {{Dims: []int{2, 4}}, {Dims: []int{3, 3}, DType: tensor.I32}},
		{{Dims: []int{2, 4}}, {Dims: []int{2, 3}, DType: tensor.I16}}}
	out := []Case{
		{Name: "gather_elements", DTypes: Any, In: []Arg{{Dims: []int{2, 4}}, idx}, Bad: bad,
			Build: build2(func(x, i graph.Value) graph.Value { return ops.GatherElements(x, 1, i) })},
		{Name: "gather_elements_lead", In: []Arg{{Dims: []int{4, 5, 2}}, {Dims: []int{3, 5, 1}, DType: tensor.I64, Values: []float64{0, 3, 1, 2}}},
			Build: build2(func(x, i graph.Value) graph.Value { return ops.GatherElements(x, 0, i) })},
		{Name: "gather_nd", DTypes: Any, In: []Arg{{Dims: []int{3, 2, 2}}, tuples},
			Build: build2(func(x, i graph.Value) graph.Value { return ops.GatherND(x, i, 0) }),
			Bad: [][]Arg{{{Dims: []int{3}}, tuples}, {{Dims: []int{3, 2}}, {DType: tensor.I32}},
				{{Dims: []int{3, 2}}, {Dims: []int{2, 2}, DType: tensor.I8}}}},
		{Name: "gather_nd_batch", In: []Arg{{Dims: []int{2, 3, 4}}, {Dims: []int{2, 2, 1}, DType: tensor.I64, Values: []float64{2, 0, 1, 1}}},
			Build: build2(func(x, i graph.Value) graph.Value { return ops.GatherND(x, i, 1) })},
		{Name: "gather_i64", DTypes: Any, In: []Arg{{Dims: []int{4, 3}}, wide},
			Build: build2(func(x, i graph.Value) graph.Value { return ops.Gather(x, 0, i) })},
		{Name: "scatter_add_i64", In: []Arg{{Dims: []int{2, 3, 2}}, wide},
			Build: build2(func(u, i graph.Value) graph.Value { return ops.ScatterAdd(u, 0, i, 4) })},
	}
	for _, k := range []struct {
		name string
		kind ops.ScatterKind
	}{{"set", ops.ScatterSet}, {"sum", ops.ScatterSum}, {"prod", ops.ScatterProd}, {"max", ops.ScatterMax}, {"min", ops.ScatterMin}} {
		twice := Arg{Dims: []int{2, 5}, DType: tensor.I32, Values: []float64{1, 0, 1, 2, 3, 3, -1, 2, 2, 0}}
		c := Case{Name: "scatter_elements_" + k.name, DTypes: Numbers, In: []Arg{{Dims: []int{2, 4}}, twice, {Dims: []int{2, 5}}},
			Build: build3(func(x, i, u graph.Value) graph.Value { return ops.ScatterElements(x, -1, i, u, k.kind) }),
			Bad: [][]Arg{{{Dims: []int{2, 4}}, {Dims: []int{2, 5}, DType: tensor.I32}, {Dims: []int{2, 4}}},
				{{Dims: []int{2, 4}}, {Dims: []int{2, 5}, DType: tensor.F32}, {Dims: []int{2, 5}}},
				{{Dims: []int{2, 4}}, {Dims: []int{5}, DType: tensor.I32}, {Dims: []int{5}}}}}
		n := Case{Name: "scatter_nd_" + k.name, In: []Arg{{Dims: []int{3, 2, 2}}, tuples, {Dims: []int{4, 2}}},
			Build: build3(func(x, i, u graph.Value) graph.Value { return ops.ScatterND(x, i, u, k.kind) }),
			Bad:   [][]Arg{{{Dims: []int{3, 2, 2}}, tuples, {Dims: []int{4, 3}}}}}
		if k.kind == ops.ScatterSet {
			c.DTypes = Any
		}
		out = append(out, c, n)
	}
	return append(out, Case{Name: "scatter_prod_zeros", In: []Arg{{Dims: []int{4}, Values: []float64{2, 0, 3, -1}},
		{Dims: []int{6}, DType: tensor.I32, Values: []float64{0, 0, 1, 1, 2, 2}}, {Dims: []int{6}, Values: []float64{0, 3, 2, 5, 0, 0}}}, Order: 1,
		Build: build3(func(x, i, u graph.Value) graph.Value { return ops.ScatterElements(x, 0, i, u, ops.ScatterProd) })})
}

// orderCases sort and accumulate.
func orderCases() []Case {
	var out []Case
	for _, s := range []struct {
		dims    []int
		k, axis int
		desc    bool
	}{{[]int{3, 7}, -1, 1, false}, {[]int{3, 7}, -1, 0, true}, {[]int{2, 40, 3}, 3, 1, true}, {[]int{2, 40}, 4, -1, false}, {[]int{5}, 0, 0, true},
		{[]int{2, 9}, 9, 1, true}, {[]int{2, 600}, -1, 1, true}, {[]int{530, 2}, -1, 0, false}} {
		x := Arg{Dims: s.dims}
		if tensor.S(s.dims...).Size() > 1000 { // in no order, apart enough for central differences
			for i := range tensor.S(s.dims...).Size() {
				x.Values = append(x.Values, float64(i*487%1201)/8-75)
			}
		}
		out = append(out, Case{Name: fmt.Sprintf("sort%v_%d_%d_%v", s.dims, s.k, s.axis, s.desc), In: []Arg{x}, DTypes: Any,
			Build: func(_ *graph.Graph, in []graph.Value) []graph.Value {
				if s.k < 0 {
					v, i := ops.Sort(in[0], s.axis, s.desc)
					return []graph.Value{v, i}
				}
				v, i := ops.TopK(in[0], s.k, s.axis, s.desc)
				return []graph.Value{v, i}
			},
			Bad: [][]Arg{{{}}}})
	}
	specials := []float64{0, math.NaN(), math.Copysign(0, -1), math.Inf(1), -1, math.Inf(-1), math.NaN(), 0}
	for _, desc := range []bool{false, true} {
		out = append(out, Case{Name: fmt.Sprintf("argsort_edges_%v", desc), In: []Arg{{Dims: []int{8}, Values: specials}}, NoGrad: "the result is an index",
			Build: build1(func(x graph.Value) graph.Value { return ops.ArgSort(x, 0, desc) })})
	}
	out = append(out, Case{Name: "top_k_too_many", In: []Arg{{Dims: []int{5}}}, Bad: [][]Arg{{{Dims: []int{3}}}},
		Build: build1(func(x graph.Value) graph.Value { v, _ := ops.TopK(x, 4, 0, true); return v })},
		Case{Name: "sort_bench", In: []Arg{{Dims: []int{4, 9}}}, Bench: []int{64, 4096},
			Build: build1(func(x graph.Value) graph.Value { v, _ := ops.Sort(x, 1, false); return v })})
	return append(out, scanCases()...)
}

// scanCases are running sums, products and linear recurrences.
func scanCases() []Case {
	var out []Case
	for i, o := range []ops.Cumulative{{}, {Reverse: true}, {Exclusive: true}, {Exclusive: true, Reverse: true}} {
		for _, s := range []struct {
			dims []int
			axis int
		}{{[]int{3, 5}, 1}, {[]int{4, 2, 3}, 0}, {[]int{1}, 0}} {
			out = append(out, Case{Name: fmt.Sprintf("cumsum%v_%d", s.dims, i), In: []Arg{{Dims: s.dims}}, DTypes: Numbers, Bad: [][]Arg{{{}}, {{Dims: s.dims, DType: tensor.Bool}}},
				Build: build1(func(x graph.Value) graph.Value { return ops.CumSum(x, s.axis, o) })},
				Case{Name: fmt.Sprintf("cumprod%v_%d", s.dims, i), In: []Arg{{Dims: s.dims, Lo: -2, Hi: 2}}, DTypes: Numbers, Bad: [][]Arg{{{}}, {{Dims: s.dims, DType: tensor.Bool}}},
					Build: build1(func(x graph.Value) graph.Value { return ops.CumProd(x, s.axis, o) })})
		}
		out = append(out, Case{Name: fmt.Sprintf("cumprod_zeros_%d", i), In: []Arg{{Dims: []int{2, 6}, Values: []float64{2, 0, 3, -1, 0.5, 1, 0, -2, 0, 4, 1, 3}}},
			Build: build1(func(x graph.Value) graph.Value { return ops.CumProd(x, 1, o) })})
	}
	for _, op := range []ops.Recur{{Axis: 1}, {Axis: 1, Reverse: true}, {Axis: 1, Late: true}, {Axis: 1, Late: true, Reverse: true}, {Axis: 0}} {
		x := Arg{Dims: []int{2, 7, 3}}
		out = append(out, Case{Name: fmt.Sprintf("recurrence_%d_%v_%v", op.Axis, op.Reverse, op.Late), In: []Arg{x, x},
			Tol:   map[tensor.DType]float64{tensor.BF16: 0.1, tensor.F16: 1e-2}, // seven roundings where it is decomposed
			Build: func(g *graph.Graph, in []graph.Value) []graph.Value { return g.Apply(op, in...) },
			Bad:   [][]Arg{{x, {Dims: []int{2, 7}}}, {{}, {}}, {{Dims: []int{2, 2}, DType: tensor.I32}, {Dims: []int{2, 2}, DType: tensor.I32}}}})
	}
	return append(out, Case{Name: "recurrence", In: []Arg{{Dims: []int{3, 1}}, {Dims: []int{3, 1}}}, Bad: [][]Arg{{{}, {}}},
		Build: build2(func(a, b graph.Value) graph.Value { return ops.Recurrence(a, b, 0) })})
}

// statCases are compositions of reductions, and products with zeros.
func statCases() []Case {
	var out []Case
	for _, k := range []struct {
		name string
		f    func(x graph.Value, axes ...int) graph.Value
	}{{"log_sum_exp", ops.LogSumExp}, {"l1_norm", ops.L1Norm}, {"l2_norm", ops.L2Norm}, {"sum_square", ops.SumSquare},
		{"var", func(x graph.Value, axes ...int) graph.Value { return ops.Var(x, 1, axes...) }},
		{"std", func(x graph.Value, axes ...int) graph.Value { return ops.Std(x, 0, axes...) }}} {
		for i, axes := range [][]int{nil, {-1}, {0, 2}} {
			c := Case{Name: fmt.Sprintf("%s_%d", k.name, i), In: []Arg{{Dims: []int{2, 3, 4}}}, Bad: [][]Arg{{{Dims: []int{2, 3, 4}, DType: tensor.Bool}}},
				Tol:   map[tensor.DType]float64{tensor.F16: 4e-3, tensor.BF16: 3.2e-2},
				Build: build1(func(x graph.Value) graph.Value { return k.f(x, axes...) })}
			if axes != nil {
				c.Bad = append(c.Bad, []Arg{{}})
			}
			out = append(out, c)
		}
	}
	zeros := []float64{2, 0, 3, 1, -1, 2, 0, 0, 4, 0, 0, 0}
	for i, axes := range [][]int{nil, {1}, {0}} {
		out = append(out, Case{Name: fmt.Sprintf("prod_zeros_%d", i), In: []Arg{{Dims: []int{3, 4}, Values: zeros}},
			Build: build1(func(x graph.Value) graph.Value { return ops.Prod(x, axes...) })})
	}
	for i, dims := range [][]int{{3, 4, 5}, {9}} {
		out = append(out, Case{Name: fmt.Sprintf("argmin_%d", i), In: []Arg{{Dims: dims}}, DTypes: Numbers, NoGrad: "the result is an index",
			Build: build1(func(x graph.Value) graph.Value { return ops.ArgMin(x, -1) }), Bad: [][]Arg{{{Dims: []int{0}}}, {{}}}})
	}
	flags := Arg{Dims: []int{3, 4}, DType: tensor.Bool, Values: []float64{0, 0, 0, 0, 1, 1, 1, 1, 0, 1, 0, 1}}
	return append(out,
		Case{Name: "any", In: []Arg{flags}, DTypes: Bools, NoGrad: "the result is bool", Bad: [][]Arg{{{Dims: []int{3}, DType: tensor.F32}}},
			Build: build1(func(x graph.Value) graph.Value { return ops.AnyOf(x, 1) })},
		Case{Name: "all", In: []Arg{flags}, DTypes: Bools, NoGrad: "the result is bool", Bad: [][]Arg{{{Dims: []int{3}, DType: tensor.F32}}},
			Build: build1(func(x graph.Value) graph.Value { return ops.AllOf(x, -1) })})
}

// gridCases are triangles, diagonals and flips.
func gridCases() []Case {
	out := []Case{
		unaryShape("tril", []int{2, 4, 3}, func(x graph.Value) graph.Value { return ops.Tril(x, -1) }, []int{3}),
		unaryShape("triu", []int{4, 5}, func(x graph.Value) graph.Value { return ops.Triu(x, 1) }, nil),
		unaryShape("flip", []int{3, 4}, func(x graph.Value) graph.Value { return ops.Flip(x, 0, -1) }, []int{3}[:0]),
		unaryShape("diagonal", []int{3, 2, 4}, func(x graph.Value) graph.Value { return ops.Diagonal(x, 0, 2) }, []int{3, 3}),
		unaryShape("diagonal_twice", []int{3, 3}, func(x graph.Value) graph.Value { return ops.Diagonal(x, 1, 0) }, []int{3}),
	}
	for i, m := range []ops.PadMode{ops.PadConstant, ops.PadReflect, ops.PadEdge, ops.PadWrap} {
		out = append(out, unaryShape(fmt.Sprintf("pad_by_%d", i), []int{3, 4}, func(x graph.Value) graph.Value {
			return ops.PadBy(x, []int{2, -1}, []int{1, 3}, m, 1)
		}, []int{3}, []int{3, 0}))
	}
	for _, pair := range [][2]tensor.DType{{tensor.F64, tensor.I64}, {tensor.I64, tensor.F64}, {tensor.U64, tensor.I64}} {
		from, to := pair[0], pair[1]
		out = append(out, Case{Name: "bit_cast_" + from.String(), In: []Arg{{Dims: []int{2, 3}}}, DTypes: []tensor.DType{from}, NoGrad: "bits have no slope",
			Build: build1(func(x graph.Value) graph.Value { return ops.BitCast(x, to) }),
			Bad:   [][]Arg{{{Dims: []int{2}, DType: tensor.Bool}}, {{Dims: []int{2}, DType: tensor.F32}}}})
	}
	for i, f := range []ops.MiniFloat{ops.E4M3, ops.E5M2, ops.E2M1} {
		out = append(out, Case{Name: "round_" + []string{"e4m3", "e5m2", "e2m1"}[i], In: []Arg{{Dims: []int{40}, Lo: -10, Hi: 10}}, NoGrad: "rounding is piecewise constant",
			Build: build1(func(x graph.Value) graph.Value { return ops.RoundFloat(x, f, true) }), Bad: [][]Arg{{{Dims: []int{2}, DType: tensor.I32}}}})
	}
	return append(out, Case{Name: "eye", In: []Arg{{Dims: []int{3, 4}}}, DTypes: Any, NoGrad: "does not depend on its input",
		Build: func(g *graph.Graph, in []graph.Value) []graph.Value {
			return one(ops.Eye(g, in[0].DType(), 3, 4, 1))
		}})
}

// einsumCases are specifications with the extents of each operand.
func einsumCases() []Case {
	var out []Case
	for i, s := range []struct {
		spec string
		dims [][]int
		bad  [][]int
	}{
		{"ij,jk->ik", [][]int{{2, 3}, {3, 4}}, [][]int{{2, 3}, {2, 4}}},
		{"bij,bkj", [][]int{{2, 3, 4}, {2, 5, 4}}, [][]int{{2, 3, 4}, {2, 5}}},
		{"ji,kj->ki", [][]int{{3, 2}, {4, 3}}, nil},
		{"...ij,...jk->...ik", [][]int{{2, 1, 3, 4}, {5, 4, 2}}, [][]int{{3}, {4}}},
		{"ii->i", [][]int{{3, 3}}, [][]int{{3, 4}}},
		{"iji->j", [][]int{{3, 2, 3}}, nil},
		{"iij,jk", [][]int{{3, 3, 2}, {2, 4}}, nil},
		{"i,j->ij", [][]int{{3}, {4}}, nil},
		{"i,i", [][]int{{5}, {5}}, [][]int{{5}, {4}}},
		{"ij,ij,i->j", [][]int{{3, 4}, {3, 4}, {3}}, nil},
		{"ab,bc,cd,de->ae", [][]int{{2, 7}, {7, 3}, {3, 5}, {5, 2}}, nil},
		{"ijk->kj", [][]int{{2, 3, 4}}, [][]int{{2, 3}}},
		{"...ii->...i", [][]int{{2, 3, 3}}, nil},
		{"ij->", [][]int{{2, 3}}, nil},
		{"bhqd,bhkd->bhqk", [][]int{{2, 2, 3, 4}, {2, 1, 5, 4}}, nil},
		{"...,...", [][]int{{2, 3}, {3}}, nil},
	} {
		c := Case{Name: fmt.Sprintf("einsum_%d", i), DTypes: []tensor.DType{tensor.F64, tensor.F32, tensor.BF16, tensor.F16, tensor.I32},
			Tol:   map[tensor.DType]float64{tensor.F32: 5e-6, tensor.F16: 8e-3, tensor.BF16: 6e-2}, // a rounding a product of two
			Build: func(_ *graph.Graph, in []graph.Value) []graph.Value { return one(ops.Einsum(s.spec, in...)) }}
		for _, d := range s.dims {
			c.In = append(c.In, Arg{Dims: d})
		}
		if s.bad != nil {
			var args []Arg
			for _, d := range s.bad {
				args = append(args, Arg{Dims: d})
			}
			c.Bad = [][]Arg{args}
		}
		out = append(out, c)
	}
	for i, spec := range []string{"ij->iz", "ij->ii", "i1->i", "ij,jk->ik", "i...j...->i"} {
		out = append(out, Case{Name: fmt.Sprintf("einsum_wrong_%d", i), In: []Arg{{Dims: []int{2, 3}}}, Bad: [][]Arg{{{Dims: []int{2, 2}}}},
			Build: func(_ *graph.Graph, in []graph.Value) []graph.Value {
				if in[0].Dim(0) == in[0].Dim(1) {
					return one(ops.Einsum(spec, in[0]))
				}
				return one(ops.Einsum("ij->ji", in[0]))
			}})
	}
	return out
}
