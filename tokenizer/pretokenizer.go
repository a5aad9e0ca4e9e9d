package tokenizer

import (
	"encoding/json"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// piece is a part of the text on its way to the model.
type piece struct {
	text  string
	first bool // it begins where the whole text begins
}

// A preTokenizer cuts a piece and passes the parts on, in order and never empty.
type preTokenizer interface {
	split(p piece, out func(piece) error) error
}

// maxNesting caps Sequences within Sequences.
const maxNesting = 8

// parsePreTokenizer reads the pre_tokenizer of a tokenizer.json; null gives nil.
func parsePreTokenizer(raw json.RawMessage, depth int) (preTokenizer, error) {
	name, err := componentType(raw, "pre_tokenizer", depth)
	if err != nil || name == "null" {
		return nil, err
	}
	switch name {
	case "Sequence":
		return parsePreSequence(raw, depth)
	case "ByteLevel":
		return parsePreByteLevel(raw)
	case "Split":
		return parseSplit(raw)
	case "Metaspace":
		return parsePreMetaspace(raw)
	case "Digits":
		c := struct {
			Type       string
			Individual bool `json:"individual_digits"`
		}{}
		err = strict(raw, &c)
		if c.Individual {
			return digits{runeSplit{unicode.IsNumber, isolate}}, err
		}
		return digits{runeSplit{unicode.IsNumber, contiguous}}, err
	case "Punctuation":
		c := struct{ Type, Behavior string }{Behavior: "Isolated"}
		if err = strict(raw, &c); err != nil {
			return nil, err
		}
		b, err := parseBehavior(c.Behavior)
		return runeSplit{punctuation, b}, err
	case "Whitespace":
		return words{}, nil
	case "BertPreTokenizer":
		return bertWords, nil
	case "CharDelimiterSplit":
		return parseCharDelimiter(raw)
	case "FixedLength":
		return parseFixedLength(raw)
	case "UnicodeScripts":
		return scripts{}, nil
	case "WhitespaceSplit":
		return runeSplit{unicode.IsSpace, remove}, nil
	}
	return nil, unsupported("pre_tokenizer", name,
		"Sequence", "ByteLevel", "Split", "Metaspace", "Digits", "Punctuation", "Whitespace", "WhitespaceSplit",
		"BertPreTokenizer", "CharDelimiterSplit", "FixedLength", "UnicodeScripts")
}

// punctuation is ASCII punctuation or the category P.
func punctuation(r rune) bool {
	if r < utf8.RuneSelf {
		return r > ' ' && r < 0x7F && !unicode.IsLetter(r) && !unicode.IsDigit(r)
	}
	return unicode.IsPunct(r)
}

type preSequence []preTokenizer

func parsePreSequence(raw json.RawMessage, depth int) (preTokenizer, error) {
	var c struct {
		Type          string
		PreTokenizers []json.RawMessage `json:"pretokenizers"`
	}
	if err := strict(raw, &c); err != nil {
		return nil, err
	}
	var seq preSequence
	for _, r := range c.PreTokenizers {
		p, err := parsePreTokenizer(r, depth+1)
		if err != nil {
			return nil, err
		}
		if p != nil {
			seq = append(seq, p)
		}
	}
	if byteLevels(seq) > 1 {
		return nil, unsupported("pre_tokenizer", "ByteLevel given twice", "one ByteLevel")
	}
	return seq, nil
}

// byteLevels counts the ByteLevel pre-tokenizers: each may double the text, so a chain of them could exhaust memory.
func byteLevels(p preTokenizer) int {
	n := 0
	switch p := p.(type) {
	case *preByteLevel:
		n = 1
	case preSequence:
		for _, q := range p {
			n += byteLevels(q)
		}
	}
	return n
}

func (s preSequence) split(p piece, out func(piece) error) error {
	if len(s) == 0 {
		return out(p)
	}
	return s[0].split(p, func(q piece) error { return s[1:].split(q, out) })
}

// preByteLevel optionally splits as GPT-2 does and spells bytes as stand-in characters, unless the model takes raw bytes.
type preByteLevel struct {
	addPrefixSpace bool
	useRegex       bool
	raw            bool
}

func parsePreByteLevel(raw json.RawMessage) (preTokenizer, error) {
	c := struct {
		Type           string
		AddPrefixSpace bool `json:"add_prefix_space"`
		TrimOffsets    bool `json:"trim_offsets"`
		UseRegex       bool `json:"use_regex"`
	}{AddPrefixSpace: true, UseRegex: true}
	err := strict(raw, &c)
	return &preByteLevel{addPrefixSpace: c.AddPrefixSpace, useRegex: c.UseRegex}, err
}

func (b *preByteLevel) split(p piece, out func(piece) error) error {
	s := p.text
	if b.addPrefixSpace && !strings.HasPrefix(s, " ") {
		s = " " + s
	}
	first := p.first
	for i := 0; i < len(s); {
		end := len(s)
		if b.useRegex {
			end = scanGPT2(s, i)
		}
		part := s[i:end]
		if !b.raw {
			part = spellBytes(part)
		}
		if err := out(piece{part, first}); err != nil {
			return err
		}
		first = false
		i = end
	}
	return nil
}

// split cuts at the matches of a pattern.
type split struct {
	pattern  *pattern
	behavior behavior
	invert   bool
}

func parseSplit(raw json.RawMessage) (preTokenizer, error) {
	var c struct {
		Type     string
		Pattern  json.RawMessage
		Behavior string
		Invert   bool
	}
	if err := strict(raw, &c); err != nil {
		return nil, err
	}
	b, err := parseBehavior(c.Behavior)
	if err != nil {
		return nil, err
	}
	p, err := parsePattern(c.Pattern)
	return &split{p, b, c.Invert}, err
}

func (s *split) split(p piece, out func(piece) error) error {
	return s.behavior.apply(p, out, func(yield func(string, bool) error) error {
		if !s.invert {
			return s.pattern.each(p.text, yield)
		}
		return s.pattern.each(p.text, func(part string, match bool) error { return yield(part, !match) })
	})
}

// digits is a runeSplit at characters of the category N.
type digits struct{ runeSplit }

// runeSplit cuts at every character that is in a class.
type runeSplit struct {
	in       func(rune) bool
	behavior behavior
}

func (r runeSplit) split(p piece, out func(piece) error) error {
	return r.behavior.apply(p, out, func(yield func(string, bool) error) error {
		done := 0
		for i := 0; i < len(p.text); {
			c, n := utf8.DecodeRuneInString(p.text[i:])
			if r.in(c) {
				if done < i {
					if err := yield(p.text[done:i], false); err != nil {
						return err
					}
				}
				if err := yield(p.text[i:i+n], true); err != nil {
					return err
				}
				done = i + n
			}
			i += n
		}
		if done == len(p.text) {
			return nil
		}
		return yield(p.text[done:], false)
	})
}

// words keeps the runs of word characters and the runs of other visible characters: \w+|[^\w\s]+.
type words struct{}

func (words) split(p piece, out func(piece) error) error {
	class := func(r rune) int {
		switch {
		case wordRune(r):
			return 1
		case unicode.IsSpace(r):
			return 0
		}
		return 2
	}
	from, current := 0, 0
	for i, r := range p.text + " " {
		c := class(r)
		if c == current {
			continue
		}
		if current != 0 {
			if err := out(piece{p.text[from:i], p.first && from == 0}); err != nil {
				return err
			}
		}
		from, current = i, c
	}
	return nil
}

// preMetaspace writes spaces as a visible character, which SentencePiece vocabularies hold.
type preMetaspace struct {
	replacement string
	scheme      string
	splits      bool
}

// metaspaceConfig is shared by the pre-tokenizer and the decoder.
type metaspaceConfig struct {
	Type           string
	Replacement    string
	PrependScheme  string `json:"prepend_scheme"`
	AddPrefixSpace *bool  `json:"add_prefix_space"`
	StrRep         string `json:"str_rep"`
	Split          *bool
}

func parseMetaspace(raw json.RawMessage) (metaspaceConfig, error) {
	c := metaspaceConfig{Replacement: "▁"}
	if err := strict(raw, &c); err != nil {
		return c, err
	}
	if utf8.RuneCountInString(c.Replacement) != 1 {
		return c, fmt.Errorf("tokenizer: Metaspace: replacement %q is not one character", c.Replacement)
	}
	if c.PrependScheme == "" {
		c.PrependScheme = "always"
		if c.AddPrefixSpace != nil && !*c.AddPrefixSpace {
			c.PrependScheme = "never"
		}
	}
	switch c.PrependScheme {
	case "always", "never", "first":
		return c, nil
	}
	return c, unsupported("Metaspace prepend_scheme", c.PrependScheme, "always", "first", "never")
}

func parsePreMetaspace(raw json.RawMessage) (preTokenizer, error) {
	c, err := parseMetaspace(raw)
	return &preMetaspace{c.Replacement, c.PrependScheme, c.Split == nil || *c.Split}, err
}

func (m *preMetaspace) split(p piece, out func(piece) error) error {
	s := strings.ReplaceAll(p.text, " ", m.replacement)
	if m.scheme == "always" || m.scheme == "first" && p.first {
		if !strings.HasPrefix(s, m.replacement) {
			s = m.replacement + s
		}
	}
	q := piece{s, p.first}
	if !m.splits {
		return out(q)
	}
	return mergeNext.apply(q, out, func(yield func(string, bool) error) error {
		return (&pattern{literal: m.replacement}).each(s, yield)
	})
}
