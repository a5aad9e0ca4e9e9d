package profile

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
)

// Category is what memory is for.
type Category string

// The categories, as they are stacked. Free is what the arena has and nothing lives in.
const (
	Weights     Category = "frozen weights"
	Parameters  Category = "parameters"
	Gradients   Category = "gradients"
	States      Category = "optimizer state"
	OtherVars   Category = "other variables"
	Constants   Category = "constants"
	Inputs      Category = "inputs"
	Saved       Category = "saved activations"
	Temporaries Category = "temporaries"
	Scratch     Category = "scratch"
	Free        Category = "unused arena"
)

// Categories are all categories in the order of the stack. Those from Inputs on are parts of the arena.
var Categories = []Category{Weights, Parameters, Gradients, States, OtherVars, Constants, Inputs, Saved, Temporaries, Scratch, Free}

// arena reports whether the category is part of the arena.
func (c Category) arena() bool {
	return slices.Index(Categories, c) >= slices.Index(Categories, Inputs)
}

// DefaultCategory tells trained parameters from other variables. Frozen weights and the state of an optimizer look alike to it.
func DefaultCategory(v *graph.Var) Category {
	if v.Trainable {
		return Parameters
	}
	return OtherVars
}

// Memory is what lies in memory when. Everything that the plans need is allocated before the first step and held to the end: the
// variables, the constants, and one arena of the largest plan's size, in which intermediates come and go.
type Memory struct {
	Version int    `json:"version"`
	Title   string `json:"title,omitempty"`
	Device  string `json:"device"`
	// Bytes is what is allocated on the device: the fixed parts and the arena.
	Bytes int64 `json:"bytes"`
	Arena int64 `json:"arena_bytes"`
	Host  int64 `json:"host_bytes,omitempty"` // in host memory beside it: variables, and activations that wait there
	// Fixed are the parts that do not change during the step.
	Fixed []Amount     `json:"fixed"`
	Vars  []Tensor     `json:"variables"` // largest first, constants included
	Plans []PlanMemory `json:"plans"`
	Runs  []Run        `json:"runs"` // of one step, the one of median time
	Peak  *Peak        `json:"peak,omitempty"`
}

// Amount is how much of a category there is.
type Amount struct {
	Category Category `json:"category"`
	Bytes    int64    `json:"bytes"`
}

// Tensor is a piece of memory. One in the arena is held from launch Birth to launch End of its plan inclusive: -1 is before the first
// launch, the number of launches after the last.
type Tensor struct {
	Name     string   `json:"name"` // the variable's, or what computes it
	Category Category `json:"category"`
	Type     string   `json:"type,omitempty"`
	Bytes    int64    `json:"bytes"`
	Offset   int64    `json:"offset"` // in the arena
	Birth    int      `json:"birth"`
	End      int      `json:"end"`
	Scope    string   `json:"scope,omitempty"`
	Pos      string   `json:"position,omitempty"`
	Host     bool     `json:"host,omitempty"`
}

// PlanMemory is what a plan holds in the arena.
type PlanMemory struct {
	Name     string   `json:"name"`
	Launches int      `json:"launches"`
	Arena    int64    `json:"arena_bytes"` // that it needs
	Tensors  []Tensor `json:"tensors"`
	// Held is what is held during each launch, by category: Held[c][i+1] in launch i, Held[c][0] before the first, the last after the
	// last.
	Held map[Category][]int64 `json:"held"`
}

// Run is a run of a plan in the step. Start are the seconds since the step's begin at which each launch begins, and last that of the
// run's end; it is empty in a profile without a run.
type Run struct {
	Plan  int       `json:"plan"`
	Start []float64 `json:"start,omitempty"`
}

