package checkpoint

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// scanner is a strict JSON reader for the few grammars of this package. Unlike encoding/json it keeps the case of keys, lets the
// caller see duplicates, refuses bad UTF-8, and allocates only what the caller keeps.
type scanner struct {
	b []byte
	i int
}

const maxJSONDepth = 64

func (s *scanner) errorf(format string, args ...any) error {
	return fmt.Errorf("byte %d: %s", s.i, fmt.Sprintf(format, args...))
}

func (s *scanner) space() {
	for s.i < len(s.b) && strings.IndexByte(" \t\r\n", s.b[s.i]) >= 0 {
		s.i++
	}
}

// peek returns the next byte that is not white space, 0 at the end.
func (s *scanner) peek() byte {
	s.space()
	if s.i >= len(s.b) {
		return 0
	}
	return s.b[s.i]
}

func (s *scanner) expect(c byte) error {
	if got := s.peek(); got != c || s.i >= len(s.b) {
		return s.errorf("expected %q, found %s", c, s.found())
	}
	s.i++
	return nil
}

func (s *scanner) found() string {
	if s.i >= len(s.b) {
		return "the end"
	}
	return strconv.QuoteRune(rune(s.b[s.i]))
}

// end checks that only white space is left.
func (s *scanner) end() error {
	s.space()
	if s.i < len(s.b) {
		return s.errorf("expected the end, found %s", s.found())
	}
	return nil
}

// object calls f for each key, with the scanner at its value.
func (s *scanner) object(keyLimit int, f func(key string) error) error {
	if err := s.expect('{'); err != nil {
		return err
	}
	if s.peek() == '}' {
		s.i++
		return nil
	}
	for {
		s.space()
		key, err := s.str(keyLimit)
		if err != nil {
			return err
		}
		if err := s.expect(':'); err != nil {
			return err
		}
		if err := f(key); err != nil {
			return err
		}
		if s.peek() == ',' {
			s.i++
			continue
		}
		return s.expect('}')
	}
}

// array calls f for each element, with the scanner at it.
func (s *scanner) array(f func() error) error {
	if err := s.expect('['); err != nil {
		return err
	}
	if s.peek() == ']' {
		s.i++
		return nil
	}
	for {
		s.space()
		if err := f(); err != nil {
			return err
		}
		if s.peek() == ',' {
			s.i++
			continue
		}
		return s.expect(']')
	}
}

// uint reads a whole number 0..2^63-1 without sign, fraction or exponent.
func (s *scanner) uint() (int64, error) {
	s.space()
	start, n := s.i, uint64(0)
	for s.i < len(s.b) && s.b[s.i] >= '0' && s.b[s.i] <= '9' {
		d := uint64(s.b[s.i] - '0')
		if n > (math.MaxInt64-d)/10 {
			return 0, s.errorf("the number is beyond 2^63-1")
		}
		n = n*10 + d
		s.i++
	}
	switch {
	case s.i == start:
		return 0, s.errorf("expected a whole number that is not negative, found %s", s.found())
	case s.b[start] == '0' && s.i > start+1:
		return 0, s.errorf("a number with a leading zero")
	case s.i < len(s.b) && strings.IndexByte(".eE", s.b[s.i]) >= 0:
		return 0, s.errorf("expected a whole number, found a fraction or exponent")
	}
	return int64(n), nil
}

// str reads a string of at most limit bytes.
func (s *scanner) str(limit int) (string, error) {
	if err := s.expect('"'); err != nil {
		return "", err
	}
	start := s.i
	for s.i < len(s.b) && s.b[s.i] != '"' && s.b[s.i] != '\\' && s.b[s.i] >= 0x20 && s.i-start <= limit {
		s.i++
	}
	raw := s.b[start:s.i]
	if s.i < len(s.b) && s.b[s.i] == '"' && len(raw) <= limit {
		if !utf8.Valid(raw) {
			return "", s.errorf("the string is not valid UTF-8")
		}
		s.i++
		return string(raw), nil
	}
	return s.slowStr(raw, limit)
}

