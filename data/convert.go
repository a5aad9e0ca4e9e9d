package data

import (
	"slices"
	"strings"
)

// encode tokenises text, naming the row in an error.
func (c *Converter) encode(r *Row, text string) ([]int32, error) {
	ids, err := c.Encoder.Encode(text)
	if err != nil {
		return nil, &RowError{File: r.File, Line: r.Line, Reason: "cannot be tokenised: " + err.Error(), Err: err}
	}
	return ids, nil
}

// enclosed puts BOS before and EOS behind ids, each only where the text does not have it already: a model sees one of each.
func (c *Converter) enclosed(ids []int32, first, last bool) (out []int32, begin int) {
	if first && !hasPrefix(ids, c.BOS) {
		begin = len(c.BOS)
	}
	out = append(append(make([]int32, 0, begin+len(ids)+len(c.EOS)), c.BOS[:begin]...), ids...)
	if last && (len(ids) < len(c.EOS) || !slices.Equal(ids[len(ids)-len(c.EOS):], c.EOS)) {
		out = append(out, c.EOS...)
	}
	return out, begin
}

func hasPrefix(ids, head []int32) bool {
	return len(ids) >= len(head) && slices.Equal(ids[:len(head)], head)
}

// Answer joins a prompt and its answer, tokenised apart so that the border never depends on what stands beside it:
// BOS, prompt, completion, EOS. The prompt and BOS are untrained unless the mask is none.
func (c *Converter) Answer(r *Row, prompt, completion string) ([]Doc, error) {
	p, err := c.encode(r, prompt)
	if err != nil {
		return nil, err
	}
	a, err := c.encode(r, completion)
	if err != nil {
		return nil, err
	}
	ids, begin := c.enclosed(append(p[:len(p):len(p)], a...), true, true)
	d := Doc{IDs: ids}
	if c.Mask != MaskNone {
		d.Skip = begin + len(p)
	}
	if max(d.Skip, 1) >= len(d.IDs) {
		return nil, r.untrainedErr("has no token to train on: the answer is empty, or the row is a single token; remove the row")
	}
	return []Doc{d}, nil
}

// convertPromptCompletion takes both as strings, or as lists of messages; a string beside a list is a turn of the user or the assistant.
func convertPromptCompletion(r *Row, c *Converter) ([]Doc, error) {
	if r.isList("prompt") || r.isList("completion") || c.AsChat {
		return c.promptTurns(r)
	}
	prompt, err := r.Str("prompt", false)
	if err != nil {
		return nil, err
	}
	completion, err := r.Str("completion", false)
	if err != nil {
		return nil, err
	}
	return c.Answer(r, prompt, completion)
}

func (c *Converter) promptTurns(r *Row) ([]Doc, error) {
	conv, err := r.around()
	if err != nil {
		return nil, err
	}
	if conv.Messages, err = r.turns("prompt", "user"); err != nil {
		return nil, err
	}
	from := len(conv.Messages)
	answer, err := r.turns("completion", Assistant)
	if err != nil {
		return nil, err
	}
	conv.Messages = append(conv.Messages, answer...)
	return c.Chat(r, &conv, from)
}

// isList reports whether the value at key is a list.
func (r *Row) isList(key string) bool { return r.Has(key) && r.Fields[key][0] == '[' }

// turns reads a list of messages, one message, or a string that is one of the given role.
func (r *Row) turns(key, role string) ([]Message, error) {
	switch {
	case r.isList(key):
		return r.messages(key)
	case r.Has(key) && r.Fields[key][0] == '{':
		m, err := r.message(key, r.Fields[key])
		return []Message{m}, err
	}
	text, err := r.Str(key, false)
	if err != nil {
		return nil, err
	}
	m, err := Say(role, text)
	return []Message{m}, err
}

func convertMessages(r *Row, c *Converter) ([]Doc, error) {
	conv, err := r.Conversation()
	if err != nil {
		return nil, err
	}
	return c.Chat(r, &conv, 0)
}

// convertShareGPT reads conversations of from and value, with the system's text in a key of its own or as the first turn.
func convertShareGPT(r *Row, c *Converter) ([]Doc, error) {
	conv, err := r.shareGPT()
	if err != nil {
		return nil, err
	}
	return c.Chat(r, &conv, 0)
}

func (r *Row) shareGPT() (conv Conversation, err error) {
	if conv, err = r.around(); err != nil {
		return conv, err
	}
	if conv.Messages, err = r.messages("conversations"); err != nil {
		return conv, err
	}
	system, err := r.Str("system", true)
	if err != nil || system == "" || len(conv.Messages) > 0 && conv.Messages[0].Role == "system" {
		return conv, err
	}
	m, err := Say("system", system)
	conv.Messages = append([]Message{m}, conv.Messages...)
	return conv, err
}

