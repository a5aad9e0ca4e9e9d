package optim

import (
	"errors"
	"fmt"

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
}

// Group is a list of parameters that are updated together. Its parameters are views of a slab, so are their gradients, and each state
// is a slab. An 8-bit optimizer has a second set of slabs for the tensors it keeps in 32 bits.
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

// section is one set of slabs.
type section struct {
	rule   rule
	bits   int
	layout *ops.Layout
	params []*graph.Var
	states []*graph.Var

	slab, grad *graph.Var   // nil in a group of Update
	grads      []*graph.Var // views of grad
}

// Scalars are what an update takes besides slabs, each a float32 scalar of the graph.
type Scalars struct {
	LR     graph.Value
	Step   graph.Value // number of this update, from 1; absent: the group counts its updates itself
	GScale graph.Value // factor of the gradients: one over the tokens, the loss scale, clipping; absent: 1
	OK     graph.Value // 0 leaves parameters and states as they are; absent: 1
}

// NewGroup lays params out as views of a slab: it sets Slab and Offset of each, so it must run before their values are stored. They
// are float32, each named once, none a view already.
func NewGroup(params []*graph.Var, o Options) (*Group, error) {
	gr, err := newSections(params, o)
	if err != nil {
		return nil, err
	}
	for _, s := range gr.sections {
		name := sectionName(o, s)
		s.slab = graph.NewVar(name+".param", s.layout.Type())
		s.grad = graph.NewVar(name+".grad", s.layout.Type())
		for i, p := range s.params {
			p.Slab, p.Offset = s.slab, int64(s.layout.Offsets[i])
			view := graph.NewVar(p.Name+".grad", p.Type)
			view.Slab, view.Offset = s.grad, p.Offset
			s.grads = append(s.grads, view)
		}
	}
	return gr, nil
}

func sectionName(o Options, s *section) string {
	name := o.Name
	if name == "" {
		name = "optim"
	}
	return fmt.Sprintf("%s.%dbit", name, s.bits)
}

// newSections sorts the parameters into sections and declares the states.
func newSections(params []*graph.Var, o Options) (*Group, error) {
	if o.Optimizer == nil {
		return nil, errors.New("optim: Options.Optimizer is not set; make one with New")
	}
	if err := checkParams(params); err != nil {
		return nil, err
	}
	gr := &Group{params: params, at: make([]place, len(params))}
	wide := &section{bits: 32, rule: o.Optimizer.kind.wide(o.Optimizer.config)}
	narrow := &section{bits: 8}
	if n := o.Optimizer.kind.narrow; n != nil {
		narrow.rule = n(o.Optimizer.config)
	}
	for i, p := range params {
		s := wide
		if narrow.rule != nil && p.Type.Size() >= o.Optimizer.config.Min8bitSize {
			s = narrow
		}
		gr.at[i] = place{s, len(s.params)}
		s.params = append(s.params, p)
	}
	for _, s := range []*section{narrow, wide} {
		if len(s.params) == 0 {
			continue
		}
		if err := s.arrange(o); err != nil {
			return nil, err
		}
		gr.sections = append(gr.sections, s)
	}
	gr.step = graph.NewVar(sectionName(o, gr.sections[0])+".step", tensor.T(tensor.F32))
	return gr, nil
}

func checkParams(params []*graph.Var) error {
	if len(params) == 0 {
		return errors.New("optim: there are no parameters to train")
	}
	seen := map[*graph.Var]bool{}
	for _, p := range params {
		switch {
		case p == nil:
			return errors.New("optim: a parameter is nil")
		case seen[p]:
			return fmt.Errorf("optim: parameter %s is listed twice", p.Name)
		case p.Type.DType != tensor.F32:
			return fmt.Errorf("optim: parameter %v is not float32; store trained parameters in float32 and cast them in the graph", p)
		case p.Slab != nil:
			return fmt.Errorf("optim: parameter %s is a view of %s already; a parameter belongs to one group", p.Name, p.Slab.Name)
		}
		seen[p] = true
	}
	return nil
}

