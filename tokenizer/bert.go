package tokenizer

import (
	"encoding/json"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// bertNormalizer cleans text as BERT does.
type bertNormalizer struct {
	Type      string
	Clean     bool  `json:"clean_text"`
	Chinese   bool  `json:"handle_chinese_chars"`
	Strip     *bool `json:"strip_accents"` // nil: as Lowercase
	Lowercase bool  `json:"lowercase"`
}

func parseBertNormalizer(raw json.RawMessage) (normalizer, error) {
	c := bertNormalizer{Clean: true, Chinese: true, Lowercase: true}
	err := strict(raw, &c)
	return c.normalize, err
}

func (c *bertNormalizer) normalize(s string) (string, error) {
	if c.Clean {
		s = strings.Map(cleanRune, s)
	}
	if c.Chinese {
		s = spaceChinese(s)
	}
	if c.Strip == nil && c.Lowercase || c.Strip != nil && *c.Strip {
		var err error
		if s, err = unicodeForm(norm.NFD)(s); err != nil {
			return "", err
		}
		s = strings.Map(func(r rune) rune {
			if unicode.Is(unicode.Mn, r) {
				return -1
			}
			return r
		}, s)
	}
	if c.Lowercase {
		return lowercase(s)
	}
	return s, nil
}

// cleanRune drops control characters and writes every blank as a space.
func cleanRune(r rune) rune {
	switch {
	case r == '\t' || r == '\n' || r == '\r':
		return ' '
	case r == 0 || r == utf8.RuneError || unicode.In(r, unicode.Cc, unicode.Cf, unicode.Co, unicode.Cs):
		return -1
	case unicode.IsSpace(r):
		return ' '
	}
	return r
}

func spaceChinese(s string) string {
	var b strings.Builder
	for _, r := range s {
		if chineseRune(r) {
			b.WriteByte(' ')
			b.WriteRune(r)
			b.WriteByte(' ')
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

// chineseRune is in one of the blocks of CJK ideographs that BERT lists.
func chineseRune(r rune) bool {
	switch {
	case r >= 0x4E00 && r <= 0x9FFF, r >= 0x3400 && r <= 0x4DBF, r >= 0x20000 && r <= 0x2A6DF, r >= 0x2A700 && r <= 0x2B73F,
		r >= 0x2B740 && r <= 0x2B81F, r >= 0x2B920 && r <= 0x2CEAF, r >= 0xF900 && r <= 0xFAFF, r >= 0x2F800 && r <= 0x2FA1F:
		return true
	}
	return false
}

// nmtRune maps characters as SentencePiece's nmt rules do: some controls vanish, other blanks become a space.
func nmtRune(r rune) rune {
	switch {
	case r >= 0x01 && r <= 0x08, r == 0x0B, r >= 0x0E && r <= 0x1F, r == 0x7F, r == 0x8F, r == 0x9F:
		return -1
	case r == 0x09, r == 0x0A, r == 0x0C, r == 0x0D, r == 0x1680, r >= 0x200B && r <= 0x200F, r == 0x2028, r == 0x2029, r == 0x2581,
		r == 0xFEFF, r == 0xFFFD:
		return ' '
	}
	return r
}

// bertWords cuts at blanks, which go, and around every punctuation character.
var bertWords = preSequence{runeSplit{unicode.IsSpace, remove}, runeSplit{punctuation, isolate}}

func parseCharDelimiter(raw json.RawMessage) (preTokenizer, error) {
	var c struct{ Type, Delimiter string }
	if err := strict(raw, &c); err != nil {
		return nil, err
	}
	r, n := utf8.DecodeRuneInString(c.Delimiter)
	if n == 0 || n != len(c.Delimiter) {
		return nil, fmt.Errorf("tokenizer: CharDelimiterSplit: delimiter %q is not one character", c.Delimiter)
	}
	return runeSplit{func(x rune) bool { return x == r }, remove}, nil
}

// fixedLength cuts into parts of so many characters.
type fixedLength int

func parseFixedLength(raw json.RawMessage) (preTokenizer, error) {
	c := struct {
		Type   string
		Length int
	}{Length: 5}
	if err := strict(raw, &c); err != nil {
		return nil, err
	}
	if c.Length < 1 {
		return nil, fmt.Errorf("tokenizer: FixedLength: length is %d; at least 1 is needed", c.Length)
	}
	return fixedLength(c.Length), nil
}

func (n fixedLength) split(p piece, out func(piece) error) error {
	from, count := 0, 0
	for i := range p.text {
		if count == int(n) {
			if err := out(piece{p.text[from:i], p.first && from == 0}); err != nil {
				return err
			}
			from, count = i, 0
		}
		count++
	}
	if from == len(p.text) {
		return nil
	}
	return out(piece{p.text[from:], p.first && from == 0})
}

// scripts cuts where the script changes. Kana count as Han, and spaces as the script before them; those in front are dropped, as in
// the tokenizers library.
type scripts struct{}

func (scripts) split(p piece, out func(piece) error) error {
	var last string
	from := -1
	for i, r := range p.text {
		script := scriptOf(r)
		if script == "" {
			continue
		}
		if script != last {
			if from >= 0 {
				if err := out(piece{p.text[from:i], p.first && from == 0}); err != nil {
					return err
				}
			}
			from, last = i, script
		}
	}
	if from < 0 {
		return nil
	}
	return out(piece{p.text[from:], p.first && from == 0})
}

// scriptOf returns the script of a character, "" for one that goes with any.
func scriptOf(r rune) string {
	switch {
	case r == ' ':
		return ""
	case r == 0x30FC || unicode.In(r, unicode.Hiragana, unicode.Katakana, unicode.Han):
		return "Han"
	case r|0x20 >= 'a' && r|0x20 <= 'z':
		return "Latin"
	case r < 0x80:
		return "Common"
	}
	for name, table := range unicode.Scripts {
		if unicode.Is(table, r) {
			return name
		}
	}
	return ""
}
