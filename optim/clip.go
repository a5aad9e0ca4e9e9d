package optim

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// ClipFactor is what gradients of a norm are multiplied by so that it does not exceed maxNorm: min(1, maxNorm/(norm + 1e-6)), as
// torch.nn.utils.clip_grad_norm_ does. A maxNorm of 0 or less does not clip. norm is a float scalar.
func ClipFactor(norm graph.Value, maxNorm float64) graph.Value {
	if !norm.Valid() {
		return norm
	}
	one := ops.Scalar(norm, 1)
	if !(maxNorm > 0) {
		return one
	}
	return ops.Min(one, ops.Div(ops.Scalar(norm, maxNorm), ops.AddScalar(norm, 1e-6)))
}

// Finite is 1 where a float scalar is a finite number, else 0: the OK of an update, given the gradients' norm.
func Finite(norm graph.Value) graph.Value {
	return ops.Cast(ops.IsFinite(norm), tensor.F32)
}

// ClipValues returns gradient slabs times a scale with each element limited to [-limit, limit], as torch.nn.utils.clip_grad_value_
// does: give them to Group.ApplyGrads without a GScale.
func ClipValues(slabs []graph.Value, gscale graph.Value, limit float64) []graph.Value {
	out := make([]graph.Value, len(slabs))
	for i, v := range slabs {
		scaled := ops.Mul(ops.Cast(v, tensor.F32), gscale)
		out[i] = ops.Clip(scaled, -limit, limit)
	}
	return out
}

// NormSquared is the sum of the squares of all elements of slabs, a float32 scalar; it is valid for at least one slab.
func NormSquared(slabs []graph.Value) graph.Value {
	var sum graph.Value
	for _, v := range slabs {
		part := ops.SumOfSquares(ops.Cast(v, tensor.F32))
		if sum.Absent() {
			sum = part
		} else {
			sum = ops.Add(sum, part)
		}
	}
	return sum
}

// PercentileHistory is the number of norms that PercentileClip remembers, as bitsandbytes does.
const PercentileHistory = 100

// PercentileClip keeps the norm of a step from exceeding a percentile of the last hundred norms: the percentile_clipping that
// bitsandbytes had until 0.49, with its history (the first norm fills it whole, and the present norm is part of it). It differs in
// that the norm may be that of the whole gradient, where bitsandbytes knew each tensor's alone, and that a step which is not finite
// leaves no mark. The history lives in variables of the graph, so that no step waits for the host.
type PercentileClip struct {
	percentile  int
	norms, slot *graph.Var // the ring, and the place of the last norm from 1 on, 0 before the first
}

// NewPercentileClip clips to the norm at index percentile, from 1 to 99, of the history in ascending order. name begins the names of
// the variables; "" is "percentile_clip".
func NewPercentileClip(name string, percentile int) (*PercentileClip, error) {
	if percentile < 1 || percentile >= PercentileHistory {
		return nil, fmt.Errorf("optim: the percentile %d of clipping must be from 1 to %d", percentile, PercentileHistory-1)
	}
	if name == "" {
		name = "percentile_clip"
	}
	return &PercentileClip{percentile, graph.NewVar(name+".norms", tensor.T(tensor.F32, PercentileHistory)),
		graph.NewVar(name+".slot", tensor.T(tensor.F32))}, nil
}

// Vars returns the variables to save.
func (c *PercentileClip) Vars() []*graph.Var { return []*graph.Var{c.norms, c.slot} }

// Factor is what the gradients are multiplied by, given their norm and whether the step is finite (1 or 0), both float32 scalars. It
// writes the history: call it once a graph.
func (c *PercentileClip) Factor(g *graph.Graph, norm, ok graph.Value) graph.Value {
	const n = PercentileHistory
	old, last := g.Read(c.norms), g.Read(c.slot)
	zero, one := ops.Fill(g, tensor.F32, 0), ops.Fill(g, tensor.F32, 1)
	next := ops.Where(ops.GreaterEqual(last, ops.Scalar(last, n)), one, ops.Add(last, one))
	index := ops.AddScalar(ops.Iota(g, tensor.T(tensor.F32, n), 0), 1)
	here := ops.Or(ops.Equal(index, next), ops.BroadcastTo(ops.Equal(last, zero), n))
	ring := ops.Where(here, ops.BroadcastTo(norm, n), old)

	finite := ops.Greater(ok, zero)
	g.Write(c.norms, ops.Where(ops.BroadcastTo(finite, n), ring, old))
	g.Write(c.slot, ops.Where(finite, next, last))

	limit := smallest(g, ring, c.percentile)
	return ops.Where(ops.Greater(norm, limit), ops.Div(limit, norm), one)
}

