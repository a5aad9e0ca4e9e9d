// Package chat turns conversations into the text a model was trained on, by the chat template that comes with the model, and says
// which bytes of that text are whose.
//
// The template is a program from a stranger: it runs in package jinja, within budgets. What the package adds is the way
// transformers calls it (variables, special tokens, generation blocks), where templates lie in a model's folder, the ranges of
// each message (Segments), and an examination of templates that would spoil training (Check).
package chat

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/bitsandbyes/bitsandbyes/chat/jinja"
)

// Value is a value given to a template; see jinja.Value.
type Value = jinja.Value

// Span is a range of bytes, Start included, End not.
type Span = jinja.Span

// FromJSON reads one JSON text as a Value; objects keep the order of their keys, which templates print.
func FromJSON(data []byte) (Value, error) { return jinja.FromJSON(data) }

// Message makes a message of a role and a text. Messages with more in them (tool calls, parts) come by FromJSON.
func Message(role, content string) Value {
	d := jinja.NewDict()
	d.Set("role", jinja.String(role))
	d.Set("content", jinja.String(content))
	return d
}

// Options say how a template is named and run. The zero value works.
type Options struct {
	// Name stands before line and column in errors: a file, or what the user called it.
	Name string
	// Special are the special tokens by name (bos_token, eos_token, ...), which templates refer to. For Load they come on top of
	// those in the folder.
	Special map[string]string
	// Now is the clock of strftime_now; nil: time.Now. A run that resumes should keep the first one's.
	Now    func() time.Time
	Limits jinja.Limits
}

// Template is a parsed chat template with its special tokens. It may be used by many goroutines at once.
type Template struct {
	t       *jinja.Template
	name    string
	source  string
	special map[string]string
}

// Parse reads a template. Errors are *jinja.Error: they give line, column, reason and remedy.
func Parse(source string, o Options) (*Template, error) {
	if o.Name == "" {
		o.Name = "chat template"
	}
	t, err := jinja.Parse(source, jinja.Options{Name: o.Name, Now: o.Now, Limits: o.Limits})
	if err != nil {
		return nil, err
	}
	special := map[string]string{}
	for k, v := range o.Special {
		special[k] = v
	}
	return &Template{t: t, name: o.Name, source: source, special: special}, nil
}

// Name is where the template came from.
func (t *Template) Name() string { return t.name }

// Source is the text of the template.
func (t *Template) Source() string { return t.source }

// Special is the special token of that name, as in "eos_token"; empty where there is none.
func (t *Template) Special(name string) string { return t.special[name] }

// Digest is the SHA-256 of the source in hexadecimal; runs keep it so that another template is noticed on resume.
func (t *Template) Digest() string {
	sum := sha256.Sum256([]byte(t.source))
	return hex.EncodeToString(sum[:])
}

// HasGeneration says whether the template marks the assistant's text itself by {% generation %}.
func (t *Template) HasGeneration() bool { return t.t.HasGeneration() }

// Input is what a template is rendered with, as in transformers' apply_chat_template.
type Input struct {
	// Messages are dicts, each with a role and usually a content.
	Messages []Value
	// Tools and Documents are none to the template where they are nil.
	Tools, Documents []Value
	// AddGenerationPrompt asks for the header of an assistant's turn at the end.
	AddGenerationPrompt bool
	// Extra are further variables, such as enable_thinking; they hide special tokens of the same name.
	Extra map[string]Value
}

// Rendering is the text of a conversation.
type Rendering struct {
	Text string
	// Generated are the ranges written by generation blocks; empty where the template has none.
	Generated []Span
	// Unplaced is set where a generation block wrote into a value whose place in Text is not known; Generated is incomplete then,
	// and Segments is the way to a mask.
	Unplaced bool
}

// Render runs the template. A template that refuses its input by raise_exception gives a *jinja.Error with Raised set.
func (t *Template) Render(in Input) (Rendering, error) { return t.render(in, nil) }

// render is Render with a budget that other renderings share; nil for none.
func (t *Template) render(in Input, b *jinja.Budget) (Rendering, error) {
	if err := check(in.Messages); err != nil {
		return Rendering{}, fmt.Errorf("%s: %w", t.name, err)
	}
	r, err := t.t.RenderWithin(b, t.context(in))
	return Rendering(r), err
}

// context are the variables of a rendering.
func (t *Template) context(in Input) *jinja.Dict {
	c := jinja.NewDict()
	for k, v := range t.special {
		c.Set(k, jinja.String(v))
	}
	c.Set("messages", &jinja.List{Items: in.Messages})
	c.Set("tools", listOrNone(in.Tools))
	c.Set("documents", listOrNone(in.Documents))
	c.Set("add_generation_prompt", jinja.Bool(in.AddGenerationPrompt))
	for k, v := range in.Extra {
		c.Set(k, v)
	}
	return c
}

func listOrNone(items []Value) Value {
	if items == nil {
		return jinja.None{}
	}
	return &jinja.List{Items: items}
}

// check refuses what is no list of messages before a template meets it.
func check(messages []Value) error {
	for i, m := range messages {
		d, ok := m.(*jinja.Dict)
		if !ok {
			return fmt.Errorf("message %d is not an object with a role; give {\"role\": ..., \"content\": ...}", i)
		}
		if r, ok := d.Get("role"); !ok || !isString(r) {
			return fmt.Errorf("message %d has no role that is a string; give it \"role\": \"user\" or \"assistant\"", i)
		}
	}
	return nil
}

func isString(v Value) bool { _, ok := v.(jinja.String); return ok }

// Role is the role of a message, empty where it has none.
func Role(message Value) string {
	d, ok := message.(*jinja.Dict)
	if !ok {
		return ""
	}
	r, _ := d.Get("role")
	s, _ := r.(jinja.String)
	return string(s)
}
