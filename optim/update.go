package optim

import (
	"errors"
	"fmt"
	"slices"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
)

// Update writes the updated parameters into the graph that computed their gradients. The parameters keep their own storage; the
// states are variables of the optimizer, and it counts the steps. An Optimizer updates one list of parameters, in one or several
// graphs. Errors are recorded on the graph.
func (o *Optimizer) Update(g *graph.Graph, params []*graph.Var, grads []graph.Value, lr graph.Value) {
	if g == nil {
		g.Fail("update", append(slices.Clip(grads), lr), nil)
		return
	}
	fail := func(err error) { g.Fail("update", nil, err) }
	if len(params) != len(grads) {
		fail(fmt.Errorf("%d gradients for %d parameters", len(grads), len(params)))
		return
	}
	if o.inline == nil {
		gr, err := newSections(params, Options{Optimizer: o})
		if err != nil {
			fail(err)
			return
		}
		o.inline = gr
	}
	if !slices.Equal(o.inline.params, params) {
		fail(errors.New("the parameters are not those of the first call; make another optimizer for them"))
		return
	}
	defer within(g, graph.Update, "optimizer")()
	us, ok := o.inline.scalars(g, Scalars{LR: lr})
	if !ok {
		return
	}
	byVar := make(map[*graph.Var]graph.Value, len(params))
	for i, p := range params {
		byVar[p] = grads[i]
	}
	for _, s := range o.inline.sections {
		s.inline(g, byVar, us)
	}
}

// inline updates parameters that are not in a slab: it packs them and cuts the result.
func (s *section) inline(g *graph.Graph, grads map[*graph.Var]graph.Value, us ops.UpdateScalars) {
	p, d := make([]graph.Value, len(s.params)), make([]graph.Value, len(s.params))
	for i, v := range s.params {
		p[i], d[i] = g.Read(v), grads[v]
		if d[i].Absent() {
			g.Fail("update", nil, fmt.Errorf("the gradient of %s is absent", v.Name))
			return
		}
		d[i] = ops.Cast(d[i], v.Type.DType)
	}
	slab := s.emit(g, ops.PackSlab(s.layout, p...), ops.PackSlab(s.layout, d...), us)
	if !slab.Valid() {
		return
	}
	for i, v := range s.params {
		at := s.layout.Offsets[i]
		g.Write(v, ops.Reshape(ops.Slice(slab, 0, at, at+s.layout.Sizes[i]), v.Type.Shape.Dims()...))
	}
}

// StateVars returns the variables that Update made: the states and the step count. It is empty before the first call.
func (o *Optimizer) StateVars() []*graph.Var {
	if o.inline == nil {
		return nil
	}
	return o.inline.StateVars()
}