// Peak is the moment of a step at which most of the arena is in use.
type Peak struct {
	Plan    int      `json:"plan"`
	Launch  int      `json:"launch"`
	Kernel  string   `json:"kernel"`
	Scope   string   `json:"scope"`
	Live    int64    `json:"live_bytes"`  // of the arena
	Bytes   int64    `json:"total_bytes"` // with the fixed parts, without what the arena has unused
	Amounts []Amount `json:"amounts"`
	Tensors []Tensor `json:"tensors"` // alive at it, largest first
}

// memory describes the memory of the plans in the step of median time.
func (p *Profile) memory() *Memory {
	m := &Memory{Version: Version, Title: p.opts.Title, Device: p.opts.Device.Info().Name}
	amounts := map[Category]int64{}
	seen, away := map[*graph.Var]bool{}, int64(0)
	for _, w := range p.plans {
		pm := PlanMemory{Name: w.name, Launches: len(w.launches), Arena: w.plan.Report().Arena, Held: map[Category][]int64{}}
		m.Arena = max(m.Arena, pm.Arena)
		for _, l := range w.plan.Lifetimes() {
			t := p.tensor(l)
			switch {
			case l.InArena():
				pm.hold(t)
				continue
			case l.Holding == plan.HoldsVar && seen[l.Var]:
				continue
			case l.Holding == plan.HoldsVar:
				seen[l.Var] = true
			}
			if l.Holding == plan.HoldsAway { // the plans of a session share it
				away = max(away, w.plan.Report().Away)
				continue
			}
			m.Vars = append(m.Vars, t)
			if t.Host {
				m.Host += t.Bytes
				continue
			}
			amounts[t.Category] += t.Bytes
			m.Bytes += t.Bytes
		}
		m.Plans = append(m.Plans, pm)
	}
	m.Bytes, m.Host = m.Bytes+m.Arena, m.Host+away
	for _, c := range Categories {
		if amounts[c] > 0 {
			m.Fixed = append(m.Fixed, Amount{c, amounts[c]})
		}
	}
	largestFirst(m.Vars)
	m.Runs = p.timeline()
	m.findPeak(p)
	return m
}

func (p *Profile) tensor(l plan.Lifetime) Tensor {
	t := Tensor{Bytes: l.Bytes, Birth: l.Birth, End: l.End, Offset: l.Offset, Host: l.Host}
	if l.Type.DType.Size() > 0 {
		t.Type = l.Type.String()
	}
	if l.Holding == plan.HoldsVar {
		t.Name, t.Category = l.Var.Name, p.opts.Categorize(l.Var)
		return t
	}
	t.Name, t.Scope, t.Pos = opName(l.Node), l.Node.Scope(), l.Node.Pos()
	switch l.Holding {
	case plan.HoldsConst:
		t.Category = Constants
	case plan.HoldsInput:
		t.Category = Inputs
	case plan.HoldsSaved, plan.HoldsAway:
		t.Category = Saved
	case plan.HoldsScratch:
		t.Category, t.Name = Scratch, "scratch of "+t.Name
	default:
		t.Category = Temporaries
	}
	return t
}

// hold adds a tensor of the arena.
func (pm *PlanMemory) hold(t Tensor) {
	pm.Tensors = append(pm.Tensors, t)
	held := pm.Held[t.Category]
	if held == nil {
		held = make([]int64, pm.Launches+2)
		pm.Held[t.Category] = held
	}
	for i := t.Birth; i <= t.End; i++ {
		held[i+1] += t.Bytes
	}
}

// live is what the plan holds of the arena in launch i.
func (pm *PlanMemory) live(i int) (n int64) {
	for _, held := range pm.Held {
		n += held[i+1]
	}
	return n
}

