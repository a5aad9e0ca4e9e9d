package onnx

import (
	"math"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func init() {
	register("Attention", Operator{Build: attention})
	registerIn("ai.onnx.preview", "FlexAttention", Operator{Build: func(n *Node) []graph.Value {
		return one(ops.AttendMasked(n.In(0), n.In(1), n.In(2), ops.MaskedOptions{Scale: n.Float("scale")}).Out)
	}})
	register("RotaryEmbedding", Operator{Build: rotary, Fixed: []int{1, 2}})
}

// Positions of Attention's inputs.
const (
	attnMask    = 3
	attnPastKey = 4
	attnPastVal = 5
	attnLengths = 6
)

func attention(n *Node) []graph.Value {
	q, k, v := heads(n, 0, "q_num_heads"), heads(n, 1, "kv_num_heads"), heads(n, 2, "kv_num_heads")
	past := 0
	if n.Has(attnPastKey) {
		past = n.In(attnPastKey).Dim(2)
		k, v = ops.Concat(2, n.In(attnPastKey), k), ops.Concat(2, n.In(attnPastVal), v)
	}
	o := ops.MaskedOptions{Scale: n.Float("scale"), SoftCap: n.Float("softcap")}
	tq, tk := q.Dim(2), k.Dim(2)
	if n.Has(attnMask) {
		m := n.In(attnMask)
		if m.DType() == tensor.Bool {
			o.Mask = ops.PadAxis(m, m.Rank()-1, 0, padTo(m, tk), 0)
		} else {
			o.Bias = ops.PadAxis(m, m.Rank()-1, 0, padTo(m, tk), math.Inf(-1))
		}
	}
	see := func(m graph.Value) {
		if o.Mask.Absent() {
			o.Mask = m
		} else {
			o.Mask = ops.And(o.Mask, m)
		}
	}
	key := ops.Iota(n.Graph(), tensor.T(tensor.I32, tk), 0)
	last := ops.AddScalar(ops.Iota(n.Graph(), tensor.T(tensor.I32, tq, 1), 0), float64(past)) // the newest key a query may see
	if n.Has(attnLengths) {
		length := ops.Reshape(ops.Cast(n.In(attnLengths), tensor.I32), -1, 1, 1, 1)
		see(ops.Less(key, length))
		last = ops.Add(ops.AddScalar(last, -float64(past+tq)), length) // the queries are the last of the keys that count
	}
	if n.Bool("is_causal") {
		see(ops.LessEqual(key, last))
	}
	a := ops.AttendMasked(q, k, v, o)
	y := a.Out
	if n.In(0).Rank() == 3 {
		y = ops.Reshape(ops.Transpose(y, 0, 2, 1, 3), y.Dim(0), tq, -1)
	}
	stage := []graph.Value{a.Scores, a.Capped, a.Masked, a.Weights}[n.Int("qk_matmul_output_mode")&3]
	return []graph.Value{y, k, v, ops.Cast(stage, q.DType())}
}

// padTo is how many keys a mask is short of.
func padTo(m graph.Value, keys int) int {
	if d := m.Dim(-1); d != 1 && d < keys {
		return keys - d
	}
	return 0
}

// heads returns input i as (B, H, T, D), from that or from (B, T, H·D).
func heads(n *Node, i int, count string) graph.Value {
	x := n.In(i)
	if x.Rank() != 3 {
		return x
	}
	h := n.Int(count)
	if h < 1 {
		n.Fail("three axes without a number of heads")
		return x
	}
	return ops.Transpose(ops.Reshape(x, x.Dim(0), x.Dim(1), h, -1), 0, 2, 1, 3)
}

func rotary(n *Node) []graph.Value {
	x := n.In(0)
	flat := x.Rank() == 3
	if flat {
		x = ops.Reshape(x, x.Dim(0), x.Dim(1), n.Int("num_heads"), -1)
	} else {
		x = ops.Transpose(x, 0, 2, 1, 3) // (B, T, H, D)
	}
	table := func(i int) graph.Value {
		t := ops.Cast(n.In(i), tensor.F32)
		if n.Has(3) {
			t = ops.Gather(t, 0, ops.Cast(n.In(3), tensor.I32))
		}
		return t
	}
	y := ops.RoPE(x, table(1), table(2), n.Bool("interleaved"))
	if flat {
		return one(ops.Reshape(y, n.In(0).Shape().Dims()...))
	}
	return one(ops.Transpose(y, 0, 2, 1, 3))
}
