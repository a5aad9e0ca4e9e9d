package jinja

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

type tokenKind uint8

const (
	tokText tokenKind = iota
	tokVarBegin
	tokVarEnd
	tokBlockBegin
	tokBlockEnd
	tokName
	tokString
	tokInt
	tokFloat
	tokOp
	tokEOF
)

// token is one word of the source; s is its text, unescaped for strings.
type token struct {
	kind tokenKind
	s    string
	pos  pos
}

func (t token) String() string {
	switch t.kind {
	case tokEOF:
		return "the end of the template"
	case tokBlockEnd:
		return "'%}'"
	case tokVarEnd:
		return "'}}'"
	case tokText:
		return "text"
	case tokString:
		return "a string"
	}
	return "'" + t.s + "'"
}

// lexer cuts a source into tokens, with the white-space rules of trim_blocks and lstrip_blocks.
type lexer struct {
	name, src string
	at        int
	mark      int // byte of linePos
	linePos   pos
	lineStart bool // the last tag ended with a line break
	toks      []token
}

// tokenize cuts src. Line breaks become \n and one at the end is dropped, as jinja2 does.
func tokenize(name, src string) ([]token, error) {
	if len(src) > maxSource {
		return nil, &Error{Name: name, Line: 1, Col: 1, Reason: "the template is longer than 1 MiB", Remedy: "no chat template is; is this the right file?"}
	}
	src = strings.ReplaceAll(strings.ReplaceAll(src, "\r\n", "\n"), "\r", "\n")
	src = strings.TrimSuffix(src, "\n")
	l := &lexer{name: name, src: src, linePos: pos{1, 1}, lineStart: true}
	for l.at < len(l.src) {
		if err := l.root(); err != nil {
			return nil, err
		}
	}
	l.emit(tokEOF, "", len(l.src))
	return l.toks, nil
}

// posAt is the place of a byte at or after the last one asked for.
func (l *lexer) posAt(i int) pos {
	for l.mark < i {
		r, n := utf8.DecodeRuneInString(l.src[l.mark:])
		if l.mark += n; r == '\n' {
			l.linePos = pos{l.linePos.line + 1, 1}
		} else {
			l.linePos.col++
		}
	}
	return l.linePos
}

func (l *lexer) emit(k tokenKind, s string, i int) { l.toks = append(l.toks, token{k, s, l.posAt(i)}) }

func (l *lexer) fail(i int, format string, a ...any) error {
	return at(l.name, l.posAt(i), faultf(format, a...))
}

// root reads text up to the next tag, and that tag.
func (l *lexer) root() error {
	i, rest := l.at, l.src[l.at:]
	open := -1
	for j := 0; j+1 < len(rest); j++ {
		if rest[j] == '{' && (rest[j+1] == '{' || rest[j+1] == '%' || rest[j+1] == '#') {
			open = j
			break
		}
	}
	if open < 0 {
		l.text(rest, i)
		l.at = len(l.src)
		return nil
	}
	text, kind, after := rest[:open], rest[open+1], i+open+2
	sign := byte(0)
	if after < len(l.src) && (l.src[after] == '-' || l.src[after] == '+' && kind != '{') {
		sign = l.src[after]
		after++
	}
	l.text(l.strip(text, sign, kind != '{'), i)
	start := i + open
	switch kind {
	case '#':
		end := strings.Index(l.src[after:], "#}")
		if end < 0 {
			return l.fail(start, "the comment has no end '#}'")
		}
		trim := byte(0)
		if end > 0 {
			trim = l.src[after+end-1]
		}
		l.leave(after+end+2, trim, true)
		return nil
	case '%':
		if end, ok := l.rawTag(after, "raw"); ok {
			return l.raw(start, end)
		}
		l.emit(tokBlockBegin, "{%", start)
		return l.inside(after, "%}", tokBlockEnd)
	}
	l.emit(tokVarBegin, "{{", start)
	return l.inside(after, "}}", tokVarEnd)
}

// strip takes white space off the text before a tag: all of it for '-', the indent of a line for a block or comment.
func (l *lexer) strip(text string, sign byte, block bool) string {
	if sign == '-' {
		return strings.TrimRightFunc(text, isSpace)
	}
	if sign == '+' || !block {
		return text
	}
	from := strings.LastIndexByte(text, '\n') + 1
	if (from > 0 || l.lineStart) && strings.TrimFunc(text[from:], isSpace) == "" {
		return text[:from]
	}
	return text
}

func (l *lexer) text(s string, i int) {
	if s != "" {
		l.emit(tokText, s, i)
	}
}

// leave goes on after a tag that ends at i; sign is the mark before its end.
func (l *lexer) leave(i int, sign byte, block bool) {
	end := i
	if sign == '-' {
		end = len(l.src) - len(strings.TrimLeftFunc(l.src[i:], isSpace))
	} else if block && sign != '+' && strings.HasPrefix(l.src[i:], "\n") {
		end++
	}
	l.at, l.lineStart = end, end > 0 && l.src[end-1] == '\n'
}

// rawTag matches WORD -?%} after a block's opening and returns where the end of the tag begins.
func (l *lexer) rawTag(i int, word string) (int, bool) {
	rest := strings.TrimLeftFunc(l.src[i:], isSpace)
	rest, ok := strings.CutPrefix(rest, word)
	if !ok {
		return 0, false
	}
	rest = strings.TrimLeftFunc(rest, isSpace)
	j := len(l.src) - len(rest)
	return j, strings.HasPrefix(rest, "%}") || strings.HasPrefix(rest, "-%}") || word == "endraw" && strings.HasPrefix(rest, "+%}")
}

