package evaluate

import (
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"

	"github.com/bitsandbyes/bitsandbyes/trainer"
)

// Choices is how often a model finds the right choice likeliest.
type Choices struct {
	Questions    int          `json:"questions"`
	Accuracy     float64      `json:"accuracy"` // by the log-probability of the choice
	StdErr       float64      `json:"stderr"`
	AccuracyNorm float64      `json:"accuracy_norm"` // by the log-probability over the bytes of the choice
	StdErrNorm   float64      `json:"stderr_norm"`
	Rows         []ChoicesRow `json:"rows"`
}

// ChoicesRow is one question.
type ChoicesRow struct {
	Right      int       `json:"right"`
	Picked     int       `json:"picked"`
	PickedNorm int       `json:"picked_norm"`
	LogProbs   []float64 `json:"log_probs"`
}

// choices scores each choice as a continuation of its question.
func choices(ctx context.Context, w *trainer.Writer, o Options) (*Choices, error) {
	var qs []question
	err := lines(o.FS, o.Choices, o.Limit, func(row map[string]json.RawMessage) error {
		q, err := questionOf(row)
		qs = append(qs, q)
		return err
	})
	if err != nil {
		return nil, err
	}
	a, err := newAsker(w, o, exampleOf)
	if err != nil {
		return nil, err
	}
	r := &Choices{Questions: len(qs)}
	var right, norm int
	for i, q := range qs {
		row, err := a.ask(ctx, q)
		if err != nil {
			return nil, fmt.Errorf("%s, question %d: %w", o.Choices, i+1, err)
		}
		if row.Picked == q.right {
			right++
		}
		if row.PickedNorm == q.right {
			norm++
		}
		r.Rows = append(r.Rows, row)
		o.Progress("choices", i+1, len(qs))
	}
	r.Accuracy, r.AccuracyNorm = float64(right)/float64(len(qs)), float64(norm)/float64(len(qs))
	r.StdErr, r.StdErrNorm = stderrOf(r.Accuracy, len(qs)), stderrOf(r.AccuracyNorm, len(qs))
	return r, nil
}

func (a *asker) ask(ctx context.Context, q question) (row ChoicesRow, err error) {
	row.Right = q.right
	asked, err := a.query(q.prompt)
	if err != nil {
		return row, err
	}
	requests := make([]trainer.Request, len(q.choices))
	for i, c := range q.choices {
		if requests[i], err = a.continuation(asked, c); err != nil {
			return row, err
		}
	}
	scored, err := a.w.Score(ctx, requests)
	if err != nil {
		return row, err
	}
	norms := make([]float64, len(scored))
	for i, s := range scored {
		var sum float64
		for _, lp := range s.LogProbs {
			sum += lp
		}
		row.LogProbs = append(row.LogProbs, sum)
		norms[i] = sum / float64(max(len(q.choices[i]), 1))
		if sum > row.LogProbs[row.Picked] {
			row.Picked = i
		}
		if norms[i] > norms[row.PickedNorm] {
			row.PickedNorm = i
		}
	}
	return row, nil
}

// How a generated answer is compared with the right one.
const (
	MatchExact    = "exact"    // the same, but for space around it
	MatchContains = "contains" // the right one occurs in it
	MatchNumber   = "number"   // the last numbers of both are the same
)

// Exact is how often a model writes the right answer.
type Exact struct {
	Questions int        `json:"questions"`
	Right     int        `json:"right"`
	Accuracy  float64    `json:"accuracy"`
	StdErr    float64    `json:"stderr"`
	Match     string     `json:"match"`
	Rows      []ExactRow `json:"rows"`
}

// ExactRow is one question.
type ExactRow struct {
	Prompt string `json:"prompt"`
	Answer string `json:"answer"`
	Text   string `json:"text"` // what the model wrote
	Right  bool   `json:"right"`
}

func exact(ctx context.Context, w *trainer.Writer, o Options) (*Exact, error) {
	var tasks []task
	err := lines(o.FS, o.Exact, o.Limit, func(row map[string]json.RawMessage) error {
		t, err := taskOf(row)
		tasks = append(tasks, t)
		return err
	})
	if err != nil {
		return nil, err
	}
	r := &Exact{Questions: len(tasks), Match: o.Match}
	if r.Match == "" {
		r.Match = MatchExact
	}
	by, err := newAsker(w, o, taskOf)
	if err != nil {
		return nil, err
	}
	queries := make([]trainer.Query, len(tasks))
	for i, t := range tasks {
		if queries[i], err = by.query(t.prompt); err != nil {
			return nil, err
		}
	}
	err = w.AnswerAll(ctx, queries, func(_ int, a trainer.Answer) error {
		t := tasks[len(r.Rows)]
		row := ExactRow{Prompt: t.prompt, Answer: t.answer, Text: a.Text, Right: matches(r.Match, t.answer, a.Text)}
		if row.Right {
			r.Right++
		}
		r.Rows = append(r.Rows, row)
		o.Progress("exact", len(r.Rows), len(tasks))
		return nil
	})
	if err != nil {
		return nil, err
	}
	r.Accuracy = float64(r.Right) / float64(len(tasks))
	r.StdErr = stderrOf(r.Accuracy, len(tasks))
	return r, nil
}

var number = regexp.MustCompile(`-?\d[\d,]*(?:\.\d+)?`)

func matches(how, want, got string) bool {
	want, got = strings.TrimSpace(want), strings.TrimSpace(got)
	switch how {
	case MatchContains:
		return strings.Contains(got, want)
	case MatchNumber:
		w, g := lastNumber(want), lastNumber(got)
		return w != "" && w == g
	default:
		return want == got
	}
}

// lastNumber is the last number of a text without thousands separators and trailing zeros of its fraction.
func lastNumber(s string) string {
	all := number.FindAllString(s, -1)
	if len(all) == 0 {
		return ""
	}
	n := strings.ReplaceAll(all[len(all)-1], ",", "")
	if strings.Contains(n, ".") {
		n = strings.TrimRight(strings.TrimRight(n, "0"), ".")
	}
	return n
}
