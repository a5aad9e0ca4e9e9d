package trainer

import (
	"context"
	"errors"
	"slices"

	"github.com/bitsandbyes/bitsandbyes/data"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/trainer/report"
)

// Limits of the exact-match measurement, so that it stays short on large held-out sets: rows asked, rows answered at once, and
// samples kept to be shown.
const (
	maxExactRows = 100
	exactBatch   = 20
	shownSamples = 3

	maxExactAnswer = 64 // tokens; nobody asks a longer answer to be the same word by word
)

// question is a held-out row taken apart: what the model is given and the answer it should give, end-of-text included.
type question struct{ prompt, answer []int32 }

// questions returns the held-out rows that have a prompt and an answer; none when the rows are plain text.
func (j *job) questions() ([]question, error) {
	var out []question
	if j.held == nil || j.held.Pairs() {
		return nil, nil
	}
	for i := range min(j.held.Len(), maxExactRows) {
		ex, err := j.held.Example(i)
		if err != nil {
			return nil, err
		}
		first := slices.IndexFunc(ex.Labels, func(l int32) bool { return l != data.Ignore })
		if first < 2 || slices.Contains(ex.Labels[first:], data.Ignore) {
			return nil, nil
		}
		if len(ex.IDs)-first > maxExactAnswer {
			return nil, nil
		}
		out = append(out, question{ex.IDs[:first], ex.IDs[first:]})
	}
	return out, nil
}

// exactMatch returns the share of held-out answers that greedy decoding gives token for token, nil where the data has none.
func (j *job) exactMatch(ctx context.Context, after bool) (*float64, error) {
	qs, err := j.questions()
	if err != nil || len(qs) == 0 || !j.exact {
		return nil, err
	}
	gen, err := j.exactGenerator(qs)
	if err != nil {
		return nil, err
	}
	if !after {
		j.state.Samples = nil // a start that was stopped may have kept some
	}
	longestAnswer := 0
	for _, q := range qs {
		longestAnswer = max(longestAnswer, len(q.answer))
	}
	right := 0
	for at := 0; at < len(qs) && err == nil; at += exactBatch {
		var n int
		n, err = j.answerBatch(ctx, gen, qs[at:min(at+exactBatch, len(qs))], longestAnswer, at, after)
		right += n
	}
	j.memory() // the caches count
	if err = errors.Join(err, gen.Close()); err != nil {
		return nil, err
	}
	share := float64(right) / float64(len(qs))
	return &share, nil
}

// planExact compiles what the measurement will run, so that its memory too is known before the first step, and returns what the
// session takes with it. The measurement is left out when it does not fit.
func (j *job) planExact(ctx context.Context, budget int64) (total int64, err error) {
	qs, err := j.questions()
	if j.exact = len(qs) > 0; !j.exact {
		return j.session.Bytes(), err
	}
	gen, err := j.exactGenerator(qs)
	if err != nil {
		return 0, err
	}
	gen.budget = budget
	err = gen.planPrompts(ctx, qs)
	total = j.session.Bytes()
	var short *plan.BudgetError
	if errors.As(err, &short) {
		j.log.Warn("exact match is not measured: it does not fit in memory", "needs", report.Bytes(short.Report.Peak()), "budget", report.Bytes(budget))
		j.exact, err = false, nil
	}
	if err = errors.Join(err, gen.Close()); !j.exact {
		total = j.session.Bytes()
	}
	return total, err
}

func (j *job) exactGenerator(qs []question) (*Generator, error) {
	longest := 0
	for _, q := range qs {
		longest = max(longest, len(q.prompt)+len(q.answer))
	}
	return NewGenerator(j.model.Model, j.session, min(exactBatch, len(qs)), bucket(longest))
}

func (j *job) answerBatch(ctx context.Context, gen *Generator, qs []question, most, at int, after bool) (right int, err error) {
	prompts := make([][]int32, len(qs))
	got := make([][]int32, len(qs))
	for i, q := range qs {
		prompts[i] = q.prompt
	}
	eos := j.model.EOS()
	err = gen.Generate(ctx, prompts, most, Sampling{}, func(row int, id int32) bool {
		got[row] = append(got[row], id)
		return !slices.Contains(eos, id)
	})
	if err != nil {
		return 0, err
	}
	for i, q := range qs {
		if slices.Equal(got[i], q.answer) {
			right++
		}
		if at+i < shownSamples {
			j.keepSample(at+i, q, got[i], after)
		}
	}
	return right, nil
}

// keepSample records what the model answers to a held-out prompt.
func (j *job) keepSample(i int, q question, got []int32, after bool) {
	if j.model.Tokenizer == nil {
		return
	}
	if after {
		if i < len(j.state.Samples) {
			j.state.Samples[i].After = j.text(got)
		}
		return
	}
	j.state.Samples = append(j.state.Samples, Sample{Prompt: j.text(q.prompt), Want: j.text(q.answer), Before: j.text(got)})
}

// text decodes ids without the model's special tokens.
func (j *job) text(ids []int32) string {
	bos, hasBOS := j.model.BOS()
	eos := j.model.EOS()
	keep := slices.DeleteFunc(slices.Clone(ids), func(id int32) bool { return hasBOS && id == bos || slices.Contains(eos, id) })
	return j.model.Tokenizer.Decode(keep)
}
