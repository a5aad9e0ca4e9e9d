package tokenizer

import (
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// addedToken is a token found in the text before normalization and pre-tokenization see it.
type addedToken struct {
	ID         int32  `json:"id"`
	Content    string `json:"content"`
	SingleWord bool   `json:"single_word"`
	LStrip     bool   `json:"lstrip"`
	RStrip     bool   `json:"rstrip"`
	Normalized bool   `json:"normalized"`
	Special    bool   `json:"special"`
}

// matcher finds added tokens: the leftmost one, and the longest of those that start there.
type matcher struct {
	tokens  map[string]*addedToken
	lengths [256][]int // of the tokens that begin with a byte, longest first
}

// list returns the tokens in no order.
func (m *matcher) list() []addedToken {
	out := make([]addedToken, 0, len(m.tokens))
	for _, token := range m.tokens {
		out = append(out, *token)
	}
	return out
}

type matchEntry struct {
	text  string
	token *addedToken
}

func newMatcher(entries []matchEntry) *matcher {
	m := &matcher{tokens: map[string]*addedToken{}}
	for _, e := range entries {
		if e.text == "" {
			continue
		}
		m.tokens[e.text] = e.token
		list := &m.lengths[e.text[0]]
		if !slices.Contains(*list, len(e.text)) {
			*list = append(*list, len(e.text))
		}
	}
	for i := range m.lengths {
		slices.SortFunc(m.lengths[i], func(a, b int) int { return b - a })
	}
	return m
}

// segment is a part of the text: plain (token nil) or one added token.
type segment struct {
	text  string
	start int
	token *addedToken
}

// split cuts text at the added tokens. With asText, special tokens are left in the text.
func (m *matcher) split(text string, asText bool, out []segment) []segment {
	if text == "" {
		return out
	}
	if len(m.tokens) == 0 {
		return append(out, segment{text: text})
	}
	done := 0
	for at := 0; at < len(text); {
		size, token := m.at(text[at:])
		if token == nil {
			at++
			continue
		}
		start, stop := at, at+size
		at = stop
		if asText && token.Special || token.SingleWord && !isolated(text, start, stop) {
			continue
		}
		if token.LStrip {
			start = max(len(strings.TrimRightFunc(text[:start], unicode.IsSpace)), done)
		}
		if token.RStrip {
			stop = len(text) - len(strings.TrimLeftFunc(text[stop:], unicode.IsSpace))
		}
		if done < start {
			out = append(out, segment{text: text[done:start], start: done})
		}
		out = append(out, segment{text: text[start:stop], start: start, token: token})
		done = stop
	}
	if done < len(text) {
		out = append(out, segment{text: text[done:], start: done})
	}
	return out
}

func (m *matcher) at(text string) (int, *addedToken) {
	for _, n := range m.lengths[text[0]] {
		if n <= len(text) {
			if token := m.tokens[text[:n]]; token != nil {
				return n, token
			}
		}
	}
	return 0, nil
}

// isolated reports whether no word character touches text[start:stop].
func isolated(text string, start, stop int) bool {
	before, n := utf8.DecodeLastRuneInString(text[:start])
	after, k := utf8.DecodeRuneInString(text[stop:])
	return (n == 0 || !wordRune(before)) && (k == 0 || !wordRune(after))
}

// wordRune is \w of Unicode technical standard 18: alphabetic, marks, decimal digits, connectors, joiners.
func wordRune(r rune) bool {
	return unicode.IsLetter(r) || unicode.In(r, unicode.M, unicode.Nd, unicode.Nl, unicode.Pc, unicode.Other_Alphabetic, unicode.Join_Control)
}
