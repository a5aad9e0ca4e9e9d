package optest

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// matmulShapes are (batch..., M, K, N): odd sizes, sizes around register tiles, empty and single extents.
var matmulShapes = []struct {
	batch   []int
	m, k, n int
}{
	{nil, 3, 5, 7}, {nil, 1, 64, 33}, {nil, 17, 1, 9}, {nil, 33, 40, 65}, {[]int{2}, 5, 8, 6}, {[]int{2, 3}, 4, 7, 5}, {nil, 0, 4, 3}, {nil, 4, 0, 3},
	{nil, 70, 129, 66},
}

func matmulCases() []Case {
	var out []Case
	for _, s := range matmulShapes {
		for i := range 4 {
			op := ops.MatMul{TransA: i&1 == 1, TransB: i&2 == 2}
			a, b := dims(s.batch, s.m, s.k), dims(s.batch, s.k, s.n)
			if op.TransA {
				a = dims(s.batch, s.k, s.m)
			}
			if op.TransB {
				b = dims(s.batch, s.n, s.k)
			}
			out = append(out, Case{
				Name: fmt.Sprintf("matmul%v%dx%dx%d_%s", s.batch, s.m, s.k, s.n, []string{"nn", "tn", "nt", "tt"}[i]),
				In:   []Arg{{Dims: a}, {Dims: b}}, Tol: map[tensor.DType]float64{tensor.F32: 5e-6},
				Build: func(g *graph.Graph, in []graph.Value) []graph.Value { return g.Apply(op, in...) },
				Bad: [][]Arg{{{Dims: []int{3, 5}}, {Dims: []int{6, 7}}}, {{Dims: []int{3}}, {Dims: []int{3}}},
					{{Dims: []int{2, 3, 3}}, {Dims: []int{4, 3, 3}}}, {{Dims: []int{3, 3}, DType: tensor.I32}, {Dims: []int{3, 3}, DType: tensor.I32}},
					{{Dims: []int{3, 3}, DType: tensor.F32}, {Dims: []int{3, 3}, DType: tensor.BF16}}},
			}, scaleMatMul(op, fmt.Sprintf("scale_matmul%v%dx%dx%d_%d", s.batch, s.m, s.k, s.n, i), a, b), wideMatMul(op, fmt.Sprintf("wide_matmul%v%dx%dx%d_%d", s.batch, s.m, s.k, s.n, i), a, b), addMatMul(op, fmt.Sprintf("add_matmul%v%dx%dx%d_%d", s.batch, s.m, s.k, s.n, i), dims(s.batch, s.m, s.n), a, b))
		}
	}
	return append(append(out, matmulPairs()...),
		Case{Name: "matmul_square", In: []Arg{{Dims: []int{9, 9}}, {Dims: []int{9, 9}}}, Bench: []int{512, 512},
			Tol:   map[tensor.DType]float64{tensor.F32: 5e-6},
			Build: func(_ *graph.Graph, in []graph.Value) []graph.Value { return one(ops.Dot(in[0], in[1])) }},
		Case{Name: "linear", In: []Arg{{Dims: []int{2, 3, 8}}, {Dims: []int{5, 8}}}, Tol: map[tensor.DType]float64{tensor.F32: 5e-6},
			Build: func(_ *graph.Graph, in []graph.Value) []graph.Value { return one(ops.Linear(in[0], in[1])) },
			Bad:   [][]Arg{{{}, {Dims: []int{5, 8}}}, {{Dims: []int{2, 3, 7}}, {Dims: []int{5, 8}}}}},
		Case{Name: "dot_shared", In: []Arg{{Dims: []int{2, 3, 8}}, {Dims: []int{8, 5}}}, Tol: map[tensor.DType]float64{tensor.F32: 5e-6},
			Build: func(_ *graph.Graph, in []graph.Value) []graph.Value { return one(ops.Dot(in[0], in[1])) }},
		Case{Name: "matmul_same_operand", In: []Arg{{Dims: []int{4, 4}}}, Tol: map[tensor.DType]float64{tensor.F32: 5e-6},
			Build: func(_ *graph.Graph, in []graph.Value) []graph.Value { return one(ops.Dot(in[0], in[0])) }},
		addMatMulParts(ops.MatMul{}, "add_matmul_parts_nn", 7, 5, 2, 3, 1),
		addMatMulParts(ops.MatMul{TransA: true}, "add_matmul_parts_tn", 40, 17, 4, 4),
		addMatMulParts(ops.MatMul{TransA: true, TransB: true}, "add_matmul_parts_tt", 3, 9, 1, 0, 2, 1, 1, 1, 1, 5),
		addMatMulParts(ops.MatMul{TransB: true}, "add_matmul_parts_nt", 5, 6, 16),
		addMatMulParts(ops.MatMul{}, "add_matmul_parts_k0", 0, 5, 2, 3),
		addMatMulParts(ops.MatMul{TransA: true}, "add_matmul_parts_m0", 4, 5, 0, 0),
	)
}

