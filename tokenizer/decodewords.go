package tokenizer

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
)

// parseWordPieceDecoder joins the parts of a word and puts spaces between words.
func parseWordPieceDecoder(raw json.RawMessage) (decoder, error) {
	c := struct {
		Type, Prefix string
		Cleanup      bool
	}{Prefix: "##", Cleanup: true}
	err := strict(raw, &c)
	return func(tokens []string) []string {
		out := make([]string, len(tokens))
		for i, t := range tokens {
			if i > 0 {
				if rest, ok := strings.CutPrefix(t, c.Prefix); ok {
					t = rest
				} else {
					t = " " + t
				}
			}
			if c.Cleanup {
				t = cleanUp(t)
			}
			out[i] = t
		}
		return out
	}, err
}

// cleanUp draws English punctuation and endings to the word before, in the order of the tokenizers library.
func cleanUp(s string) string {
	for _, r := range [][2]string{
		{" .", "."}, {" ?", "?"}, {" !", "!"}, {" ,", ","}, {" ' ", "'"}, {" n't", "n't"}, {" 'm", "'m"}, {" do not", " don't"},
		{" 's", "'s"}, {" 've", "'ve"}, {" 're", "'re"},
	} {
		s = strings.ReplaceAll(s, r[0], r[1])
	}
	return s
}

// parseCTCDecoder drops repeated tokens and padding, as connectionist temporal classification does.
func parseCTCDecoder(raw json.RawMessage) (decoder, error) {
	c := struct {
		Type    string
		Pad     string `json:"pad_token"`
		Space   string `json:"word_delimiter_token"`
		Cleanup bool
	}{Pad: "<pad>", Space: "|", Cleanup: true}
	err := strict(raw, &c)
	erase := func(s, old, with string) string {
		if old == "" {
			return s
		}
		return strings.ReplaceAll(s, old, with)
	}
	return func(tokens []string) []string {
		out := make([]string, 0, len(tokens))
		for i, t := range tokens {
			if i > 0 && t == tokens[i-1] {
				continue
			}
			t = erase(t, c.Pad, "")
			if c.Cleanup {
				t = erase(cleanUp(t), c.Space, " ")
			}
			if t != "" {
				out = append(out, t)
			}
		}
		return out
	}, err
}

// maxDecodeGrowth caps how many times as long the Replace decoders of a file, together, may make a token.
const maxDecodeGrowth = 64

// parseReplaceDecoder replaces within each token. A regular expression is run by an engine that takes linear time, since decoding
// reports no errors.
func parseReplaceDecoder(raw json.RawMessage) (decoder, int, error) {
	var c struct {
		Type    string
		Pattern map[string]string
		Content string
	}
	if err := strict(raw, &c); err != nil {
		return nil, 0, err
	}
	literal, isLiteral := c.Pattern["String"]
	expr, isRegex := c.Pattern["Regex"]
	if len(c.Pattern) != 1 || !isLiteral && !isRegex {
		return nil, 0, fmt.Errorf(`tokenizer: a pattern is {"String": ...} or {"Regex": ...}, not %s`, clip(raw))
	}
	replace := func(s string) string { return strings.ReplaceAll(s, literal, c.Content) }
	growth := 1
	switch {
	case isRegex:
		re, err := compileLinear(expr)
		if err != nil {
			return nil, 0, err
		}
		replace = func(s string) string { return re.ReplaceAllLiteralString(s, c.Content) }
		growth = len(c.Content) + 1
	case literal == "":
		return func(tokens []string) []string { return tokens }, 1, nil
	case len(c.Content) > len(literal):
		growth = (len(c.Content) + len(literal) - 1) / len(literal)
	}
	return func(tokens []string) []string {
		out := make([]string, len(tokens))
		for i, t := range tokens {
			out[i] = replace(t)
		}
		return out
	}, growth, nil
}

func compileLinear(expr string) (*regexp.Regexp, error) {
	if len(expr) > maxPattern {
		return nil, fmt.Errorf("tokenizer: a regular expression of %d bytes; the limit is %d", len(expr), maxPattern)
	}
	what := foreign(expr)
	for _, shorthand := range []string{`\s`, `\S`, `\w`, `\W`, `\d`, `\D`, `\b`, `\B`} {
		if what == "" && strings.Contains(expr, shorthand) {
			what = shorthand // only ASCII in this engine
		}
	}
	re, err := regexp.Compile("(?m:" + expr + ")")
	switch {
	case what != "":
		return nil, fmt.Errorf("tokenizer: decoder Replace: regular expression %q uses %s, which is %w", expr, what, ErrUnsupported)
	case err != nil:
		return nil, fmt.Errorf("tokenizer: decoder Replace: regular expression %q is %w: %w", expr, ErrUnsupported, err)
	case re.MatchString(""):
		return nil, fmt.Errorf("tokenizer: decoder Replace: regular expression %q matches nothing, which is %w", expr, ErrUnsupported)
	}
	return re, nil
}
