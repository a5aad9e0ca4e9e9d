package optim

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// StateDict is the state of a group in the layout of a torch optimizer's state_dict(), as bitsandbytes fills it. Nested keys are joined
// by dots, so that the tensors can be stored in a safetensors file:
//
//	state.INDEX.__bnb_optimizer_quant_state__.state1    f32 or u8 codes, the shape of the parameter; AdEMAMix (2, *shape)
//	                                         .state2
//	                                         .qmap1, .qmap2        f32[256], with codes
//	                                         .absmax1, .absmax2    f32, one a block of 256; AdEMAMix's first (2, blocks)
//	                                         .unorm_vec            f32[1], with max_unorm
//
// Document is JSON and holds what is no tensor: {"state": {INDEX: {"step": N}}, "param_groups": [{"lr", "betas", "eps", "weight_decay",
// ..., "params": [INDEX]}]}. INDEX is the place of a parameter in the list the group was made of.
//
// What [Group.StateVars] lists is this project's own layout: the same values as whole slabs.
type StateDict struct {
	Tensors  map[string]*tensor.Tensor
	Document []byte
}

// Values are the values of variables; a plan's store has them.
type Values interface {
	Get(v *graph.Var) (*tensor.Tensor, error)
	Set(v *graph.Var, t *tensor.Tensor) error
}

// hidden is the key under which bitsandbytes keeps a parameter's state tensors away from those who would cast or gather them.
const hidden = "__bnb_optimizer_quant_state__"

// document is what Document holds.
type document struct {
	State       map[string]savedStep `json:"state"`
	ParamGroups []savedGroup         `json:"param_groups"`
}

type savedStep struct {
	Step float64 `json:"step"`
}

// savedGroup are the hyperparameters of parameters that share them. Those from Alpha on belong to rules with two moments; null is none.
type savedGroup struct {
	LR          float64   `json:"lr"`
	Betas       []float64 `json:"betas"`
	Eps         float64   `json:"eps"`
	WeightDecay float64   `json:"weight_decay"`
	Alpha       *float64  `json:"alpha"`
	TAlpha      *float64  `json:"t_alpha"`
	TBeta3      *float64  `json:"t_beta3"`
	Params      []int     `json:"params"`
}

// MarshalJSON leaves out what rules with one moment do not have.
func (g savedGroup) MarshalJSON() ([]byte, error) {
	m := map[string]any{"lr": g.LR, "betas": g.Betas, "eps": g.Eps, "weight_decay": g.WeightDecay, "params": g.Params}
	if g.Alpha != nil {
		m["alpha"], m["t_alpha"], m["t_beta3"] = g.Alpha, g.TAlpha, g.TBeta3
	}
	return json.Marshal(m)
}

// stateEntry is one tensor of a parameter's state: the state variables stacked in it.
type stateEntry struct {
	key   string
	parts []int // of section.states
	each  ops.Each
	book  *quant.Codebook // of codes
	qmap  string
}

// entries lists the tensors of a section's parameters. The slow average of AdEMAMix, state3 here, is stacked upon the fast one.
func (s *section) entries() []stateEntry {
	specs := s.update.States()
	at := func(name string) int {
		return slices.IndexFunc(specs, func(st ops.StateSpec) bool { return st.Name == name })
	}
	var out []stateEntry
	for i, st := range specs {
		e := stateEntry{key: st.Name, parts: []int{i}, each: st.Each}
		switch st.Name {
		case "state3", "absmax3":
			continue
		case "state1", "absmax1":
			if slow := at(st.Name[:len(st.Name)-1] + "3"); slow >= 0 {
				e.parts = append(e.parts, slow)
			}
		}
		if st.Type.DType == tensor.U8 {
			e.qmap = "qmap" + st.Name[len(st.Name)-1:]
			if e.book = quant.DynamicSigned(); s.unsigned(i) {
				e.book = quant.DynamicUnsigned()
			}
		}
		out = append(out, e)
	}
	return out
}

