package graph

import "errors"

var errNoGraph = errors.New("the graph is nil: make one with graph.New")

// missing is what a nil *Graph stands for: a graph of its own, in which it is recorded that there is none, so that what was built on it comes to the
// usual error at Grad or Compile.
func missing(what string) *Graph {
	g := New("missing")
	g.Fail(what, nil, errNoGraph)
	return g
}

// empty is g, for calls that change nothing.
func (g *Graph) empty() *Graph {
	if g == nil {
		return missing("graph")
	}
	return g
}

// adopt takes over why a value of another graph is poisoned. What follows from it is absorbed without a further word.
func (g *Graph) adopt(v Value) {
	if v.n.g == g || len(g.errs) == maxErrors {
		return
	}
	for _, err := range v.n.g.errs {
		for _, have := range g.errs {
			if have == err {
				return
			}
		}
		g.errs = append(g.errs, err)
		return
	}
}
