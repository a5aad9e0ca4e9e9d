package graph

import (
	"fmt"
	"slices"
)

// Verify checks the invariants of a graph: dense topological IDs, inputs of this graph within the arity of their node, and
// output types equal to what the op infers. It returns the first violation.
func (g *Graph) Verify() error {
	if g == nil {
		return errNoGraph
	}
	for i, n := range g.nodes {
		if n.ID != i || n.g != g {
			return fmt.Errorf("graph %s: node %v has ID %d at index %d or belongs to another graph", g.name, n.Op.Name(), n.ID, i)
		}
		for _, v := range n.In {
			if err := g.verifyInput(n, v); err != nil {
				return err
			}
		}
		out, err := n.Op.Infer(n.InTypes())
		if err != nil {
			return fmt.Errorf("graph %s: %v: %w", g.name, n, err)
		}
		if !slices.Equal(out, n.Out) {
			return fmt.Errorf("graph %s: %v: infers %v", g.name, n, out)
		}
	}
	for _, w := range g.writes {
		if w.Value.n == nil || w.Value.n.g != g || w.Value.Type() != w.Var.Type {
			return fmt.Errorf("graph %s: write to %v of %v %v", g.name, w.Var, w.Value, w.Value.Type())
		}
	}
	return nil
}

func (g *Graph) verifyInput(n *Node, v Value) error {
	if v.n == nil {
		return nil
	}
	if v.n.g != g || v.n.ID >= n.ID || v.i >= len(v.n.Out) || g.nodes[v.n.ID] != v.n {
		return fmt.Errorf("graph %s: %v: input %v is not an earlier value of this graph", g.name, n, v)
	}
	return nil
}
