package data

import (
	"fmt"
	"slices"
	"strings"
)

// Pair is a row of preferences: two answers to one prompt.
type Pair struct {
	Prompt   []int32 // the tokens that both examples begin with; none of them is trained
	Chosen   Example // prompt and the answer that is preferred, whose tokens alone have labels
	Rejected Example // prompt and the other answer
}

// Pairs reports whether the set holds pairs: see Options.Pairs. Len counts pairs then, and a Batch holds both sides of its pairs.
func (s *Set) Pairs() bool { return s.st.pairs }

// Pair returns pair i, in [0, Len), of a set of pairs. The error is a *SpillError, or says that the set holds no pairs.
func (s *Set) Pair(i int) (p Pair, err error) {
	if !s.st.pairs {
		return p, fmt.Errorf("data: the set holds examples, not pairs; load it with Options.Pairs")
	}
	if p.Chosen, err = s.st.example(s.rows[i]); err != nil {
		return p, err
	}
	if p.Rejected, err = s.st.example(s.rows[i] + 1); err != nil {
		return p, err
	}
	isTrained := func(l int32) bool { return l != Ignore }
	a, b := slices.IndexFunc(p.Chosen.Labels, isTrained), slices.IndexFunc(p.Rejected.Labels, isTrained)
	p.Prompt = p.Chosen.IDs[:min(a, b)]
	return p, nil
}

// pairFormats are the layouts of preferences, in the order in which auto tries them.
var pairFormats = [...]Format{
	{Name: "preference", Keys: []string{"chosen", "rejected"},
		Uses: []string{"prompt", "question", "instruction", "input", "system", "output", "conversations", "messages", "tools",
			"chat_template_kwargs"},
		Convert: convertPreference},
}

// Marks of the turns in rows of Anthropic's HH-RLHF, where a conversation is one string.
const (
	hhHuman     = "\n\nHuman:"
	hhAssistant = "\n\nAssistant:"
)

// convertPreference reads a pair in the layouts that are in use: a prompt and two answers, strings or messages; Alpaca's fields and two
// answers; two conversations that share all turns but the last; two strings of HH-RLHF that do.
func convertPreference(r *Row, c *Converter) ([]Doc, error) {
	for _, key := range []string{"chosen", "rejected"} {
		if !r.Has(key) {
			return nil, r.missing(key)
		}
	}
	if c.AsChat || r.isList("prompt") || r.Has("conversations") || r.Has("messages") || r.Fields["chosen"][0] != '"' || r.Fields["rejected"][0] != '"' {
		return c.chatPair(r)
	}
	chosen, err := r.Str("chosen", false)
	if err != nil {
		return nil, err
	}
	rejected, err := r.Str("rejected", false)
	if err != nil {
		return nil, err
	}
	var prompt string
	switch {
	case r.Has("prompt"):
		prompt, err = r.Str("prompt", false)
	case r.Has("question"):
		prompt, err = r.question()
	case r.Has("instruction"):
		prompt, err = alpacaPrompt(r)
	default:
		prompt, chosen, rejected, err = splitHH(r, chosen, rejected)
	}
	if err != nil {
		return nil, err
	}
	return c.answers(r, prompt, chosen, rejected)
}

// question is the prompt of rows with system, question, chosen and rejected (Intel's orca_dpo_pairs).
func (r *Row) question() (string, error) {
	system, err := r.Str("system", true)
	if err != nil {
		return "", err
	}
	q, err := r.Str("question", false)
	if system != "" {
		q = system + "\n\n" + q
	}
	return q, err
}

// splitHH takes the turns that both strings share off their front.
func splitHH(r *Row, chosen, rejected string) (prompt, a, b string, err error) {
	same := 0
	for same < min(len(chosen), len(rejected)) && chosen[same] == rejected[same] {
		same++
	}
	at := strings.LastIndex(chosen[:same], hhAssistant)
	if at < 0 {
		return "", "", "", r.Errorf("has no prompt: the keys are %s, and the two answers share no text that ends in %q; add the key \"prompt\"",
			keyList(r.Keys()), strings.TrimSpace(hhAssistant))
	}
	at += len(hhAssistant)
	return chosen[:at], chosen[at:], rejected[at:], nil
}

// answers makes the two examples of a pair. The prompt is tokenised once, so both begin with the same tokens; it is never trained,
// whatever the mask.
func (c *Converter) answers(r *Row, prompt, chosen, rejected string) ([]Doc, error) {
	if chosen == rejected {
		return nil, nil // no preference: left out and counted as empty
	}
	plain := *c
	plain.Mask = MaskPrompt
	var docs []Doc
	for _, side := range []struct{ key, text string }{{"chosen", chosen}, {"rejected", rejected}} {
		if side.text == "" {
			return nil, r.Errorf("has an empty answer %q; remove the row", side.key)
		}
		d, err := plain.Answer(r, prompt, side.text)
		if err != nil {
			return nil, err
		}
		docs = append(docs, d...)
	}
	return docs, nil
}
