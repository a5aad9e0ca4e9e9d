package trainer

import (
	"context"
	"errors"
	"slices"

	"github.com/bitsandbyes/bitsandbyes/data"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/trainer/config"
	"github.com/bitsandbyes/bitsandbyes/trainer/report"
)

// maxTextPrompt is how much of a held-out text without a prompt is given to be continued.
const maxTextPrompt = 32

// samplePrompts are the beginnings of the first eval.samples held-out rows, with what follows in the data: the prompt of a row, or of a pair,
// and of a text its first quarter.
func (j *job) samplePrompts() ([]question, error) {
	if j.held == nil || j.cfg.Eval.Samples == 0 {
		return nil, nil
	}
	var out []question
	for i := range min(j.held.Len(), j.cfg.Eval.Samples) {
		ex, err := j.held.Example(i)
		if err != nil {
			return nil, err
		}
		at := slices.IndexFunc(ex.Labels, func(l int32) bool { return l != data.Ignore })
		if at < 2 { // a text, trained from its first token on
			at = min(max(len(ex.IDs)/4, 1), maxTextPrompt)
		}
		out = append(out, question{ex.IDs[:at], ex.IDs[at:]})
	}
	return out, nil
}

// sampleGenerator makes the generator of samples.
func (j *job) sampleGenerator(qs []question) (*Generator, error) {
	longest := 0
	for _, q := range qs {
		longest = max(longest, len(q.prompt))
	}
	return NewGenerator(j.model.Model, j.session, min(exactBatch, len(qs)), bucket(longest+max(j.cfg.Eval.Tokens, 1)))
}

// planSamples compiles what samples run and returns what the session takes with it. They are left out when they do not fit.
func (j *job) planSamples(ctx context.Context, budget int64) (int64, error) {
	qs, err := j.samplePrompts()
	if j.sampled = len(qs) > 0; !j.sampled || err != nil {
		return 0, err
	}
	gen, err := j.sampleGenerator(qs)
	if err != nil {
		return 0, err
	}
	gen.budget = budget
	err = gen.planPrompts(ctx, qs)
	total := j.session.Bytes()
	var short *plan.BudgetError
	if errors.As(err, &short) {
		j.log.Warn("there are no samples: they do not fit in memory", "needs", report.Bytes(short.Report.Peak()), "budget", report.Bytes(budget))
		j.sampled, total, err = false, 0, nil
	}
	return total, errors.Join(err, gen.Close())
}

// planPrompts compiles the plans that batches of prompts need.
func (ge *Generator) planPrompts(ctx context.Context, qs []question) error {
	_, err := ge.planFor(ctx, 1)
	for at := 0; at < len(qs) && err == nil; at += exactBatch {
		longest := 1
		for _, q := range qs[at:min(at+exactBatch, len(qs))] {
			longest = max(longest, len(q.prompt))
		}
		_, err = ge.planFor(ctx, min(bucket(longest), ge.capacity))
	}
	return err
}

// samples answers held-out prompts greedily and appends them to samples.jsonl.
func (j *job) samples(ctx context.Context) error {
	qs, err := j.samplePrompts()
	if err != nil || len(qs) == 0 || !j.sampled {
		return err
	}
	gen, err := j.sampleGenerator(qs)
	if err != nil {
		return err
	}
	eos := j.model.EOS()
	var rows []report.Sample
	for at := 0; at < len(qs) && err == nil; at += exactBatch {
		part := qs[at:min(at+exactBatch, len(qs))]
		prompts, got := make([][]int32, len(part)), make([][]int32, len(part))
		for i, q := range part {
			prompts[i] = q.prompt
		}
		err = gen.Generate(ctx, prompts, j.cfg.Eval.Tokens, Sampling{}, func(row int, id int32) bool {
			got[row] = append(got[row], id)
			return !slices.Contains(eos, id)
		})
		for i, q := range part {
			rows = append(rows, j.sampleRow(at+i, q, got[i]))
		}
	}
	j.memory() // the caches count
	if err = errors.Join(err, gen.Close()); err != nil {
		return err
	}
	return withCode(config.ExitDisk, report.AppendSamples(j.path(samplesFile), rows))
}

// samplesFile is where a run directory holds its samples.
const samplesFile = "samples.jsonl"

func (j *job) sampleRow(i int, q question, got []int32) report.Sample {
	s := report.Sample{Step: int64(j.state.Step), Row: i, Source: j.held.Source(i)}
	if j.model.Tokenizer == nil {
		s.PromptIDs, s.WantIDs, s.GotIDs = q.prompt, q.answer, got
		return s
	}
	s.Prompt, s.Want, s.Got = j.text(q.prompt), j.text(q.answer), j.text(got)
	return s
}
