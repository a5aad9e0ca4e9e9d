package data

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"

	"github.com/bitsandbyes/bitsandbyes/chat"
	"github.com/bitsandbyes/bitsandbyes/chat/jinja"
)

// NewRenderer renders conversations by a chat template. It is safe for concurrent use.
func NewRenderer(t *chat.Template) *TemplateRenderer { return &TemplateRenderer{t: t} }

// TemplateRenderer is a Renderer with a chat template.
type TemplateRenderer struct {
	t     *chat.Template
	spent atomic.Int32 // conversations on which the template ran out of its budget
}

// maxSpent is on how many conversations a template may run out of its budget. It is then not tried again: a report on a file of many rows
// would else wait a second for each.
const maxSpent = 5

// Template is the template.
func (r *TemplateRenderer) Template() *chat.Template { return r.t }

// Render implements Renderer. The assistant's turns are what the template marks by {% generation %}, else what it writes behind its
// generation prompt.
func (r *TemplateRenderer) Render(c *Conversation) (Rendered, error) {
	in, err := input(c)
	if err != nil {
		return Rendered{}, err
	}
	if r.spent.Load() >= maxSpent {
		return Rendered{}, fmt.Errorf("%s: the template ran out of its budget on %d conversations and is not tried again; choose another with data.template", r.t.Name(), maxSpent)
	}
	text, segments, err := r.t.Segments(in)
	if err != nil {
		var je *jinja.Error
		if errors.As(err, &je) && je.Budget {
			r.spent.Add(1)
		}
		return Rendered{}, err
	}
	out := Rendered{Text: text.Text}
	written := make([]bool, len(c.Messages)) // by the model
	for _, s := range segments {
		if s.Generated {
			written[s.Index] = true
		}
	}
	for _, s := range segments {
		if s.Generated || !written[s.Index] && c.Messages[s.Index].Role != Assistant {
			out.Turns = append(out.Turns, Turn{Message: s.Index, Start: s.Start, End: s.End})
		}
	}
	if n := len(out.Turns); n > 0 {
		last := &out.Turns[n-1]
		words := strings.TrimSpace(c.Messages[last.Message].Content)
		last.Bare = words != "" && strings.HasSuffix(strings.TrimSpace(out.Text[last.Start:last.End]), words)
	}
	return out, nil
}

// Prompt is what a model is given when it is to write the next turn.
func (r *TemplateRenderer) Prompt(c *Conversation) (string, error) {
	in, err := input(c)
	if err != nil {
		return "", err
	}
	in.AddGenerationPrompt = true
	text, err := r.t.Render(in)
	return text.Text, err
}

// input is a conversation as a template takes it.
func input(c *Conversation) (in chat.Input, err error) {
	in.Messages = make([]chat.Value, len(c.Messages))
	for i, m := range c.Messages {
		if in.Messages[i], err = chat.FromJSON(m.Fields); err != nil {
			return in, err
		}
	}
	if c.Tools != nil {
		var tools []json.RawMessage
		if err := json.Unmarshal(c.Tools, &tools); err != nil {
			return in, err
		}
		for _, raw := range tools {
			v, err := chat.FromJSON(raw)
			if err != nil {
				return in, err
			}
			in.Tools = append(in.Tools, v)
		}
	}
	if len(c.Extra) > 0 {
		in.Extra = make(map[string]chat.Value, len(c.Extra))
		for k, raw := range c.Extra {
			if in.Extra[k], err = chat.FromJSON(raw); err != nil {
				return in, err
			}
		}
	}
	return in, nil
}
