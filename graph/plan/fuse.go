package plan

import (
	"errors"
	"fmt"
	"slices"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph"
)

// Limits of one fused kernel: instructions, the immediates among them included, and distinct inputs.
const (
	maxFused       = 32
	maxFusedInputs = 12
)

// fuser groups elementwise nodes so that each group has one result. A node joins its consumers' group when all of them are in
// one group and it has the group's shape; no path can then leave the group and come back. Groups that read the same are then paired: see
// pair.
type fuser struct {
	g       *graph.Graph
	group   []int           // by node ID: root node ID of its group, -1 for none
	size    []int           // by root: instructions at most
	members [][]*graph.Node // by root: last first
	inputs  [][]graph.Value // by root: distinct values from outside
	users   [][]int
	exposed []bool        // by node ID: an output or a write
	written []bool        // by node ID: a write
	pairs   map[int][]int // by root: the roots of the groups computed with it, itself first
	paired  map[int]int   // by root: the first of its pair
}

func fuse(p *Plan, g *graph.Graph, outs []graph.Value) (*graph.Graph, []graph.Value, error) {
	f := newFuser(g, outs)
	for i := len(g.Nodes()) - 1; i >= 0; i-- {
		f.place(g.Nodes()[i])
	}
	f.pair()
	r := graph.NewRewriter(g)
	for _, n := range g.Nodes() {
		root := f.group[n.ID]
		_, done := f.paired[root]
		var err error
		switch {
		case root >= 0 && root != n.ID, done: // computed inside its group, or with an earlier one
		case root == n.ID && len(f.pairs[root]) > 1:
			err = f.emitPair(p, r, f.pairs[root])
		case root == n.ID && len(f.members[root]) > 1:
			err = f.emit(p, r, n)
		default:
			r.Move(n)
		}
		if err != nil {
			return nil, nil, err
		}
	}
	g2, outs2 := r.Writes(g), r.GetAll(outs)
	return prune(nil, g2, outs2)
}

func newFuser(g *graph.Graph, outs []graph.Value) *fuser {
	n := len(g.Nodes())
	f := &fuser{g: g, group: make([]int, n), size: make([]int, n), members: make([][]*graph.Node, n), inputs: make([][]graph.Value, n),
		users: make([][]int, n), exposed: make([]bool, n), written: make([]bool, n), pairs: map[int][]int{}, paired: map[int]int{}}
	for i, node := range g.Nodes() {
		f.group[i] = -1
		for _, v := range node.In {
			if v.Valid() {
				f.users[v.Node().ID] = append(f.users[v.Node().ID], i)
			}
		}
	}
	for _, v := range outs {
		f.exposed[v.Node().ID] = true
	}
	for _, w := range g.Writes() {
		f.exposed[w.Value.Node().ID], f.written[w.Value.Node().ID] = true, true
	}
	return f
}

func (f *fuser) place(n *graph.Node) {
	if _, ok := n.Op.(graph.Elementwise); !ok || len(n.In) == 0 {
		return
	}
	root := n.ID
	if j, ok := f.joins(n); ok {
		root = j
	}
	f.group[n.ID] = root
	f.size[root] += instrs(n)
	f.members[root] = append(f.members[root], n)
	ins := f.inputs[root]
	if i := slices.Index(ins, n.Output(0)); i >= 0 {
		ins = slices.Delete(ins, i, i+1)
	}
	for _, v := range n.In {
		if !isImmediate(v) && !slices.Contains(ins, v) {
			ins = append(ins, v)
		}
	}
	f.inputs[root] = ins
}

// joins returns the group that n can become part of.
func (f *fuser) joins(n *graph.Node) (root int, ok bool) {
	if f.exposed[n.ID] || len(f.users[n.ID]) == 0 {
		return 0, false
	}
	root = f.group[f.users[n.ID][0]]
	for _, u := range f.users[n.ID] {
		if f.group[u] != root {
			return 0, false
		}
	}
	if root < 0 || f.size[root]+instrs(n) > maxFused || len(f.inputs[root])+len(n.In) > maxFusedInputs {
		return 0, false
	}
	return root, f.g.Nodes()[root].Out[0].Shape == n.Out[0].Shape
}

