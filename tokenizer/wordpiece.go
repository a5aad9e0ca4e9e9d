package tokenizer

import (
	"encoding/json"
	"fmt"
	"unicode"
	"unicode/utf8"
)

// wordPiece is BERT's model: the longest token that begins a word, then the longest that continues it, and so on; a word that cannot
// be spelt is the unknown token.
type wordPiece struct {
	vocab   map[string]int32
	unkText string
	unk     int32 // -1: not in the vocabulary
	prefix  string
	longest int // characters of a word that is looked at
	reach   int // bytes of the longest token
}

func parseWordPiece(raw json.RawMessage) (*wordPiece, error) {
	c := struct {
		Type    string
		Unk     string `json:"unk_token"`
		Prefix  string `json:"continuing_subword_prefix"`
		Longest *int   `json:"max_input_chars_per_word"`
		Vocab   vocabulary
	}{Unk: "[UNK]", Prefix: "##"}
	if err := strict(raw, &c); err != nil {
		return nil, err
	}
	m := &wordPiece{vocab: c.Vocab, unkText: c.Unk, unk: lookup(c.Vocab, c.Unk), prefix: c.Prefix, longest: 100}
	if c.Longest != nil {
		m.longest = *c.Longest
	}
	for token := range c.Vocab {
		m.reach = max(m.reach, len(token))
	}
	return m, nil
}

func (m *wordPiece) encode(st *state, piece string, dst []int32) []int32 {
	if out, ok := st.recall(piece, dst); ok {
		return out
	}
	start := len(dst)
	ok := utf8.RuneCountInString(piece) <= m.longest
	for at := 0; at < len(piece) && ok; {
		var id int32
		var size int
		if id, size = m.match(st, piece[at:], at > 0); size == 0 {
			ok = false
			break
		}
		dst = append(dst, id)
		at += size
	}
	if !ok {
		if m.unk < 0 {
			st.err = fmt.Errorf("tokenizer: %q cannot be spelt and the WordPiece vocabulary lacks its unk_token %q", clip([]byte(piece)), m.unkText)
			return dst[:start]
		}
		dst = append(dst[:start], m.unk)
	}
	st.remember(piece, dst[start:])
	return dst
}

// match returns the longest token at the start of s, and how much of s it is.
func (m *wordPiece) match(st *state, s string, later bool) (int32, int) {
	st.text = st.text[:0]
	if later {
		st.text = append(st.text, m.prefix...)
	}
	lead := len(st.text)
	for end := min(len(s), max(0, m.reach-lead)); end > 0; end-- {
		if end < len(s) && !utf8.RuneStart(s[end]) {
			continue
		}
		st.text = append(st.text[:lead], s[:end]...)
		if id, ok := m.vocab[string(st.text)]; ok {
			return id, end
		}
	}
	return 0, 0
}

// wordLevel looks whole words up.
type wordLevel struct {
	vocab   map[string]int32
	unkText string
	unk     int32 // -1: not in the vocabulary
}

func parseWordLevel(raw json.RawMessage) (*wordLevel, error) {
	c := struct {
		Type  string
		Unk   string `json:"unk_token"`
		Vocab vocabulary
	}{Unk: "<unk>"}
	err := strict(raw, &c)
	return &wordLevel{c.Vocab, c.Unk, lookup(c.Vocab, c.Unk)}, err
}

func (m *wordLevel) encode(st *state, piece string, dst []int32) []int32 {
	id, ok := m.vocab[piece]
	if !ok {
		id = m.unk
	}
	if id < 0 {
		st.err = fmt.Errorf("tokenizer: %q is not in the WordLevel vocabulary, which lacks its unk_token %q", clip([]byte(piece)), m.unkText)
		return dst
	}
	return append(dst, id)
}

// controlRune is a character that stands alone in grapheme clusters: a control, a format character but for the joiners, a separator
// of lines.
func controlRune(r rune) bool {
	if r < 0xA0 {
		return r < ' ' || r >= 0x7F
	}
	return unicode.In(r, unicode.Cc, unicode.Zl, unicode.Zp) || unicode.Is(unicode.Cf, r) && r != 0x200C && r != 0x200D && !unicode.Is(unicode.Prepended_Concatenation_Mark, r)
}

// extends reports whether a character joins the cluster before it.
func extends(r rune) bool {
	switch {
	case r < 0x300:
		return false
	case r == 0x200D, r == 0x0E33, r == 0x0EB3, r >= 0x1F3FB && r <= 0x1F3FF:
		return true
	}
	return unicode.In(r, unicode.Mn, unicode.Me, unicode.Mc, unicode.Other_Grapheme_Extend)
}