// unsigned reports whether state i holds codes of the unsigned book.
func (s *section) unsigned(i int) bool {
	u, ok := s.update.(ops.Update8bit)
	return ok && u.Moments()[i]
}

// typeOf is the type of an entry for parameter i.
func (s *section) typeOf(e stateEntry, i int) tensor.Type {
	dims := s.params[i].Type.Shape.Dims()
	if e.each != ops.EachElement {
		_, n := s.layout.Span(e.each, i)
		dims = []int{n}
	}
	if len(e.parts) > 1 {
		dims = append([]int{len(e.parts)}, dims...)
	}
	return tensor.T(s.states[e.parts[0]].Type.DType, dims...)
}

// StateDict returns the states of the group; lr is the learning rate to write down.
func (gr *Group) StateDict(values Values, lr float64) (*StateDict, error) {
	out := &StateDict{Tensors: map[string]*tensor.Tensor{}}
	step, err := values.Get(gr.step)
	if err != nil {
		return nil, fmt.Errorf("optim: %w", err)
	}
	doc := document{State: map[string]savedStep{}}
	for i := range gr.params {
		doc.State[strconv.Itoa(i)] = savedStep{step.At(0)}
	}
	doc.ParamGroups = gr.savedGroups(lr)
	for _, s := range gr.sections {
		if err := gr.saveSection(s, values, out.Tensors); err != nil {
			return nil, err
		}
	}
	out.Document, err = json.Marshal(doc)
	return out, err
}

// saveSection cuts the slabs of a section into the tensors of its parameters.
func (gr *Group) saveSection(s *section, values Values, into map[string]*tensor.Tensor) error {
	slabs := make([]*tensor.Tensor, len(s.states))
	for i, v := range s.states {
		var err error
		if slabs[i], err = values.Get(v); err != nil {
			return fmt.Errorf("optim: %w", err)
		}
	}
	entries := s.entries()
	for index, at := range gr.at {
		if at.section != s {
			continue
		}
		prefix := s.prefix(index)
		for _, e := range entries {
			if s.absent(e, at.i) {
				continue
			}
			t := tensor.New(s.typeOf(e, at.i))
			lo, n := s.span(e, at.i)
			for k, part := range e.parts {
				copy(t.Bytes()[k*n:(k+1)*n], slabs[part].Bytes()[lo:lo+n])
			}
			into[prefix+e.key] = t
			if e.book == nil {
				continue
			}
			m := e.book.Values()
			q, err := tensor.Of(m[:], len(m))
			if err != nil {
				return err
			}
			into[prefix+e.qmap] = q
		}
	}
	return nil
}

// prefix begins the keys of a parameter's tensors; what bitsandbytes does not have is not hidden.
func (s *section) prefix(index int) string {
	if _, ok := hyperOf(s.update); !ok {
		return fmt.Sprintf("state.%d.", index)
	}
	return fmt.Sprintf("state.%d.%s.", index, hidden)
}

// absent reports whether a tensor has none of a state, as a vector has no rows.
func (s *section) absent(e stateEntry, i int) bool {
	if e.each != ops.EachRow && e.each != ops.EachColumn && e.each != ops.EachLoose {
		return false
	}
	_, n := s.layout.Span(e.each, i)
	return n == 0
}

// span is Layout.Span in bytes.
func (s *section) span(e stateEntry, i int) (lo, n int) {
	lo, n = s.layout.Span(e.each, i)
	width := s.states[e.parts[0]].Type.DType.Size()
	return lo * width, n * width
}

// savedGroups lists the parameters by their hyperparameters.
func (gr *Group) savedGroups(lr float64) []savedGroup {
	var out []savedGroup
	var keys []choice
	for index, at := range gr.at {
		c := at.section.choice[at.i]
		c.config.Min8bitSize, c.bits = 0, 0
		i := slices.Index(keys, c)
		if i < 0 {
			i = len(keys)
			keys = append(keys, c)
			out = append(out, at.section.savedGroup(at.i, lr))
		}
		out[i].Params = append(out[i].Params, index)
	}
	return out
}

