package tokenizer

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// A normalizer rewrites text before it is cut. It is never given an empty text.
type normalizer func(string) (string, error)

// parseNormalizer reads the normalizer of a tokenizer.json; null gives nil.
func parseNormalizer(raw json.RawMessage, depth int) (normalizer, error) {
	name, err := componentType(raw, "normalizer", depth)
	if err != nil || name == "null" {
		return nil, err
	}
	switch name {
	case "Sequence":
		return parseNormalizerSequence(raw, depth)
	case "NFC":
		return unicodeForm(norm.NFC), nil
	case "NFD":
		return unicodeForm(norm.NFD), nil
	case "NFKC":
		return unicodeForm(norm.NFKC), nil
	case "NFKD":
		return unicodeForm(norm.NFKD), nil
	case "Lowercase":
		return lowercase, nil
	case "StripAccents":
		return stripAccents, nil
	case "Strip":
		return parseStripNormalizer(raw)
	case "Prepend":
		var c struct{ Type, Prepend string }
		err := strict(raw, &c)
		return func(s string) (string, error) { return c.Prepend + s, nil }, err
	case "BertNormalizer":
		return parseBertNormalizer(raw)
	case "Nmt":
		return func(s string) (string, error) { return strings.Map(nmtRune, s), nil }, nil
	case "ByteLevel":
		return func(s string) (string, error) { return spellBytes(s), nil }, nil
	case "Precompiled":
		var c struct {
			Type string
			Map  []byte `json:"precompiled_charsmap"`
		}
		if err := strict(raw, &c); err != nil {
			return nil, err
		}
		if len(c.Map) == 0 {
			return nil, nil
		}
		m, err := parseCharsMap(c.Map)
		if err != nil {
			return nil, err
		}
		return m.normalize, nil
	case "Replace":
		p, content, err := parseReplace(raw)
		return func(s string) (string, error) { return p.replace(s, content) }, err
	}
	return nil, unsupported("normalizer", name,
		"Sequence", "NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "Strip", "Prepend", "Replace",
		"BertNormalizer", "Nmt", "ByteLevel", "Precompiled")
}

func parseNormalizerSequence(raw json.RawMessage, depth int) (normalizer, error) {
	var c struct {
		Type        string
		Normalizers []json.RawMessage
	}
	if err := strict(raw, &c); err != nil {
		return nil, err
	}
	var seq []normalizer
	for _, r := range c.Normalizers {
		n, err := parseNormalizer(r, depth+1)
		if err != nil {
			return nil, err
		}
		if n != nil {
			seq = append(seq, n)
		}
	}
	return func(s string) (string, error) {
		var err error
		limit := maxGrown(s)
		for _, n := range seq {
			if s == "" {
				return s, nil
			}
			if s, err = n(s); err != nil {
				return "", err
			}
			if len(s) > limit {
				return "", errGrown
			}
		}
		return s, nil
	}, nil
}

// errGrown stops normalizers that blow a text up, as a hostile file could by replacing a letter by two again and again.
var errGrown = errors.New("tokenizer: the normalizer makes the text more than 64 times as long; the file is damaged or hostile")

// maxGrown is how long a text may become; the constant is for what is written before every one.
func maxGrown(s string) int { return 1<<10 + 64*len(s) }

func parseReplace(raw json.RawMessage) (*pattern, string, error) {
	var c struct {
		Type    string
		Pattern json.RawMessage
		Content string
	}
	if err := strict(raw, &c); err != nil {
		return nil, "", err
	}
	p, err := parsePattern(c.Pattern)
	return p, c.Content, err
}

func parseStripNormalizer(raw json.RawMessage) (normalizer, error) {
	c := struct {
		Type  string
		Left  bool `json:"strip_left"`
		Right bool `json:"strip_right"`
	}{Left: true, Right: true}
	err := strict(raw, &c)
	return func(s string) (string, error) {
		if c.Left {
			s = strings.TrimLeftFunc(s, unicode.IsSpace)
		}
		if c.Right {
			s = strings.TrimRightFunc(s, unicode.IsSpace)
		}
		return s, nil
	}, err
}

// lowercase maps character by character; U+0130 is the only one whose lower case has two characters.
func lowercase(s string) (string, error) {
	return strings.ReplaceAll(strings.Map(func(r rune) rune {
		if r == 'İ' {
			return r
		}
		return unicode.ToLower(r)
	}, s), "İ", "i\u0307"), nil
}

func stripAccents(s string) (string, error) {
	return strings.Map(func(r rune) rune {
		if unicode.Is(unicode.M, r) {
			return -1
		}
		return r
	}, s), nil
}

// maxNonStarters is the run of combining marks after which the norm package inserts U+034F, which the Unicode forms do not.
const maxNonStarters = 30

func unicodeForm(form norm.Form) normalizer {
	return func(s string) (string, error) {
		if form.IsNormalString(s) {
			return s, nil
		}
		if !longMarks(s) {
			return form.String(s), nil
		}
		return plainForm(s, form), nil
	}
}

// longMarks reports whether s may hold a run of combining marks that is too long for the norm package. Characters count as the
// marks they decompose into, at most four each.
func longMarks(s string) bool {
	n := 0
	for _, r := range s {
		if r >= 0x300 && norm.NFD.PropertiesString(string(r)).LeadCCC() != 0 {
			n += 4
		} else {
			n = 4
		}
		if n >= maxNonStarters {
			return true
		}
	}
	return false
}

// plainForm applies a Unicode form (UAX 15) without a limit on combining marks: decompose, sort marks by class, compose.
func plainForm(s string, form norm.Form) string {
	decompose := norm.NFD
	if form == norm.NFKC || form == norm.NFKD {
		decompose = norm.NFKD
	}
	var rs []rune
	for len(s) > 0 {
		_, n := utf8.DecodeRuneInString(s)
		rs = append(rs, []rune(decompose.String(s[:n]))...)
		s = s[n:]
	}
	class := make([]uint8, len(rs))
	for i, r := range rs {
		class[i] = norm.NFD.PropertiesString(string(r)).CCC()
	}
	for i := 0; i < len(rs); {
		j := i + 1
		if class[i] != 0 {
			for j < len(rs) && class[j] != 0 {
				j++
			}
			slices.SortStableFunc(rs[i:j], func(a, b rune) int {
				return int(norm.NFD.PropertiesString(string(a)).CCC()) - int(norm.NFD.PropertiesString(string(b)).CCC())
			})
		}
		i = j
	}
	if form == norm.NFC || form == norm.NFKC {
		rs = compose(rs)
	}
	return string(rs)
}

// compose joins each starter with the later marks that nothing of the same or a higher class keeps from it.
func compose(rs []rune) []rune {
	out := rs[:0]
	starter, last := -1, -1 // index in out of the last starter; class of the character before
	for _, r := range rs {
		c := int(norm.NFD.PropertiesString(string(r)).CCC())
		if starter >= 0 && last < c {
			pair := string(out[starter]) + string(r)
			if joined := norm.NFC.String(pair); utf8.RuneCountInString(joined) == 1 {
				out[starter], _ = utf8.DecodeRuneInString(joined)
				continue
			}
		}
		if c == 0 {
			starter, last = len(out), -1
		} else {
			last = c
		}
		out = append(out, r)
	}
	return out
}
