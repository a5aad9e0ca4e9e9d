package evaluate

import (
	"encoding/json"
	"strings"

	"github.com/bitsandbyes/bitsandbyes/data"
	"github.com/bitsandbyes/bitsandbyes/trainer"
)

// asker writes questions as the options have it: behind examples of others with their answers, as text or by the chat template.
type asker struct {
	o         Options
	w         *trainer.Writer
	examples  []task
	separator string
}

// newAsker reads the examples of the file by read, one more than are shown so that a question need not be among its own.
func newAsker(w *trainer.Writer, o Options, read func(row map[string]json.RawMessage) (task, error)) (*asker, error) {
	a := &asker{o: o, w: w, separator: " "}
	if o.Chat {
		a.separator = "" // the template writes what stands before a reply
	}
	if o.Separator != nil {
		a.separator = *o.Separator
	}
	if o.Shots == 0 {
		return a, nil
	}
	err := lines(o.FS, o.ShotsFrom, 0, func(row map[string]json.RawMessage) error {
		t, err := read(row)
		a.examples = append(a.examples, t)
		return err
	})
	if err == nil && len(a.examples) < o.Shots {
		err = badFile("%s: holds %d rows, too few for %d examples", o.ShotsFrom, len(a.examples), o.Shots)
	}
	return a, err
}

// shots are the first examples whose question is another one.
func (a *asker) shots(prompt string) ([]task, error) {
	var out []task
	for _, t := range a.examples {
		if len(out) == a.o.Shots {
			break
		}
		if t.prompt != prompt {
			out = append(out, t)
		}
	}
	if len(out) < a.o.Shots {
		return nil, badFile("%s: holds %d rows beside the question itself, too few for %d examples", a.o.ShotsFrom, len(out), a.o.Shots)
	}
	return out, nil
}

// query is the question as the model gets it.
func (a *asker) query(prompt string) (q trainer.Query, err error) {
	shots, err := a.shots(prompt)
	if err != nil {
		return q, err
	}
	if !a.o.Chat {
		var b strings.Builder
		for _, t := range shots {
			b.WriteString(t.prompt + a.separator + strings.TrimSpace(t.answer) + "\n\n")
		}
		return trainer.Query{Prompt: b.String() + prompt}, nil
	}
	c := &data.Conversation{}
	say := func(role, text string) {
		m, e := data.Say(role, text)
		if e != nil && err == nil {
			err = e
		}
		c.Messages = append(c.Messages, m)
	}
	if a.o.System != "" {
		say("system", a.o.System)
	}
	for _, t := range shots {
		say("user", t.prompt)
		say(data.Assistant, t.answer)
	}
	say("user", prompt)
	return trainer.Query{Conversation: c}, err
}

// continuation tokenizes a question and a choice together, so that a token may cross the border as it would in a text, and scores from the
// first token that the question alone does not have. A question too long for the context loses its beginning.
func (a *asker) continuation(q trainer.Query, choice string) (r trainer.Request, err error) {
	text, encode := q.Prompt, a.w.PromptTokens
	if q.Conversation != nil {
		if text, _, err = a.w.Render(q.Conversation); err != nil {
			return r, err
		}
		encode = a.w.PlainTokens
	}
	before, err := encode(text)
	if err != nil {
		return r, err
	}
	whole, err := encode(text + a.separator + choice)
	if err != nil {
		return r, err
	}
	from := 0
	for from < min(len(before), len(whole)-1) && before[from] == whole[from] {
		from++
	}
	if drop := len(whole) - a.w.Context() - 1; drop > 0 {
		if drop >= from {
			return r, badFile("the choice alone has %d tokens, the context of the model is %d", len(whole)-from, a.w.Context())
		}
		whole, from = whole[drop:], from-drop
	}
	return trainer.Request{IDs: whole, From: max(from, 1)}, nil
}

// exampleOf reads a multiple choice row as an example: its answer is the right choice.
func exampleOf(row map[string]json.RawMessage) (task, error) {
	q, err := questionOf(row)
	if err != nil {
		return task{}, err
	}
	return task{q.prompt, q.choices[q.right]}, nil
}