// convertAlpaca uses the prompt texts of Stanford Alpaca (https://github.com/tatsu-lab/stanford_alpaca), which models tuned on
// such rows expect word for word. A system text replaces the first paragraph.
func convertAlpaca(r *Row, c *Converter) ([]Doc, error) {
	output, err := r.Str("output", false)
	if err != nil {
		return nil, err
	}
	if c.AsChat {
		conv := Conversation{}
		if conv.Messages, err = alpacaTurns(r); err != nil {
			return nil, err
		}
		m, err := Say(Assistant, output)
		if err != nil {
			return nil, err
		}
		conv.Messages = append(conv.Messages, m)
		return c.Chat(r, &conv, len(conv.Messages)-1)
	}
	prompt, err := alpacaPrompt(r)
	if err != nil {
		return nil, err
	}
	return c.Answer(r, prompt, output)
}

// alpacaTurns is the prompt as a conversation: the instruction, an empty line and the input.
func alpacaTurns(r *Row) (out []Message, err error) {
	v, err := r.strings("instruction", "input", "system")
	if err != nil {
		return nil, err
	}
	if v[2] != "" {
		m, err := Say("system", v[2])
		if err != nil {
			return nil, err
		}
		out = append(out, m)
	}
	if v[1] != "" {
		v[0] += "\n\n" + v[1]
	}
	m, err := Say("user", v[0])
	return append(out, m), err
}

// strings returns the strings at the keys, of which only the first must be there.
func (r *Row) strings(keys ...string) ([]string, error) {
	out := make([]string, len(keys))
	for i, key := range keys {
		var err error
		if out[i], err = r.Str(key, i >= 1); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func alpacaPrompt(r *Row) (string, error) {
	v, err := r.strings("instruction", "input", "system")
	if err != nil {
		return "", err
	}
	instruction, input, system := v[0], v[1], v[2]
	var b strings.Builder
	switch {
	case system != "":
		b.WriteString(system)
	case input != "":
		b.WriteString("Below is an instruction that describes a task, paired with an input that provides further context. " +
			"Write a response that appropriately completes the request.")
	default:
		b.WriteString("Below is an instruction that describes a task. Write a response that appropriately completes the request.")
	}
	b.WriteString("\n\n### Instruction:\n" + instruction)
	if input != "" {
		b.WriteString("\n\n### Input:\n" + input)
	}
	b.WriteString("\n\n### Response:\n")
	return b.String(), nil
}

// convertText serves rows with a text and pieces of plain text files. White space alone makes no document.
func convertText(r *Row, c *Converter) ([]Doc, error) {
	text, first, more := r.Text, r.First, r.More
	if r.Fields != nil {
		var err error
		if text, err = r.Str("text", false); err != nil {
			return nil, err
		}
		first, more = true, false
	}
	if first && !more && strings.TrimSpace(text) == "" {
		return nil, nil
	}
	ids, err := c.encode(r, text)
	if err != nil {
		return nil, err
	}
	ids, _ = c.enclosed(ids, first, !more)
	return []Doc{{IDs: ids, Window: true, More: more}}, nil
}

// convertTokens takes ids as they are: no BOS, no EOS, no mask.
func convertTokens(r *Row, _ *Converter) ([]Doc, error) {
	ids, err := r.Ints("input_ids")
	if err != nil {
		return nil, err
	}
	if !r.Has("labels") {
		if len(ids) < 2 {
			return nil, r.untrainedErr("has %d tokens, so none to train on (the first is never predicted); remove the row", len(ids))
		}
		return []Doc{{IDs: ids}}, nil
	}
	labels, err := r.Ints("labels")
	if err != nil {
		return nil, err
	}
	if len(labels) != len(ids) {
		return nil, r.Errorf("has %d labels for %d input_ids; labels are aligned with input_ids (%d = not trained), unshifted",
			len(labels), len(ids), Ignore)
	}
	if trained(labels) == 0 {
		return nil, r.untrainedErr("has no token to train on: every label after the first is %d; remove the row", Ignore)
	}
	return []Doc{{IDs: ids, Labels: labels}}, nil
}

// trained counts the labels that become targets: the first token of a document is never predicted.
func trained(labels []int32) int {
	n := 0
	for t := 1; t < len(labels); t++ {
		if labels[t] != Ignore {
			n++
		}
	}
	return n
}
