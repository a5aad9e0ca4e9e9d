package models_test

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/models"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// eager computes a model's logits with every intermediate result rounded to the compute dtype where the eager code of transformers rounds
// it: scores of attention, the tables of rotary positions and their products, norms before their weight. The model itself keeps these in
// float32, which is closer to the true value; int8 activations, however, tell apart what differs in the last bit, so that logits of
// another rounding are as far from the reference as the reference's own 16-bit run is from its 32-bit one.
type eager struct {
	m   *models.Llama
	cfg models.Config
	d   tensor.DType
}

func (e eager) logits(tokens graph.Value) graph.Value {
	b, t := tokens.Dim(0), tokens.Dim(1)
	g := tokens.Graph()
	x := ops.Cast(e.m.Backbone.Embed.Forward(tokens), e.d)
	pos := ops.Iota(g, tensor.T(tensor.I32, b, t), 1)
	inv, err := tensor.Of(ops.InvFreq(e.cfg.Rope.Theta, e.cfg.HeadDim))
	if err != nil {
		return g.Poison()
	}
	cos, sin := ops.RopeTables(pos, g.Const(inv))
	tables := [2]graph.Value{}
	for i, v := range []graph.Value{cos, sin} {
		v = ops.Reshape(ops.Cast(v, e.d), b, 1, t, e.cfg.HeadDim/2)
		tables[i] = ops.Concat(3, v, v)
	}
	for _, block := range e.m.Backbone.Blocks {
		x = ops.Add(x, e.attention(block.Attn, e.norm(block.Norm1, x), tables))
		y := e.norm(block.Norm2, x)
		gate := block.MLP.Gate.Forward(y)
		x = ops.Add(x, block.MLP.Down.Forward(ops.Mul(ops.SiLU(gate), block.MLP.Up.Forward(y))))
	}
	return ops.Cast(e.m.Head.Forward(e.norm(e.m.Backbone.Norm, x)), tensor.F32)
}

func (e eager) norm(n *layers.RMSNorm, x graph.Value) graph.Value {
	wide := ops.Cast(x, tensor.F32)
	mean := ops.Reshape(ops.Mean(ops.Square(wide), -1), x.Dim(0), x.Dim(1), 1)
	return ops.Mul(ops.Cast(x.Graph().Read(n.Weight), e.d), ops.Cast(ops.Mul(wide, ops.Rsqrt(ops.AddScalar(mean, float64(n.Eps)))), e.d))
}

func (e eager) attention(a *layers.Attention, x graph.Value, tables [2]graph.Value) graph.Value {
	b, t, d := x.Dim(0), x.Dim(1), a.HeadDim
	split := func(y graph.Value, heads int) graph.Value {
		return ops.Transpose(ops.Reshape(y, b, t, heads, d), 0, 2, 1, 3)
	}
	rotate := func(y graph.Value) graph.Value {
		half := ops.Concat(3, ops.Neg(ops.Slice(y, 3, d/2, d)), ops.Slice(y, 3, 0, d/2))
		return ops.Add(ops.Mul(y, tables[0]), ops.Mul(half, tables[1]))
	}
	repeat := func(y graph.Value) graph.Value {
		y = ops.BroadcastTo(ops.Reshape(y, b, a.KVHeads, 1, t, d), b, a.KVHeads, a.Heads/a.KVHeads, t, d)
		return ops.Reshape(y, b, a.Heads, t, d)
	}
	q := rotate(split(a.Q.Forward(x), a.Heads))
	k := repeat(rotate(split(a.K.Forward(x), a.KVHeads)))
	v := repeat(split(a.V.Forward(x), a.KVHeads))
	scores := ops.Dot(q, ops.Transpose(k, 0, 1, 3, 2))
	scores = ops.Mul(scores, ops.Scalar(scores, 1/math.Sqrt(float64(d))))
	mask := tensor.New(tensor.T(tensor.F32, t, t))
	for i := range t {
		for j := i + 1; j < t; j++ {
			mask.Set(i*t+j, math.Inf(-1))
		}
	}
	p := ops.Softmax(ops.Add(ops.Cast(scores, tensor.F32), x.Graph().Const(mask)), -1)
	y := ops.Transpose(ops.Dot(ops.Cast(p, e.d), v), 0, 2, 1, 3)
	return a.O.Forward(ops.Reshape(y, b, t, a.Heads*d))
}

// run computes the logits of a batch.
func (e eager) run(t *testing.T, f *fixture, b batch) *tensor.Tensor {
	t.Helper()
	g := graph.New("eager")
	logits := e.logits(g.Const(b.tokens))
	c, err := plan.Compile([]graph.Value{logits}, plan.Options{Device: f.dev, Session: f.session})
	require.NoError(t, err)
	res, err := c.Run(t.Context(), nil)
	require.NoError(t, err)
	out := res.Tensor(logits)
	require.NoError(t, c.Close())
	return out
}
