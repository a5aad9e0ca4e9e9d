package trainer

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/tensor"
	"github.com/bitsandbyes/bitsandbyes/trainer/profile"
	"github.com/bitsandbyes/bitsandbyes/trainer/report"
)

// BenchResult is what a benchmark found. Times are in seconds, memory in bytes.
type BenchResult struct {
	Shape         string `json:"shape"`
	Mode          string `json:"mode"`
	Docs          string `json:"docs"`
	Batch         int    `json:"batch"`
	Seq           int    `json:"seq"`
	Optimizer     string `json:"optimizer"`
	Compute       string `json:"compute"`
	Device        string `json:"device"`
	Launch        string `json:"launch"`
	Checkpointing string `json:"checkpointing"`
	Recompute     int    `json:"blocks_recomputed"`
	Blocks        int    `json:"blocks"`
	Folded        int    `json:"products_folded"` // of a micro-batch, that adapters are folded into
	Parameters    int64  `json:"parameters"`
	Trained       int64  `json:"trained"`

	Launches      int   `json:"launches"` // of the gradients of a micro-batch
	UpdateLaunch  int   `json:"launches_update"`
	PlannedBytes  int64 `json:"planned_bytes"` // what the run allocates on the device
	PlannedArena  int64 `json:"planned_arena_bytes"`
	PlannedHost   int64 `json:"planned_host_bytes"`
	PlannedAway   int64 `json:"planned_away_bytes"` // of these, activations that wait for the backward sweep
	MovedBytes    int64 `json:"moved_bytes"`        // activations copied there and back in a step
	PeakBytes     int64 `json:"peak_bytes"`         // what it allocated at most
	OverheadBytes int64 `json:"overhead_bytes"`     // context, libraries, kernels, graphs

	CompileSeconds float64 `json:"compile_seconds"`
	LoadSeconds    float64 `json:"load_seconds"`
	FirstSeconds   float64 `json:"first_step_seconds"`

	CompileSpent []BenchSpent `json:"compile_spent,omitempty"` // of CompileSeconds, what later runs find done
	LoadSpent    []BenchSpent `json:"load_spent,omitempty"`    // of LoadSeconds

	Steps           int     `json:"steps"`
	StepSeconds     float64 `json:"step_seconds"` // median, from the end of a step to the end of the next, logging included
	StepLeast       float64 `json:"step_seconds_least"`
	StepMost        float64 `json:"step_seconds_most"`
	TokensPerStep   float64 `json:"tokens_per_step"` // real ones, without padding
	TokensPerSec    float64 `json:"tokens_per_s"`
	PositionsPerSec float64 `json:"positions_per_s"` // padding included
	FlopsPerStep    float64 `json:"flops_per_step"`
	PeakFlops       float64 `json:"peak_flops"`
	PeakFrom        string  `json:"peak_from"`
	MFU             float64 `json:"mfu"`
	FirstLoss       float64 `json:"first_loss"`
	LastLoss        float64 `json:"last_loss"`
	TokenSeconds    float64 `json:"generate_token_seconds,omitempty"`         // of the model alone
	AdaptedSeconds  float64 `json:"generate_adapted_token_seconds,omitempty"` // with its adapter

	Classes []BenchClass `json:"classes,omitempty"` // of kernels, by time
	Gaps    float64      `json:"gap_seconds"`       // between launches that are timed one by one
	Top     []BenchClass `json:"kernels,omitempty"` // the longest kernels
}

// BenchClass is the time of some kernels in a step.
type BenchClass struct {
	Name    string  `json:"name"`
	Calls   float64 `json:"calls"`
	Seconds float64 `json:"seconds"`
	Share   float64 `json:"share"`              // of the time of all kernels
	OfLimit float64 `json:"of_limit,omitempty"` // least time at the device's measured limits, as a share of Seconds; 0 = unknown
}

// BenchSpent is work that a device does once and keeps: compiling kernels, choosing algorithms.
type BenchSpent struct {
	What           string  `json:"what"`
	Count          int     `json:"count"`
	Seconds        float64 `json:"seconds"`
	LongestSeconds float64 `json:"longest_seconds,omitempty"`
	Longest        string  `json:"longest,omitempty"`
}

