package optest

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// narrow are the dtypes that int8 arithmetic takes. The rows fix them by argument, as there is no float64 to compare with.
var narrow = []tensor.DType{tensor.F32, tensor.F16, tensor.BF16}

func int8Cases() []Case {
	return append(int8PartCases(), int8LinearCases()...)
}

// int8PartCases are the steps of LLM.int8() one by one.
func int8PartCases() []Case {
	var out []Case
	for _, d := range narrow {
		x := Arg{Dims: []int{2, 3, 70}, DType: d}
		flat := Arg{Dims: []int{9, 37}, DType: d}
		for _, threshold := range []float32{0, 2} {
			name := fmt.Sprintf("%v_%v", d, threshold)
			out = append(out, Case{Name: "int8_quantize_rows_" + name, In: []Arg{x}, DTypes: []tensor.DType{d}, NoGrad: "codes are integers",
				Bad: [][]Arg{{{DType: d}}, {{Dims: []int{2, 3}, DType: tensor.F64}}, {{Dims: []int{2, 3}, DType: tensor.I8}}},
				Build: func(_ *graph.Graph, in []graph.Value) []graph.Value {
					codes, stats, outliers := ops.QuantizeRowsTo8(in[0], threshold)
					return []graph.Value{codes, stats, outliers}
				}})
			out = append(out, Case{Name: "int8_quantize_columns_" + name, In: []Arg{flat}, DTypes: []tensor.DType{d}, NoGrad: "codes are integers",
				Bad: [][]Arg{{x}, {{Dims: []int{2, 3}, DType: tensor.F64}}},
				Build: func(_ *graph.Graph, in []graph.Value) []graph.Value {
					codes, stats := ops.QuantizeColumnsTo8(in[0], threshold)
					return []graph.Value{codes, stats}
				}})
		}
		acc := Arg{Dims: []int{5, 7}, DType: tensor.I32, Lo: -1e5, Hi: 1e5}
		rows, cols := statsArg(5), statsArg(7)
		bias := Arg{Dims: []int{7}, DType: d}
		for i, in := range [][]Arg{{acc, rows, cols}, {acc, rows, cols, bias}} {
			out = append(out, Case{Name: fmt.Sprintf("int8_dequantize_product_%v_%d", d, i), In: in, DTypes: []tensor.DType{d},
				NoGrad: "int32 sums have no gradient", Tol: map[tensor.DType]float64{tensor.F32: Limits[tensor.F16]},
				Bad: [][]Arg{{acc, rows, rows}, {acc, cols, cols}, {{Dims: []int{5, 7}, DType: d}, rows, cols}, {acc, rows, cols, rows}},
				Build: func(_ *graph.Graph, in []graph.Value) []graph.Value {
					return one(ops.DequantizeProductFrom8(in[0], in[1], in[2], optional(in, 3), d))
				}})
		}
		codes := Arg{Dims: []int{2, 3, 33}, DType: tensor.I8, Lo: -127, Hi: 128}
		for _, first := range []bool{false, true} {
			o := ops.DequantizeRows8{To: d, ScaleFirst: first}
			out = append(out, Case{Name: graph.OpText(o), In: []Arg{codes, statsArg(6)}, DTypes: []tensor.DType{d}, NoGrad: "a quantized weight is frozen",
				Bad: [][]Arg{{codes, statsArg(5)}, {{Dims: []int{2, 3}, DType: tensor.U8}, statsArg(2)}},
				Build: func(_ *graph.Graph, in []graph.Value) []graph.Value {
					return one(ops.DequantizeRowsFrom8(o, in[0], in[1]))
				}})
		}
	}
	return append(out, int8MatMulCases()...)
}

func optional(in []graph.Value, i int) graph.Value {
	if i < len(in) {
		return in[i]
	}
	return graph.Value{}
}

// statsArg are absmax statistics.
func statsArg(n int) Arg {
	return Arg{Dims: []int{n}, DType: tensor.F32, Lo: 0.5, Hi: 1.5, NoGrad: true}
}

func int8MatMulCases() []Case {
	var out []Case
	for _, s := range [][3]int{{3, 5, 7}, {1, 64, 33}, {17, 190, 9}, {300, 70, 20}, {5, 2100, 6}, {0, 4, 3}, {4, 0, 3}} {
		for i := range 4 {
			o := ops.Int8MatMul{TransA: i&1 == 1, TransB: i&2 == 2}
			a, b := []int{s[0], s[1]}, []int{s[1], s[2]}
			if o.TransA {
				a = []int{s[1], s[0]}
			}
			if o.TransB {
				b = []int{s[2], s[1]}
			}
			code := func(dims []int) Arg { return Arg{Dims: dims, DType: tensor.I8, Lo: -128, Hi: 128} }
			out = append(out, Case{Name: fmt.Sprintf("int8_matmul%v_%d", s, i), In: []Arg{code(a), code(b)}, DTypes: []tensor.DType{tensor.I8},
				NoGrad: "integers", Bad: [][]Arg{{code([]int{3, 5}), code([]int{6, 7})}, {code([]int{3}), code([]int{3})},
					{{Dims: []int{3, 3}, DType: tensor.U8}, code([]int{3, 3})}},
				Build: func(_ *graph.Graph, in []graph.Value) []graph.Value { return one(ops.Int8Dot(o, in[0], in[1])) }})
		}
	}
	return out
}

