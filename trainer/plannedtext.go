package trainer

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/bitsandbyes/bitsandbyes/trainer/report"
)

// PlannedRows is what the steps of one row length take.
type PlannedRows struct {
	Tokens   int   `json:"tokens"`
	Launches int   `json:"launches"`
	Arena    int64 `json:"arena_bytes"`
	Flops    int64 `json:"flops"` // of a micro-batch, forward and backward
}

// Rows lists Lengths, ascending.
func (p *Planned) Rows() []PlannedRows {
	out := make([]PlannedRows, 0, len(p.Lengths))
	for _, t := range slices.Sorted(maps.Keys(p.Lengths)) {
		r := p.Lengths[t]
		out = append(out, PlannedRows{t, r.Launches, r.Arena, r.Flops})
	}
	return out
}

// MarshalJSON implements json.Marshaler.
func (p *Planned) MarshalJSON() ([]byte, error) {
	type fields Planned
	return json.Marshal(struct {
		Fits bool `json:"fits"` // what does not is a MemoryError
		*fields
		Rows []PlannedRows `json:"rows"`
	}{true, (*fields)(p), p.Rows()})
}

// Text prints the plan for people.
func (p *Planned) Text() string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	row := func(name, value string) { fmt.Fprintf(w, "%s\t%s\n", name, value) }
	row("model", p.Model)
	row("parameters", report.Count(p.Parameters))
	row("trained", fmt.Sprintf("%s (%.2f%%)", report.Count(p.Trained), 100*float64(p.Trained)/float64(max(p.Parameters, 1))))
	row("frozen weights", report.Bytes(p.WeightBytes))
	row("trained weights, gradients, states", report.Bytes(p.TrainBytes))
	row("  of these, optimizer states", report.Bytes(p.StateBytes))
	if p.HostBytes > 0 {
		row("in host memory beside the device", report.Bytes(p.HostBytes))
	}
	if p.AwayBytes > 0 {
		row("  of these, activations that wait", fmt.Sprintf("%s; copied there and back for a micro-batch %s", report.Bytes(p.AwayBytes), report.Bytes(p.MovedBytes)))
	}
	row("arena", report.Bytes(p.ArenaBytes))
	row("  at its fullest: activations kept", report.Bytes(p.SavedBytes))
	row("  other intermediates and scratch", report.Bytes(p.TemporaryBytes))
	row("  inputs", report.Bytes(p.InputBytes))
	row("total on the device", report.Bytes(p.TotalBytes))
	if p.OverheadBytes > 0 {
		row("libraries and kernels beside it, so far", report.Bytes(p.OverheadBytes))
	}
	row("FLOP a token", fmt.Sprintf("%.3g", p.FlopsPerToken))
	duration := func(seconds float64) string { return report.Duration(time.Duration(seconds * float64(time.Second))) }
	row("time of a step, at least", fmt.Sprintf("%s (at %.0f GFLOP/s, measured)", duration(p.StepSeconds), p.FlopRate/1e9))
	if p.Steps > 0 {
		row("optimizer steps", report.Count(int64(p.Steps)))
		row("time of the steps, at least", duration(p.Seconds))
	} else {
		row("optimizer steps", "unknown: data.path is "+unsetPath+", which does not exist")
	}
	if p.Filled > 0 {
		row("positions of rows that hold a token", percent(p.Filled))
		row("  that are trained", percent(p.FilledTrained))
	}
	row("rows at once", report.Count(int64(p.MicroBatch)))
	row("blocks recomputed", fmt.Sprintf("%d of %d", p.Recompute, p.Blocks))
	if p.Folded > 0 {
		row("adapters", foldedText(p.Folded))
	}
	for _, r := range p.Rows() {
		row(fmt.Sprintf("rows of %d tokens", r.Tokens), fmt.Sprintf("%d launches, arena %s", r.Launches, report.Bytes(r.Arena)))
	}
	for i, s := range p.Scopes {
		if i == maxScopes {
			break
		}
		row("  at the peak: "+s.Scope, report.Bytes(s.Bytes))
	}
	if err := w.Flush(); err != nil {
		return err.Error()
	}
	if len(p.Proposals) > 0 {
		b.WriteString("settings and what they need:\n" + proposalTable(p.Proposals))
	}
	return b.String()
}

// foldedText says whether adapters are folded into weights, and how often in a micro-batch.
func foldedText(products int) string {
	if products == 0 {
		return "beside the weights"
	}
	return fmt.Sprintf("folded into 4-bit weights as those are decoded, %d products of a micro-batch", products)
}
