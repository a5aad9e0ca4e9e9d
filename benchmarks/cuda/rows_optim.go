package main

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func init() {
	const all, tensors = 1_000_000_000, 16
	sizes := make([]int, tensors)
	for i := range sizes {
		sizes[i] = all / tensors
	}
	adam := ops.Hyper{Rule: ops.Adam, Beta1: 0.9, Beta2: 0.999, Eps: 1e-8, WeightDecay: 0.01}
	torch := adam
	torch.Rule = ops.AdamTorch
	lion := ops.Hyper{Rule: ops.Lion, Beta1: 0.9, Beta2: 0.99, WeightDecay: 0.01}
	mix := ops.Hyper{Rule: ops.AdEMAMix, Beta1: 0.9, Beta2: 0.999, Beta3: 0.9999, Alpha: 5, Eps: 1e-8, WeightDecay: 0.01}
	add(
		updateRow("AdamW 8-bit", adam, true, tensor.BF16, sizes), updateRow("AdamW 8-bit", adam, true, tensor.F32, loraSizes()),
		updateRow("Lion 8-bit", lion, true, tensor.BF16, sizes), updateRow("AdEMAMix 8-bit", mix, true, tensor.BF16, sizes),
		updateRow("AdamW 32-bit", torch, false, tensor.BF16, sizes), updateRow("AdamW 32-bit", torch, false, tensor.F32, loraSizes()),
		memoryRow("sum of squares", ops.SumSquares{}, floats(tensor.F32, 40<<20)),
	)
}

// loraSizes are the 448 adapter matrices of rank 16 on all linears of Llama 3.1 8B.
func loraSizes() []int {
	var out []int
	for range 32 {
		for _, l := range [][2]int{{4096, 4096}, {4096, 1024}, {4096, 1024}, {4096, 4096}, {4096, 14336}, {4096, 14336}, {14336, 4096}} {
			out = append(out, 16*l[0], 16*l[1])
		}
	}
	return out
}

// updateRow is one step of an optimizer over a slab, in place.
func updateRow(name string, h ops.Hyper, eight bool, d tensor.DType, sizes []int) Row {
	l := ops.NewLayout(sizes...)
	l.DType = d
	total := 0
	for _, n := range sizes {
		total += n
	}
	var op graph.Op = ops.Update{Hyper: h, Layout: l}
	states := ops.Update{Hyper: h, Layout: l}.States()
	if eight {
		op, states = ops.Update8bit{Hyper: h, Layout: l}, ops.Update8bit{Hyper: h, Layout: l}.States()
	}
	in := []operand{filled(small, d, l.Total), filled(small, d, l.Total)}
	for _, s := range states {
		f := zeros // moments in 32 bits, from the start
		if s.Type.DType == tensor.U8 {
			f = normal
		} else if s.Each == ops.EachBlock {
			f = scales
		}
		in = append(in, operand{t: s.Type, fill: f})
	}
	in = append(in, filled(small, tensor.F32), filled(scales, tensor.F32), filled(scales, tensor.F32), filled(scales, tensor.F32)) // lr, step, gscale, ok
	bytes := -float64(in[1].t.Bytes())                                                                                             // the gradient is read only, the rest read and written
	for _, o := range in[:len(in)-4] {
		bytes += 2 * float64(o.t.Bytes())
	}
	return Row{Work: name, Detail: fmt.Sprintf("%d tensors, %.4g %v in one launch", len(sizes), float64(total), d), Bytes: bytes,
		Make: func(r *rig) (*work, error) { return r.inPlace(op, in...) }}
}