// spentOn is what the device has spent on such work, without what it had spent before.
func spentOn(d device.Device, before []BenchSpent) []BenchSpent {
	s, ok := d.(device.Spender)
	if !ok {
		return nil
	}
	var list []BenchSpent
	for _, w := range s.Spent() {
		row := BenchSpent{What: w.What, Count: w.Count, Seconds: w.Time.Seconds(), LongestSeconds: w.Longest.Seconds(), Longest: w.Name}
		for _, b := range before {
			if b.What == w.What {
				row.Count, row.Seconds = row.Count-b.Count, row.Seconds-b.Seconds
				if row.LongestSeconds <= b.LongestSeconds {
					row.LongestSeconds, row.Longest = 0, "" // that was before
				}
			}
		}
		if row.Seconds >= 0.001 {
			list = append(list, row)
		}
	}
	return list
}

// spentText lists such work for people.
func spentText(list []BenchSpent) string {
	text := make([]string, len(list))
	for i, s := range list {
		text[i] = fmt.Sprintf("%s %.2f s", s.What, s.Seconds)
		switch {
		case s.Count > 0 && s.Longest != "":
			text[i] += fmt.Sprintf(" (%d, at most %.2f s: %s)", s.Count, s.LongestSeconds, s.Longest)
		case s.Count > 0:
			text[i] += fmt.Sprintf(" (%d)", s.Count)
		}
	}
	return strings.Join(text, "; ")
}

// planned is what is known before a step has run.
func (b *bench) planned() *BenchResult {
	j, o := b.job, b.opts
	r := &BenchResult{Shape: o.Shape, Mode: o.Mode, Docs: o.Docs, Batch: o.Batch, Seq: o.Seq, Optimizer: o.Optimizer, Compute: j.compute.String(),
		Device: j.dev.Info().Name, Launch: launched(j.dev, o.Execution), Checkpointing: o.Checkpointing, Recompute: j.recompute, Blocks: j.model.Config().Layers,
		PlannedBytes: j.total, PlannedArena: j.session.ArenaBytes(), PlannedHost: j.session.HostBytes(), CompileSeconds: b.took.compile.Seconds(),
		CompileSpent: b.spent.compile, LoadSpent: b.spent.load, Steps: o.Steps, UpdateLaunch: j.plans.apply.Report().Launches}
	r.Parameters, r.Trained = j.countParams()
	r.PlannedAway, r.MovedBytes = j.away()
	for _, l := range j.plans.train {
		if f := float64(l.flops); f > r.FlopsPerStep { // that of the longest rows
			report := l.plan.Report()
			r.Launches, r.Folded, r.FlopsPerStep = report.Launches, report.Folded, f
		}
	}
	r.PeakFlops, r.PeakFrom = b.opts.Peak, "given"
	if r.PeakFlops == 0 {
		r.PeakFlops, r.PeakFrom = peakFlops(r.Device, j.compute)
	}
	return r
}

// measured adds what the steps took.
func (b *bench) measured(r *BenchResult) {
	j, w := b.job, b.opts.Warmup
	r.LoadSeconds, r.FirstSeconds = b.took.load.Seconds(), b.ends[0].Sub(b.began).Seconds()
	var took []float64
	tokens := 0.0
	for i := w; i < len(b.ends); i++ {
		from := b.began
		if i > 0 {
			from = b.ends[i-1]
		}
		took = append(took, b.ends[i].Sub(from).Seconds())
		tokens += float64(b.rows[i].Tokens)
	}
	r.StepSeconds, r.StepLeast, r.StepMost = medianOf(took), slices.Min(took), slices.Max(took)
	r.TokensPerStep = tokens / float64(len(took))
	r.TokensPerSec = r.TokensPerStep / r.StepSeconds
	r.PositionsPerSec = float64(r.Batch*r.Seq) / r.StepSeconds
	r.FirstLoss, r.LastLoss = b.rows[0].Loss, b.rows[len(b.rows)-1].Loss
	r.PeakBytes = j.memory()
	if m, ok := j.dev.(device.Meter); ok {
		r.OverheadBytes = m.Overhead()
	}
	if r.PeakFlops == 0 && j.flopRate > 0 {
		r.PeakFlops, r.PeakFrom = j.flopRate, "a matrix product timed on this device"
	}
	if r.PeakFlops > 0 {
		r.MFU = r.FlopsPerStep / r.StepSeconds / r.PeakFlops
	}
}