// raw copies text up to endraw; end is where the opening tag's own end begins.
func (l *lexer) raw(start, end int) error {
	if l.src[end] == '-' {
		l.leave(end+3, '-', true)
	} else {
		l.at, l.lineStart = end+2, false
	}
	from := l.at
	for j := from; ; {
		k := strings.Index(l.src[j:], "{%")
		if k < 0 {
			return l.fail(start, "the raw block has no endraw")
		}
		j += k + 2
		sign, after := byte(0), j
		if after < len(l.src) && (l.src[after] == '-' || l.src[after] == '+') {
			sign = l.src[after]
			after++
		}
		if close, ok := l.rawTag(after, "endraw"); ok {
			l.text(l.strip(l.src[from:j-2], sign, true), from)
			if l.src[close] == '%' {
				l.leave(close+2, 0, true)
			} else {
				l.leave(close+3, l.src[close], true)
			}
			return nil
		}
	}
}

// operators, longest first.
var operators = []string{"**", "//", "==", "!=", "<=", ">=", "<", ">", "=", "+", "-", "*", "/", "%", "~", "(", ")", "[", "]", "{", "}", ",", ".", ":", "|", ";"}

// inside reads the words of a tag up to its end.
func (l *lexer) inside(i int, end string, kind tokenKind) error {
	var open []byte
	for i < len(l.src) {
		rest := l.src[i:]
		r, n := utf8.DecodeRuneInString(rest)
		if isSpace(r) {
			i += n
			continue
		}
		if len(open) == 0 {
			sign, skip := byte(0), 0
			if rest[0] == '-' || rest[0] == '+' && kind == tokBlockEnd {
				sign, skip = rest[0], 1
			}
			if strings.HasPrefix(rest[skip:], end) {
				l.emit(kind, end, i)
				l.leave(i+skip+len(end), sign, kind == tokBlockEnd)
				return nil
			}
		}
		n, err := l.word(i, rest, r)
		if err != nil {
			return err
		}
		if t := l.toks[len(l.toks)-1]; t.kind == tokOp {
			if open, err = l.bracket(open, t.s[0], i); err != nil {
				return err
			}
		}
		i += n
	}
	return l.fail(i, "the tag has no end '%s'", end)
}

func (l *lexer) bracket(open []byte, c byte, i int) ([]byte, error) {
	switch c {
	case '(':
		return append(open, ')'), nil
	case '[':
		return append(open, ']'), nil
	case '{':
		return append(open, '}'), nil
	case ')', ']', '}':
		if len(open) == 0 || open[len(open)-1] != c {
			return nil, l.fail(i, "'%c' closes nothing", c)
		}
		return open[:len(open)-1], nil
	}
	return open, nil
}

// maxName bounds names in bytes: each is looked up time and again.
const maxName = 255

// word reads one name, string, number or operator and returns its length.
func (l *lexer) word(i int, rest string, r rune) (int, error) {
	switch {
	case r == '_' || unicode.IsLetter(r):
		n := strings.IndexFunc(rest, func(r rune) bool {
			return r != '_' && !unicode.IsLetter(r) && !unicode.IsDigit(r) && !unicode.IsMark(r)
		})
		if n < 0 {
			n = len(rest)
		}
		if n > maxName {
			return 0, l.fail(i, "a name of %d bytes; at most %d are allowed", n, maxName)
		}
		l.emit(tokName, rest[:n], i)
		return n, nil
	case r == '\'' || r == '"':
		s, n, err := unquote(rest)
		if err != nil {
			return 0, at(l.name, l.posAt(i), err)
		}
		l.emit(tokString, s, i)
		return n, nil
	case r >= '0' && r <= '9':
		// After a dot, "0.1" in x.0.1 are two subscripts, not a fraction.
		dotted := len(l.toks) > 0 && l.toks[len(l.toks)-1].kind == tokOp && l.toks[len(l.toks)-1].s == "."
		s, isFloat := numeral(rest, dotted)
		kind := tokInt
		if isFloat {
			kind = tokFloat
		}
		l.emit(kind, s, i)
		return len(s), nil
	}
	for _, op := range operators {
		if strings.HasPrefix(rest, op) {
			l.emit(tokOp, op, i)
			return len(op), nil
		}
	}
	return 0, l.fail(i, "the character %q has no meaning here", r)
}

// numeral is the longest number at the start of s.
func numeral(s string, dotted bool) (string, bool) {
	n := 1
	if s[0] == '0' && len(s) > 1 && strings.ContainsRune("xXoObB", rune(s[1])) {
		for n = 2; n < len(s) && (s[n] == '_' || isHex(s[n])); n++ {
		}
		return s[:n], false
	}
	digits := func() {
		for n < len(s) && (s[n] >= '0' && s[n] <= '9' || s[n] == '_' && n+1 < len(s) && s[n+1] >= '0' && s[n+1] <= '9') {
			n++
		}
	}
	digits()
	if dotted {
		return s[:n], false
	}
	isFloat := false
	if n+1 < len(s) && s[n] == '.' && s[n+1] >= '0' && s[n+1] <= '9' {
		n, isFloat = n+1, true
		digits()
	}
	if n < len(s) && (s[n] == 'e' || s[n] == 'E') {
		k := n + 1
		if k < len(s) && (s[k] == '+' || s[k] == '-') {
			k++
		}
		if k < len(s) && s[k] >= '0' && s[k] <= '9' {
			n, isFloat = k, true
			digits()
		}
	}
	return s[:n], isFloat
}

func isHex(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F'
}

// isSpace is Python's str.isspace, which also counts the four separators of ASCII.
func isSpace(r rune) bool { return unicode.IsSpace(r) || r >= 0x1c && r <= 0x1f }
