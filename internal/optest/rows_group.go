package optest

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// groupCases are products of one x, each with a result of its own.
func groupCases() (out []Case) {
	tol := map[tensor.DType]float64{tensor.F32: 5e-6}
	for _, m := range []int{1, 5, 9} {
		for _, stored := range []tensor.DType{tensor.Invalid, tensor.F32} {
			x := Arg{Dims: []int{m, 40}}
			a := func(rows int) Arg { return Arg{Dims: []int{rows, 40}, DType: stored} }
			op := ops.MatMulGroup{Alpha: [ops.GroupMost]float32{1, -0.5, 2}, N: 3}
			out = append(out, Case{Name: fmt.Sprintf("matmul_group%d_%v", m, stored), In: []Arg{x, a(3), a(8), a(1)}, Tol: tol,
				Build: func(g *graph.Graph, in []graph.Value) []graph.Value { return g.Apply(op, in...) },
				Bad:   [][]Arg{{x, a(3), a(8)}, {x, a(3), a(8), {Dims: []int{1, 41}}}, {x, a(3), a(8), {Dims: []int{40}}}, {x, a(3), a(8), {Dims: []int{1, 40}, DType: tensor.I32}}}})
		}
	}
	for _, op := range []ops.RoPEOp{{}, {Interleaved: true}, {Inverse: true}} {
		x, table := func(heads, size int) Arg { return Arg{Dims: []int{2, 3, heads, size}} }, Arg{Dims: []int{2, 3, 4}, DType: tensor.F32, NoGrad: true}
		out = append(out, Case{Name: fmt.Sprintf("rope_group_%v", op), In: []Arg{table, table, x(9, 16), x(2, 16)},
			Build: func(g *graph.Graph, in []graph.Value) []graph.Value {
				return g.Apply(ops.RoPEGroup{RoPE: op, N: 2}, in...)
			},
			Bad: [][]Arg{{table, table, x(9, 16)}, {table, table, x(9, 16), x(2, 8)}, {table, table, x(9, 16), {Dims: []int{2, 4, 2, 16}}}}})
	}
	for _, s := range []quant.Scheme{quant.NF4, quant.FP4} {
		for i, nested := range []bool{false, true} {
			for _, m := range []int{1, 6, 20} {
				out = append(out, quantGroup(s, nested, m, []int{17, 4, 33}, []int{64, 32 << i, 64}, []int{0, 3, 8}, tensor.F32))
			}
			out = append(out, quantGroup(s, nested, 2, []int{16, 32}, []int{64, 64}, []int{16, 0}, tensor.Invalid))
		}
	}
	return append(out, quantGroup(quant.NF4, false, 3, []int{5, 6}, []int{50, 64}, []int{2, 2}, tensor.F32))
}

// quantGroup is products by weights of so many rows and block sizes, with adapters of these ranks, whose B is of type low, as is a bias of all but the second.
func quantGroup(s quant.Scheme, nested bool, m int, rows, blocks, ranks []int, low tensor.DType) Case {
	const cols = 96
	op := ops.QuantMatMulGroup{N: int8(len(rows))}
	in := []Arg{{Dims: []int{m, cols}}}
	name := fmt.Sprintf("quant_matmul_group_%v_nested=%v_%dx%v_%v_%v", s, nested, m, rows, blocks, ranks)
	for i, n := range rows {
		q := ops.QuantMatMul{Scheme: s, Blocksize: blocks[i], N: n, K: cols, Nested: nested}
		scales := quant.Blocks(n*cols, q.Blocksize)
		in = append(in, Arg{Dims: []int{quant.PackedSize(n * cols)}, DType: tensor.U8, Lo: 0, Hi: 256})
		if nested {
			in = append(in, Arg{Dims: []int{scales}, DType: tensor.U8, Lo: 0, Hi: 256}, Arg{Dims: []int{quant.Blocks(scales, quant.StateBlocksize)}, DType: tensor.F32, Lo: 0.5, Hi: 1.5, NoGrad: true},
				Arg{DType: tensor.F32, Lo: 1, Hi: 2, NoGrad: true})
		} else {
			in = append(in, Arg{Dims: []int{scales}, DType: tensor.F32, Lo: 0.5, Hi: 1.5, NoGrad: true})
		}
		op.Of[i] = ops.QuantProduct{QuantMatMul: q, Bias: i != 1, Rank: ranks[i], Alpha: float32(i) - 1.5}
		if i != 1 {
			in = append(in, Arg{Dims: []int{n}, DType: low})
		}
		if ranks[i] > 0 {
			in = append(in, Arg{Dims: []int{m, ranks[i]}}, Arg{Dims: []int{n, ranks[i]}, DType: low})
		}
	}
	wrong := append([]Arg{{Dims: []int{m, cols + 1}}}, in[1:]...)
	return Case{Name: name, In: in, Tol: map[tensor.DType]float64{tensor.F32: 5e-6}, Bad: [][]Arg{wrong, in[:len(in)-1]},
		Build: func(g *graph.Graph, in []graph.Value) []graph.Value { return g.Apply(op, in...) }}
}