// wideMatMul multiplies by an operand in 16 bits.
func wideMatMul(op ops.MatMul, name string, a, b []int) Case {
	half := []tensor.DType{tensor.BF16, tensor.F16}[len(name)%2]
	return Case{
		Name: name, In: []Arg{{Dims: a}, {Dims: b, DType: half, NoGrad: true}}, DTypes: []tensor.DType{tensor.F32}, Tol: map[tensor.DType]float64{tensor.F32: 5e-6},
		Build: func(g *graph.Graph, in []graph.Value) []graph.Value {
			return g.Apply(ops.WideMatMul{MatMul: op}, in...)
		},
		Bad: [][]Arg{{{Dims: []int{3, 5}}, {Dims: []int{6, 7}, DType: half}}, {{Dims: []int{3, 3}}, {Dims: []int{3, 3}, DType: tensor.I32}}},
	}
}

// scaleMatMul multiplies a product by a number.
func scaleMatMul(op ops.MatMul, name string, a, b []int) Case {
	return Case{
		Name: name, In: []Arg{{Dims: a}, {Dims: b}}, Tol: map[tensor.DType]float64{tensor.F32: 5e-6},
		Build: func(g *graph.Graph, in []graph.Value) []graph.Value {
			return g.Apply(ops.ScaleMatMul{MatMul: op, Alpha: 1.75}, in...)
		},
		Bad: [][]Arg{{{Dims: []int{3, 5}}, {Dims: []int{6, 7}}}, {{Dims: []int{3}}, {Dims: []int{3}}}},
	}
}

// addMatMul adds a product to what has the shape of its rows, or no rows at all.
func addMatMul(op ops.MatMul, name string, c, a, b []int) Case {
	if op.TransA {
		c = []int{tensor.S(c...).Size()}
	}
	return Case{
		Name: name, In: []Arg{{Dims: c}, {Dims: a}, {Dims: b}}, Tol: map[tensor.DType]float64{tensor.F32: 5e-6},
		Build: func(g *graph.Graph, in []graph.Value) []graph.Value {
			return g.Apply(ops.AddMatMul{TransA: op.TransA, TransB: op.TransB, Alpha: -0.75}, in...)
		},
		Bad: [][]Arg{{{Dims: []int{3, 3}}, {Dims: []int{3, 5}}, {Dims: []int{6, 3}}}, {{Dims: []int{8}}, {Dims: []int{3, 3}}, {Dims: []int{3, 3}}},
			{{Dims: []int{9}, DType: tensor.F64}, {Dims: []int{3, 3}, DType: tensor.F32}, {Dims: []int{3, 3}, DType: tensor.F32}}},
	}
}

