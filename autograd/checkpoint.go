package autograd

import (
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
)

// Checkpoint runs f and marks the nodes it builds: their intermediate values are not kept for the backward sweep but computed
// again from f's inputs when the gradient arrives (Chen et al. 2016). f is called once; the sweep clones the recorded nodes, so
// random sites and masks are the same. Values f takes from outside, weights included, are inputs of the region. Checkpoints
// nest.
func Checkpoint(g *graph.Graph, f func()) {
	lo := len(g.Nodes())
	f()
	if hi := len(g.Nodes()); hi > lo {
		g.AddRegion(lo, hi)
	}
}

// image maps the nodes of one region to their clones.
type image struct {
	region graph.Region
	nodes  map[*graph.Node]*graph.Node
}

// image returns the node that the gradient of n may refer to: n itself, or its clone in the innermost checkpointed region.
func (s *sweep) image(n *graph.Node, gy []graph.Value) *graph.Node {
	for len(s.images) > 0 && n.ID < s.images[len(s.images)-1].region.Lo {
		s.images = s.images[:len(s.images)-1]
	}
	for _, r := range s.regions { // larger regions first, so that nested ones open inside
		if n.ID < r.Lo || n.ID >= r.Hi || s.isOpen(r) {
			continue
		}
		s.images = append(s.images, s.clone(r, gy))
	}
	return s.current(n)
}

func (s *sweep) isOpen(r graph.Region) bool {
	for _, im := range s.images {
		if im.region == r {
			return true
		}
	}
	return false
}

func (s *sweep) current(n *graph.Node) *graph.Node {
	for i := len(s.images) - 1; i >= 0; i-- {
		if c, ok := s.images[i].nodes[n]; ok {
			return c
		}
	}
	return n
}

// clone copies the nodes of a region; what enters it is ordered after the arriving cotangent, so that neither the scheduler
// nor common-subexpression elimination can merge the copy with the original.
func (s *sweep) clone(r graph.Region, gy []graph.Value) image {
	var after graph.Value
	for _, c := range gy {
		if !c.Absent() {
			after = c
			break
		}
	}
	im := image{region: r, nodes: map[*graph.Node]*graph.Node{}}
	defer s.g.InPhase(graph.Recompute)()
	for _, n := range s.g.Nodes()[r.Lo:r.Hi] {
		if len(n.In) == 0 {
			continue // constants, inputs and reads cost nothing to share
		}
		in := make([]graph.Value, len(n.In))
		for i, v := range n.In {
			in[i] = s.entering(v, im, after)
		}
		undo := s.g.OnBehalf(n)
		out := s.g.Apply(n.Op, in...)
		undo()
		im.nodes[n] = out[0].Node()
	}
	return im
}

func (s *sweep) entering(v graph.Value, im image, after graph.Value) graph.Value {
	if !v.Valid() {
		return v
	}
	if c, ok := im.nodes[v.Node()]; ok {
		return c.Output(v.Index())
	}
	v = s.current(v.Node()).Output(v.Index())
	if p, ok := v.Node().Op.(ops.Pointwise); ok && p.F == ops.FnFill {
		return v
	}
	return ops.After(v, after)
}
