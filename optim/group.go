package optim

import (
	"errors"
	"fmt"
	"slices"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Options of a group. Optimizer is required.
type Options struct {
	Optimizer *Optimizer
	Name      string                 // begins the names of slabs and states, "optim" if empty; unique among the groups of a store
	LRScale   map[*graph.Var]float64 // factor of the learning rate of single parameters
	Decay     map[*graph.Var]float64 // weight decay of single parameters instead of the optimizer's
	Overrides []Override             // further changes for single parameters; of several that hold, all apply in order
	GradDType tensor.DType           // of the gradients held: float32 if not set, or the dtype of the parameters
}

// Group is a list of parameters that are updated together. Its parameters are views of slabs, so are their gradients, and each state
// is a slab. Parameters that share dtype, bits of their states and hyperparameters share slabs.
type Group struct {
	params   []*graph.Var
	sections []*section
	at       []place // of each parameter
	step     *graph.Var
}

// place is a parameter's section and its index there.
type place struct {
	section *section
	i       int
}

// Scalars are what an update takes besides slabs, each a float32 scalar of the graph.
type Scalars struct {
	LR     graph.Value
	Step   graph.Value // number of this update, from 1, which the group keeps; absent: the one after that kept
	GScale graph.Value // factor of the gradients: one over the tokens, the loss scale, clipping; absent: 1
	OK     graph.Value // 0 leaves parameters and states as they are; absent: 1
}

// NewGroup lays params out as views of slabs: it sets Slab and Offset of each, so it must run before their values are stored. They
// are float32, bfloat16 or float16, each named once, none a view already.
func NewGroup(params []*graph.Var, o Options) (*Group, error) {
	gr, err := newSections(params, o)
	if err != nil {
		return nil, err
	}
	for _, s := range gr.sections {
		grad := o.GradDType
		if grad == tensor.Invalid {
			grad = tensor.F32
		}
		s.slab = graph.NewVar(s.name+".param", s.layout.Type())
		s.grad = graph.NewVar(s.name+".grad", s.layout.TypeOf(grad))
		for i, p := range s.params {
			p.Slab, p.Offset = s.slab, int64(s.layout.Offsets[i])
			view := graph.NewVar(p.Name+".grad", tensor.Type{DType: grad, Shape: p.Type.Shape})
			view.Slab, view.Offset = s.grad, p.Offset
			s.grads = append(s.grads, view)
		}
	}
	return gr, nil
}

// Params returns the parameters in the order given.
func (gr *Group) Params() []*graph.Var { return gr.params }

// ParamSlabs returns the variables that own the parameters' storage.
func (gr *Group) ParamSlabs() []*graph.Var {
	return gr.collect(func(s *section) []*graph.Var { return []*graph.Var{s.slab} })
}

// GradSlabs returns the variables that own the gradients' storage, in the order of ParamSlabs.
func (gr *Group) GradSlabs() []*graph.Var {
	return gr.collect(func(s *section) []*graph.Var { return []*graph.Var{s.grad} })
}

// StateVars returns what, besides the parameters, has to be saved to continue: the states and the group's step count.
func (gr *Group) StateVars() []*graph.Var {
	return append(gr.collect(func(s *section) []*graph.Var { return s.states }), gr.step)
}

// GradVars returns the gradient of each parameter, in their order: views of the slabs.
func (gr *Group) GradVars() []*graph.Var {
	out := make([]*graph.Var, len(gr.params))
	for i, at := range gr.at {
		out[i] = at.section.grads[at.i]
	}
	return out
}

// NumEightBit is the number of parameters whose states are in 8 bits.
func (gr *Group) NumEightBit() (n int) {
	for _, s := range gr.sections {
		if s.bits == 8 {
			n += len(s.params)
		}
	}
	return n
}

func (gr *Group) collect(of func(s *section) []*graph.Var) (out []*graph.Var) {
	for _, s := range gr.sections {
		out = append(out, of(s)...)
	}
	return out
}

// Accumulate adds gradients, one a parameter in their order, to those held. What uses the sum (Apply, GradNormSquared, Zero) stands in another
// graph: within one step the gradients held are those from before it. For one batch a step Optimizer.Update needs no second graph.
func (gr *Group) Accumulate(g *graph.Graph, grads []graph.Value) {
	if g == nil {
		g.Fail("accumulate", grads, nil)
		return
	}
	if len(grads) != len(gr.params) {
		g.Fail("accumulate", nil, fmt.Errorf("%d gradients for %d parameters", len(grads), len(gr.params)))
		return
	}
	defer within(g, graph.Backward, "gradients")()
	for i, view := range gr.GradVars() {
		g.Write(view, ops.Add(g.Read(view), ops.Cast(grads[i], view.Type.DType)))
	}
}

// accumulates records an error in a graph that accumulates, for a call that would read, or clear, what is held before that.
func (gr *Group) accumulates(g *graph.Graph, call string) bool {
	views := gr.GradVars()
	for _, w := range g.Writes() {
		if slices.Contains(views, w.Var) {
			g.Fail(call, nil, errors.New("this graph also accumulates gradients, and would use those from before its step: build it in a graph of its own, or for one "+
				"batch a step use Optimizer.Update"))
			return true
		}
	}
	return false
}

// Zero sets the gradients held to zero.
func (gr *Group) Zero(g *graph.Graph) {
	if gr.accumulates(g, "zero") {
		return
	}
	defer within(g, graph.Update, "gradients")()
	for _, slab := range gr.GradSlabs() {
		g.Write(slab, ops.ZerosLike(g.Read(slab)))
	}
}

// GradNormSquared is the sum of the squares of all gradients held, a float32 scalar. Times the square of the gradient scale it is the
// squared norm of what Apply applies.
func (gr *Group) GradNormSquared(g *graph.Graph) graph.Value {
	if gr.accumulates(g, "gradient norm") {
		return g.Poison()
	}
	defer within(g, graph.Update, "gradients")()
	var slabs []graph.Value
	for _, slab := range gr.GradSlabs() {
		slabs = append(slabs, g.Read(slab))
	}
	return NormSquared(slabs)
}

// Apply updates the parameters and states by the gradients held.
func (gr *Group) Apply(g *graph.Graph, sc Scalars) {
	if gr.accumulates(g, "apply") {
		return
	}
	slabs := gr.GradSlabs()
	grads := make([]graph.Value, len(slabs))
	for i, v := range slabs {
		grads[i] = g.Read(v)
	}
	gr.ApplyGrads(g, grads, sc)
}

// ApplyGrads is Apply with the gradients given as slabs, in the order of GradSlabs: what a reduction over ranks returns for them.
func (gr *Group) ApplyGrads(g *graph.Graph, slabs []graph.Value, sc Scalars) {
	if g == nil {
		g.Fail("apply", append(slices.Clip(slabs), sc.LR, sc.GScale, sc.OK), nil)
		return
	}
	if len(slabs) != len(gr.sections) {
		g.Fail("apply", nil, fmt.Errorf("%d gradient slabs for %d sections", len(slabs), len(gr.sections)))
		return
	}
	defer within(g, graph.Update, "optimizer")()
	us, ok := gr.scalars(g, sc)
	if !ok {
		return
	}
	for i, s := range gr.sections {
		if out := s.emit(g, g.Read(s.slab), slabs[i], us); out.Valid() {
			g.Write(s.slab, out)
		}
	}
}

// scalars fills in what is absent and counts the step.
func (gr *Group) scalars(g *graph.Graph, sc Scalars) (ops.UpdateScalars, bool) {
	if sc.LR.Absent() {
		g.Fail("apply", nil, errors.New("the learning rate is absent"))
		return ops.UpdateScalars{}, false
	}
	one := ops.Fill(g, tensor.F32, 1)
	us := ops.UpdateScalars{LR: sc.LR, Step: sc.Step, GScale: sc.GScale, OK: sc.OK}
	if us.GScale.Absent() {
		us.GScale = one
	}
	if us.OK.Absent() {
		us.OK = one
	}
	done := g.Read(gr.step)
	if us.Step.Absent() {
		us.Step = ops.Add(done, one)
	}
	g.Write(gr.step, ops.Where(ops.Greater(us.OK, ops.Scalar(us.OK, 0)), us.Step, done))
	return us, true
}

// within puts nodes into a phase and a scope until the returned function is called.
func within(g *graph.Graph, p graph.Phase, scope string) func() {
	outOfPhase, outOfScope := g.InPhase(p), g.Scope(scope)
	return func() {
		outOfScope()
		outOfPhase()
	}
}
