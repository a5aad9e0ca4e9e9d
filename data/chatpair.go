package data

import (
	"bytes"
	"slices"
	"strings"
)

// chatPair reads a pair whose sides are conversations, or are to be rendered as such. Both sides get the same prompt in front.
func (c *Converter) chatPair(r *Row) ([]Doc, error) {
	conv, err := r.pairPrompt()
	if err != nil {
		return nil, err
	}
	sides := make([][]Message, 2)
	for i, key := range []string{"chosen", "rejected"} {
		if sides[i], err = r.turns(key, Assistant); err != nil {
			return nil, err
		}
	}
	prompt, sides := splitPrompt(conv.Messages, sides)
	prompt = slices.Clone(prompt)
	for i := range prompt { // flags are of the mask, which pairs have none of: only answers are compared
		prompt[i].Train = TrainNo
	}
	plain := *c
	plain.Mask = MaskAssistant
	if same(sides[0], sides[1]) {
		return nil, nil // no preference: left out and counted as empty
	}
	if len(prompt) == 0 {
		return nil, r.Errorf("has no prompt: the keys are %s, and the two conversations share no turn; add the key \"prompt\"", keyList(r.Keys()))
	}
	var docs []Doc
	for i, key := range []string{"chosen", "rejected"} {
		if n := len(sides[i]); n == 0 || sides[i][n-1].Role != Assistant {
			return nil, r.Errorf("%q does not end with an answer of the assistant; remove the row", key)
		}
		side := conv
		side.Messages = append(prompt[:len(prompt):len(prompt)], sides[i]...)
		d, err := plain.Chat(r, &side, len(prompt))
		if err != nil {
			return nil, err
		}
		docs = append(docs, d...)
	}
	return docs, nil
}

// pairPrompt reads what stands before the answers, if a key says it.
func (r *Row) pairPrompt() (conv Conversation, err error) {
	if r.Has("conversations") {
		return r.shareGPT()
	}
	if conv, err = r.around(); err != nil {
		return conv, err
	}
	switch {
	case r.Has("messages"):
		conv.Messages, err = r.messages("messages")
	case r.Has("prompt"):
		conv.Messages, err = r.turns("prompt", "user")
	case r.Has("question"):
		var v []string
		if v, err = r.strings("question", "system"); err == nil {
			conv.Messages, err = ask(v[0], v[1])
		}
	case r.Has("instruction"):
		conv.Messages, err = alpacaTurns(r)
	case r.Fields["chosen"][0] == '"' && r.Fields["rejected"][0] == '"':
		return conv, r.Errorf("has no prompt: the keys are %s; add the key \"prompt\", or leave data.chat out for text of HH-RLHF", keyList(r.Keys()))
	}
	return conv, err
}

// ask is a question, after the system's text where there is one.
func ask(question, system string) (out []Message, err error) {
	if system != "" {
		m, err := Say("system", system)
		if err != nil {
			return nil, err
		}
		out = append(out, m)
	}
	m, err := Say("user", question)
	return append(out, m), err
}

// splitPrompt finds the prompt of two sides: the given messages, which the sides may repeat, or what both sides begin with.
func splitPrompt(given []Message, sides [][]Message) (prompt []Message, rest [][]Message) {
	shared := 0
	for shared < min(len(sides[0]), len(sides[1])) && equalTurns(sides[0][shared], sides[1][shared]) {
		shared++
	}
	if shared == len(sides[0]) && shared > 0 && shared == len(sides[1]) {
		shared-- // equal sides: the caller says so
	}
	if shared == 0 {
		return given, sides
	}
	head := sides[0][:shared]
	rest = [][]Message{sides[0][shared:], sides[1][shared:]}
	if len(given) == 0 || repeats(head, given) {
		return head, rest
	}
	return append(given[:len(given):len(given)], head...), rest
}

// repeats reports whether the head of both sides already holds the given prompt, perhaps after a system turn.
func repeats(head, given []Message) bool {
	for off := 0; off+len(given) <= len(head); off++ {
		if same(head[off:off+len(given)], given) {
			return true
		}
	}
	return false
}

func same(a, b []Message) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if !equalTurns(a[i], b[i]) {
			return false
		}
	}
	return true
}

// equalTurns compares what is said, and with calls of tools the whole message.
func equalTurns(a, b Message) bool {
	calls := []byte(`"tool_calls"`)
	if bytes.Contains(a.Fields, calls) || bytes.Contains(b.Fields, calls) {
		return bytes.Equal(a.Fields, b.Fields)
	}
	return a.Role == b.Role && strings.TrimSpace(a.Content) == strings.TrimSpace(b.Content)
}