// slowStr continues a string that holds escapes (or an error) after its plain beginning.
func (s *scanner) slowStr(head []byte, limit int) (string, error) {
	out := append(make([]byte, 0, len(head)+16), head...)
	for {
		switch {
		case len(out) > limit:
			return "", s.errorf("a string longer than %d bytes", limit)
		case s.i >= len(s.b):
			return "", s.errorf("the string does not end")
		case s.b[s.i] < 0x20:
			return "", s.errorf("a control character inside a string")
		}
		c := s.b[s.i]
		s.i++
		switch c {
		case '"':
			if !utf8.Valid(out) {
				return "", s.errorf("the string is not valid UTF-8")
			}
			return string(out), nil
		case '\\':
			var err error
			if out, err = s.escape(out); err != nil {
				return "", err
			}
		default:
			out = append(out, c)
		}
	}
}

func (s *scanner) escape(out []byte) ([]byte, error) {
	if s.i >= len(s.b) {
		return nil, s.errorf("the string does not end")
	}
	c := s.b[s.i]
	s.i++
	if c == 'u' {
		r, err := s.hex4()
		if err != nil {
			return nil, err
		}
		if utf16.IsSurrogate(r) {
			if s.i+1 >= len(s.b) || s.b[s.i] != '\\' || s.b[s.i+1] != 'u' {
				return nil, s.errorf("half of a surrogate pair")
			}
			s.i += 2
			low, err := s.hex4()
			if err != nil {
				return nil, err
			}
			if r = utf16.DecodeRune(r, low); r == utf8.RuneError {
				return nil, s.errorf("half of a surrogate pair")
			}
		}
		return utf8.AppendRune(out, r), nil
	}
	at := strings.IndexByte(`"\/bfnrt`, c)
	if at < 0 {
		return nil, s.errorf("unknown escape %q", c)
	}
	return append(out, "\"\\/\b\f\n\r\t"[at]), nil
}

func (s *scanner) hex4() (rune, error) {
	if len(s.b)-s.i < 4 {
		return 0, s.errorf("the string does not end")
	}
	n := rune(0)
	for range 4 {
		d := strings.IndexByte("0123456789abcdef", s.b[s.i]|0x20)
		if d < 0 || s.b[s.i] < '0' {
			return 0, s.errorf("expected four hexadecimal digits")
		}
		n = n<<4 | rune(d)
		s.i++
	}
	return n, nil
}

// skip passes over any value.
func (s *scanner) skip(depth int) error {
	if depth > maxJSONDepth {
		return s.errorf("values nested deeper than %d", maxJSONDepth)
	}
	switch s.peek() {
	case '{':
		return s.object(len(s.b), func(string) error { return s.skip(depth + 1) })
	case '[':
		return s.array(func() error { return s.skip(depth + 1) })
	case '"':
		_, err := s.str(len(s.b))
		return err
	}
	start := s.i
	for s.i < len(s.b) && strings.IndexByte(",]} \t\r\n", s.b[s.i]) < 0 {
		s.i++
	}
	switch word := string(s.b[start:s.i]); word {
	case "true", "false", "null":
	default:
		if _, err := strconv.ParseFloat(word, 64); err != nil || strings.Trim(word, "-+.eE0123456789") != "" {
			s.i = start
			return s.errorf("expected a value, found %s", s.found())
		}
	}
	return nil
}

// quoted prints a name from a file: escaped, and cut when it is long.
func quoted(name string) string {
	const limit = 200
	if len(name) > limit {
		return strconv.Quote(name[:limit]) + "..."
	}
	return strconv.Quote(name)
}

// appendJSONString writes a string as Rust's serde_json does: only quotes, backslashes and control characters are escaped.
func appendJSONString(out []byte, s string) []byte {
	out = append(out, '"')
	for i := range len(s) {
		c := s[i]
		if at := strings.IndexByte("\"\\\b\f\n\r\t", c); at >= 0 {
			out = append(out, '\\', `"\bfnrt`[at])
		} else if c < 0x20 {
			out = fmt.Appendf(out, `\u%04x`, c)
		} else {
			out = append(out, c)
		}
	}
	return append(out, '"')
}

func tooLarge(size, limit int64) string {
	return fmt.Sprintf("%d bytes, more than the limit of %d", size, limit)
}
