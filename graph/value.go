package graph

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Value is one output of a node: a comparable handle. The zero Value is absent, which optional inputs may be.
type Value struct {
	n *Node
	i int
}

// Node is one application of an op. IDs are dense and topological: inputs have smaller IDs.
type Node struct {
	ID  int
	Op  Op
	In  []Value
	Out []tensor.Type

	g     *Graph
	scope string
	pos   string
	phase Phase
	bad   bool // poisoned: its building failed, and what follows from it is absorbed
}

// Valid reports whether v is present and not poisoned.
func (v Value) Valid() bool { return v.n != nil && !v.n.bad }

// Absent reports whether v is the zero Value.
func (v Value) Absent() bool { return v.n == nil }

// Type returns the value's type; absent and poisoned values have the zero Type.
func (v Value) Type() tensor.Type {
	if !v.Valid() || v.i >= len(v.n.Out) {
		return tensor.Type{}
	}
	return v.n.Out[v.i]
}

// Shape returns the value's shape.
func (v Value) Shape() tensor.Shape { return v.Type().Shape }

// DType returns the value's element type.
func (v Value) DType() tensor.DType { return v.Type().DType }

// Dim returns the extent of an axis; negative axes count from the end.
func (v Value) Dim(axis int) int { return v.Type().Dim(axis) }

// Rank returns the number of axes.
func (v Value) Rank() int { return v.Type().Rank() }

// Node returns the node that computes v, nil if absent.
func (v Value) Node() *Node { return v.n }

// Index returns which output of its node v is.
func (v Value) Index() int { return v.i }

// Graph returns the graph v belongs to, nil if absent.
func (v Value) Graph() *Graph {
	if v.n == nil {
		return nil
	}
	return v.n.g
}

// String prints "%12" or "%12.1", and "-" for an absent value.
func (v Value) String() string {
	switch {
	case v.n == nil:
		return "-"
	case v.n.bad:
		return "poison"
	case v.i == 0:
		return fmt.Sprintf("%%%d", v.n.ID)
	}
	return fmt.Sprintf("%%%d.%d", v.n.ID, v.i)
}

// Output returns output i of the node.
func (n *Node) Output(i int) Value { return Value{n, i} }

// Outputs returns every output of the node.
func (n *Node) Outputs() []Value {
	out := make([]Value, len(n.Out))
	for i := range out {
		out[i] = Value{n, i}
	}
	return out
}

// Graph returns the graph the node belongs to.
func (n *Node) Graph() *Graph { return n.g }

// Scope returns the scope the node was built in: "layers.3.attn".
func (n *Node) Scope() string { return n.scope }

// Pos returns the user's file:line that built the node.
func (n *Node) Pos() string { return n.pos }

// Phase returns the part of a training step that the node belongs to.
func (n *Node) Phase() Phase { return n.phase }

// Where returns the node's position and scope as errors print them: "llama.go:88 (layers.3.attn)".
func (n *Node) Where() string {
	if n.scope == "" {
		return n.pos
	}
	return n.pos + " (" + n.scope + ")"
}

// InTypes returns the types of the inputs; absent ones have the zero Type.
func (n *Node) InTypes() []tensor.Type { return typesOf(n.In) }

func typesOf(in []Value) []tensor.Type {
	out := make([]tensor.Type, len(in))
	for i, v := range in {
		out[i] = v.Type()
	}
	return out
}
