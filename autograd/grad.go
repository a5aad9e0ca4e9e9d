// Package autograd differentiates a graph by adding nodes to it: one sweep from the last node down, in which each op builds
// its own gradient out of other ops. Gradients are ordinary values and can be differentiated again.
package autograd

import (
	"errors"
	"fmt"
	"sort"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
)

// Grad returns the gradient of a scalar loss for each variable of wrt, in order. A variable that the loss does not depend on
// gets zeros. No gradient is ever built for a value that none of wrt feeds: the weight gradient of a frozen matrix does not
// exist.
//
// It returns the errors recorded while building the graph, if any, and an error when a path to wrt goes through an op that has
// no gradient.
func Grad(loss graph.Value, wrt ...*graph.Var) ([]graph.Value, error) {
	if loss.Absent() {
		return nil, errors.New("autograd: the loss is absent: no op had an input to take its graph from")
	}
	vals := make([]graph.Value, len(wrt))
	for i, v := range wrt {
		vals[i] = loss.Graph().Read(v)
	}
	return GradValues(loss, vals...)
}

// GradValues is Grad with respect to arbitrary values of the graph.
func GradValues(loss graph.Value, wrt ...graph.Value) ([]graph.Value, error) {
	if loss.Absent() {
		return nil, errors.New("autograd: the loss is absent: no op had an input to take its graph from")
	}
	g := loss.Graph()
	if err := g.Err(); err != nil {
		return nil, err
	}
	if loss.Shape().Size() != 1 || !loss.DType().IsFloat() {
		return nil, fmt.Errorf("autograd: the loss must be one floating-point number, got %v; reduce it with Sum or Mean", loss.Type())
	}
	seed := ops.BroadcastTo(ops.Scalar(loss, 1), loss.Shape().Dims()...)
	return VJP([]graph.Value{loss}, []graph.Value{seed}, wrt...)
}

// VJP returns, for each value of wrt, the sum over outs of its cotangent times the Jacobian d out / d wrt.
func VJP(outs, cotangents []graph.Value, wrt ...graph.Value) ([]graph.Value, error) {
	if len(outs) == 0 || len(outs) != len(cotangents) {
		return nil, fmt.Errorf("autograd: %d outputs and %d cotangents", len(outs), len(cotangents))
	}
	g := outs[0].Graph()
	if err := sameGraph(g, outs, cotangents, wrt); err != nil {
		return nil, err
	}
	defer g.InPhase(graph.Backward)()
	s := newSweep(g, outs, wrt)
	for i, v := range outs {
		s.add(v, cotangents[i])
	}
	if err := s.run(); err != nil {
		return nil, err
	}
	res := make([]graph.Value, len(wrt))
	for i, v := range wrt {
		if res[i] = s.cot[v]; res[i].Absent() && v.Valid() {
			res[i] = ops.ZerosLike(v)
		}
	}
	return res, g.Err()
}

// sameGraph refuses absent outputs and values of another graph, whose node numbers would be mistaken for this graph's.
func sameGraph(g *graph.Graph, outs []graph.Value, lists ...[]graph.Value) error {
	for i, v := range outs {
		if v.Absent() {
			return fmt.Errorf("autograd: output %d is absent: no op had an input to take its graph from", i)
		}
	}
	for _, list := range append(lists, outs) {
		for _, v := range list {
			if !v.Absent() && v.Graph() != g {
				if err := errors.Join(g.Err(), v.Graph().Err()); err != nil { // they may be why
					return err
				}
				return fmt.Errorf("autograd: %v belongs to graph %q, the first output to %q", v, v.Graph().Name(), g.Name())
			}
		}
	}
	return nil
}

// StopGrad passes x on and lets no gradient through.
func StopGrad(x graph.Value) graph.Value { return x.Graph().Apply(ops.Barrier{}, x)[0] }

type sweep struct {
	g       *graph.Graph
	limit   int                         // nodes made before the sweep
	feeds   []bool                      // by node ID: some value of wrt feeds this node
	cot     map[graph.Value]graph.Value // cotangent so far
	images  []image                     // open recomputed regions, innermost last
	regions []graph.Region
}

func newSweep(g *graph.Graph, outs, wrt []graph.Value) *sweep {
	s := &sweep{g: g, limit: len(g.Nodes()), cot: map[graph.Value]graph.Value{}}
	s.feeds = make([]bool, s.limit)
	for _, v := range wrt {
		if v.Valid() {
			if v.Node().ID < s.limit {
				s.feeds[v.Node().ID] = true
			}
		}
	}
	for i, n := range g.Nodes()[:s.limit] {
		if _, stop := n.Op.(ops.Barrier); stop || s.feeds[i] {
			continue
		}
		for _, v := range n.In {
			if v.Valid() && s.feeds[v.Node().ID] {
				s.feeds[i] = true
				break
			}
		}
	}
	s.regions = append(s.regions, g.Regions()...)
	sort.SliceStable(s.regions, func(i, j int) bool { return s.regions[i].Hi-s.regions[i].Lo > s.regions[j].Hi-s.regions[j].Lo })
	return s
}

