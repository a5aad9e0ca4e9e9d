package ops

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// RoPEGroup is RoPEOp of N tensors by the same tables. The inputs are cos, sin and the tensors, (..., H_i, D) of one dtype. It is what a plan makes of the
// queries and keys of a layer: one launch for both.
type RoPEGroup struct {
	RoPE RoPEOp
	N    int8
}

var (
	_ graph.Decomposable = RoPEGroup{}
	_ graph.Aliaser      = RoPEGroup{}
	_ graph.Coster       = RoPEGroup{}
	_ graph.Grouper      = RoPEOp{}
)

// Name implements graph.Op.
func (RoPEGroup) Name() string { return "rope_group" }

// NumOut is the number of outputs, one for each tensor.
func (o RoPEGroup) NumOut() int { return int(o.N) }

// Infer implements graph.Op.
func (o RoPEGroup) Infer(in []tensor.Type) ([]tensor.Type, error) {
	if o.N < 1 || o.N > GroupMost {
		return nil, fmt.Errorf("a group has 1 to %d tensors, not %d", GroupMost, o.N)
	}
	if err := arity(in, 2+int(o.N)); err != nil {
		return nil, err
	}
	for i, x := range in[2:] {
		if _, err := o.RoPE.Infer([]tensor.Type{x, in[0], in[1]}); err != nil {
			return nil, fmt.Errorf("tensor %d: %w", i, err)
		}
		if x.DType != in[2].DType || x.Dim(-1) != in[2].Dim(-1) {
			return nil, fmt.Errorf("tensors of a group have one dtype and heads of one size, got %v and %v", in[2], x)
		}
	}
	return in[2:], nil
}

// Decompose implements graph.Decomposable.
func (o RoPEGroup) Decompose(in []Value) (out []Value) {
	for _, x := range in[2:] {
		out = append(out, one(o.RoPE, x, in[0], in[1]))
	}
	return out
}

// Alias implements graph.Aliaser: each result may take the place of its tensor.
func (o RoPEGroup) Alias() []graph.AliasPair {
	out := make([]graph.AliasPair, o.N)
	for i := range out {
		out[i] = graph.AliasPair{Out: i, In: 2 + i}
	}
	return out
}

// Cost implements graph.Coster.
func (o RoPEGroup) Cost(in, out []tensor.Type) (flops, bytes int64) {
	for _, x := range out {
		f, _ := o.RoPE.Cost([]tensor.Type{x}, nil)
		flops += f
	}
	return flops, sumBytes(in) + sumBytes(out)
}

// ropeKind is what tensors of a group have in common beside cos.
type ropeKind struct {
	op    RoPEOp
	sin   Value
	dtype tensor.DType
	size  int
}

// Grouping implements graph.Grouper: of tensors that are turned by the same tables.
func (o RoPEOp) Grouping(n *graph.Node) (shared int, kind any, ok bool) {
	return 1, ropeKind{o, n.In[2], n.In[0].DType(), n.In[0].Dim(-1)}, true
}

// Grouped implements graph.Grouper.
func (o RoPEOp) Grouped(nodes []*graph.Node) (graph.Op, []Value, bool) {
	g := RoPEGroup{RoPE: o}
	in := []Value{nodes[0].In[1], nodes[0].In[2]}
	for _, n := range nodes[:min(len(nodes), GroupMost)] {
		g.N++
		in = append(in, n.In[0])
	}
	return g, in, g.N > 1
}
