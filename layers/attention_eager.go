package layers

import (
	"errors"
	"math"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// eager is Forward with every intermediate result rounded to the compute dtype where the eager code of transformers rounds it: the
// tables of rotary positions and each of their products, the scores, and the probabilities. It holds the (B, Heads, T, T) scores.
func (a *Attention) eager(x graph.Value, c AttentionContext) graph.Value {
	g := x.Graph()
	if c.Cache != nil || a.Interleaved {
		return g.Fail("attention", []graph.Value{x}, errors.New("eager rounding is for whole rows in the order of Hugging Face weights; leave Eager out"))
	}
	b, t, d := x.Dim(0), x.Dim(1), a.HeadDim
	split := func(y graph.Value, heads int) graph.Value {
		return ops.Transpose(ops.Reshape(y, b, t, heads, d), 0, 2, 1, 3)
	}
	table := func(v graph.Value) graph.Value {
		v = ops.Reshape(ops.Cast(v, x.DType()), b, 1, t, d/2)
		return ops.Concat(3, v, v)
	}
	cos, sin := table(c.Cos), table(c.Sin)
	rotate := func(y graph.Value) graph.Value {
		half := ops.Concat(3, ops.Neg(ops.Slice(y, 3, d/2, d)), ops.Slice(y, 3, 0, d/2))
		return ops.Add(ops.Mul(y, cos), ops.Mul(half, sin))
	}
	repeat := func(y graph.Value) graph.Value {
		y = ops.BroadcastTo(ops.Reshape(y, b, a.KVHeads, 1, t, d), b, a.KVHeads, a.Heads/a.KVHeads, t, d)
		return ops.Reshape(y, b, a.Heads, t, d)
	}
	q := rotate(split(named("q_proj", a.Q, x), a.Heads))
	k := repeat(rotate(split(named("k_proj", a.K, x), a.KVHeads)))
	v := repeat(split(named("v_proj", a.V, x), a.KVHeads))
	scores := ops.Scale(ops.Dot(q, ops.Transpose(k, 0, 1, 3, 2)), 1/math.Sqrt(float64(d)))
	seen := a.seen(g, t, c)
	masked := ops.Where(ops.BroadcastTo(seen, b, a.Heads, t, t), ops.Cast(scores, tensor.F32), ops.Scalar(ops.Cast(scores, tensor.F32), math.Inf(-1)))
	p := ops.Cast(ops.Softmax(masked, -1), x.DType())
	y := ops.Transpose(ops.Dot(p, v), 0, 2, 1, 3)
	return named("o_proj", a.O, ops.Reshape(y, b, t, a.Heads*d))
}

// seen is the bool mask of the keys that each query sees, (1 or B, 1, T, T): those up to itself, in its window and its document.
func (a *Attention) seen(g *graph.Graph, t int, c AttentionContext) graph.Value {
	seen := ops.Reshape(ops.CausalMask(g, t, t, 0), 1, 1, t, t)
	if a.Window > 0 {
		near := ops.Not(ops.CausalMask(g, t, t, -int(a.Window)))
		seen = ops.And(seen, ops.Reshape(near, 1, 1, t, t))
	}
	if !c.DocStart.Absent() {
		start := ops.Reshape(c.DocStart, c.DocStart.Dim(0), 1, t, 1)
		key := ops.Iota(g, tensor.T(tensor.I32, 1, 1, 1, t), 3)
		seen = ops.And(seen, ops.LessEqual(start, key))
	}
	return seen
}
