package graph

import (
	"fmt"
	"sort"
	"strings"
)

// String prints the graph in a readable text form, one node a line:
//
//	%4 = matmul{TransB:true}(%0, %3) f32[2,8]  layers.0  mlp.go:12
//
// and the writes at the end. Node order is topological; the form is stable for equal graphs.
func (g *Graph) String() string {
	g = g.empty()
	var b strings.Builder
	fmt.Fprintf(&b, "graph %s\n", g.name)
	for _, n := range g.nodes {
		b.WriteString("  " + n.String())
		if n.scope != "" {
			b.WriteString("  " + n.scope)
		}
		b.WriteString("  " + n.pos + "\n")
	}
	for _, w := range g.writes {
		fmt.Fprintf(&b, "  write %s <- %v\n", w.Var.Name, w.Value)
	}
	return b.String()
}

// String prints the node without its position: "%4 = add(%0, %3) f32[2,8]".
func (n *Node) String() string {
	in := make([]string, len(n.In))
	for i, v := range n.In {
		in[i] = v.String()
	}
	out := make([]string, len(n.Out))
	for i, t := range n.Out {
		out[i] = t.String()
	}
	return fmt.Sprintf("%%%d = %s(%s) %s", n.ID, OpText(n.Op), strings.Join(in, ", "), strings.Join(out, ", "))
}

// OpText prints an op with its attributes: "matmul{TransB:true}". Attributes at their zero value are left out.
func OpText(op Op) string {
	switch o := op.(type) {
	case Input:
		return fmt.Sprintf("input %q", o.Label)
	case Read:
		return "read " + o.Var.Name
	case Constant:
		if o.Data.Type().Size() == 1 {
			return fmt.Sprintf("constant %v", o.Data.At(0))
		}
		return "constant"
	case fmt.Stringer:
		return o.String()
	}
	text := fmt.Sprintf("%+v", op)
	text = strings.TrimSuffix(strings.TrimPrefix(text, "{"), "}")
	var keep []string
	for _, f := range strings.Fields(text) {
		_, val, ok := strings.Cut(f, ":")
		if ok && val != "0" && val != "false" && val != "" {
			keep = append(keep, f)
		}
	}
	if len(keep) == 0 {
		return op.Name()
	}
	return op.Name() + "{" + strings.Join(keep, " ") + "}"
}

// Vars returns the variables the graph reads or writes, in name order.
func (g *Graph) Vars() []*Var {
	seen := map[*Var]bool{}
	var out []*Var
	add := func(v *Var) {
		if !seen[v] {
			seen[v] = true
			out = append(out, v)
		}
	}
	for _, n := range g.Nodes() {
		if r, ok := n.Op.(Read); ok {
			add(r.Var)
		}
	}
	for _, w := range g.Writes() {
		add(w.Var)
	}
	sort.SliceStable(out, func(i, j int) bool { return out[i].Name < out[j].Name })
	return out
}
