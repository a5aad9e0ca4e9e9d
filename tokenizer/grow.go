package tokenizer

import (
	"encoding/json"
	"fmt"
	"slices"
)

// NewToken is a token that a vocabulary is to gain. The flags are those of tokenizer.json.
type NewToken struct {
	Content    string
	Special    bool // a control token, which DecodeOptions.SkipSpecial leaves out
	SingleWord bool // found only where no word character touches it
	LStrip     bool // takes the blanks before it
	RStrip     bool // takes the blanks behind it
	Normalized bool // sought in the normalized text, not in the text as it is
}

// WithTokens returns a tokenizer that also finds the given tokens in texts. A token that the vocabulary lacks gets the next id, so
// VocabSize of the result says how many rows the embedding needs; one that it holds keeps its id; one that is an added token already
// stays as it is. t does not change.
func (t *HF) WithTokens(tokens ...NewToken) (*HF, error) {
	var extra []addedToken
	next := int32(t.VocabSize())
	seen := map[string]bool{}
	for i, n := range tokens {
		switch {
		case n.Content == "":
			return nil, fmt.Errorf("tokenizer: new token %d is empty", i)
		case seen[n.Content]:
			return nil, fmt.Errorf("tokenizer: the new token %q is given twice", n.Content)
		case int(next)+len(tokens) > maxVocab:
			return nil, fmt.Errorf("tokenizer: a vocabulary of %d and %d new tokens; the limit is %d", t.VocabSize(), len(tokens), maxVocab)
		}
		seen[n.Content] = true
		if slices.ContainsFunc(t.file.AddedTokens, func(a addedToken) bool { return a.Content == n.Content }) {
			continue
		}
		id, ok := t.ID(n.Content)
		if !ok {
			id = next
			next++
		}
		extra = append(extra, addedToken{id, n.Content, n.SingleWord, n.LStrip, n.RStrip, n.Normalized, n.Special})
	}
	if len(extra) == 0 {
		return t, nil
	}
	grown := t.copy()
	return grown, grown.extend(extra)
}

// copy shares all that extend replaces rather than changes.
func (t *HF) copy() *HF {
	return &HF{
		specials: t.specials, raw: t.raw, original: t.original, companions: t.companions, file: t.file, grown: t.grown,
		tokens: t.tokens, present: t.present, ids: t.ids, control: t.control, base: t.base,
		added: t.added, addedNorm: t.addedNorm, normalizer: t.normalizer, pre: t.pre, model: t.model,
		wrapping: t.wrapping, decoder: t.decoder, byteLevel: t.byteLevel,
	}
}

// extend adds tokens to the tables. New tables are made, so tokenizers that share the old ones are not affected.
func (t *HF) extend(extra []addedToken) error {
	vocab := make(map[string]int32, len(t.ids)+len(extra))
	for token, id := range t.ids {
		vocab[token] = id
	}
	base, control := t.base, t.control
	if err := t.setVocab(vocab, extra); err != nil {
		return err
	}
	t.base = base
	for id, special := range control {
		t.control[id] = t.control[id] || special
	}
	t.grown = append(slices.Clip(t.grown), extra...)
	t.file.AddedTokens = append(slices.Clip(t.file.AddedTokens), extra...)
	return t.setAdded(t.file.AddedTokens)
}

// spliceJSON inserts text at the end of the list or object that is the value of key in a JSON object, leaving every other byte as it
// is. Without such a key the value is put in front, or, with onlyIfThere, nothing changes.
func spliceJSON(raw []byte, key, entries string, open, shut byte, onlyIfThere bool) ([]byte, error) {
	start, end, err := findValue(raw, key)
	if err != nil {
		return nil, fmt.Errorf("tokenizer: adding tokens: %w", err)
	}
	if start < 0 {
		if onlyIfThere {
			return raw, nil
		}
		return slices.Concat(raw[:end], fmt.Appendf(nil, "%q: %c%s%c,", key, open, entries, shut), raw[end:]), nil
	}
	last := end - 1
	if raw[last] != shut || raw[start] != open {
		return nil, fmt.Errorf("tokenizer: adding tokens: %s is not a %c%c but %s", key, open, shut, clip(raw[start:end]))
	}
	body := last
	for body > start+1 && (raw[body-1] == ' ' || raw[body-1] == '\n' || raw[body-1] == '\r' || raw[body-1] == '\t') {
		body--
	}
	if body > start+1 {
		entries = "," + entries
	}
	return slices.Concat(raw[:body], []byte(entries), raw[body:]), nil
}

// findValue returns where the value of a key of a JSON object lies; start is -1 and end the place behind the brace without the key.
func findValue(raw []byte, key string) (start, end int, err error) {
	j := jsonText{raw: raw}
	if !json.Valid(raw) || j.next() != '{' {
		return 0, 0, fmt.Errorf("not a JSON object: %s", clip(raw))
	}
	j.at++
	front := j.at
	for j.next() != '}' {
		name, err := j.text()
		if err != nil {
			return 0, 0, err
		}
		j.next()
		from := j.at
		j.skip()
		if name == key {
			return from, j.at, nil
		}
	}
	return -1, front, nil
}

// skip passes over one value.
func (j *jsonText) skip() {
	depth := 0
	for j.at < len(j.raw) {
		switch c := j.raw[j.at]; c {
		case '"':
			for j.at++; j.raw[j.at] != '"'; j.at++ {
				if j.raw[j.at] == '\\' {
					j.at++
				}
			}
		case '{', '[':
			depth++
		case '}', ']':
			if depth == 0 {
				return
			}
			depth--
		case ',', ' ', '\n', '\r', '\t':
			if depth == 0 {
				return
			}
		}
		j.at++
		if depth == 0 && (j.raw[j.at-1] == '"' || j.raw[j.at-1] == '}' || j.raw[j.at-1] == ']') {
			return
		}
	}
}
