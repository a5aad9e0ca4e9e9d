package trainer

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"text/tabwriter"

	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/trainer/report"
)

// Proposal is settings with the memory that a run with them takes.
type Proposal struct {
	MicroBatch int   `json:"micro_batch"`
	Recompute  int   `json:"blocks_recomputed"` // blocks that compute their activations again
	SeqLen     int   `json:"seq_len"`
	Bytes      int64 `json:"bytes"`
	Fits       bool  `json:"fits"`
}

// shortestProposal is the least row length that is proposed.
const shortestProposal = 128

// proposals tries settings from the ones asked for to ever smaller ones and ends with the first that fits at each of: smaller
// micro-batches, all blocks recomputed, shorter rows. Only the longest training rows are compiled. No setting is changed by it.
func (j *job) proposals(ctx context.Context, budget int64) ([]Proposal, error) {
	blocks := j.model.Config().Layers
	var out []Proposal
	try := func(micro, recompute, seqLen int) (bool, error) {
		n, err := j.bytesWith(ctx, micro, recompute, seqLen)
		if err != nil {
			return false, err
		}
		out = append(out, Proposal{micro, recompute, seqLen, n, budget == 0 || n <= budget})
		return out[len(out)-1].Fits, nil
	}
	fits, micro := false, j.cfg.Train.MicroBatch
	var err error
	for !fits && err == nil {
		if fits, err = try(micro, 0, j.seqLen); !fits && err == nil {
			fits, err = try(micro, blocks, j.seqLen)
		}
		if micro == 1 {
			break
		}
		micro = half(micro, j.cfg.Train.Batch)
	}
	for t := j.seqLen / 2; !fits && err == nil && t >= shortestProposal; t /= 2 {
		fits, err = try(1, blocks, t)
	}
	return out, err
}

// bytesWith is what the steps of a run with other settings take, without evaluations and generation.
func (j *job) bytesWith(ctx context.Context, micro, recompute, seqLen int) (int64, error) {
	o := j.stepOptions(ctx, 0)
	o.rows, o.recompute, o.lengths, o.evalLens, o.mixedLens = micro, recompute, []int{seqLen}, nil, nil
	if recompute > 0 {
		o.move = j.mayMove(o.move)
	}
	return j.bytesOf(o)
}

// needs is what the run takes with the settings that make it smallest, of those that it may choose itself: with its evaluations, without generation,
// which is left out where it does not fit.
func (j *job) needs(ctx context.Context, fit bool) (int64, error) {
	o := j.stepOptions(ctx, 0)
	if fit {
		o.rows = 1
	}
	if j.cfg.Train.Checkpointing != "off" {
		o.recompute = j.model.Config().Layers
		o.move = j.mayMove(o.move)
	}
	return j.bytesOf(o)
}

// bytesOf compiles a run's steps for their size.
func (j *job) bytesOf(o stepOptions) (n int64, err error) {
	o.session = j.execution().Session(j.store)
	if err := j.closeScorers(); err != nil {
		return 0, err
	}
	if o.objective, err = j.makeObjective(o); err != nil {
		return 0, err
	}
	s, err := compileStep(j.model.Model, j.adapter, j.group, o)
	if err != nil {
		return 0, err
	}
	return o.session.Bytes(), errors.Join(s.close(), j.closeScorers())
}

// refuse is the error of a run that does not fit: what fills the memory, and settings that would fit.
func (j *job) refuse(ctx context.Context, short *plan.BudgetError, budget int64, fit bool) error {
	list, err := j.proposals(ctx, budget)
	if err != nil {
		return errors.Join(short, err)
	}
	hint := "--fit (train.fit) takes the first that fits and leaves batch and row length alone; --memory (train.memory) is the budget"
	if j.shape != nil { // a benchmark, which has its own names for these settings
		hint = "--batch and --seq make the steps smaller, --checkpointing on recomputes; --memory is the budget"
	} else if fit {
		hint = "train.fit cannot go lower: it changes neither the batch nor data.seq_len"
	}
	needs, err := j.needs(ctx, fit)
	if err != nil {
		return errors.Join(short, err)
	}
	err = fmt.Errorf("%w\n\nSettings and what they need, of %s:\n%s%s%s", short, report.Bytes(budget), proposalTable(list), j.otherMeans(list), hint)
	return &MemoryError{Needs: needs, Budget: budget, Settings: list, err: err}
}

// MemoryError is the error of a run that does not fit, with settings that were tried: the last one fits, unless none does.
type MemoryError struct {
	Fits     bool       `json:"fits"`         // false
	Needs    int64      `json:"needs_bytes"`  // the least budget that the run fits, with settings that it may choose itself
	Budget   int64      `json:"budget_bytes"` // what there is
	Settings []Proposal `json:"settings"`

	err error
}

// Error is what fills the memory, a table of the settings, and other means.
func (e *MemoryError) Error() string { return e.err.Error() }

// Unwrap returns the cause, a *plan.BudgetError among it.
func (e *MemoryError) Unwrap() error { return e.err }

// trailing is the space that columns end with.
var trailing = regexp.MustCompile(`(?m) +$`)

// proposalTable prints proposals, one a line.
func proposalTable(list []Proposal) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "  train.micro_batch\ttrain.checkpointing\tdata.seq_len\tneeds\t")
	for _, p := range list {
		on, mark := "off", ""
		if p.Recompute > 0 {
			on = "on"
		}
		if p.Fits {
			mark = "fits"
		}
		fmt.Fprintf(w, "  %d\t%s\t%d\t%s\t%s\n", p.MicroBatch, on, p.SeqLen, report.Bytes(p.Bytes), mark)
	}
	if err := w.Flush(); err != nil {
		return err.Error()
	}
	return trailing.ReplaceAllString(b.String(), "")
}

// otherMeans says what beside these settings would make the run smaller.
func (j *job) otherMeans(list []Proposal) string {
	for _, p := range list {
		if p.Fits && p.SeqLen == j.seqLen {
			return ""
		}
	}
	var states int64
	for _, v := range j.group.StateVars() {
		states += v.Type.Bytes()
	}
	var out []string
	if c := j.cfg; c.Adapter.Type == "none" {
		out = append(out, fmt.Sprintf("adapter.type lora trains a small part of the weights; optimizer states take %s now, about a quarter with train.optimizer adamw8bit",
			report.Bytes(states)))
	} else if c.Quantize.Scheme == "none" {
		out = append(out, "quantize.scheme nf4 stores the frozen linear weights in about a seventh of their float32 bytes, a quarter of 16-bit ones")
	}
	if j.cfg.Train.Offload == "off" && j.hostMemory() {
		out = append(out, "train.offload auto lets what recomputed blocks begin from wait in host memory")
	}
	if len(out) == 0 {
		return ""
	}
	return "Beside these: " + strings.Join(out, "; ") + ".\n"
}
