package trainer

import (
	"errors"
	"io/fs"
	"os"
	"slices"
	"time"

	"github.com/bitsandbyes/bitsandbyes/chat"
	"github.com/bitsandbyes/bitsandbyes/data"
)

// templateFile is where a model keeps its chat template.
const templateFile = "chat_template.jinja"

// ChatTemplate is the model's own chat template, or instead of it a file or a built-in one (data.TemplateNames). It is nil without an
// error for a model that has none. now is the clock of templates that write the date, nil for the real one.
func (m *Model) ChatTemplate(instead string, now func() time.Time) (*chat.Template, error) {
	o := chat.Options{Special: m.specialTokens(), Now: now}
	if instead == "" {
		t, err := chat.LoadFiles(m.Name, m.TokFiles, "", o)
		if errors.Is(err, chat.ErrNoTemplate) {
			return nil, nil
		}
		return t, err
	}
	if slices.Contains(data.TemplateNames(), instead) {
		if _, err := os.Stat(instead); errors.Is(err, fs.ErrNotExist) {
			return data.BuiltinTemplate(instead, o)
		}
	}
	t, err := chat.LoadFile(instead, o)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, badConfig("data.template", "%s is no file, and the built-in templates are %q", instead, data.TemplateNames())
	}
	if err != nil {
		return nil, badConfig("data.template", "%v", err)
	}
	return t, nil
}

// specialTokens are the tokens that templates refer to by name.
func (m *Model) specialTokens() map[string]string {
	out := map[string]string{}
	if m.Tokenizer == nil {
		return out
	}
	for name, token := range map[string]func() (int32, bool){"bos_token": m.Tokenizer.BOS, "eos_token": m.Tokenizer.EOS, "pad_token": m.Tokenizer.Pad} {
		if id, ok := token(); ok {
			out[name], _ = m.Tokenizer.Token(id)
		}
	}
	return out
}

// brokenTemplate is the Renderer of a model whose template cannot be read: rows that need none can still be trained on.
type brokenTemplate struct{ err error }

// Render implements data.Renderer.
func (b brokenTemplate) Render(*data.Conversation) (data.Rendered, error) {
	return data.Rendered{}, b.err
}

// useTemplate gives rows the chat template. One that replaces the model's own is written beside the result, so that it is used with it.
func (j *job) useTemplate(o *data.Options) error {
	clock := j.started
	if j.cfg.Resume { // a template that writes the date must write that of the beginning
		if s, st, err := j.newest(); err == nil && s != nil && !st.Clock.IsZero() {
			clock = st.Clock
		}
	}
	j.state.Clock = clock
	t, err := j.model.renderer(o, j.cfg.Data.Template, func() time.Time { return clock })
	if err != nil || t == nil {
		return err
	}
	j.state.TemplateHash = t.Digest()
	if j.cfg.Data.Template != "" {
		j.model.TokFiles[templateFile] = []byte(t.Source())
	}
	return nil
}

// renderer sets the chat template of the options; nil without an error for a model without a template that can be read.
func (m *Model) renderer(o *data.Options, instead string, now func() time.Time) (*chat.Template, error) {
	t, err := m.ChatTemplate(instead, now)
	switch {
	case err != nil && instead != "":
		return nil, err
	case err != nil:
		o.Renderer = brokenTemplate{err}
		return nil, nil
	case t != nil:
		o.Renderer = data.NewRenderer(t)
	}
	return t, nil
}