// timeline is the runs of the recorded step of median time, or of the last dry one.
func (p *Profile) timeline() []Run {
	var timed []step
	out := []Run{}
	for _, s := range p.steps {
		if !s.dry {
			timed = append(timed, s)
		}
	}
	if len(timed) == 0 {
		if len(p.steps) > 0 {
			for _, u := range p.steps[len(p.steps)-1].runs {
				out = append(out, Run{Plan: u.plan})
			}
		}
		return out
	}
	slices.SortStableFunc(timed, func(a, b step) int { return cmp.Compare(a.took, b.took) })
	s := timed[len(timed)/2]
	for _, u := range s.runs {
		r := Run{Plan: u.plan}
		at := (u.began - s.began).Seconds() - u.marks[0].At.Seconds()
		for i := range p.plans[u.plan].launches {
			r.Start = append(r.Start, at+u.marks[2+2*i].At.Seconds())
		}
		r.Start = append(r.Start, at+u.marks[len(u.marks)-1].At.Seconds())
		out = append(out, r)
	}
	return out
}

// findPeak looks at the plans that run in the step, or at all if none is known.
func (m *Memory) findPeak(p *Profile) {
	runs := map[int]bool{}
	for _, r := range m.Runs {
		runs[r.Plan] = true
	}
	for k := range m.Plans {
		if len(runs) > 0 && !runs[k] {
			continue
		}
		for i := -1; i <= m.Plans[k].Launches; i++ {
			if live := m.Plans[k].live(i); m.Peak == nil || live > m.Peak.Live {
				m.Peak = &Peak{Plan: k, Launch: i, Live: live}
			}
		}
	}
	if m.Peak == nil {
		return
	}
	at := m.Peak
	at.Bytes = m.Bytes - m.Arena + at.Live
	if ls := p.plans[at.Plan].launches; at.Launch >= 0 && at.Launch < len(ls) {
		at.Kernel, at.Scope = ls[at.Launch].Kernel, ls[at.Launch].Node.Scope()
	}
	at.Amounts = append(at.Amounts, m.Fixed...)
	pm := &m.Plans[at.Plan]
	for _, c := range Categories {
		if held := pm.Held[c]; held != nil && held[at.Launch+1] > 0 {
			at.Amounts = append(at.Amounts, Amount{c, held[at.Launch+1]})
		}
	}
	for _, t := range pm.Tensors {
		if t.Birth <= at.Launch && t.End >= at.Launch {
			at.Tensors = append(at.Tensors, t)
		}
	}
	for _, t := range m.Vars {
		if !t.Host {
			at.Tensors = append(at.Tensors, t)
		}
	}
	largestFirst(at.Tensors)
}

func largestFirst(ts []Tensor) {
	slices.SortStableFunc(ts, func(a, b Tensor) int { return cmp.Or(-cmp.Compare(a.Bytes, b.Bytes), cmp.Compare(a.Name, b.Name)) })
}

// opName is a node's operation without its attributes; of a chain the operations in it, "mul·add·silu".
func opName(n *graph.Node) string {
	f, ok := n.Op.(graph.Fused)
	if !ok {
		if in, ok := n.Op.(graph.Input); ok {
			return in.Label
		}
		return n.Op.Name()
	}
	var names []string
	for _, in := range f.Prog.Instrs {
		if len(in.Args) > 0 { // the others are immediates
			names = append(names, in.Op.Name())
		}
	}
	return strings.Join(names, "·")
}

// opText is a node's operation with its attributes; a long chain is cut.
func opText(n *graph.Node, isCopy bool) string {
	if isCopy {
		return "copy"
	}
	const most = 160
	text := graph.OpText(n.Op)
	if len(text) > most {
		text = text[:most-3] + "..."
	}
	return text
}

// typesText is the types of a node: "f32[2,3], f32[3] -> f32[2,3]".
func typesText(n *graph.Node, isCopy bool) string {
	if isCopy {
		return fmt.Sprintf("%v", n.Out[0])
	}
	text := ""
	for i, t := range n.InTypes() {
		if i > 0 {
			text += ", "
		}
		if n.In[i].Valid() {
			text += t.String()
		} else {
			text += "-"
		}
	}
	text += " -> "
	for i, t := range n.Out {
		if i > 0 {
			text += ", "
		}
		text += t.String()
	}
	return text
}
