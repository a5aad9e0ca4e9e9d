package optest

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// expertOffsets are rows dealt to experts, with the sizes (n, k) of their matrices: usual, an expert without rows, all rows on one, one
// expert, rows of no expert, no rows, enough rows that products are no small ones, and few rows of matrices that 4-bit codes fill by whole
// blocks, alone and with many.
var expertOffsets = []struct {
	at   []float64
	n, k int
}{
	{[]float64{0, 2, 5, 9}, 9, 13}, {[]float64{0, 0, 4, 4, 7}, 9, 13}, {[]float64{0, 0, 0, 6}, 9, 13}, {[]float64{0, 5}, 9, 13}, {[]float64{1, 3, 4, 7}, 9, 13},
	{[]float64{0, 0, 0}, 9, 13}, {[]float64{0, 70, 71, 171}, 130, 90}, {[]float64{0, 1, 3, 3, 7, 12, 15}, 6, 128}, {[]float64{0, 3, 4, 10}, 10, 64},
}

func offsetsArg(offsets []float64) Arg {
	return Arg{Dims: []int{len(offsets)}, DType: tensor.I32, Values: offsets}
}

// rowsOf is the number of rows, one more than the offsets reach where they do not begin at 0.
func rowsOf(offsets []float64) int { return int(offsets[len(offsets)-1] + offsets[0]) }

func expertCases() []Case {
	out := []Case{
		{Name: "group_by_expert", In: []Arg{{Dims: []int{7, 3}, DType: tensor.I32, Lo: -1, Hi: 6}}, DTypes: []tensor.DType{tensor.I32},
			NoGrad: "the results are positions", Bad: [][]Arg{{{Dims: []int{3}, DType: tensor.I64}}, {{Dims: []int{3}, DType: tensor.F32}}},
			Build: func(_ *graph.Graph, in []graph.Value) []graph.Value {
				order, inverse, offsets := ops.SortByExpert(in[0], 5)
				return []graph.Value{order, inverse, offsets}
			}},
	}
	for i, s := range expertOffsets {
		for _, trans := range []bool{false, true} {
			out = append(out, groupedCases(fmt.Sprintf("%d_%v", i, trans), s.at, s.n, s.k, trans)...)
		}
	}
	return out
}

// groupedCases are the products by weights of each kind, (experts, n, k).
func groupedCases(name string, at []float64, n, k int, trans bool) []Case {
	const block = 64 // spans rows and experts where n·k is no multiple of it
	e, rows, inner := len(at)-1, rowsOf(at), k
	if trans {
		inner = n
	}
	x, w, offsets := Arg{Dims: []int{rows, inner}}, Arg{Dims: []int{e, n, k}}, offsetsArg(at)
	tol := map[tensor.DType]float64{tensor.F32: 5e-6}
	order := 2
	if rows > 100 {
		order = 1
	}
	bad := [][]Arg{{{Dims: []int{rows, inner + 1}}, w, offsets}, {x, {Dims: []int{n, k}}, offsets}, {x, w, offsetsArg(append(at, at[e]))},
		{x, w, {Dims: []int{e + 1}, DType: tensor.I64}}, {{Dims: []int{rows, inner}, DType: tensor.I32}, w, offsets}}
	product := func(_ *graph.Graph, in []graph.Value) []graph.Value {
		return in[0].Graph().Apply(ops.GroupedMatMul{Trans: trans}, in[0], in[1], in[2])
	}
	out := []Case{{Name: "grouped_matmul_" + name, In: []Arg{x, w, offsets}, Tol: tol, Order: order, Bad: bad, Build: product},
		{Name: "grouped_matmul_wide_" + name, In: []Arg{x, {Dims: w.Dims, DType: tensor.BF16, NoGrad: true}, offsets}, DTypes: []tensor.DType{tensor.F32},
			Tol: tol, Order: order, Bad: bad[:2], Build: func(_ *graph.Graph, in []graph.Value) []graph.Value {
				return in[0].Graph().Apply(ops.GroupedMatMul{Trans: trans}, in[0], narrowOr(in[1], in[0]), in[2])
			}}}
	if !trans {
		a, b := Arg{Dims: []int{rows, n}}, Arg{Dims: []int{rows, k}}
		out = append(out, Case{Name: "grouped_outer_" + name, In: []Arg{a, b, offsets}, Tol: tol, Order: order,
			Bad: [][]Arg{{a, {Dims: []int{rows + 1, k}}, offsets}, {{Dims: []int{n}}, b, offsets}, {a, b, {Dims: []int{e + 1}, DType: tensor.I64}}},
			Build: func(_ *graph.Graph, in []graph.Value) []graph.Value {
				return in[0].Graph().Apply(ops.GroupedOuter{}, in[0], in[1], in[2])
			}})
	}
	return append(out, quantGroupedCases(name, x, offsets, e, n, k, block, trans, tol)...)
}

