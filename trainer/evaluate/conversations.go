package evaluate

import (
	"context"
	"errors"
	"math"

	"github.com/bitsandbyes/bitsandbyes/data"
	"github.com/bitsandbyes/bitsandbyes/trainer"
	"github.com/bitsandbyes/bitsandbyes/trainer/config"
)

// Conversations is how well a model foretells the replies of conversations: the tokens that training would train with the mask assistant,
// after the same text before them.
type Conversations struct {
	NLL        float64           `json:"nll"`    // mean over the tokens of replies, in nats
	StdErr     float64           `json:"stderr"` // conversations counted as wholes: tokens of one are not independent
	Perplexity float64           `json:"perplexity"`
	Top1       float64           `json:"top1_accuracy"`
	Tokens     int               `json:"tokens"`    // of replies, that were counted
	Truncated  int               `json:"truncated"` // conversations that lost their end to the context
	Dropped    int               `json:"dropped"`   // and those that lost every reply to it: left out
	Rows       []ConversationRow `json:"rows"`
}

// ConversationRow is one conversation.
type ConversationRow struct {
	Source string  `json:"source"`
	Tokens int     `json:"tokens"`
	NLL    float64 `json:"nll"`
	Top1   float64 `json:"top1_accuracy"`
}

// scoredAtOnce is how many conversations are given to the writer together.
const scoredAtOnce = 16

func conversations(ctx context.Context, w *trainer.Writer, o Options) (r *Conversations, err error) {
	set, err := loadConversations(ctx, w, o)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, set.Close()) }()
	n := set.Len()
	if o.Limit > 0 {
		n = min(n, o.Limit)
	}
	if n == 0 {
		return nil, badFile("%s: no reply fits the context; raise --context", o.Messages)
	}
	report := set.Report()
	r = &Conversations{Truncated: report.Truncated, Dropped: report.Dropped}
	var sum float64
	for at := 0; at < n; at += scoredAtOnce {
		rows, err := scoreExamples(ctx, w, set, at, min(at+scoredAtOnce, n))
		if err != nil {
			return nil, err
		}
		for _, row := range rows {
			sum += row.NLL * float64(row.Tokens)
			r.Top1 += row.Top1 * float64(row.Tokens)
			r.Tokens += row.Tokens
		}
		r.Rows = append(r.Rows, rows...)
		o.Progress("messages", len(r.Rows), n)
	}
	total := float64(r.Tokens)
	r.NLL, r.Top1 = sum/total, r.Top1/total
	r.Perplexity = math.Exp(r.NLL)
	_, r.StdErr = ratio(r.units())
	return r, nil
}

// loadConversations reads the rows as training does.
func loadConversations(ctx context.Context, w *trainer.Writer, o Options) (*data.Set, error) {
	c := config.Default(config.Finetune)
	c.Data.Format, c.Data.Mask, c.Data.Chat, c.Data.Template = "auto", string(data.MaskAssistant), o.Chat, o.Template
	c.Data.Path, c.Data.SeqLen = []config.Source{{Path: o.Messages, Weight: 1}}, o.Context
	if c.Data.SeqLen == 0 {
		c.Data.SeqLen = min(defaultContext, w.Context())
	} else if c.Data.SeqLen > w.Context() {
		return nil, badOption("context", "is %d, the context of the model is %d", o.Context, w.Context())
	}
	return w.LoadRows(ctx, c)
}

// scoreExamples scores the labelled tokens of some examples.
func scoreExamples(ctx context.Context, w *trainer.Writer, set *data.Set, from, to int) ([]ConversationRow, error) {
	examples, requests := make([]data.Example, to-from), make([]trainer.Request, to-from)
	for i := range examples {
		var err error
		if examples[i], err = set.Example(from + i); err != nil {
			return nil, err
		}
		first := 1 // the first token is never labelled
		for first < len(examples[i].Labels)-1 && examples[i].Labels[first] == data.Ignore {
			first++
		}
		requests[i] = trainer.Request{IDs: examples[i].IDs, From: first}
	}
	scored, err := w.Score(ctx, requests)
	if err != nil {
		return nil, err
	}
	rows := make([]ConversationRow, len(examples))
	for i, ex := range examples {
		row := &rows[i]
		row.Source = ex.Source
		for j, lp := range scored[i].LogProbs {
			if ex.Labels[requests[i].From+j] == data.Ignore {
				continue
			}
			row.NLL -= lp
			if row.Tokens++; scored[i].Greedy[j] {
				row.Top1++
			}
		}
		n := float64(max(row.Tokens, 1))
		row.NLL, row.Top1 = row.NLL/n, row.Top1/n
	}
	return rows, nil
}
