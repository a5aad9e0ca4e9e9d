package onnx

import (
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func init() {
	register("RNN", Operator{Build: func(n *Node) []graph.Value {
		relu := false
		for _, name := range n.Strings("activations") {
			relu = name == "Relu"
			if name != "Tanh" && name != "Relu" {
				return n.Fail("activation %s of a recurrent cell", name)
			}
		}
		return recurrent(n, []int{0}, func(r direction) (hs, cs graph.Value) {
			return ops.RNN(ops.Add(r.a, r.bias), r.w, r.h0, relu, r.o), graph.Value{}
		})
	}})
	register("GRU", Operator{Build: func(n *Node) []graph.Value {
		if !n.Bool("linear_before_reset") {
			return n.Fail("a reset gate before the recurrent product")
		}
		return recurrent(n, []int{1, 0, 2}, func(r direction) (hs, cs graph.Value) {
			h := r.w.Dim(1)
			gates := ops.PadAxis(ops.Slice(r.bias, 0, 0, 2*h), 0, 0, h, 0) // of r and z
			return ops.GRU(ops.Add(r.a, gates), r.w, ops.Slice(r.bias, 0, 2*h, 3*h), r.h0, r.o), graph.Value{}
		})
	}})
	register("LSTM", Operator{Build: func(n *Node) []graph.Value {
		if n.Has(7) || n.Bool("input_forget") {
			return n.Fail("peepholes or coupled gates of an LSTM")
		}
		return recurrent(n, []int{0, 2, 3, 1}, func(r direction) (hs, cs graph.Value) {
			return ops.LSTM(ops.Add(r.a, r.bias), r.w, r.h0, r.c0, r.o)
		})
	}})
	register("LinearAttention", Operator{Build: linearAttention})
}

// direction is what one direction of a recurrent node computes with, gates in the order of package ops.
type direction struct {
	a      graph.Value // (T, B, G·H): the input's share, with its bias
	w      graph.Value // (G·H, H)
	bias   graph.Value // (G·H): the recurrent bias
	h0, c0 graph.Value // (B, H)
	o      ops.RecurrenceOptions
}

// recurrent runs the directions of a node. order is where each gate of package ops lies in ONNX's weights.
func recurrent(n *Node, order []int, run func(r direction) (hs, cs graph.Value)) []graph.Value {
	if n.HasAttr("clip") {
		return n.Fail("clipped gates of a recurrent cell")
	}
	x, batchFirst := n.In(0), n.Bool("layout")
	if batchFirst {
		x = ops.Transpose(x, 1, 0, 2)
	}
	mode := n.String("direction")
	var ys, hn, cn []graph.Value
	for d := range n.In(1).Dim(0) {
		r := newDirection(n, x, d, order)
		r.o.Reverse = mode == "reverse" || d == 1
		hs, cs := run(r)
		last := x.Dim(0) - 1
		if r.o.Reverse {
			last = 0
		}
		end := func(s graph.Value) graph.Value { return ops.Slice(s, 0, last, last+1) }
		hn = append(hn, end(hs))
		if !cs.Absent() {
			cn = append(cn, end(cs))
		}
		if !r.o.Lengths.Absent() { // steps beyond the length give 0
			step := ops.Iota(n.Graph(), tensor.T(tensor.I32, x.Dim(0), 1, 1), 0)
			hs = ops.Where(ops.Less(step, ops.Reshape(r.o.Lengths, 1, -1, 1)), hs, ops.Scalar(hs, 0))
		}
		ys = append(ys, ops.Reshape(hs, hs.Dim(0), 1, hs.Dim(1), hs.Dim(2)))
	}
	y, h := ops.Concat(1, ys...), ops.Concat(0, hn...) // (T, D, B, H) and (D, B, H)
	var c graph.Value
	if len(cn) > 0 {
		c = ops.Concat(0, cn...)
	}
	if batchFirst {
		y, h = ops.Transpose(y, 2, 0, 1, 3), ops.Transpose(h, 1, 0, 2)
		if !c.Absent() {
			c = ops.Transpose(c, 1, 0, 2)
		}
	}
	return []graph.Value{y, h, c}
}

func newDirection(n *Node, x graph.Value, d int, order []int) direction {
	pick := func(v graph.Value) graph.Value { // entry d of the first axis
		return ops.Reshape(ops.Slice(v, 0, d, d+1), v.Shape().Dims()[1:]...)
	}
	h := n.In(2).Dim(-1)
	gates := func(v graph.Value) graph.Value {
		var parts []graph.Value
		for _, i := range order {
			parts = append(parts, ops.Slice(v, 0, i*h, (i+1)*h))
		}
		return ops.Concat(0, parts...)
	}
	r := direction{a: ops.Linear(x, gates(pick(n.In(1)))), w: gates(pick(n.In(2)))}
	r.bias = ops.BroadcastTo(ops.Scalar(x, 0), len(order)*h)
	if n.Has(3) {
		b := ops.Split(pick(n.In(3)), 0, len(order)*h, len(order)*h)
		r.a, r.bias = ops.Add(r.a, gates(b[0])), gates(b[1])
	}
	if n.Has(4) {
		r.o.Lengths = ops.Cast(n.In(4), tensor.I32)
	}
	state := func(i int) graph.Value {
		if !n.Has(i) {
			return ops.BroadcastTo(ops.Scalar(x, 0), x.Dim(1), h)
		}
		v := n.In(i)
		if n.Bool("layout") {
			v = ops.Transpose(v, 1, 0, 2)
		}
		return pick(v)
	}
	r.h0, r.c0 = state(5), state(6)
	return r
}

func linearAttention(n *Node) []graph.Value {
	q, k, v := heads(n, 0, "q_num_heads"), heads(n, 1, "kv_num_heads"), heads(n, 2, "kv_num_heads")
	o := ops.LinearAttendOptions{Scale: n.Float("scale"), State: n.In(3)}
	rule := n.String("update_rule")
	perHead := func(i int) graph.Value { // (B, T, Hkv·D), (B, T, Hkv) or (B, T, 1) -> (B, Hkv, T, ·)
		x := n.In(i)
		h := k.Dim(1)
		if x.Dim(2) < h {
			x = ops.BroadcastTo(x, x.Dim(0), x.Dim(1), h)
		}
		return ops.Transpose(ops.Reshape(x, x.Dim(0), x.Dim(1), h, -1), 0, 2, 1, 3)
	}
	if rule == "gated" || rule == "gated_delta" {
		o.Decay = perHead(4)
	}
	if rule == "delta" || rule == "gated_delta" {
		o.Beta = perHead(5)
	}
	y, state := ops.LinearAttend(q, k, v, o)
	return []graph.Value{ops.Reshape(ops.Transpose(y, 0, 2, 1, 3), y.Dim(0), y.Dim(2), -1), state}
}