func (s *section) savedGroup(i int, lr float64) savedGroup {
	_, _, wd := s.layout.Tensor(i, s.config.WeightDecay)
	c := s.choice[i].config
	g := savedGroup{LR: s.layout.Rate(i, lr), Betas: []float64{c.Betas[0], c.Betas[1]}, Eps: c.Eps, WeightDecay: wd}
	h, ok := hyperOf(s.update)
	if !ok {
		return g
	}
	g.Betas[0], g.Betas[1] = h.Beta1, h.Beta2
	switch {
	case h.Rule == ops.Momentum:
		g.Betas[1] = h.Dampening
	case h.Rule == ops.AdEMAMix:
		g.Betas = append(g.Betas, h.Beta3)
		g.Alpha = &c.Alpha
		if c.TAlpha > 0 {
			g.TAlpha = &c.TAlpha
		}
		if c.TBeta3 > 0 {
			g.TBeta3 = &c.TBeta3
		}
	case len(h.Moments()) > 1:
		g.Alpha = new(float64)
	}
	return g
}

// hyperOf returns the hyperparameters of a rule's update.
func hyperOf(u update) (ops.Hyper, bool) {
	switch u := u.(type) {
	case ops.Update:
		return u.Hyper, true
	case ops.Update8bit:
		return u.Hyper, true
	}
	return ops.Hyper{}, false
}

// LoadStateDict sets the states of the group from a state dict with the same parameters. It changes nothing if it returns an error:
// every tensor must be there in the type that the group's own dict would have, all parameters must have made the same number of
// steps, and the hyperparameters written down must be the group's, but for the learning rate.
func (gr *Group) LoadStateDict(d *StateDict, values Values) error {
	var doc document
	if err := json.Unmarshal(d.Document, &doc); err != nil {
		return fmt.Errorf("optim: the state dict's document: %w", err)
	}
	if err := gr.compareGroups(doc.ParamGroups); err != nil {
		return err
	}
	step, err := gr.savedSteps(doc.State)
	if err != nil {
		return err
	}
	slabs := map[*graph.Var]*tensor.Tensor{gr.step: tensor.Scalar(float32(step))}
	for _, s := range gr.sections {
		if err := gr.loadSection(s, d.Tensors, slabs); err != nil {
			return err
		}
	}
	for _, v := range gr.StateVars() {
		if err := values.Set(v, slabs[v]); err != nil {
			return fmt.Errorf("optim: %w", err)
		}
	}
	return nil
}

func (gr *Group) savedSteps(state map[string]savedStep) (float64, error) {
	first, ok := state["0"]
	for i := range gr.params {
		s, there := state[strconv.Itoa(i)]
		if there != ok || s != first {
			return 0, fmt.Errorf("optim: the state dict counts %v steps of parameter 0 and %v of parameter %d; here all are updated together",
				first.Step, s.Step, i)
		}
	}
	if len(state) > len(gr.params) || !(first.Step >= 0 && first.Step == math.Trunc(first.Step) && first.Step < 1<<24) {
		return 0, fmt.Errorf("optim: the state dict holds %d parameters after %v steps, the group has %d parameters", len(state), first.Step, len(gr.params))
	}
	return first.Step, nil
}

// loadSection fills slabs from the tensors of a section's parameters.
func (gr *Group) loadSection(s *section, tensors map[string]*tensor.Tensor, slabs map[*graph.Var]*tensor.Tensor) error {
	for _, v := range s.states {
		slabs[v] = tensor.New(v.Type)
	}
	entries := s.entries()
	for index, at := range gr.at {
		if at.section != s {
			continue
		}
		find := func(key string) (*tensor.Tensor, string) {
			for _, name := range []string{fmt.Sprintf("state.%d.%s.%s", index, hidden, key), fmt.Sprintf("state.%d.%s", index, key)} {
				if t := tensors[name]; t != nil {
					return t, name
				}
			}
			return nil, s.prefix(index) + key
		}
		for _, e := range entries {
			if s.absent(e, at.i) {
				continue
			}
			t, name := find(e.key)
			if want := s.typeOf(e, at.i); t == nil || t.Type() != want {
				return wrongState(name, t, want, s.params[at.i], s.class.name)
			}
			if err := s.checkState(name, e, t); err != nil {
				return err
			}
			lo, n := s.span(e, at.i)
			for k, part := range e.parts {
				copy(slabs[s.states[part]].Bytes()[lo:lo+n], t.Bytes()[k*n:(k+1)*n])
			}
			if e.book == nil {
				continue
			}
			m := e.book.Values()
			if q, name := find(e.qmap); q == nil || q.Type() != tensor.T(tensor.F32, 256) || !slices.Equal(tensor.Data[float32](q), m[:]) {
				return fmt.Errorf("optim: %s is not the dynamic map of 8-bit states, and the codes beside it cannot be read", name)
			}
		}
	}
	return nil
}

