package plan

import (
	"fmt"
	"sort"
	"strings"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph"
)

// Report tells what a plan takes, exactly and before it runs.
type Report struct {
	Nodes    int   // nodes after all passes
	Launches int   // kernels and copies a step
	Arena    int64 // bytes of intermediates, inputs and scratch
	Live     int64 // bytes of the arena in use at the fullest step
	Vars     int64 // bytes of the variables that the plan touches, without Host where the device has memory of its own
	Host     int64 // bytes of those variables that are placed in host memory
	Consts   int64 // bytes of embedded constants
	Away     int64 // bytes of host memory that intermediates wait in (Options.Move)
	Moved    int64 // bytes that a run copies there and back
	Folded   int   // products by a frozen weight that an adapter is folded into (Options.Fold)
	Flops    int64 // floating-point operations a step, of the ops that know theirs
	Kernels  []KernelCount
	Scopes   []ScopeBytes // what is live at the fullest step, largest first
}

// KernelCount is how often a kernel is launched in a step.
type KernelCount struct {
	Name  string
	Count int
}

// ScopeBytes is the memory one scope of the graph holds.
type ScopeBytes struct {
	Scope string `json:"scope"`
	Bytes int64  `json:"bytes"`
}

// Peak is the exact number of bytes a session with this plan alone allocates.
func (r Report) Peak() int64 { return r.Arena + r.Vars + r.Consts }

// Report describes the plan.
func (p *Plan) Report() Report {
	r := Report{Nodes: len(p.g.Nodes()), Launches: len(p.steps), Arena: p.size, Away: p.hostSize, Moved: p.movedBytes, Folded: p.folded}
	for i := range p.roots {
		switch b := p.roots[i].bytes; p.roots[i].kind {
		case inVar:
			if p.roots[i].v.Place == graph.InHost {
				r.Host += b
				if _, apart := p.opts.Device.(device.HostAllocator); apart {
					continue
				}
			}
			r.Vars += b
		case inConst:
			r.Consts += alignUp(b)
		}
	}
	counts := map[string]int{}
	for _, st := range p.steps {
		counts[kernelName(st)]++
		if c, ok := st.node.Op.(graph.Coster); ok && st.kernel != nil {
			f, _ := c.Cost(st.node.InTypes(), st.node.Out)
			r.Flops += f
		}
	}
	for name, n := range counts {
		r.Kernels = append(r.Kernels, KernelCount{name, n})
	}
	sort.Slice(r.Kernels, func(i, j int) bool {
		a, b := r.Kernels[i], r.Kernels[j]
		return a.Count > b.Count || a.Count == b.Count && a.Name < b.Name
	})
	r.Live, r.Scopes = p.fullest()
	return r
}

func kernelName(st step) string {
	switch {
	case st.move == toHost:
		return "copy to host"
	case st.move == fromHost:
		return "copy from host"
	case st.kernel == nil:
		return "copy"
	}
	if k, ok := st.kernel.(device.Named); ok {
		return k.KernelName()
	}
	return st.node.Op.Name()
}

// fullest finds the step with the most live bytes and what they belong to.
func (p *Plan) fullest() (int64, []ScopeBytes) {
	delta := make([]int64, len(p.steps)+3)
	for i := range p.roots {
		if r := &p.roots[i]; r.kind == inArena && r.joined == i {
			delta[r.birth+1] += r.bytes
			delta[r.end+2] -= r.bytes
		}
	}
	var sum, best int64
	at := 0
	for i, d := range delta {
		if sum += d; sum > best {
			best, at = sum, i-1
		}
	}
	byScope := map[string]int64{}
	for i := range p.roots {
		r := &p.roots[i]
		if r.kind == inArena && r.joined == i && r.birth <= at && r.end >= at {
			byScope[scopeName(r)] += r.bytes
		}
	}
	var out []ScopeBytes
	for s, b := range byScope {
		out = append(out, ScopeBytes{s, b})
	}
	sort.Slice(out, func(i, j int) bool {
		return out[i].Bytes > out[j].Bytes || out[i].Bytes == out[j].Bytes && out[i].Scope < out[j].Scope
	})
	return best, out
}

func scopeName(r *root) string {
	name := r.node.Scope()
	if _, ok := r.node.Op.(graph.Input); ok {
		return "inputs"
	}
	if name == "" {
		name = "(no scope)"
	}
	if r.scratch {
		name += " scratch"
	}
	return name
}

// BudgetError says that a plan needs more memory than it was allowed.
type BudgetError struct {
	Report Report
	Budget int64
}

// Error prints the shortfall, a table by scope, and what would help.
func (e *BudgetError) Error() string {
	r := e.Report
	var b strings.Builder
	fmt.Fprintf(&b, "the step needs %s, the budget is %s\n", size(r.Peak()), size(e.Budget))
	fmt.Fprintf(&b, "  %12s  variables\n  %12s  constants\n  %12s  arena (intermediates), of which at the fullest step:\n",
		size(r.Vars), size(r.Consts), size(r.Arena))
	for i, s := range r.Scopes {
		if i == tableRows {
			fmt.Fprintf(&b, "  %12s    in %d more scopes\n", size(sumScopes(r.Scopes[i:])), len(r.Scopes)-i)
			break
		}
		fmt.Fprintf(&b, "  %12s    %s\n", size(s.Bytes), s.Scope)
	}
	if r.Vars+r.Consts > e.Budget {
		b.WriteString("The variables alone do not fit: quantize the weights, use an 8-bit optimizer, or train fewer parameters.")
	} else {
		b.WriteString("What would help: a smaller micro-batch, shorter rows, or gradient checkpointing of the largest scopes.")
	}
	return b.String()
}

const tableRows = 12

func sumScopes(ss []ScopeBytes) (n int64) {
	for _, s := range ss {
		n += s.Bytes
	}
	return n
}

func size(n int64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%.2f GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%.2f MiB", float64(n)/(1<<20))
	case n >= 1<<10:
		return fmt.Sprintf("%.2f KiB", float64(n)/(1<<10))
	}
	return fmt.Sprintf("%d B", n)
}

func (p *Plan) checkBudget() error {
	if p.opts.Budget <= 0 {
		return nil
	}
	if r := p.Report(); r.Peak() > p.opts.Budget {
		return &BudgetError{r, p.opts.Budget}
	}
	return nil
}