// instrs is how many instructions n adds to a program at most: itself and its immediates.
func instrs(n *graph.Node) int {
	count := 1
	for _, v := range n.In {
		if v.Valid() && isImmediate(v) {
			count++
		}
	}
	return count
}

// isImmediate reports whether v is a scalar made by an op without inputs, which a program holds as an instruction.
func isImmediate(v graph.Value) bool {
	_, ok := v.Node().Op.(graph.Elementwise)
	return ok && len(v.Node().In) == 0
}

// emit adds the fused node that replaces the group of root, or the members where the device has no kernel for the chain.
func (f *fuser) emit(p *Plan, r *graph.Rewriter, root *graph.Node) error {
	ok, err := f.apply(p, r, root)
	if err != nil || ok {
		return err
	}
	for _, n := range slices.Backward(f.members[root.ID]) {
		r.Move(n)
	}
	return nil
}

// apply adds the fused node of the groups of roots, or reports that the device has no kernel for it.
func (f *fuser) apply(p *Plan, r *graph.Rewriter, roots ...*graph.Node) (bool, error) {
	results := f.results(roots)
	prog, ins := f.program(r, roots, results)
	undo := r.New.OnBehalf(roots[0])
	fused := r.New.Apply(graph.Fused{Prog: prog}, ins...)
	undo()
	if !fused[0].Valid() {
		return false, r.New.Err()
	}
	switch _, err := p.kernelFor(fused[0].Node()); {
	case errors.Is(err, device.ErrNoKernel):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("%s: %s: %w", roots[0].Where(), fused[0].Node(), err)
	}
	for k, root := range results {
		r.Set(root, fused[k:k+1])
	}
	return true, nil
}

// results are the roots whose values something outside of their groups needs. The last one is always among them.
func (f *fuser) results(roots []*graph.Node) (out []*graph.Node) {
	for k, root := range roots {
		outside := k == len(roots)-1 || f.exposed[root.ID]
		for _, u := range f.users[root.ID] {
			in := func(other *graph.Node) bool { return f.group[u] == other.ID }
			outside = outside || !slices.ContainsFunc(roots, in)
		}
		if outside {
			out = append(out, root)
		}
	}
	return out
}

// program chains the members of the groups of roots and lists the inputs.
func (f *fuser) program(r *graph.Rewriter, roots, results []*graph.Node) (*graph.Program, []graph.Value) {
	prog := &graph.Program{}
	var ins []graph.Value
	at := map[graph.Value]int{}
	input := func(v graph.Value) int {
		if i, ok := at[v]; ok {
			return i
		}
		ins = append(ins, r.Get(v))
		at[v] = -len(ins)
		return -len(ins)
	}
	add := func(n *graph.Node) {
		args := make([]int, len(n.In))
		for j, v := range n.In {
			args[j] = arg(prog, at, input, v)
		}
		at[n.Output(0)] = len(prog.Instrs)
		prog.Instrs = append(prog.Instrs, graph.Instr{Op: n.Op.(graph.Elementwise), Args: args, Type: n.Out[0]})
	}
	for _, root := range roots {
		for _, n := range slices.Backward(f.members[root.ID]) {
			add(n)
		}
		if len(results) > 1 && slices.Contains(results, root) {
			prog.Outs = append(prog.Outs, len(prog.Instrs)-1)
		}
	}
	return prog, ins
}

// arg returns how an instruction refers to v: an earlier instruction, an immediate, or an input.
func arg(prog *graph.Program, at map[graph.Value]int, input func(graph.Value) int, v graph.Value) int {
	if i, ok := at[v]; ok {
		return i
	}
	if isImmediate(v) {
		at[v] = len(prog.Instrs)
		prog.Instrs = append(prog.Instrs, graph.Instr{Op: v.Node().Op.(graph.Elementwise), Type: v.Type()})
		return at[v]
	}
	return input(v)
}
