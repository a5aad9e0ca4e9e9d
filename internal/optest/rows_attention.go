package optest

import (
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func attentionCases() []Case {
	q, k := Arg{Dims: []int{2, 5, 4, 8}}, Arg{Dims: []int{2, 5, 2, 8}}
	headMajor := Arg{Dims: []int{2, 2, 7, 8}}
	starts := Arg{Dims: []int{2, 5}, DType: tensor.I32, Values: []float64{0, 0, 0, 3, 3, 0, 1, 1, 1, 4}}
	perRow := func(a, b float64) Arg { return Arg{Dims: []int{2}, DType: tensor.I32, Values: []float64{a, b}} }
	tol := map[tensor.DType]float64{tensor.F32: 1e-5, tensor.F64: 1e-11}
	attend := func(o ops.AttendOptions) build {
		return func(_ *graph.Graph, in []graph.Value) []graph.Value { return one(ops.Attend(in[0], in[1], in[2], o)) }
	}
	cache, news := Arg{Dims: []int{2, 2, 7, 3}}, Arg{Dims: []int{2, 3, 2, 3}}
	return []Case{
		{Name: "attention", In: []Arg{q, k, k}, Tol: tol, Build: attend(ops.AttendOptions{}), Order: 1,
			Bad: [][]Arg{{q, k, {Dims: []int{2, 5, 3, 8}}}, {q, {Dims: []int{2, 5, 3, 8}}, {Dims: []int{2, 5, 3, 8}}}}},
		{Name: "attention_causal", In: []Arg{q, k, k}, Tol: tol, Build: attend(ops.AttendOptions{Causal: true}), Order: 1},
		{Name: "attention_window_cap", In: []Arg{q, k, k}, Tol: tol, Order: 1,
			Build: attend(ops.AttendOptions{Causal: true, Window: 2, SoftCap: 3, Scale: 0.5})},
		{Name: "attention_packed", In: []Arg{q, k, k, starts}, Tol: tol, Order: 1,
			Build: func(_ *graph.Graph, in []graph.Value) []graph.Value {
				return one(ops.Attend(in[0], in[1], in[2], ops.AttendOptions{Causal: true, DocStart: in[3]}))
			}},
		{Name: "attention_bounded", In: []Arg{q, k, k, starts}, Tol: tol, Order: 1,
			Build: func(_ *graph.Graph, in []graph.Value) []graph.Value {
				return one(ops.Attend(in[0], in[1], in[2], ops.AttendOptions{Causal: true, DocStart: in[3], Bounds: ops.DocumentBounds{Most: 3, Longest: 2}}))
			}},
		{Name: "attention_cached", In: []Arg{q, headMajor, headMajor, perRow(0, 2), perRow(5, 7)}, Tol: tol, Order: 1,
			Build: func(_ *graph.Graph, in []graph.Value) []graph.Value {
				return one(ops.Attend(in[0], in[1], in[2], ops.AttendOptions{Causal: true, HeadMajor: true, QOffset: in[3], KVLen: in[4]}))
			}},
		{Name: "attention_no_keys", In: []Arg{q, k, k, perRow(0, 3)}, Tol: tol, Order: 1,
			Build: func(_ *graph.Graph, in []graph.Value) []graph.Value {
				return one(ops.Attend(in[0], in[1], in[2], ops.AttendOptions{KVLen: in[3]}))
			}},
		{Name: "cache_write", In: []Arg{cache, news, perRow(0, 4)}, NoGrad: "caches are for inference",
			Build: func(_ *graph.Graph, in []graph.Value) []graph.Value { return one(ops.WriteCache(in[0], in[1], in[2])) },
			Bad:   [][]Arg{{cache, {Dims: []int{2, 8, 2, 3}}, perRow(0, 0)}}},
	}
}

// documentCases are lists of documents: of all kinds of rows, and where there is none.
func documentCases() []Case {
	rows := func(t int, v ...float64) Arg { return Arg{Dims: []int{len(v) / t, t}, DType: tensor.I32, Values: v} }
	packed := rows(5, 0, 0, 0, 3, 3, 0, 1, 1, 1, 4)
	list := func(slots, longest int32) ops.Documents {
		return ops.Documents{Slots: slots, Longest: longest, Heads: 4, KeyHeads: 2, HeadDim: 8}
	}
	var out []Case
	for _, c := range []struct {
		name string
		in   Arg
		op   ops.Documents
	}{
		{"some", packed, list(8, 5)},
		{"full", rows(3, 0, 0, 0, 0, 1, 1, 0, 1, 2), list(6, 3)},
		{"many", packed, list(4, 5)},
		{"long", packed, list(8, 2)},
		{"late", rows(4, 1, 1, 2, 2), list(4, 4)},
		{"odd", rows(4, 0, 0, 1, 3), list(4, 4)},
		{"negative", rows(4, -1, -1, -1, -1), list(4, 4)},
		{"wide", Arg{Dims: []int{3, 700}, DType: tensor.I32, Values: []float64{0}}, list(64, 700)},
	} {
		out = append(out, Case{Name: "documents_" + c.name, In: []Arg{c.in}, DTypes: []tensor.DType{tensor.I32}, NoGrad: "lengths and places are integers",
			Bad:   [][]Arg{{{Dims: []int{10}, DType: tensor.I32}}, {{Dims: []int{2, 5}, DType: tensor.I64}}},
			Build: func(g *graph.Graph, in []graph.Value) []graph.Value { return g.Apply(c.op, in...) }})
	}
	return out
}

// addQuantMatMul adds a product of x to a vector of as many elements.
func addQuantMatMul(o ops.QuantMatMul, name string, x Arg, weight ...Arg) Case {
	n := o.N
	if o.Trans {
		n = o.K
	}
	size := tensor.S(x.Dims[:len(x.Dims)-1]...).Size() * n
	return Case{Name: name, In: append([]Arg{{Dims: []int{size}}, x}, weight...), Tol: map[tensor.DType]float64{tensor.F32: 5e-6},
		Build: func(g *graph.Graph, in []graph.Value) []graph.Value {
			return g.Apply(ops.AddQuantMatMul{QuantMatMul: o}, in...)
		},
		Bad: [][]Arg{append([]Arg{{Dims: []int{size + 1}}, x}, weight...)}}
}

func quantCases() []Case {
	const rows, cols, block = 6, 43, 64 // blocks span rows, and the last is short
	codes := Arg{Dims: []int{quant.PackedSize(rows * cols)}, DType: tensor.U8, Lo: 0, Hi: 256}
	absmax := Arg{Dims: []int{5}, DType: tensor.F32, Lo: 0.5, Hi: 1.5, NoGrad: true}
	inner := Arg{Dims: []int{5}, DType: tensor.U8, Lo: 0, Hi: 256}
	nested := Arg{Dims: []int{1}, DType: tensor.F32, Lo: 0.5, Hi: 1.5, NoGrad: true}
	offset := Arg{DType: tensor.F32, Lo: 1, Hi: 2, NoGrad: true}
	f32 := []tensor.DType{tensor.F32}
	const frozen = "weights in 4 bits are frozen"
	var out []Case
	for _, s := range []quant.Scheme{quant.NF4, quant.FP4} {
		name := s.String()
		deq := ops.Dequantize{Scheme: s, Blocksize: block, Rows: rows, Cols: cols, To: tensor.F32}
		deqNested := deq
		deqNested.Nested = true
		mm := ops.QuantMatMul{Scheme: s, Blocksize: block, N: rows, K: cols}
		trans, mmNested := mm, mm
		trans.Trans, mmNested.Nested = true, true
		quantLinear := func(o ops.QuantMatMul) build {
			return func(_ *graph.Graph, in []graph.Value) []graph.Value { return one(ops.QuantLinear(o, in[0], in[1:]...)) }
		}
		tol := map[tensor.DType]float64{tensor.F32: 5e-6}
		out = append(out,
			Case{Name: "dequantize_" + name, In: []Arg{codes, absmax}, DTypes: f32, NoGrad: frozen, Bad: [][]Arg{{codes, {Dims: []int{4}, DType: tensor.F32}}},
				Build: func(_ *graph.Graph, in []graph.Value) []graph.Value { return one(ops.DequantizeWeight(deq, in...)) }},
			Case{Name: "dequantize_nested_" + name, In: []Arg{codes, inner, nested, offset}, DTypes: f32, NoGrad: frozen,
				Build: func(_ *graph.Graph, in []graph.Value) []graph.Value {
					return one(ops.DequantizeWeight(deqNested, in...))
				}},
			Case{Name: "quant_matmul_" + name, In: []Arg{{Dims: []int{3, cols}}, codes, absmax}, Tol: tol, Build: quantLinear(mm),
				Bad: [][]Arg{{{Dims: []int{3, cols + 1}}, codes, absmax}}},
			Case{Name: "quant_matmul_trans_" + name, In: []Arg{{Dims: []int{2, 3, rows}}, codes, absmax}, Tol: tol, Build: quantLinear(trans)},
			Case{Name: "quant_matmul_nested_" + name, In: []Arg{{Dims: []int{3, cols}}, codes, inner, nested, offset}, Tol: tol, Build: quantLinear(mmNested)},
			addQuantMatMul(mm, "add_quant_matmul_"+name, Arg{Dims: []int{7, cols}}, codes, absmax),
			addQuantMatMul(trans, "add_quant_matmul_trans_"+name, Arg{Dims: []int{2, 35, rows}}, codes, absmax),
			addQuantMatMul(mmNested, "add_quant_matmul_nested_"+name, Arg{Dims: []int{70, cols}}, codes, inner, nested, offset),
			Case{Name: "quantize_4bit_" + name, In: []Arg{{Dims: []int{5, 43}, DType: tensor.F32}}, DTypes: f32, NoGrad: "codes are integers",
				Build: func(_ *graph.Graph, in []graph.Value) []graph.Value {
					c, a := ops.QuantizeTo4(in[0], s, block)
					return []graph.Value{c, a}
				}})
	}
	for _, o := range []ops.Quantize8{{Blocksize: 256}, {Blocksize: 64, Unsigned: true}, {Blocksize: 64, Moment: true}} {
		lo := -1.0
		if o.Unsigned {
			lo = 0
		}
		name := graph.OpText(o)
		out = append(out, Case{Name: name, In: []Arg{{Dims: []int{5, 43}, DType: tensor.F32, Lo: lo, Hi: 1}}, DTypes: f32, NoGrad: "codes are integers",
			Build: func(_ *graph.Graph, in []graph.Value) []graph.Value {
				c, a := ops.QuantizeTo8(o, in[0])
				return []graph.Value{c, a, ops.DequantizeFrom8(c, a, o.Blocksize, o.Unsigned)}
			}})
	}
	return append(out, int8Cases()...)
}
