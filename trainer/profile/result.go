package profile

import (
	"cmp"
	"slices"
	"time"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Version is the version of the files' layout. A field may be added without a new one.
const Version = 1

// Result is what a profile found. Times are in seconds, and like calls and work they are those of a step: means over the steps.
type Result struct {
	Version  int      `json:"version"`
	Title    string   `json:"title,omitempty"`
	Device   Device   `json:"device"`
	Limits   *Limits  `json:"limits,omitempty"` // absent where nothing was measured
	Steps    Steps    `json:"steps"`
	Time     Time     `json:"time"`
	Plans    []Plan   `json:"plans"`
	Kernels  []Kernel `json:"kernels"` // by time, longest first
	Scopes   *Scope   `json:"scopes"`
	Launches []Launch `json:"launches"`
	Memory   *Memory  `json:"-"` // a file of its own

	steps []step
	first []int // by plan: index into Launches of its first one
}

// Device is what the plans ran on.
type Device struct {
	Name    string `json:"name"`
	Kind    string `json:"kind"`
	Threads int    `json:"threads"`
}

// Limits are what the device reaches at most, measured before the steps.
type Limits struct {
	Flops  map[string]float64 `json:"flops"` // operations a second by dtype
	Memory []Bandwidth        `json:"memory"`
	Notes  string             `json:"notes,omitempty"`
}

// Bandwidth is that of a working set, in bytes a second.
type Bandwidth struct {
	Bytes int64   `json:"bytes"`
	Read  float64 `json:"read"`
	Copy  float64 `json:"copy"`
}

// Steps are the steps that were profiled.
type Steps struct {
	Count   int       `json:"count"`
	Warmup  int       `json:"warmup"`
	Seconds []float64 `json:"seconds"`
	Exact   bool      `json:"exact"` // false: the device has no timer, and each launch was waited for
}

// Time is where the time of a step goes. All parts add up to Step.
type Time struct {
	Step    float64 `json:"step"`
	Kernels float64 `json:"kernels"` // within launches
	Gaps    float64 `json:"gaps"`    // between the launches of a plan
	Feed    float64 `json:"feed"`    // uploading the inputs of plans
	Fetch   float64 `json:"fetch"`   // downloading their outputs
	Outside float64 `json:"outside"` // around plans: making batches, the loop itself
	// Busy is the share of the threads that worked, within launches; 0 where the device does not tell.
	Busy float64 `json:"busy,omitempty"`
}

// Plan is one of the plans of a step.
type Plan struct {
	Name     string  `json:"name"`
	Launches int     `json:"launches"`
	Runs     float64 `json:"runs"` // a step
}

// Work is what launches did in a step.
type Work struct {
	Calls   float64 `json:"calls"`
	Seconds float64 `json:"seconds"`
	Flops   float64 `json:"flops"`
	Bytes   float64 `json:"bytes"` // read and written
	// Estimated is the part of Seconds in launches whose op does not tell its work: their bytes are those of their operands, their
	// operations are unknown and counted as 0.
	Estimated float64 `json:"estimated"`
	// Least is the time that the same work takes at the device's limits: for each launch the longer of its arithmetic and its bytes.
	Least float64 `json:"least,omitempty"`
	// Arithmetic is the part of Least in launches that arithmetic limits; memory limits the others.
	Arithmetic float64 `json:"arithmetic,omitempty"`
	Threads    float64 `json:"thread_seconds,omitempty"` // that threads worked
}

// OfLimit is Least as a share of Seconds, 0 if unknown.
func (w Work) OfLimit() float64 { return ratio(w.Least, w.Seconds) }

func (w *Work) add(v Work) {
	w.Calls += v.Calls
	w.Seconds += v.Seconds
	w.Flops += v.Flops
	w.Bytes += v.Bytes
	w.Estimated += v.Estimated
	w.Least += v.Least
	w.Arithmetic += v.Arithmetic
	w.Threads += v.Threads
}

// Kernel is all launches of one kernel.
type Kernel struct {
	Name string `json:"name"`
	Work
	Op string `json:"op"` // of its longest launch, with the types of it
}

// Launch is one launch of a plan.
type Launch struct {
	Plan   int    `json:"plan"`
	Index  int    `json:"index"`
	Kernel string `json:"kernel"`
	Op     string `json:"op"`
	Types  string `json:"types"` // of inputs and outputs
	Scope  string `json:"scope"`
	Phase  string `json:"phase"`
	Pos    string `json:"position"` // source line that built it
	Work

	phase graph.Phase
	node  *graph.Node
}

// kernelOf is the name under which a launch is counted: the kernel's, and of a chain what it computes.
func kernelOf(l plan.Launch) string {
	if _, ok := l.Node.Op.(graph.Fused); ok && !l.Copy {
		return l.Kernel + " " + opName(l.Node)
	}
	return l.Kernel
}

func ratio(a, b float64) float64 {
	if b == 0 {
		return 0
	}
	return a / b
}

// Result sums up what was recorded so far.
func (p *Profile) Result() *Result {
	i := p.opts.Device.Info()
	r := &Result{Version: Version, Title: p.opts.Title, Device: Device{i.Name, i.Kind, i.Threads}, Limits: exported(p.limits),
		steps: p.steps, Steps: Steps{Warmup: p.opts.Warmup, Exact: true, Seconds: []float64{}}}
	for _, s := range p.steps {
		if !s.dry {
			r.Steps.Count++
			r.Steps.Seconds = append(r.Steps.Seconds, s.took.Seconds())
		}
	}
	p.describe(r)
	for k := range p.steps {
		p.tally(r, &p.steps[k])
	}
	threads := 0.0
	for k := range r.Launches {
		r.Time.Kernels += r.Launches[k].Seconds
		threads += r.Launches[k].Threads
	}
	r.Time.Busy = ratio(threads, r.Time.Kernels*float64(i.Threads))
	r.Time.Outside = r.Time.Step - r.Time.Kernels - r.Time.Gaps - r.Time.Feed - r.Time.Fetch
	r.Kernels, r.Scopes = byKernel(r.Launches), byScope(r.Launches)
	r.Memory = p.memory()
	return r
}

// describe lists the launches of the plans with what they do in a call, in Work of one call.
func (p *Profile) describe(r *Result) {
	runs := make([]int, len(p.plans))
	for _, s := range p.steps {
		for _, u := range s.runs {
			runs[u.plan]++
		}
	}
	for k, w := range p.plans {
		r.first = append(r.first, len(r.Launches))
		r.Plans = append(r.Plans, Plan{w.name, len(w.launches), float64(runs[k]) / float64(max(len(p.steps), 1))})
		for i, l := range w.launches {
			r.Launches = append(r.Launches, Launch{Plan: k, Index: i, Kernel: kernelOf(l), Op: opText(l.Node, l.Copy), Types: typesText(l.Node, l.Copy),
				Scope: l.Node.Scope(), Phase: l.Phase.String(), Pos: l.Node.Pos(), phase: l.Phase, node: l.Node})
		}
	}
}

// tally adds the launches of a step to their means.
func (p *Profile) tally(r *Result, s *step) {
	if s.dry {
		return
	}
	each := 1 / float64(r.Steps.Count)
	r.Time.Step += each * s.took.Seconds()
	for k := range s.runs {
		u := &s.runs[k]
		r.Steps.Exact = r.Steps.Exact && u.exact
		_, feed, gaps, fetch := u.spans()
		r.Time.Feed += each * feed.Seconds()
		r.Time.Gaps += each * gaps.Seconds()
		r.Time.Fetch += each * fetch.Seconds()
		for i, l := range p.plans[u.plan].launches {
			from, to := u.marks[2+2*i], u.marks[3+2*i]
			w := p.work(l, to.At-from.At, to.Busy-from.Busy)
			w.scale(each)
			r.Launches[r.first[u.plan]+i].add(w)
		}
	}
}

func (w *Work) scale(f float64) {
	*w = Work{w.Calls * f, w.Seconds * f, w.Flops * f, w.Bytes * f, w.Estimated * f, w.Least * f, w.Arithmetic * f, w.Threads * f}
}

// work is that of one call which took so long.
func (p *Profile) work(l plan.Launch, took, busy time.Duration) Work {
	w := Work{Calls: 1, Seconds: took.Seconds(), Flops: float64(l.Flops), Bytes: float64(l.Bytes), Threads: busy.Seconds()}
	if !l.Told {
		w.Estimated = w.Seconds
	}
	if p.limits == nil {
		return w
	}
	w.Least = ratio(w.Bytes, p.limits.Rate(l.Bytes))
	if a := ratio(w.Flops, p.limits.FlopRate(operandType(l.Node))); a > w.Least {
		w.Least, w.Arithmetic = a, a
	}
	return w
}

// operandType is the dtype that decides how fast the arithmetic of a node can be.
func operandType(n *graph.Node) tensor.DType {
	for _, t := range n.InTypes() {
		if t.DType == tensor.I8 {
			return tensor.I8 // an int8 product, whatever the dtype of its other operand
		}
	}
	if len(n.In) > 0 {
		return n.In[0].DType()
	}
	return tensor.F32
}

// byKernel groups launches by the name of their kernel.
func byKernel(ls []Launch) []Kernel {
	return grouped(ls, func(l *Launch) string { return l.Kernel })
}

// grouped sums up the launches of each name, longest first.
func grouped(ls []Launch, name func(l *Launch) string) []Kernel {
	at := map[string]int{}
	var out []Kernel
	longest := map[string]float64{}
	for i := range ls {
		l := &ls[i]
		if l.Calls == 0 {
			continue
		}
		key := name(l)
		k, ok := at[key]
		if !ok {
			k = len(out)
			at[key] = k
			out = append(out, Kernel{Name: key})
		}
		out[k].add(l.Work)
		if l.Seconds >= longest[key] {
			longest[key], out[k].Op = l.Seconds, l.Op+" "+l.Types
		}
	}
	slices.SortStableFunc(out, func(a, b Kernel) int {
		return cmp.Or(-cmp.Compare(a.Seconds, b.Seconds), cmp.Compare(a.Name, b.Name))
	})
	return out
}

func exported(l *device.Limits) *Limits {
	if l == nil {
		return nil
	}
	out := &Limits{Flops: map[string]float64{}, Notes: l.Notes}
	for d, r := range l.Flops {
		out.Flops[d.String()] = r
	}
	for _, b := range l.Memory {
		out.Memory = append(out.Memory, Bandwidth{b.Bytes, b.Read, b.Copy})
	}
	return out
}