// peaks are the rates of dense products that makers state, by a part of the device's name.
var peaks = []struct {
	name string
	rate map[tensor.DType]float64
}{
	{"H100", map[tensor.DType]float64{tensor.BF16: 989e12, tensor.F16: 989e12, tensor.F32: 67e12}},
	{"H200", map[tensor.DType]float64{tensor.BF16: 989e12, tensor.F16: 989e12, tensor.F32: 67e12}},
	{"A100", map[tensor.DType]float64{tensor.BF16: 312e12, tensor.F16: 312e12, tensor.F32: 19.5e12}},
}

func peakFlops(name string, d tensor.DType) (float64, string) {
	for _, p := range peaks {
		if strings.Contains(name, p.name) {
			return p.rate[d], "stated by the maker for dense products in " + d.String()
		}
	}
	return 0, "unknown"
}

// topKernels is how many kernels a result lists.
const topKernels = 12

// setProfile adds the time by kernel.
func (r *BenchResult) setProfile(p *profile.Result) {
	total := 0.0
	classes := map[string]*BenchClass{}
	least := map[string]float64{}
	for _, l := range p.Launches {
		if l.Calls == 0 {
			continue
		}
		name := kernelClass(l.Op, l.Kernel)
		c := classes[name]
		if c == nil {
			c = &BenchClass{Name: name}
			classes[name] = c
		}
		c.Calls += l.Calls
		c.Seconds += l.Seconds
		least[name] += l.Least
		total += l.Seconds
	}
	for name, c := range classes {
		c.Share, c.OfLimit = shareOf(c.Seconds, total), shareOf(least[name], c.Seconds)
		r.Classes = append(r.Classes, *c)
	}
	slices.SortFunc(r.Classes, func(a, b BenchClass) int {
		return cmp.Or(-cmp.Compare(a.Seconds, b.Seconds), cmp.Compare(a.Name, b.Name))
	})
	for i, k := range p.Kernels {
		if i == topKernels {
			break
		}
		r.Top = append(r.Top, BenchClass{k.Name + ": " + k.Op, k.Calls, k.Seconds, shareOf(k.Seconds, total), k.OfLimit()})
	}
	r.Gaps = p.Time.Gaps
}

// shareOf is part / whole, 0 of nothing: launches can be shorter than a device's clock tells.
func shareOf(part, whole float64) float64 {
	if whole == 0 {
		return 0
	}
	return part / whole
}

// kernelClasses group ops by a part of their name; the first that fits counts.
var kernelClasses = []struct{ part, class string }{
	{"fused", "pointwise"}, {"copy", "copies and casts"}, {"cast", "copies and casts"}, {"transpose", "copies and casts"}, {"concat", "copies and casts"},
	{"slice", "copies and casts"}, {"broadcast", "copies and casts"}, {"attention", "attention"}, {"attend", "attention"},
	{"linear_cross_entropy", "head and loss"}, {"linear_ce", "head and loss"}, {"linear_loss", "head and loss"}, {"cross_entropy", "head and loss"}, {"quant_matmul", "4-bit products"},
	{"int8", "8-bit products"}, {"matmul", "products"}, {"einsum", "products"}, {"norm", "norms"}, {"rope", "rotary embedding"},
	{"quantize", "quantization"}, {"update", "optimizer"}, {"optim", "optimizer"}, {"adam", "optimizer"}, {"sum_squares", "optimizer"},
	{"pack", "optimizer"}, {"gather", "embedding"}, {"scatter", "embedding"}, {"embed", "embedding"}, {"reduce", "reductions"},
}

// launched is how launches reach a device: one that records nothing is launched plainly, whatever was asked for.
func launched(dev device.Device, e Execution) string {
	way := e.Launching()
	if _, ok := dev.(device.Capturer); !ok {
		way = max(way, plan.Plain)
	}
	return plan.Launchings[way]
}

// kernelClass is what a launch of an op is counted as.
func kernelClass(op, kernel string) string {
	switch {
	case kernel == "copy":
		return "copies and casts"
	case strings.HasPrefix(kernel, "copy "): // to host, from host
		return "copies over the bus"
	}
	for _, c := range kernelClasses {
		if strings.Contains(strings.ToLower(op), c.part) {
			return c.class
		}
	}
	name, _, _ := strings.Cut(op, "{")
	for i := range ops.Table {
		if name == ops.Table[i].Name {
			return "pointwise"
		}
	}
	return "other: " + name
}