// int8LinearCases are the layers: products by frozen and by trained weights.
func int8LinearCases() []Case {
	var out []Case
	w := Arg{Dims: []int{20, 70}, DType: tensor.I8, Lo: -127, Hi: 128}
	for _, trans := range []bool{false, true} {
		o := ops.Int8WeightMatMul{Trans: trans}
		x := Arg{Dims: []int{2, 3, 70}}
		if trans {
			x.Dims = []int{2, 3, 20}
		}
		out = append(out, Case{Name: graph.OpText(o), In: []Arg{x, w, statsArg(20)}, Tol: map[tensor.DType]float64{tensor.F32: 5e-6},
			Bad: [][]Arg{{{Dims: []int{2, 3, 71}}, w, statsArg(20)}, {x, w, statsArg(70)}, {{Dims: x.Dims, DType: tensor.I32}, w, statsArg(20)}},
			Build: func(_ *graph.Graph, in []graph.Value) []graph.Value {
				return one(ops.Int8WeightLinear(o, in[0], in[1], in[2]))
			}})
	}
	const through = "the gradient is a straight-through estimate by definition; tested against its definition in layers"
	for _, d := range narrow {
		x, bias := Arg{Dims: []int{2, 3, 70}, DType: d}, Arg{Dims: []int{20}, DType: d}
		full := Arg{Dims: []int{20, 70}, DType: tensor.F32}
		for _, threshold := range []float32{0, 2, 100} {
			name := fmt.Sprintf("_%v_%v", d, threshold)
			out = append(out,
				Case{Name: "int8_linear" + name, In: []Arg{x, w, statsArg(20), bias}, DTypes: []tensor.DType{d}, NoGrad: through, Tol: halfTol,
					Bad: [][]Arg{{{Dims: []int{2, 3, 71}, DType: d}, w, statsArg(20), bias}, {x, w, statsArg(20), {Dims: []int{70}, DType: d}},
						{{Dims: []int{2, 70}, DType: tensor.F64}, w, statsArg(20), bias}, {x, full, statsArg(20), bias}},
					Build: func(_ *graph.Graph, in []graph.Value) []graph.Value {
						return one(ops.LinearInt8(in[0], in[1], in[2], in[3], threshold))
					}},
				Case{Name: "int8_master_linear" + name, In: []Arg{x, full}, DTypes: []tensor.DType{d}, NoGrad: through, Tol: halfTol,
					Bad: [][]Arg{{x, {Dims: []int{20, 71}, DType: tensor.F32}}, {x, w}},
					Build: func(_ *graph.Graph, in []graph.Value) []graph.Value {
						return one(ops.LinearInt8Master(in[0], in[1], graph.Value{}, threshold))
					}})
		}
		for _, o := range []ops.SwitchBack{{}, {Vectorwise: true}, {Saved: true}} {
			out = append(out, Case{Name: fmt.Sprintf("%s_%v", graph.OpText(o), d), In: []Arg{x, full, bias}, DTypes: []tensor.DType{d}, NoGrad: through,
				Bad: [][]Arg{{x, {Dims: []int{20, 71}, DType: tensor.F32}, bias}, {x, w, bias}, {x, full, {Dims: []int{70}, DType: d}}},
				Build: func(_ *graph.Graph, in []graph.Value) []graph.Value {
					return one(ops.SwitchBackLinear(o, in[0], in[1], in[2]))
				}})
		}
	}
	return append(out, quantEmbedCases()...)
}

// halfTol is the limit of results that pass through f16 whatever their dtype.
var halfTol = map[tensor.DType]float64{tensor.F32: Limits[tensor.F16]}

func quantEmbedCases() []Case {
	const rows, cols, block = 6, 43, 64
	ids := Arg{Dims: []int{2, 3}, DType: tensor.I32, Values: []float64{5, 0, 3, 3, -1, 6}}
	codes := Arg{Dims: []int{quant.PackedSize(rows * cols)}, DType: tensor.U8, Lo: 0, Hi: 256}
	f32 := []tensor.DType{tensor.F32}
	var out []Case
	for _, s := range []quant.Scheme{quant.NF4, quant.FP4} {
		for _, d := range Floats {
			o := ops.QuantEmbed{Scheme: s, Blocksize: block, Rows: rows, Cols: cols, To: d}
			out = append(out, Case{Name: fmt.Sprintf("quant_embed_%v_%v", s, d), In: []Arg{ids, codes, statsArg(5)}, DTypes: f32, NoGrad: "a quantized table is frozen",
				Bad:   [][]Arg{{{Dims: []int{2}, DType: tensor.F32}, codes, statsArg(5)}, {ids, codes, statsArg(4)}},
				Build: func(_ *graph.Graph, in []graph.Value) []graph.Value { return one(ops.EmbedQuant(o, in[0], in[1:]...)) }})
		}
	}
	nested := ops.QuantEmbed{Scheme: quant.NF4, Blocksize: block, Rows: rows, Cols: cols, To: tensor.F32, Nested: true}
	out = append(out, Case{Name: "quant_embed_nested", DTypes: f32, NoGrad: "a quantized table is frozen",
		In: []Arg{ids, codes, {Dims: []int{5}, DType: tensor.U8, Lo: 0, Hi: 256}, statsArg(1), {DType: tensor.F32, Lo: 1, Hi: 2, NoGrad: true}},
		Build: func(_ *graph.Graph, in []graph.Value) []graph.Value {
			return one(ops.EmbedQuant(nested, in[0], in[1:]...))
		}})
	table := Arg{Dims: []int{6, 43}, DType: tensor.I8, Lo: -127, Hi: 128}
	return append(out, Case{Name: "int8_embed", In: []Arg{ids, table, statsArg(6)}, DTypes: f32, NoGrad: "a quantized table is frozen",
		Bad: [][]Arg{{ids, table, statsArg(5)}},
		Build: func(_ *graph.Graph, in []graph.Value) []graph.Value {
			return one(ops.EmbedInt8(in[0], in[1], in[2], tensor.F32))
		}})
}
