package jinja

import (
	"strconv"
	"strings"
	"unicode/utf8"
)

var simpleEscapes = map[byte]string{
	'\n': "", '\\': "\\", '\'': "'", '"': "\"", 'a': "\a", 'b': "\b", 'f': "\f", 'n': "\n", 'r': "\r", 't': "\t", 'v': "\v",
}

// unquote reads the string literal at the start of s, with Python's escapes, and returns how many bytes it takes.
func unquote(s string) (string, int, error) {
	quote := s[0]
	var b strings.Builder
	for i := 1; i < len(s); {
		switch c := s[i]; {
		case c == quote:
			return b.String(), i + 1, nil
		case c != '\\':
			b.WriteByte(c)
			i++
		case i+1 >= len(s):
			return "", 0, faultf("the string has no end")
		default:
			n, err := escape(&b, s[i:])
			if err != nil {
				return "", 0, err
			}
			i += n
		}
	}
	return "", 0, faultf("the string has no end")
}

// escape writes what the escape at the start of s means and returns its length. One that means nothing stays as it is.
func escape(b *strings.Builder, s string) (int, error) {
	c := s[1]
	if r, ok := simpleEscapes[c]; ok {
		b.WriteString(r)
		return 2, nil
	}
	if c >= '0' && c <= '7' {
		n := 2
		for n < len(s) && n < 4 && s[n] >= '0' && s[n] <= '7' {
			n++
		}
		v, _ := strconv.ParseUint(s[1:n], 8, 32)
		b.WriteRune(rune(v))
		return n, nil
	}
	width := map[byte]int{'x': 2, 'u': 4, 'U': 8}[c]
	if c == 'N' {
		return 0, faultf("the escape \\N{...} is not supported; write the character itself or \\u and four digits")
	}
	if width == 0 {
		b.WriteByte('\\')
		return 1, nil
	}
	if len(s) < 2+width {
		return 0, faultf("the escape \\%c needs %d hexadecimal digits", c, width)
	}
	v, err := strconv.ParseUint(s[2:2+width], 16, 32)
	if err != nil || v > utf8.MaxRune {
		return 0, faultf("the escape %q is not a character", s[:2+width])
	}
	b.WriteRune(rune(v))
	return 2 + width, nil
}