// arrange makes the layout and the state variables.
func (s *section) arrange(o Options) error {
	sizes := make([]int, len(s.params))
	for i, p := range s.params {
		sizes[i] = p.Type.Size()
	}
	l := ops.NewLayout(sizes...)
	for i, p := range s.params {
		if f, ok := o.LRScale[p]; ok {
			if l.LRScale == nil {
				l.LRScale = filled(len(sizes), 1)
			}
			l.LRScale[i] = f
		}
		if wd, ok := o.Decay[p]; ok {
			if l.Decay == nil {
				l.Decay = filled(len(sizes), o.Optimizer.config.WeightDecay)
			}
			l.Decay[i] = wd
		}
	}
	s.layout = l
	for _, st := range s.rule.states(l) {
		s.states = append(s.states, graph.NewVar(sectionName(o, s)+"."+st.name, st.typ))
	}
	return l.Check()
}

func filled(n int, v float64) []float64 {
	out := make([]float64, n)
	for i := range out {
		out[i] = v
	}
	return out
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

// Accumulate adds gradients, one a parameter in their order, to those held.
func (gr *Group) Accumulate(g *graph.Graph, grads []graph.Value) {
	if len(grads) != len(gr.params) {
		g.Fail("accumulate", nil, fmt.Errorf("%d gradients for %d parameters", len(grads), len(gr.params)))
		return
	}
	for i, view := range gr.GradVars() {
		g.Write(view, ops.Add(g.Read(view), ops.Cast(grads[i], tensor.F32)))
	}
}

// Zero sets the gradients held to zero.
func (gr *Group) Zero(g *graph.Graph) {
	for _, slab := range gr.GradSlabs() {
		g.Write(slab, ops.ZerosLike(g.Read(slab)))
	}
}

// GradNormSquared is the sum of the squares of all gradients held, a float32 scalar. Times the square of the gradient scale it is the
// squared norm of what Apply applies.
func (gr *Group) GradNormSquared(g *graph.Graph) graph.Value {
	var sum graph.Value
	for _, slab := range gr.GradSlabs() {
		part := ops.SumOfSquares(g.Read(slab))
		if sum.Absent() {
			sum = part
		} else {
			sum = ops.Add(sum, part)
		}
	}
	return sum
}

// Apply updates the parameters and states by the gradients held.
func (gr *Group) Apply(g *graph.Graph, sc Scalars) {
	slabs := gr.GradSlabs()
	grads := make([]graph.Value, len(slabs))
	for i, v := range slabs {
		grads[i] = g.Read(v)
	}
	gr.ApplyGrads(g, grads, sc)
}

// ApplyGrads is Apply with the gradients given as slabs, in the order of GradSlabs: what a reduction over ranks returns for them.
func (gr *Group) ApplyGrads(g *graph.Graph, slabs []graph.Value, sc Scalars) {
	if len(slabs) != len(gr.sections) {
		g.Fail("apply", nil, fmt.Errorf("%d gradient slabs for %d sections", len(slabs), len(gr.sections)))
		return
	}
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

// emit adds the update of one section, writes its states and returns the new parameter slab.
func (s *section) emit(g *graph.Graph, p, grad graph.Value, us ops.UpdateScalars) graph.Value {
	states := make([]graph.Value, len(s.states))
	for i, v := range s.states {
		states[i] = g.Read(v)
	}
	if !p.Valid() {
		return p
	}
	out := update(s.rule, s.layout, p, grad, states, us)
	for i, v := range s.states {
		g.Write(v, out[i+1])
	}
	return out[0]
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
	if us.Step.Absent() {
		done := g.Read(gr.step)
		us.Step = ops.Add(done, one)
		g.Write(gr.step, ops.Where(ops.Greater(us.OK, ops.Scalar(us.OK, 0)), us.Step, done))
	}
	return us, true
}
