// Package graph is the core: a graph is a plain value, built by an ordinary Go function, differentiated by adding nodes to it
// (package autograd) and compiled for a device (package graph/plan).
//
// Building never returns errors and never panics. A bad call records "file:line (scope): op(types): what is wrong" once and
// gives a poisoned Value that absorbs whatever follows; Err, autograd.Grad and plan.Compile return what was recorded.
package graph

import (
	"errors"
	"fmt"
	"strings"

	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// maxErrors bounds how many building errors are kept; the first is the one that matters.
const maxErrors = 10

// Graph is a step under construction. It is not safe for concurrent use.
type Graph struct {
	name    string
	nodes   []*Node
	writes  []Write
	written map[*Var]int // index into writes
	errs    []error
	scopes  []string
	scope   string
	phase   Phase
	cse     map[nodeKey]*Node
	regions []Region
	inherit *Node // position and scope for nodes that a pass or a VJP makes on behalf of another
	poison  *Node
}

// Region is a range of node IDs [Lo, Hi) whose intermediate values are computed again in the backward sweep.
type Region struct{ Lo, Hi int }

// inlineInputs is how many inputs a hash-consing key holds without spilling into a string.
const inlineInputs = 6

type nodeKey struct {
	op   Op
	in   [inlineInputs]Value
	rest string
}

// New returns an empty graph.
func New(name string) *Graph {
	g := &Graph{name: name, cse: map[nodeKey]*Node{}, written: map[*Var]int{}}
	g.poison = &Node{ID: -1, g: g, bad: true}
	return g
}

// Name returns the graph's name.
func (g *Graph) Name() string { return g.empty().name }

// Nodes returns the nodes in topological order. The slice must not be changed.
func (g *Graph) Nodes() []*Node { return g.empty().nodes }

// Writes returns the effects recorded so far. The slice must not be changed.
func (g *Graph) Writes() []Write { return g.empty().writes }

// Regions returns the checkpointed regions.
func (g *Graph) Regions() []Region { return g.empty().regions }

// AddRegion records that the nodes with IDs in [lo, hi) are to be recomputed in the backward sweep.
func (g *Graph) AddRegion(lo, hi int) {
	g = g.empty()
	g.regions = append(g.regions, Region{lo, hi})
}

// Input declares a value that is fed at each run. Two inputs of one name and type are the same value.
func (g *Graph) Input(name string, t tensor.Type) Value {
	if !t.Shape.Valid() || t.DType.Size() == 0 {
		return g.Fail(fmt.Sprintf("input %q", name), nil, fmt.Errorf("%v is not a valid type", t))
	}
	return g.Apply(Input{name, t})[0]
}

// Read returns the value a variable has at the start of the step.
func (g *Graph) Read(v *Var) Value {
	if v == nil {
		return g.Fail("read", nil, errors.New("the variable is nil: a layer's weight was never set"))
	}
	if !v.Type.Shape.Valid() || v.Type.DType.Size() == 0 {
		return g.Fail("read "+v.Name, nil, fmt.Errorf("%v is not a valid type", v.Type))
	}
	return g.Apply(Read{v})[0]
}

// Const embeds a tensor. The tensor must not change afterwards.
func (g *Graph) Const(t *tensor.Tensor) Value {
	if t == nil {
		return g.Fail("constant", nil, errors.New("the tensor is nil"))
	}
	return g.Apply(Constant{t})[0]
}

// Write makes v hold val when the step ends. A second write to the same variable replaces the first.
func (g *Graph) Write(v *Var, val Value) {
	if g == nil {
		graphOf("write", []Value{val}, nil)
		return
	}
	switch {
	case v == nil:
		g.Fail("write", []Value{val}, errors.New("the variable is nil"))
		return
	case !val.Valid():
		if val.Absent() {
			g.Fail("write "+v.Name, nil, errors.New("the value is absent"))
		} else {
			g.adopt(val)
		}
		return
	case val.n.g != g:
		g.Fail("write "+v.Name, nil, errors.New("the value belongs to another graph"))
		return
	case val.Type() != v.Type:
		g.Fail("write "+v.Name, []Value{val}, fmt.Errorf("the variable is %v", v.Type))
		return
	}
	if i, ok := g.written[v]; ok {
		g.writes[i].Value = val
		return
	}
	g.written[v] = len(g.writes)
	g.writes = append(g.writes, Write{v, val})
}

// Apply adds a node, or finds the equal one. It is the only door into the graph: it checks the inputs, infers the output
// types and records the caller's position. On error every output is poisoned.
func (g *Graph) Apply(op Op, in ...Value) []Value {
	switch {
	case op == nil:
		return []Value{g.Fail("apply", in, errors.New("the op is nil"))}
	case g == nil:
		return graphOf(op.Name(), in, nil).poisoned(op, in)
	}
	for _, v := range in {
		if v.n == nil {
			continue
		}
		if v.n.bad {
			g.adopt(v)
			return g.poisoned(op, in)
		}
		if v.n.g != g {
			g.Fail(op.Name(), in, fmt.Errorf("input %v belongs to graph %q, not to %q", v, v.n.g.name, g.name))
			return g.poisoned(op, in)
		}
	}
	key := makeKey(op, in)
	if n, ok := g.cse[key]; ok {
		return n.Outputs()
	}
	out, err := op.Infer(typesOf(in))
	if err == nil {
		for _, t := range out {
			if !t.Shape.Valid() {
				err = fmt.Errorf("the result's shape is invalid or has more than 2^63 elements")
			}
		}
	}
	if err != nil {
		g.Fail(op.Name(), in, err)
		return g.poisoned(op, in)
	}
	n := &Node{ID: len(g.nodes), Op: op, In: append([]Value(nil), in...), Out: out, g: g}
	n.scope, n.pos = g.where()
	n.phase = g.phaseNow()
	g.nodes = append(g.nodes, n)
	g.cse[key] = n
	return n.Outputs()
}

// Fail records an error at the caller's position and returns a poisoned Value.
func (g *Graph) Fail(what string, in []Value, err error) Value {
	if g == nil {
		return graphOf(what, in, err).Poison()
	}
	if len(g.errs) < maxErrors {
		scope, pos := g.where()
		var types []string
		for _, v := range in {
			types = append(types, typeText(v))
		}
		if scope != "" {
			scope = " (" + scope + ")"
		}
		g.errs = append(g.errs, fmt.Errorf("%s%s: %s(%s): %w", pos, scope, what, strings.Join(types, ", "), err))
	}
	return Value{g.poison, 0}
}

// Err returns the errors recorded while building, the first ten joined, or nil.
func (g *Graph) Err() error { return errors.Join(g.empty().errs...) }

// Scope names the nodes built until the returned function is called: defer g.Scope("attn")().
func (g *Graph) Scope(name string) func() {
	g = g.empty()
	g.scopes = append(g.scopes, name)
	g.scope = strings.Join(g.scopes, ".")
	depth := len(g.scopes)
	return func() {
		if len(g.scopes) >= depth {
			g.scopes = g.scopes[:depth-1]
			g.scope = strings.Join(g.scopes, ".")
		}
	}
}

// OnBehalf gives nodes built until the returned function is called the scope and position of n: for gradients and rewrites,
// whose own caller says nothing to the user.
func (g *Graph) OnBehalf(n *Node) func() {
	g = g.empty()
	old := g.inherit
	g.inherit = n
	return func() { g.inherit = old }
}

func (g *Graph) where() (scope, pos string) {
	if g.inherit != nil {
		return g.inherit.scope, g.inherit.pos
	}
	return g.scope, callerPos()
}

// poisoned returns as many poisoned values as the op has outputs: one if even that is unknown. Multi-output constructors read
// past it through At.
func (g *Graph) poisoned(op Op, _ []Value) []Value {
	n := 1
	if o, ok := op.(interface{ NumOut() int }); ok {
		n = o.NumOut()
	}
	out := make([]Value, n)
	for i := range out {
		out[i] = Value{g.poison, 0}
	}
	return out
}

func makeKey(op Op, in []Value) nodeKey {
	k := nodeKey{op: op}
	n := copy(k.in[:], in)
	if n < len(in) {
		var b strings.Builder
		for _, v := range in[n:] {
			fmt.Fprintf(&b, "%v,", v)
		}
		k.rest = b.String()
	} else {
		k.rest = countTags[n]
	}
	return k
}

// countTags tells an input list from the same list with an absent input appended.
var countTags = [inlineInputs + 1]string{"0", "1", "2", "3", "4", "5", "6"}

func typeText(v Value) string {
	if !v.Valid() {
		return "-"
	}
	return v.Type().String()
}

// Poison returns a value that absorbs what follows, for a bad call that has been recorded with Fail.
func (g *Graph) Poison() Value { return Value{g.empty().poison, 0} }