// narrowOr is w under an f32 x and w cast to x's dtype under any other.
func narrowOr(w, x graph.Value) graph.Value {
	if x.DType() == tensor.F32 {
		return w
	}
	return ops.Cast(w, x.DType())
}

func quantGroupedCases(name string, x, offsets Arg, e, n, k, block int, trans bool, tol map[tensor.DType]float64) []Case {
	blocks := quant.Blocks(e*n*k, block)
	codes := Arg{Dims: []int{quant.PackedSize(e * n * k)}, DType: tensor.U8, Lo: 0, Hi: 256}
	absmax := Arg{Dims: []int{blocks}, DType: tensor.F32, Lo: 0.5, Hi: 1.5, NoGrad: true}
	inner := Arg{Dims: []int{blocks}, DType: tensor.U8, Lo: 0, Hi: 256}
	nested := Arg{Dims: []int{quant.Blocks(blocks, quant.StateBlocksize)}, DType: tensor.F32, Lo: 0.5, Hi: 1.5, NoGrad: true}
	offset := Arg{DType: tensor.F32, Lo: 1, Hi: 2, NoGrad: true}
	bytes := Arg{Dims: []int{e, n, k}, DType: tensor.I8, Lo: -127, Hi: 128}
	o := ops.QuantGroupedMatMul{Scheme: quant.NF4, Blocksize: block, Experts: e, N: n, K: k, Trans: trans}
	twice := o
	twice.Nested, twice.Scheme = true, quant.FP4
	by := func(o ops.QuantGroupedMatMul) build {
		return func(_ *graph.Graph, in []graph.Value) []graph.Value {
			return one(ops.QuantGroupedLinear(o, in[0], in[1], in[2:]...))
		}
	}
	wrong := Arg{Dims: []int{x.Dims[0], x.Dims[1] + 1}}
	return []Case{
		{Name: "quant_grouped_matmul_" + name, In: []Arg{x, offsets, codes, absmax}, Tol: tol, Order: 1, Build: by(o),
			Bad: [][]Arg{{wrong, offsets, codes, absmax}, {x, offsets, codes, {Dims: []int{blocks + 1}, DType: tensor.F32}}}},
		{Name: "quant_grouped_matmul_nested_" + name, In: []Arg{x, offsets, codes, inner, nested, offset}, Tol: tol, Order: 1, Build: by(twice)},
		{Name: "int8_grouped_matmul_" + name, In: []Arg{x, offsets, bytes, statsArg(e * n)}, Tol: tol, Order: 1,
			Bad: [][]Arg{{wrong, offsets, bytes, statsArg(e * n)}, {x, offsets, bytes, statsArg(e*n + 1)}},
			Build: func(_ *graph.Graph, in []graph.Value) []graph.Value {
				return in[0].Graph().Apply(ops.Int8GroupedMatMul{Trans: trans}, in...)
			}},
	}
}
