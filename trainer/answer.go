package trainer

import (
	"context"
	"fmt"
	"slices"

	"github.com/bitsandbyes/bitsandbyes/data"
	"github.com/bitsandbyes/bitsandbyes/trainer/config"
)

// Query is a text to continue, or a conversation to answer.
type Query struct {
	Prompt       string
	Conversation *data.Conversation // instead of a prompt
	Adapter      string             // the name of the adapter that answers, NoAdapter for none; "" = the one in use
}

// prompt is a query as tokens, and what ends the text that follows.
type prompt struct {
	ids   []int32
	ends  []int32
	stops []string
}

// Answer answers one query and calls emit, where there is one, with each piece of new text, whole characters only; an error of emit ends it. With an error, that of
// ctx too, the answer holds what was written until then.
func (w *Writer) Answer(ctx context.Context, q Query, emit func(text string) error) (Answer, error) {
	a := Answer{Prompt: q.Prompt}
	if emit == nil {
		emit = func(string) error { return nil }
	}
	if q.Adapter != "" {
		if err := w.Use(q.Adapter); err != nil {
			return a, err
		}
	}
	p, err := w.promptOf(q)
	if err != nil {
		return a, err
	}
	all, err := w.write(ctx, []prompt{p}, 1, func(_ int, text string) error { return emit(text) })
	all[0].Prompt = q.Prompt
	return all[0], err
}

// QueryError says which query cannot be answered, before any is.
type QueryError struct {
	Index int // from 0
	Err   error
}

// Error counts queries from 1.
func (e *QueryError) Error() string { return fmt.Sprintf("query %d: %v", e.Index+1, e.Err) }

// Unwrap returns the cause.
func (e *QueryError) Unwrap() error { return e.Err }

// AnswerAll answers many queries, some side by side, and calls emit with each answer in their order. Queries of one adapter are answered
// together, so each adapter is switched to once. A query that cannot be answered is a *QueryError.
func (w *Writer) AnswerAll(ctx context.Context, queries []Query, emit func(i int, a Answer) error) error {
	prompts := make([]prompt, len(queries))
	groups := map[string][]int{}
	var order []string
	for i, q := range queries {
		if q.Adapter == "" {
			q.Adapter = w.Using()
		}
		if q.Adapter != NoAdapter && w.named(q.Adapter) == nil {
			return &QueryError{i, withCode(config.ExitInput, fmt.Errorf("there is no adapter called %q; there are: %s", q.Adapter, w.names()))}
		}
		var err error
		if prompts[i], err = w.promptOf(q); err != nil {
			return &QueryError{i, err}
		}
		if groups[q.Adapter] == nil {
			order = append(order, q.Adapter)
		}
		groups[q.Adapter] = append(groups[q.Adapter], i)
	}
	if at := slices.Index(order, w.Using()); at > 0 { // the one in use needs no switch
		order[0], order[at] = order[at], order[0]
	}
	answers, next := make(map[int]Answer), 0
	for _, name := range order {
		if err := w.Use(name); err != nil {
			return err
		}
		for part := range slices.Chunk(groups[name], w.rowsFor(len(queries))) {
			if err := w.answerRows(ctx, part, queries, prompts, answers); err != nil {
				return err
			}
			for ; next < len(queries); next++ {
				a, ok := answers[next]
				if !ok {
					break
				}
				delete(answers, next)
				if err := emit(next, a); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// rowsFor is how many of n queries are answered side by side.
func (w *Writer) rowsFor(n int) int {
	rows := w.o.Rows
	if rows == 0 {
		rows = defaultRows
	}
	return min(rows, max(n, 1))
}

// answerRows answers the queries of one part.
func (w *Writer) answerRows(ctx context.Context, part []int, queries []Query, prompts []prompt, answers map[int]Answer) error {
	rows := make([]prompt, len(part))
	for i, q := range part {
		rows[i] = prompts[q]
	}
	got, err := w.write(ctx, rows, w.rowsFor(len(queries)), func(int, string) error { return nil })
	if err != nil {
		return err
	}
	for i, q := range part {
		got[i].Prompt = queries[q].Prompt
		answers[q] = got[i]
	}
	return nil
}

// promptOf turns a query into tokens.
func (w *Writer) promptOf(q Query) (p prompt, err error) {
	p.ends, p.stops = w.ends(), w.o.Stop
	if q.Conversation == nil {
		p.ids, err = w.prompt(q.Prompt)
		return p, err
	}
	f, err := w.chatForm()
	if err != nil {
		return p, err
	}
	if !w.o.IgnoreEnd {
		p.ends, p.stops = append(p.ends, f.ends...), append(slices.Clip(p.stops), f.stops...)
	}
	_, p.ids, err = w.Render(q.Conversation)
	return p, err
}
