package trainer

import (
	"errors"
	"fmt"
	"maps"
	"strings"

	"github.com/bitsandbyes/bitsandbyes/chat"
	"github.com/bitsandbyes/bitsandbyes/data"
	"github.com/bitsandbyes/bitsandbyes/tokenizer"
	"github.com/bitsandbyes/bitsandbyes/trainer/config"
)

// chatForm is how a model's conversations are written.
type chatForm struct {
	renderer *data.TemplateRenderer
	ends     []int32  // tokens that end the assistant's turn
	stops    []string // texts that do, where no token does
}

// Template is the chat template in use: the model's own, or that of the options.
func (w *Writer) Template() (*chat.Template, error) {
	f, err := w.chatForm()
	if err != nil {
		return nil, err
	}
	return f.renderer.Template(), nil
}

func (w *Writer) chatForm() (*chatForm, error) {
	if w.form != nil {
		return w.form, nil
	}
	t, err := w.model.ChatTemplate(w.o.Template, nil)
	var bad *config.ErrConfig
	switch {
	case errors.As(err, &bad):
		return nil, badConfig("template", "%s", bad.Reason)
	case err != nil:
		return nil, withCode(config.ExitInput, err)
	case t == nil:
		return nil, badConfig("template", "model %s has no chat template; name a file that holds one, or the form that it was trained with: %s", w.model.Name,
			strings.Join(data.TemplateNames(), ", "))
	}
	f := &chatForm{renderer: data.NewRenderer(t)}
	if err := f.findEnd(w.model.Tokenizer); err != nil {
		return nil, withCode(config.ExitInput, err)
	}
	w.form = f
	return f, nil
}

// findEnd looks at what the template writes behind an assistant's words: the token there ends a turn, or the text if it is no token.
func (f *chatForm) findEnd(tok tokenizer.Tokenizer) error {
	const words = "Understood"
	in := chat.Input{Messages: []chat.Value{chat.Message("user", "Begin"), chat.Message(data.Assistant, words)}}
	r, segments, err := f.renderer.Template().Segments(in)
	if err != nil {
		return nil // it takes other conversations only; the model's end-of-text tokens are left
	}
	for _, s := range segments {
		_, end, ok := strings.Cut(r.Text[s.Start:s.End], words)
		if end = strings.TrimSpace(end); !s.Generated || !ok || end == "" {
			continue
		}
		ids, err := tok.EncodeWith(end, tokenizer.EncodeOptions{NoSpecial: true})
		if err != nil {
			return fmt.Errorf("the end of a turn, %q: %w", end, err)
		}
		for _, id := range ids {
			if len(ids) == 1 || tok.Special(id) {
				f.ends = append(f.ends, id)
				return nil
			}
		}
		f.stops = append(f.stops, end)
	}
	return nil
}

// Render writes a conversation as the chat template has it, up to where the assistant's reply begins. The template writes all special tokens:
// the tokenizer adds none.
func (w *Writer) Render(c *data.Conversation) (text string, ids []int32, err error) {
	f, err := w.chatForm()
	if err != nil {
		return "", nil, err
	}
	if len(w.o.TemplateVars) > 0 {
		with := *c
		with.Extra = maps.Clone(w.o.TemplateVars)
		maps.Copy(with.Extra, c.Extra)
		c = &with
	}
	if i, unknown := data.UnknownRole(c, f.renderer, w.o.Roles); unknown {
		role := c.Messages[i].Role
		if meant := data.MeantRole(role, w.o.Roles); meant != "" {
			return "", nil, withCode(config.ExitInput, fmt.Errorf("message %d has the role %q; did you mean %q? Else say --role %s", i+1, role, meant, role))
		}
	}
	if text, err = f.renderer.Prompt(c); err == nil {
		ids, err = w.model.Tokenizer.EncodeWith(text, tokenizer.EncodeOptions{NoSpecial: true})
	}
	if err == nil && len(ids) == 0 {
		err = fmt.Errorf("%s: writes nothing for a conversation of %d messages; name another with --template", f.renderer.Template().Name(), len(c.Messages))
	}
	return text, ids, withCode(config.ExitInput, err)
}

// Ends are the tokens and texts that end the model's turn: the template's end of a turn and the model's end-of-text tokens.
func (w *Writer) Ends() (tokens []int32, texts []string, err error) {
	f, err := w.chatForm()
	if err != nil {
		return nil, nil, err
	}
	return append(w.ends(), f.ends...), f.stops, nil
}