// smallest is element k of a vector in ascending order: the one that k others stand before. Equal ones stand in the order of their
// places. It compares all pairs, which for a short vector is one small kernel.
func smallest(g *graph.Graph, v graph.Value, k int) graph.Value {
	n := v.Shape().Size()
	i, j := ops.Reshape(v, n, 1), ops.Reshape(v, 1, n)
	at := ops.Iota(g, tensor.T(tensor.F32, n), 0)
	earlier := ops.And(ops.Equal(i, j), ops.Less(ops.Reshape(at, 1, n), ops.Reshape(at, n, 1)))
	before := ops.Sum(ops.Cast(ops.Or(ops.Less(j, i), earlier), tensor.F32), 1)
	return ops.Sum(ops.Where(ops.Equal(before, ops.Scalar(before, float64(k))), v, ops.ZerosLike(v)))
}

// tensors says which tensor of a layout each block of ops.SlabAlign elements belongs to, i32 (blocks); a block of none belongs to
// the first, to whose sums its zeros add nothing.
func tensors(g *graph.Graph, l *ops.Layout) graph.Value {
	ids := make([]int32, l.Total/ops.SlabAlign)
	for i, at := range l.Offsets {
		for b := at / ops.SlabAlign; b*ops.SlabAlign < at+l.Sizes[i]; b++ {
			ids[b] = int32(i)
		}
	}
	t, err := tensor.FromBytes(tensor.T(tensor.I32, len(ids)), tensor.AsBytes(ids))
	if err != nil {
		return g.Fail("tensors", nil, err)
	}
	return g.Const(t)
}

// normsOf is the norm of each tensor of a slab, f32 (tensors).
func normsOf(l *ops.Layout, slab, ids graph.Value) graph.Value {
	blocks := ops.Reshape(ops.Cast(slab, tensor.F32), l.Total/ops.SlabAlign, ops.SlabAlign)
	return ops.Sqrt(ops.ScatterAdd(ops.Sum(ops.Square(blocks), 1), 0, ids, len(l.Sizes)))
}

// GradNorms is the norm of the gradient held of each parameter, in an order of their own: f32 vectors, one a section, with the
// parameters that each speaks of.
func (gr *Group) GradNorms(g *graph.Graph) (norms []graph.Value, of [][]*graph.Var) {
	for _, s := range gr.sections {
		norms = append(norms, normsOf(s.layout, g.Read(s.grad), tensors(g, s.layout)))
		of = append(of, s.params)
	}
	return norms, of
}

// agcFloor is the least norm of a parameter that AdaptiveClip reckons with, so that parameters of zeros can leave zero.
const agcFloor = 1e-3

// AdaptiveClip returns the gradient slabs times gscale with the gradient of each parameter limited to ratio times the parameter's
// norm, G·min(1, ratio·max(‖W‖, 1e-3)/‖G‖): adaptive gradient clipping (Brock et al. 2021, arXiv 2102.06171, eq. 3) with a tensor,
// not a row of it, as the unit. The slabs are in the order of GradSlabs; give the result to ApplyGrads without a GScale.
func (gr *Group) AdaptiveClip(g *graph.Graph, slabs []graph.Value, gscale graph.Value, ratio float64) []graph.Value {
	if len(slabs) != len(gr.sections) {
		g.Fail("adaptive_clip", nil, fmt.Errorf("%d gradient slabs for %d sections", len(slabs), len(gr.sections)))
		return slabs
	}
	out := make([]graph.Value, len(slabs))
	for i, s := range gr.sections {
		ids := tensors(g, s.layout)
		grad := ops.Mul(ops.Cast(slabs[i], tensor.F32), gscale)
		size, have := normsOf(s.layout, g.Read(s.slab), ids), normsOf(s.layout, grad, ids)
		most := ops.Scale(ops.Max(size, ops.Scalar(size, agcFloor)), ratio)
		factor := ops.Where(ops.Greater(have, most), ops.Div(most, have), ops.BroadcastTo(ops.Scalar(have, 1), len(s.layout.Sizes)))
		n := s.layout.Total / ops.SlabAlign
		byBlock := ops.Reshape(ops.Gather(factor, 0, ids), n, 1)
		out[i] = ops.Reshape(ops.Mul(ops.Reshape(grad, n, ops.SlabAlign), byBlock), s.layout.Total)
	}
	return out
}
