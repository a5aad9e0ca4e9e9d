package graph

import (
	"errors"
	"slices"
)

var errNoGraph = errors.New("the graph is nil: make one with graph.New")

// graphOf is what a nil *Graph stands for: the graph of one of the values that a call on it was given, else a graph of its own, in which it is recorded
// that there is none, so that what was built on it comes to the usual error at Grad or Compile. The values' graph hears of it, since what writes variables, as
// the update of an optimizer does, gives no value that could carry the error to Compile.
func graphOf(what string, in []Value, err error) *Graph {
	for _, v := range in {
		if v.Valid() {
			v.n.g.Fail(what, in, errors.Join(errNoGraph, err))
			return v.n.g
		}
	}
	g := New("missing")
	g.Fail(what, in, errors.Join(errNoGraph, err))
	return g
}

// empty is g, for calls that change nothing.
func (g *Graph) empty() *Graph {
	if g == nil {
		return graphOf("graph", nil, nil)
	}
	return g
}

// adopt takes over why a value of another graph is poisoned. What follows from it is absorbed without a further word.
func (g *Graph) adopt(v Value) {
	if v.n.g == g || len(g.errs) == maxErrors {
		return
	}
	if errs := v.n.g.errs; len(errs) > 0 && !slices.Contains(g.errs, errs[0]) {
		g.errs = append(g.errs, errs[0])
	}
}
