package optim

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// section is one set of slabs: the parameters that one op updates.
type section struct {
	sectionKey
	name   string
	layout *ops.Layout
	params []*graph.Var
	choice []choice // of each parameter
	update update
	states []*graph.Var

	slab, grad *graph.Var   // nil in a group of Update
	grads      []*graph.Var // views of grad
}

// sectionKey is what the parameters of a section share. Learning rate and weight decay may differ between them.
type sectionKey struct {
	class  *class
	config Config
	bits   int
	dtype  tensor.DType
}

// choice is how one parameter is updated.
type choice struct {
	sectionKey
	lr, lrScale float64 // lr 0: the group's
}

// key drops what the layout holds for each tensor.
func (c choice) key() sectionKey {
	k := c.sectionKey
	k.config.WeightDecay, k.config.Min8bitSize = 0, 0
	return k
}

// choose decides how a parameter is updated.
func (o Options) choose(p *graph.Var) (choice, error) {
	k := o.Optimizer.class
	c := choice{lrScale: 1}
	c.class, c.config, c.dtype = k, o.Optimizer.config, p.Type.DType
	if f, ok := o.LRScale[p]; ok {
		c.lrScale = f
	}
	if wd, ok := o.Decay[p]; ok {
		c.config.WeightDecay = wd
	}
	for i := range o.Overrides {
		if v := &o.Overrides[i]; v.holds(p) {
			if err := v.apply(&c); err != nil {
				return c, fmt.Errorf("optim: override %d of %s: %w", i, p.Name, err)
			}
		}
	}
	if c.class.matrices != "" && p.Type.Rank() < 2 {
		c.class = classes[c.class.matrices]
	}
	if c.bits == 0 {
		c.bits = 32
		if c.class.narrow != nil && p.Type.Size() >= c.config.Min8bitSize {
			c.bits = 8
		}
	}
	if c.bits == 8 && c.class.narrow == nil {
		return c, fmt.Errorf("optim: %s has no 8-bit states, which an override asks for %s; use an 8bit optimizer", c.class.name, p.Name)
	}
	return c, nil
}

// newSections sorts the parameters into sections and declares the states.
func newSections(params []*graph.Var, o Options) (*Group, error) {
	if o.Optimizer == nil {
		return nil, errors.New("optim: Options.Optimizer is not set; make one with New")
	}
	if err := checkParams(params, o); err != nil {
		return nil, err
	}
	gr := &Group{params: slices.Clone(params), at: make([]place, len(params))}
	byKey := map[sectionKey]*section{}
	var order [2][]*section // 8-bit sections stand first
	for i, p := range params {
		c, err := o.choose(p)
		if err != nil {
			return nil, err
		}
		s := byKey[c.key()]
		if s == nil {
			s = &section{sectionKey: c.sectionKey}
			byKey[c.key()] = s
			rank := 0
			if c.bits == 32 {
				rank = 1
			}
			order[rank] = append(order[rank], s)
		}
		gr.at[i] = place{s, len(s.params)}
		s.params, s.choice = append(s.params, p), append(s.choice, c)
	}
	for _, list := range order {
		for i, s := range list {
			if err := s.arrange(o, i); err != nil {
				return nil, err
			}
			gr.sections = append(gr.sections, s)
		}
	}
	gr.step = graph.NewVar(gr.sections[0].name+".step", tensor.T(tensor.F32))
	return gr, nil
}

func checkParams(params []*graph.Var, o Options) error {
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
		case p.Slab != nil:
			return fmt.Errorf("optim: parameter %s is a view of %s already; a parameter belongs to one group", p.Name, p.Slab.Name)
		}
		switch p.Type.DType {
		case tensor.F32, tensor.BF16, tensor.F16:
		default:
			return fmt.Errorf("optim: parameter %v cannot be trained; store trained parameters in float32, bfloat16 or float16", p)
		}
		if d := o.GradDType; d != tensor.Invalid && d != tensor.F32 && d != p.Type.DType {
			return fmt.Errorf("optim: gradients of %v do not fit parameter %v; use float32 or the parameter's type", d, p)
		}
		seen[p] = true
	}
	for _, of := range []struct {
		what   string
		values map[*graph.Var]float64
	}{{"factor of the learning rate", o.LRScale}, {"weight decay", o.Decay}} {
		for p, v := range of.values {
			switch {
			case !seen[p]:
				return fmt.Errorf("optim: a %s is given for %v, which is not among the group's parameters", of.what, p)
			case !finiteFrom0(v):
				return fmt.Errorf("optim: the %s of %s is %v; it must be a finite number from 0", of.what, p.Name, v)
			}
		}
	}
	return checkOverrides(params, o.Overrides)
}

// finiteFrom0 reports whether x is a rate, a factor or a decay that float32 arithmetic can use.
func finiteFrom0(x float64) bool { return x >= 0 && x <= math.MaxFloat32 }

// arrange makes the layout and the state variables; n counts the sections of the same bits before.
func (s *section) arrange(o Options, n int) error {
	s.name = o.Name
	if s.name == "" {
		s.name = "optim"
	}
	if s.name += fmt.Sprintf(".%dbit", s.bits); n > 0 {
		s.name += fmt.Sprintf(".%d", n+1)
	}
	s.layout = s.newLayout()
	if err := s.layout.Check(); err != nil {
		return fmt.Errorf("optim: %w", err)
	}
	make := s.class.wide
	if s.bits == 8 {
		make = s.class.narrow
	}
	s.update = make(s.config, s.layout)
	for _, st := range s.update.States() {
		v := graph.NewVar(s.name+"."+st.Name, st.Type)
		if s.class.paged {
			v.Place = graph.InHost
		}
		s.states = append(s.states, v)
	}
	return nil
}

func (s *section) newLayout() *ops.Layout {
	var sizes, rows []int
	var lr, scale, decay []float64
	for i, p := range s.params {
		sizes = append(sizes, p.Type.Size())
		r := 0
		if p.Type.Rank() > 1 {
			r = p.Type.Dim(0)
		}
		c := s.choice[i]
		rows, lr, scale, decay = append(rows, r), append(lr, c.lr), append(scale, c.lrScale), append(decay, c.config.WeightDecay)
	}
	l := ops.NewLayout(sizes...)
	l.DType, l.Rows = s.dtype, rows
	for _, p := range s.params {
		l.Sites = append(l.Sites, siteOf(p.Name))
	}
	if differ(lr, 0) {
		l.LR = lr
	}
	if differ(scale, 1) {
		l.LRScale = scale
	}
	if differ(decay, s.config.WeightDecay) {
		l.Decay = decay
	}
	return l
}

// differ reports whether any value is not v.
func differ(list []float64, v float64) bool {
	for _, x := range list {
		if x != v {
			return true
		}
	}
	return false
}

// emit adds the update of one section, writes its states and returns the new parameter slab.
func (s *section) emit(g *graph.Graph, p, grad graph.Value, us ops.UpdateScalars) graph.Value {
	if !p.Valid() {
		return p
	}
	in := []graph.Value{p, grad}
	for _, v := range s.states {
		in = append(in, g.Read(v))
	}
	out := g.Apply(s.update, append(in, us.LR, us.Step, us.GScale, us.OK)...)
	for i, v := range s.states {
		g.Write(v, out[i+1])
	}
	return out[0]
}