// matmulPairs are two products that share an operand.
func matmulPairs() (out []Case) {
	for _, s := range [][3]int{{5, 8, 3}, {33, 40, 8}, {70, 136, 16}, {1, 1, 1}, {0, 4, 8}, {4, 0, 8}} {
		m, n, rank := s[0], s[1], s[2]
		x, b, more := Arg{Dims: []int{m, n}}, Arg{Dims: []int{n, rank}}, Arg{Dims: []int{m, rank}}
		out = append(out, Case{Name: fmt.Sprintf("matmul_pair%dx%dx%d_trans", m, n, rank), In: []Arg{x, b, {Dims: []int{rank, m}}}, Tol: map[tensor.DType]float64{tensor.F32: 5e-6},
			Build: func(g *graph.Graph, in []graph.Value) []graph.Value {
				return g.Apply(ops.MatMulPair{AlphaT: 1, AlphaD: 3, TransS: true}, in...)
			}})
		for _, add := range []bool{false, true} {
			op, in, bad := ops.MatMulPair{AlphaT: 1.5, AlphaD: -0.75, Add: add}, []Arg{x, b, more}, [][]Arg{{{Dims: []int{3, 5}}, {Dims: []int{5, 2}}, {Dims: []int{4, 2}}}, {{Dims: []int{3, 5}}, {Dims: []int{5, 2}}, {Dims: []int{3, 4}}},
				{{Dims: []int{1, 3, 5}}, {Dims: []int{1, 5, 2}}, {Dims: []int{1, 3, 2}}}}
			if add {
				in, bad = append(in, Arg{Dims: []int{n, rank}}), [][]Arg{{{Dims: []int{3, 5}}, {Dims: []int{5, 2}}, {Dims: []int{3, 2}}, {Dims: []int{4, 2}}}}
			}
			out = append(out, Case{Name: fmt.Sprintf("matmul_pair%dx%dx%d_%v", m, n, rank, add), In: in, Tol: map[tensor.DType]float64{tensor.F32: 5e-6}, Bad: bad,
				Build: func(g *graph.Graph, in []graph.Value) []graph.Value { return g.Apply(op, in...) }})
		}
	}
	return out
}

// addMatMulParts adds rows of a product to as many tensors as there are heights, of n columns each.
func addMatMulParts(op ops.MatMul, name string, k, n int, heights ...int) Case {
	m := 0
	for _, h := range heights {
		m += h
	}
	a, b := []int{m, k}, []int{k, n}
	if op.TransA {
		a = []int{k, m}
	}
	if op.TransB {
		b = []int{n, k}
	}
	in := []Arg{{Dims: a}, {Dims: b}}
	for _, h := range heights {
		in = append(in, Arg{Dims: []int{h, n}})
	}
	return Case{
		Name: name, In: in, Tol: map[tensor.DType]float64{tensor.F32: 5e-6},
		Build: func(g *graph.Graph, in []graph.Value) []graph.Value {
			return g.Apply(ops.AddMatMulParts{TransA: op.TransA, TransB: op.TransB, Alpha: -0.75, Parts: int8(len(in) - 2)}, in...)
		},
		Bad: [][]Arg{{{Dims: []int{3, 5}}, {Dims: []int{5, 7}}}, {{Dims: []int{3, 5}}, {Dims: []int{5, 7}}, {Dims: []int{2, 7}}},
			{{Dims: []int{3, 5}}, {Dims: []int{5, 7}}, {Dims: []int{3, 6}}}, {{Dims: []int{1, 3, 5}}, {Dims: []int{1, 5, 7}}, {Dims: []int{3, 7}}}},
	}
}

func dims(batch []int, last ...int) []int { return append(append([]int(nil), batch...), last...) }