func medianOf(x []float64) float64 {
	s := slices.Sorted(slices.Values(x))
	n := len(s)
	if n%2 == 1 {
		return s[n/2]
	}
	return (s[n/2-1] + s[n/2]) / 2
}

// mfuFormula says what MFU is.
const mfuFormula = "arithmetic of the matrix products and the attention of a step as they are launched, forward and backward, causal pairs counted once and recomputed blocks not, over step time and peak"

// Text prints the result for people, figures of the plan beside those measured.
func (r *BenchResult) Text() string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	row := func(name, format string, args ...any) { fmt.Fprintf(w, "%s\t%s\n", name, fmt.Sprintf(format, args...)) }
	row("shape", "%s, %s, %d x %d, %s documents, %s, %s", r.Shape, r.Mode, r.Batch, r.Seq, r.Docs, r.Optimizer, r.Compute)
	row("device", "%s, launches %s", r.Device, r.Launch)
	row("parameters", "%s, trained %s", report.Count(r.Parameters), report.Count(r.Trained))
	row("blocks recomputed", "%d of %d (checkpointing %s)", r.Recompute, r.Blocks, r.Checkpointing)
	if r.PlannedAway > 0 {
		row("activations that wait in host memory", "%s; copied there and back in a step %s", report.Bytes(r.PlannedAway), report.Bytes(r.MovedBytes))
	}
	if r.Mode != ModeFull {
		row("adapters", "%s", foldedText(r.Folded))
	}
	row("launches", "%d and %d of the update", r.Launches, r.UpdateLaunch)
	row("memory, planned", "%s, of which arena %s; in host memory %s", report.Bytes(r.PlannedBytes), report.Bytes(r.PlannedArena), report.Bytes(r.PlannedHost))
	if r.StepSeconds > 0 {
		row("memory, allocated at most", "%s (%.3f GB); context, libraries, kernels and graphs %s", report.Bytes(r.PeakBytes), float64(r.PeakBytes)/1e9, report.Bytes(r.OverheadBytes))
	}
	row("compiling", "%.2f s", r.CompileSeconds)
	if len(r.CompileSpent) > 0 {
		row("  of it, done once", "%s", spentText(r.CompileSpent))
	}
	if r.StepSeconds > 0 {
		row("drawing weights; first step", "%.2f s; %.2f s", r.LoadSeconds, r.FirstSeconds)
		if len(r.LoadSpent) > 0 {
			row("  of it, done once", "%s", spentText(r.LoadSpent))
		}
		row("step", "%.4f s, median of %d (%.4f to %.4f)", r.StepSeconds, r.Steps, r.StepLeast, r.StepMost)
		row("tokens/s", "%.0f (%.0f positions/s, padding included)", r.TokensPerSec, r.PositionsPerSec)
		row("loss", "%.4f to %.4f", r.FirstLoss, r.LastLoss)
	}
	row("FLOP a step", "%.4g", r.FlopsPerStep)
	if r.MFU > 0 {
		row("MFU", "%.2f%% of %.4g FLOP/s (%s): %s", 100*r.MFU, r.PeakFlops, r.PeakFrom, mfuFormula)
	}
	if r.TokenSeconds > 0 {
		row("generating", "%.2f ms a token, one row", 1e3*r.TokenSeconds)
	}
	if r.AdaptedSeconds > 0 {
		row("with adapter", "%.2f ms a token", 1e3*r.AdaptedSeconds)
	}
	for _, part := range []struct {
		name string
		list []BenchClass
	}{{"time of a step by class, launches timed one by one:", r.Classes}, {"longest kernels:", r.Top}} {
		if len(part.list) > 0 {
			fmt.Fprintf(w, "%s\n", part.name)
		}
		for _, c := range part.list {
			limit := ""
			if c.OfLimit > 0 {
				limit = fmt.Sprintf(", %.0f%% of the limit", 100*c.OfLimit)
			}
			fmt.Fprintf(w, "  %s\t%.3f ms, %.1f%%, %.0f calls%s\n", c.Name, 1e3*c.Seconds, 100*c.Share, c.Calls, limit)
		}
	}
	if err := w.Flush(); err != nil {
		return err.Error()
	}
	return b.String()
}
