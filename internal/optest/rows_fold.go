package optest

import (
	"fmt"
	"slices"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// foldedCases are products by weights in 4 bits that an adapter is folded into: any shape, and those that kernels of a device are for.
func foldedCases() (out []Case) {
	for _, s := range []quant.Scheme{quant.NF4, quant.FP4} {
		for i, nested := range []bool{false, true} {
			for _, trans := range []bool{false, true} {
				out = append(out, foldedQuant(ops.QuantMatMul{Scheme: s, Blocksize: 64, N: 6, K: 43, Nested: nested, Trans: trans}, 3, 5+i))
				out = append(out, foldedQuant(ops.QuantMatMul{Scheme: s, Blocksize: 32 << i, N: 24, K: 64, Nested: nested, Trans: trans}, 512, 4))
			}
		}
	}
	return out
}

// foldedQuant is a product of m rows with an adapter of this rank, added to a vector where the weight is nested.
func foldedQuant(q ops.QuantMatMul, m, rank int) Case {
	from, to := q.K, q.N
	if q.Trans {
		from, to = to, from
	}
	scales := quant.Blocks(q.N*q.K, q.Blocksize)
	in := []Arg{{Dims: []int{m, from}}, {Dims: []int{quant.PackedSize(q.N * q.K)}, DType: tensor.U8, Lo: 0, Hi: 256}}
	if q.Nested {
		in = append(in, Arg{Dims: []int{scales}, DType: tensor.U8, Lo: 0, Hi: 256}, Arg{Dims: []int{quant.Blocks(scales, quant.StateBlocksize)}, DType: tensor.F32, Lo: 0.5, Hi: 1.5, NoGrad: true},
			Arg{DType: tensor.F32, Lo: 1, Hi: 2, NoGrad: true})
	} else {
		in = append(in, Arg{Dims: []int{scales}, DType: tensor.F32, Lo: 0.5, Hi: 1.5, NoGrad: true})
	}
	in = append(in, Arg{Dims: []int{rank, q.K}}, Arg{Dims: []int{q.N, rank}})
	product := ops.FoldedQuantMatMul{Of: q, Rank: rank, Alpha: -0.75}
	var op graph.Op = product
	if q.Nested {
		op, in = ops.AddFoldedQuantMatMul{Product: product}, append([]Arg{{Dims: []int{m * to}}}, in...)
	}
	other := slices.Clone(in)
	other[len(in)-1] = Arg{Dims: []int{q.N, rank + 1}}
	name := fmt.Sprintf("%s_%v/%d_%dx%d_by_%d_trans=%v", op.Name(), q.Scheme, q.Blocksize, q.N, q.K, m, q.Trans)
	return Case{Name: name, In: in, Tol: map[tensor.DType]float64{tensor.F32: 5e-6}, Bad: [][]Arg{other, in[:len(in)-1]},
		Build: func(g *graph.Graph, in []graph.Value) []graph.Value { return g.Apply(op, in...) }}
}