// reduceShapes are inputs with the axes reduced: leading, middle, last, several, all, none of extent, long.
var reduceShapes = []struct {
	dims, axes []int
}{
	{[]int{3, 4, 5}, []int{2}}, {[]int{3, 4, 5}, []int{0}}, {[]int{3, 4, 5}, []int{1}}, {[]int{3, 4, 5}, []int{0, 2}},
	{[]int{3, 4, 5}, []int{1, 2}}, {[]int{3, 4, 5}, nil}, {[]int{1, 6, 1}, []int{0, 2}}, {[]int{7}, []int{0}}, {[]int{2, 700}, []int{-1}},
	{[]int{40000}, nil}, {[]int{600, 3}, []int{0}}, {[]int{3, 2, 300}, []int{0, 1}},
}

func reduceCases() []Case {
	kinds := []struct {
		name string
		f    func(graph.Value, ...int) graph.Value
	}{{"sum", ops.Sum}, {"max", ops.MaxOf}, {"min", ops.MinOf}, {"prod", ops.Prod}, {"mean", ops.Mean}}
	var out []Case
	for _, k := range kinds {
		for _, s := range reduceShapes {
			c := Case{Name: fmt.Sprintf("%s%v%v", k.name, s.dims, s.axes), In: []Arg{{Dims: s.dims}}, DTypes: Numbers,
				Build: func(_ *graph.Graph, in []graph.Value) []graph.Value { return one(k.f(in[0], s.axes...)) },
				Bad:   [][]Arg{{{Dims: s.dims, DType: tensor.Bool}}}}
			n := tensor.S(s.dims...).Size()
			switch {
			case k.name == "mean":
				c.DTypes = nil
			case k.name == "prod":
				c.In[0].Lo, c.In[0].Hi = 0.8, 1.25
				c.Tol = map[tensor.DType]float64{tensor.F64: 1e-9}
				if n > 1000 {
					continue
				}
			case k.name == "sum":
				c.In[0].Lo, c.In[0].Hi = 0, 2
				if n > 100 {
					c.Exclude = map[tensor.DType]string{}
					for _, d := range []tensor.DType{tensor.I8, tensor.U8, tensor.I16, tensor.U16} {
						c.Exclude[d] = "sums saturate"
					}
				}
				c.Tol = map[tensor.DType]float64{tensor.F64: 1e-11}
			}
			if n > 100 {
				c.Order = 1
			}
			out = append(out, c)
		}
	}
	for i, s := range []struct {
		dims []int
		axis int
	}{{[]int{3, 4, 5}, 1}, {[]int{9}, 0}, {[]int{2, 300}, -1}} {
		out = append(out, Case{Name: fmt.Sprintf("argmax_%d", i), In: []Arg{{Dims: s.dims}}, DTypes: Numbers, NoGrad: "the result is an index",
			Build: func(_ *graph.Graph, in []graph.Value) []graph.Value { return one(ops.ArgMax(in[0], s.axis)) },
			Bad:   [][]Arg{{{Dims: []int{0, 0, 0}[:len(s.dims)]}}, {{}}}})
	}
	return append(out, Case{Name: "argmax_ties", In: []Arg{{Dims: []int{2, 4}, Values: []float64{1, 3, 3, 2, 0, 0, 0, 0}}}, DTypes: Numbers,
		NoGrad: "the result is an index",
		Build:  func(_ *graph.Graph, in []graph.Value) []graph.Value { return one(ops.ArgMax(in[0], 1)) }},
		Case{Name: "sum_bench", In: []Arg{{Dims: []int{8, 9}}}, Bench: []int{1024, 1024},
			Build: func(_ *graph.Graph, in []graph.Value) []graph.Value { return one(ops.Sum(in[0], 1)) }},
		Case{Name: "sum_columns_bench", In: []Arg{{Dims: []int{8, 9}}}, Bench: []int{1024, 1024},
			Build: func(_ *graph.Graph, in []graph.Value) []graph.Value { return one(ops.Sum(in[0], 0)) }},
		Case{Name: "sum_empty", In: []Arg{{Dims: []int{0, 3}}}, Tol: nil,
			Build: func(_ *graph.Graph, in []graph.Value) []graph.Value { return one(ops.Sum(in[0], 0)) }})
}