// checkState refuses values that no step leaves behind and every later one would spread.
func (s *section) checkState(name string, e stateEntry, t *tensor.Tensor) error {
	if t.DType() != tensor.F32 || e.each == ops.EachTensor {
		return nil
	}
	positive := e.each == ops.EachBlock || s.squares(e)
	for i, x := range tensor.Data[float32](t) {
		if x-x != 0 || positive && x < 0 {
			return fmt.Errorf("optim: %s[%d] is %v; the state is damaged, load an earlier one", name, i, x)
		}
	}
	return nil
}

// squares reports whether a state is an average of squares, whose root a step takes.
func (s *section) squares(e stateEntry) bool {
	h, ok := hyperOf(s.update)
	if !ok {
		return strings.HasPrefix(e.key, "exp_avg_sq")
	}
	i := e.parts[0]
	return i < len(h.Moments()) && (h.Moments()[i] || h.Rule == ops.RMSprop || h.Rule == ops.Adagrad)
}

func wrongState(name string, got *tensor.Tensor, want tensor.Type, p *graph.Var, class string) error {
	if got == nil {
		return fmt.Errorf("optim: the state dict has no %s, which %s keeps for %v", name, class, p)
	}
	hint := "; the parameters or their order differ"
	if got.DType() != want.DType {
		hint = "; use the optimizer and the min_8bit_size that it was saved with"
	}
	return fmt.Errorf("optim: %s is %v, %s needs %v for %v%s", name, got.Type(), class, want, p, hint)
}

// compareGroups refuses hyperparameters that are not the group's: they are part of the graph.
func (gr *Group) compareGroups(saved []savedGroup) error {
	of := map[int]savedGroup{}
	for _, g := range saved {
		for _, i := range g.Params {
			if _, twice := of[i]; twice || i < 0 || i >= len(gr.params) {
				return fmt.Errorf("optim: param_groups of the state dict name parameter %d, the group has %d, each once", i, len(gr.params))
			}
			of[i] = g
		}
	}
	if len(of) != len(gr.params) {
		return fmt.Errorf("optim: the state dict has %d parameters, the group %d", len(of), len(gr.params))
	}
	for i, at := range gr.at {
		mine, theirs := at.section.savedGroup(at.i, 0), of[i]
		for _, d := range []struct {
			name       string
			mine, them any
		}{
			{"betas", fmt.Sprint(mine.Betas), fmt.Sprint(theirs.Betas)}, {"eps", mine.Eps, theirs.Eps}, {"weight_decay", mine.WeightDecay, theirs.WeightDecay},
			{"alpha", number(mine.Alpha), number(theirs.Alpha)}, {"t_alpha", number(mine.TAlpha), number(theirs.TAlpha)},
			{"t_beta3", number(mine.TBeta3), number(theirs.TBeta3)},
		} {
			if d.mine != d.them {
				return fmt.Errorf("optim: %s of parameter %s is %v in the state dict and %v here; make the optimizer with the value of the one to keep",
					d.name, gr.params[i].Name, d.them, d.mine)
			}
		}
	}
	return nil
}

// number is *p, and 0 for nil.
func number(p *float64) float64 {
	if p == nil {
		return 0
	}
	return *p
}