// add accumulates a cotangent, undoing the broadcast of v first.
func (s *sweep) add(v, c graph.Value) {
	if c.Absent() || !v.Valid() {
		return
	}
	defer s.g.OnBehalf(v.Node())()
	c = ops.SumTo(c, v.Shape())
	if c.DType() != v.DType() {
		c = ops.Cast(c, v.DType())
	}
	if old, ok := s.cot[v]; ok {
		c = ops.AddPadded(old, c)
	}
	s.cot[v] = c
}

func (s *sweep) run() error {
	nodes := s.g.Nodes()[:s.limit]
	for i := s.limit - 1; i >= 0; i-- {
		n := nodes[i]
		gy, any := s.arriving(n)
		if _, stop := n.Op.(ops.Barrier); stop || !any || !s.feeds[i] || len(n.In) == 0 {
			continue
		}
		need := make([]bool, len(n.In))
		wanted := false
		for j, v := range n.In {
			need[j] = v.Valid() && s.feeds[v.Node().ID] && v.DType().IsFloat()
			wanted = wanted || need[j]
		}
		if !wanted {
			continue
		}
		gx, err := s.step(n, gy, need)
		if err != nil {
			return err
		}
		for j, c := range gx {
			if need[j] {
				s.add(n.In[j], c)
			}
		}
	}
	return s.g.Err()
}

func (s *sweep) arriving(n *graph.Node) (gy []graph.Value, any bool) {
	gy = make([]graph.Value, len(n.Out))
	for i := range gy {
		gy[i] = s.cot[n.Output(i)]
		any = any || !gy[i].Absent()
	}
	return gy, any
}

// step builds the gradient of one node, on its recomputed image where the node lies in a checkpointed region.
func (s *sweep) step(n *graph.Node, gy []graph.Value, need []bool) ([]graph.Value, error) {
	defer s.g.OnBehalf(n)()
	if f, ok := n.Op.(graph.Frozen); ok {
		for i, want := range need {
			if why := f.FrozenInput(i); want && why != "" {
				return nil, fmt.Errorf("%s: %s: input %d has no gradient: %s", n.Where(), n.Op.Name(), i, why)
			}
		}
	}
	n = s.image(n, gy)
	if d, ok := n.Op.(graph.Differentiable); ok {
		gx := d.VJP(n, gy, need)
		if len(gx) != len(n.In) {
			return nil, fmt.Errorf("autograd: the gradient of %s gives %d values for %d inputs", n.Op.Name(), len(gx), len(n.In))
		}
		return gx, nil
	}
	if d, ok := n.Op.(graph.Decomposable); ok {
		return s.throughParts(n, d, gy, need)
	}
	if allDiscrete(n) {
		return make([]graph.Value, len(n.In)), nil
	}
	return nil, fmt.Errorf("%s: %s has no gradient; wrap its input in StopGrad if none is wanted", n.Where(), n.Op.Name())
}

// throughParts differentiates an op by its decomposition, in the inputs that are needed.
func (s *sweep) throughParts(n *graph.Node, d graph.Decomposable, gy []graph.Value, need []bool) ([]graph.Value, error) {
	leaves := append([]graph.Value(nil), n.In...)
	var wrt []graph.Value
	for i, v := range n.In {
		if need[i] {
			leaves[i] = ops.After(v, v) // a fresh value, so that the sweep stops at this op's own inputs
			wrt = append(wrt, leaves[i])
		}
	}
	parts := d.Decompose(leaves)
	if len(parts) != len(gy) {
		return nil, fmt.Errorf("autograd: the decomposition of %s gives %d values for %d outputs", n.Op.Name(), len(parts), len(gy))
	}
	var outs, cots []graph.Value
	for i, c := range gy {
		if !c.Absent() {
			outs, cots = append(outs, parts[i]), append(cots, c)
		}
	}
	got, err := VJP(outs, cots, wrt...)
	if err != nil {
		return nil, err
	}
	gx := make([]graph.Value, len(n.In))
	for i := range gx {
		if need[i] {
			gx[i], got = got[0], got[1:]
		}
	}
	return gx, nil
}

func allDiscrete(n *graph.Node) bool {
	for _, t := range n.Out {
		if t.DType.IsFloat() {
			return false
		}
	}
	return true
}
