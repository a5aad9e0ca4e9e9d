package layers

import (
	"errors"
	"math"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// eager is Attend with every intermediate result rounded to the compute dtype where the eager code of transformers rounds it: the
// tables of rotary positions and each of their products, the scores, and the probabilities. It holds the (B, Heads, T, T) scores.
func (s AttentionShape) eager(q, k, v graph.Value, c AttentionContext) graph.Value {
	g := q.Graph()
	if c.Cache != nil || s.Interleaved {
		return g.Fail("attention", []graph.Value{q}, errors.New("eager rounding is for whole rows in the order of Hugging Face weights; leave Eager out"))
	}
	b, t, d := q.Dim(0), q.Dim(1), s.HeadDim
	major := func(y graph.Value) graph.Value { return ops.Transpose(y, 0, 2, 1, 3) }
	repeat := func(y graph.Value) graph.Value {
		y = ops.BroadcastTo(ops.Reshape(y, b, s.KVHeads, 1, t, d), b, s.KVHeads, s.Heads/s.KVHeads, t, d)
		return ops.Reshape(y, b, s.Heads, t, d)
	}
	turn := eagerRope(q.DType(), c)
	q, k, v = turn(major(q)), repeat(turn(major(k))), repeat(major(v))
	scores := ops.Scale(ops.Dot(q, ops.Transpose(k, 0, 1, 3, 2)), s.scale())
	if s.SoftCap > 0 {
		scores = ops.Scale(ops.Tanh(ops.Scale(scores, 1/s.SoftCap)), s.SoftCap)
	}
	scores = ops.Cast(scores, tensor.F32)
	seen := ops.BroadcastTo(s.seen(g, t, c), b, s.Heads, t, t)
	p := ops.Cast(ops.Softmax(ops.Where(seen, scores, ops.Scalar(scores, math.Inf(-1))), -1), q.DType())
	return ops.Reshape(major(ops.Dot(p, v)), b, t, s.Heads*d)
}

// eagerRope returns the rotation of (B, H, T, D) in dtype d: y·cos + rotate_half(y)·sin over the features that turn.
func eagerRope(d tensor.DType, c AttentionContext) func(y graph.Value) graph.Value {
	if c.Cos.Absent() {
		return func(y graph.Value) graph.Value { return y }
	}
	b, t, half := c.Cos.Dim(0), c.Cos.Dim(1), c.Cos.Dim(2)
	table := func(v graph.Value) graph.Value {
		v = ops.Reshape(ops.Cast(v, d), b, 1, t, half)
		return ops.Concat(3, v, v)
	}
	cos, sin := table(c.Cos), table(c.Sin)
	return func(y graph.Value) graph.Value {
		first, rest := ops.Slice(y, 3, 0, 2*half), ops.Slice(y, 3, 2*half, y.Dim(3))
		turned := ops.Concat(3, ops.Neg(ops.Slice(first, 3, half, 2*half)), ops.Slice(first, 3, 0, half))
		return ops.Concat(3, ops.Add(ops.Mul(first, cos), ops.Mul(turned, sin)), rest)
	}
}

// seen is the bool mask of the keys that each query sees, (1 or B, 1, T, T): those up to itself, in its window and its document.
func (s AttentionShape) seen(g *graph.Graph, t int, c AttentionContext) graph.Value {
	seen := ops.Reshape(ops.CausalMask(g, t, t, 0), 1, 1, t, t)
	if s.Window > 0 {
		near := ops.Not(ops.CausalMask(g, t, t, -int(s.Window)))
		seen = ops.And(seen, ops.Reshape(near, 1, 1, t, t))
	}
	if !c.DocStart.Absent() {
		start := ops.Reshape(c.DocStart, c.DocStart.Dim(0), 1, t, 1)
		key := ops.Iota(g, tensor.T(tensor.I32, 1, 1, 1, t), 3)
		seen = ops.And(seen, ops.LessEqual(start, key))
	}
	return seen
}
