package plan

import (
	"errors"
	"fmt"
	"sort"
	"strings"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// pass rewrites a graph into a new one with the same results.
type pass struct {
	name  string
	run   func(p *Plan, g *graph.Graph, outs []graph.Value) (*graph.Graph, []graph.Value, error)
	skip  func(o Options) bool
	after []string // passes that must have run before
}

// passes is the compiler, in order. The order rules are checked by a test.
var passes = []pass{
	{name: "prune", run: prune},
	{name: "lower", run: lower, after: []string{"prune"}},
	{name: "widen", run: widen, after: []string{"lower"}, skip: func(o Options) bool { return o.NoFuse }},
	{name: "join", run: join, after: []string{"lower", "widen"}, skip: func(o Options) bool { return o.NoFuse || o.Exact }},
	{name: "fold", run: fold, after: []string{"lower", "widen"}, skip: func(o Options) bool { return !o.Fold || o.NoFuse || o.Exact }},
	{name: "chain", run: chain, after: []string{"lower", "widen", "join", "fold"}, skip: func(o Options) bool { return o.NoFuse || o.Exact }},
	{name: "accumulate", run: accumulate, after: []string{"lower", "widen", "chain"}, skip: func(o Options) bool { return o.NoFuse || o.Exact }},
	{name: "scale", run: scale, after: []string{"lower", "accumulate"}, skip: func(o Options) bool { return o.NoFuse || o.Exact }},
	{name: "stack", run: stack, after: []string{"chain", "accumulate", "scale"}, skip: func(o Options) bool { return o.NoFuse || o.Exact }},
	{name: "merge", run: merge, after: []string{"lower", "accumulate"}, skip: func(o Options) bool { return o.NoFuse }},
	{name: "share", run: share, after: []string{"lower", "accumulate", "scale", "merge"}, skip: func(o Options) bool { return o.NoFuse }},
	{name: "absorb", run: absorb, after: []string{"accumulate", "scale", "stack"}, skip: func(o Options) bool { return o.NoFuse || o.Exact }},
	{name: "group", run: group, after: []string{"absorb", "merge", "share"}, skip: func(o Options) bool { return o.NoFuse || o.Exact }},
	{name: "recompute", run: recompute, after: []string{"lower", "accumulate", "merge"}, skip: func(o Options) bool { return o.NoFuse }},
	{name: "castSlabs", run: castSlabs, after: []string{"lower", "widen"}, skip: func(o Options) bool { return o.NoFuse }},
	{name: "fuse", run: fuse, after: []string{"lower", "accumulate", "recompute"}, skip: func(o Options) bool { return o.NoFuse }},
	{name: "stage", run: stage, after: []string{"fuse", "lower"}},
}

func (p *Plan) runPasses(g *graph.Graph, outs []graph.Value) error {
	if p.opts.Verify {
		if err := g.Verify(); err != nil {
			return err
		}
	}
	for _, ps := range passes {
		if ps.skip != nil && ps.skip(p.opts) {
			continue
		}
		var err error
		if g, outs, err = ps.run(p, g, outs); err != nil {
			return err
		}
		if err = g.Err(); err != nil {
			return fmt.Errorf("plan: pass %s: %w", ps.name, err)
		}
		if p.opts.Verify {
			if err = g.Verify(); err != nil {
				return fmt.Errorf("plan: after pass %s: %w", ps.name, err)
			}
		}
		if p.opts.Dump != nil {
			p.opts.Dump(ps.name, g)
		}
	}
	p.g, p.outs = g, outs
	return nil
}

// prune drops what neither an output nor a write needs.
func prune(_ *Plan, g *graph.Graph, outs []graph.Value) (*graph.Graph, []graph.Value, error) {
	r := graph.NewRewriter(g)
	for i, live := range g.Reachable(outs) {
		if live {
			r.Move(g.Nodes()[i])
		}
	}
	return r.Writes(g), r.GetAll(outs), nil
}

// maxLowering bounds how deep decompositions may nest.
const maxLowering = 8

// lower decomposes what the device has no kernel for, until every node has one. All missing kernels are named in one error.
func lower(p *Plan, g *graph.Graph, outs []graph.Value) (*graph.Graph, []graph.Value, error) {
	for range maxLowering {
		if whole, err := p.hasAllKernels(g); err != nil || whole {
			return g, outs, err
		}
		missing := map[string]bool{}
		r := graph.NewRewriter(g)
		for _, n := range g.Nodes() {
			_, err := p.kernelFor(n)
			switch {
			case err == nil:
				r.Copy(n)
			case !errors.Is(err, device.ErrNoKernel):
				return nil, nil, fmt.Errorf("%s: %s: %w", n.Where(), n, err)
			default:
				d, ok := n.Op.(graph.Decomposable)
				if !ok {
					missing[fmt.Sprintf("%s(%s)", graph.OpText(n.Op), joinTypes(n.InTypes()))] = true
					r.Copy(n)
					continue
				}
				undo := r.New.OnBehalf(n)
				r.Set(n, d.Decompose(r.GetAll(n.In)))
				undo()
			}
		}
		if len(missing) > 0 {
			return nil, nil, missingError(p, missing)
		}
		g, outs = r.Writes(g), r.GetAll(outs)
		if err := g.Err(); err != nil {
			return nil, nil, fmt.Errorf("plan: a decomposition is wrong: %w", err)
		}
		g, outs, _ = prune(p, g, outs)
	}
	return nil, nil, fmt.Errorf("plan: decompositions nest deeper than %d", maxLowering)
}

// hasAllKernels reports whether no node needs a decomposition.
func (p *Plan) hasAllKernels(g *graph.Graph) (bool, error) {
	for _, n := range g.Nodes() {
		switch _, err := p.kernelFor(n); {
		case errors.Is(err, device.ErrNoKernel):
			return false, nil
		case err != nil:
			return false, fmt.Errorf("%s: %s: %w", n.Where(), n, err)
		}
	}
	return true, nil
}

func missingError(p *Plan, missing map[string]bool) error {
	var list []string
	for m := range missing {
		list = append(list, m)
	}
	sort.Strings(list)
	return fmt.Errorf("plan: %s: %w for %s", p.dev.Info().Kind, device.ErrNoKernel, strings.Join(list, "; "))
}

func joinTypes(ts []tensor.Type) string {
	out := make([]string, len(ts))
	for i, t := range ts {
		out[i] = t.String()
	}
	return strings.Join(out, ", ")
}

// keyIn is how many input types a kernel's key holds without spilling into a string.
const keyIn = 4

// kernelKey tells kernels apart; an op and its input types decide the output types.
type kernelKey struct {
	op      graph.Op
	in      [keyIn]tensor.Type
	nin     int
	overlap string
}

func keyOf(n *graph.Node) kernelKey {
	k := kernelKey{op: n.Op, nin: len(n.In)}
	for i, v := range n.In {
		if i == keyIn {
			if _, unique := n.Op.(graph.Fused); !unique { // a program belongs to one node
				k.overlap = joinTypes(n.InTypes()[i:])
			}
			break
		}
		k.in[i] = v.Type()
	}
	return k
}

// keyFor is keyOf of a node that does not stand yet.
func keyFor(op graph.Op, in []tensor.Type) kernelKey {
	k := kernelKey{op: op, nin: len(in)}
	if n := copy(k.in[:], in); n < len(in) {
		k.overlap = joinTypes(in[n:])
	}
	return k
}

// kernelFor returns the kernel of a node, nil for nodes that launch nothing.
func (p *Plan) kernelFor(n *graph.Node) (device.Kernel, error) {
	if isLeaf(n) || isView(n) {
		return nil, nil
	}
	if _, ok := n.Op.(stageCopy); ok {
		return nil, nil
	}
	return p.kernelOf(keyOf(n), n.InTypes(), n.Out)
}

// kernelOf returns the kernel of key.op for these types, a draft where the device makes drafts: passes try more ops than are launched.
func (p *Plan) kernelOf(key kernelKey, in, out []tensor.Type) (device.Kernel, error) {
	if k, ok := p.kernels[key]; ok {
		return k, nil
	}
	build := p.dev.Kernel
	if d, ok := p.dev.(device.Drafter); ok {
		build = d.Draft
	}
	k, err := build(device.Spec{Op: key.op, In: in, Out: out, Comm: p.opts.Comm})
	if err != nil {
		return nil, err
	}
	p.kernels[key] = k
	return k, nil
}

func isLeaf(n *graph.Node) bool {
	switch n.Op.(type) {
	case graph.Input, graph.Read, graph.Constant:
		return true
	}
	return false
}

func isView(n *graph.Node) bool {
	v, ok := n.Op.(graph.Viewer)
	if !ok {
		return false
	}
	_, ok = v.View(n.InTypes())
	return ok
}

// stageCopy copies its input into the arena: the old value of a variable that is also written in the same step.
type stageCopy struct{}

func (stageCopy) Name() string { return "copy" }

func (stageCopy) Infer(in []tensor.Type) ([]tensor.Type, error) { return in[:1], nil }

// stage copies a written or returned value that is a variable's storage, an input or a constant, so that what the step computes
// with is safe from the writes, and the copy itself can be placed in the variable.
func stage(_ *Plan, g *graph.Graph, outs []graph.Value) (*graph.Graph, []graph.Value, error) {
	r := graph.NewRewriter(g)
	for _, n := range g.Nodes() {
		r.Move(n)
	}
	for _, w := range g.Writes() {
		v := r.Get(w.Value)
		if read, ok := v.Node().Op.(graph.Read); ok && read.Var == w.Var {
			continue // unchanged
		}
		base := v.Node()
		for isView(base) {
			base = base.In[0].Node()
		}
		if isLeaf(base) {
			undo := r.New.OnBehalf(v.Node())
			v = r.New.Apply(stageCopy{}, v)[0]
			undo()
		}
		r.New.Write(w.Var, v)
	}
	newOuts := r.GetAll(outs)
	for i, v := range newOuts {
		base := v.Node()
		for isView(base) {
			base = base.In[0].Node()
		}
		if _, ok := base.Op.(graph.Read); ok && len(g.Writes()) > 0 {
			undo := r.New.OnBehalf(v.Node())
			newOuts[i] = r.New.Apply(stageCopy{}, v)[0]
			undo()
		}
	}
	return r.New, newOuts, nil
}
