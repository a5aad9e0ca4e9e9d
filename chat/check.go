package chat

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/bitsandbyes/bitsandbyes/chat/jinja"
)

// Code names one kind of trouble with a template.
type Code string

// What Check finds.
const (
	// Refuses: the template fails on a plain conversation.
	Refuses Code = "refuses"
	// DropsAssistant: the text of an assistant's turn is not in the rendering, so there is nothing to train on.
	DropsAssistant Code = "drops-assistant"
	// NotExtension: the rendering for training does not go on from the one for inference, so the model is trained behind another
	// beginning than it will meet.
	NotExtension Code = "not-extension"
	// IgnoresPrompt: add_generation_prompt changes nothing although replies have a header.
	IgnoresPrompt Code = "ignores-generation-prompt"
	// NoEnd: nothing but white space follows the assistant's last text, so that the model never learns to stop.
	NoEnd Code = "no-end-token"
	// OtherEnd: what follows it does not hold the end-of-sequence token of the tokenizer.
	OtherEnd Code = "end-is-not-eos"
	// NoGeneration: there is no generation block; masks come from Segments.
	NoGeneration Code = "no-generation-block"
	// DoubledBOS: the rendering begins with the token of beginning twice.
	DoubledBOS Code = "doubled-bos"
	// WritesBOS: the rendering begins with it once, so the tokenizer must not add another.
	WritesBOS Code = "writes-bos"
	// Rewrites: earlier assistant's turns are written otherwise than when they were last.
	Rewrites Code = "rewrites-earlier-turns"
)

// Level says how much a finding matters.
type Level uint8

// The levels of a Finding.
const (
	// Note is worth knowing.
	Note Level = iota
	// Warning is trouble in some settings.
	Warning
	// Fatal makes training with the template useless.
	Fatal
)

// Finding is one thing that Check noticed.
type Finding struct {
	Code    Code
	Level   Level
	Message string // what is so, and what to do
}

// The words of the conversation that Check renders; templates may trim them or set them in capitals nowhere.
const (
	probeAsk, probeReply   = "Kelp question one", "Moss answer one"
	probeAsk2, probeReply2 = "Fern question two", "Reed answer two"
)

// Check renders small conversations and reports what would spoil training. The order is that of the codes above; extra are
// variables that the run will render with.
func (t *Template) Check(extra map[string]Value) []Finding {
	talk := []Value{Message("user", probeAsk), Message("assistant", probeReply), Message("user", probeAsk2), Message("assistant", probeReply2)}
	in := Input{Messages: talk, Extra: extra}
	whole, err := t.Render(in)
	c := &checker{t: t, in: in, text: whole.Text}
	if err != nil {
		var je *jinja.Error
		why := "fails"
		if errors.As(err, &je) && je.Raised {
			why = "refuses a plain conversation"
		}
		c.add(Refuses, Fatal, "the template %s: %v", why, err)
		return c.out
	}
	c.dropped()
	c.extension()
	c.end()
	if !t.HasGeneration() {
		c.add(NoGeneration, Note, "the template has no {%% generation %%} block; the assistant's text is found by comparing renderings")
	}
	c.begin()
	c.rewrites()
	return c.out
}

type checker struct {
	t    *Template
	in   Input
	text string
	out  []Finding
}

func (c *checker) add(code Code, l Level, format string, a ...any) {
	c.out = append(c.out, Finding{Code: code, Level: l, Message: fmt.Sprintf(format, a...)})
}

func (c *checker) prefix(n int, prompt bool) (string, error) {
	in := c.in
	in.Messages, in.AddGenerationPrompt = c.in.Messages[:n], prompt
	r, err := c.t.Render(in)
	return r.Text, err
}

func (c *checker) dropped() {
	last, first := strings.Contains(c.text, probeReply2), strings.Contains(c.text, probeReply)
	switch {
	case !last && !first:
		c.add(DropsAssistant, Fatal, "the template drops the assistant's text: nothing of it would be trained on; use the instruct model's own template, or --template FILE")
	case !last:
		c.add(DropsAssistant, Fatal, "the template drops the assistant's last turn, as one for inference only does; use the instruct model's own template, or --template FILE")
	case !first:
		c.add(DropsAssistant, Warning, "the template drops the assistant's earlier turns; only last turns can be trained on (mask: last)")
	}
}

// extension compares training with inference for the first and the last turn.
func (c *checker) extension() {
	for _, n := range []int{1, 3} {
		prompted, err := c.prefix(n, true)
		if err != nil {
			c.add(NotExtension, Warning, "with a generation prompt after turn %d the template fails: %v", n-1, err)
			return
		}
		full, err := c.prefix(n+1, false)
		if err != nil {
			c.add(NotExtension, Warning, "up to turn %d the template fails: %v", n, err)
			return
		}
		if !strings.HasPrefix(full, prompted) {
			i := common(full, prompted)
			c.add(NotExtension, Warning, "training and inference differ at byte %d: a row has %q where the model will meet %q; the model will be asked behind a beginning it was not trained on",
				i, cutAt(full[i:]), cutAt(prompted[i:]))
			return
		}
		// Without a header before the reply, as in Llama 2's [INST] form, there is nothing to add.
		reply := strings.TrimSpace(full[len(prompted):])
		headless := strings.HasPrefix(reply, probeReply) || strings.HasPrefix(reply, probeReply2)
		if plain, err := c.prefix(n, false); err == nil && plain == prompted && !headless {
			c.add(IgnoresPrompt, Warning, "add_generation_prompt changes nothing; at inference the model has to write the header of its turn itself")
			return
		}
	}
}

func (c *checker) end() {
	i := strings.LastIndex(c.text, probeReply2)
	if i < 0 {
		return
	}
	tail := c.text[i+len(probeReply2):]
	eos := c.t.special["eos_token"]
	switch {
	case strings.TrimSpace(tail) == "":
		c.add(NoEnd, Warning, "nothing but white space follows the assistant's last text, so the model does not learn to stop; add the end token to the template or the row")
	case eos != "" && !strings.Contains(tail, eos):
		c.add(OtherEnd, Note, "the assistant's turn ends with %q, which is not the tokenizer's end token %q; generation must stop at it", strings.TrimSpace(tail), eos)
	}
}

func (c *checker) begin() {
	bos := c.t.special["bos_token"]
	if bos == "" || !strings.HasPrefix(c.text, bos) {
		return
	}
	if strings.HasPrefix(c.text[len(bos):], bos) {
		c.add(DoubledBOS, Warning, "the rendering begins with %q twice; take one out of the template", bos)
		return
	}
	c.add(WritesBOS, Note, "the template writes %q itself; the tokenizer must not add another", bos)
}

// rewrites sees whether a turn stays as it was when others follow.
func (c *checker) rewrites() {
	early, err := c.prefix(2, false)
	if err != nil || strings.HasPrefix(c.text, early) {
		return
	}
	i := common(c.text, early)
	c.add(Rewrites, Note, "an assistant's turn is written otherwise when turns follow: %q in place of %q", cutAt(c.text[i:]), cutAt(early[i:]))
}

// common is the length of what a and b begin with, in whole characters.
func common(a, b string) int {
	n := 0
	for n < min(len(a), len(b)) && a[n] == b[n] {
		n++
	}
	for n > 0 && n < len(a) && !utf8.RuneStart(a[n]) {
		n--
	}
	return n
}

// cutAt is the beginning of s for a message.
func cutAt(s string) string {
	if r := []rune(s); len(r) > 30 {
		return string(r[:30]) + "..."
	}
	return s
}
