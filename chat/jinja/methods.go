package jinja

import (
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

type method func(m *machine, v Value, a *args) (Value, error)

// methods are what values have, by kind and name: those of Python's types that change nothing.
var methods = map[string]map[string]method{
	"dict": {
		"get": dictGet, "keys": dictKeys, "values": dictValues, "items": dictItems,
		"copy": func(m *machine, v Value, _ *args) (Value, error) {
			return v.(*Dict).Clone(), m.copies(v.(*Dict))
		},
	},
	"list":  {"index": listIndex, "count": listCount, "copy": func(_ *machine, v Value, _ *args) (Value, error) { return v, nil }},
	"tuple": {"index": listIndex, "count": listCount},
	"float": {"is_integer": func(_ *machine, v Value, _ *args) (Value, error) {
		return Bool(float64(v.(Float)) == float64(int64(v.(Float)))), nil
	}},
	"string": {
		"upper": mapString(strings.ToUpper), "lower": mapString(strings.ToLower), "casefold": mapString(strings.ToLower),
		"capitalize": mapString(capitalize), "title": mapString(title), "swapcase": mapString(swapCase),
		"strip": stripString(true, true), "lstrip": stripString(true, false), "rstrip": stripString(false, true),
		"split": splitString(false), "rsplit": splitString(true), "splitlines": splitLines, "join": joinString,
		"startswith": affix(strings.HasPrefix), "endswith": affix(strings.HasSuffix), "replace": replaceString,
		"removeprefix": cutAffix(strings.TrimPrefix), "removesuffix": cutAffix(strings.TrimSuffix),
		"partition": partition(strings.Index), "rpartition": partition(strings.LastIndex),
		"find": findString(strings.Index, false), "rfind": findString(strings.LastIndex, false),
		"index": findString(strings.Index, true), "rindex": findString(strings.LastIndex, true), "count": countString,
		"center": padString(true, true), "ljust": padString(false, true), "rjust": padString(true, false), "zfill": zfill,
		"isdigit": every(unicode.IsDigit), "isdecimal": every(unicode.IsDigit), "isnumeric": every(unicode.IsNumber),
		"isalpha": every(unicode.IsLetter), "isspace": every(isSpace),
		"isalnum": every(func(r rune) bool { return unicode.IsLetter(r) || unicode.IsNumber(r) }),
		"isascii": func(m *machine, v Value, _ *args) (Value, error) {
			return Bool(strings.IndexFunc(string(v.(String)), func(r rune) bool { return r >= utf8.RuneSelf }) < 0), m.scan(len(v.(String)))
		},
		"islower": isCased(unicode.IsUpper, unicode.IsLower), "isupper": isCased(unicode.IsLower, unicode.IsUpper),
		"istitle": func(m *machine, v Value, _ *args) (Value, error) {
			s := string(v.(String))
			if err := cmpErr(m.grow(len(s)), m.scan(len(s))); err != nil {
				return nil, err
			}
			return Bool(s == title(s) && strings.ContainsFunc(s, unicode.IsLetter)), nil
		},
		"format": formatString,
	},
}

func dictGet(m *machine, v Value, a *args) (Value, error) {
	p, err := a.take("get", "key", "default")
	if err != nil || p[0] == nil {
		return nil, cmpErr(err, faultf("get takes a key"))
	}
	if x, ok, err := m.find(v.(*Dict), p[0]); ok || err != nil {
		return x, err
	}
	if p[1] != nil {
		return p[1], nil
	}
	return None{}, nil
}

// cmpErr is the first error there is.
func cmpErr(errs ...error) error {
	for _, e := range errs {
		if e != nil {
			return e
		}
	}
	return nil
}

func dictKeys(_ *machine, v Value, _ *args) (Value, error) {
	return &List{Items: v.(*Dict).keys}, nil
}

func dictValues(_ *machine, v Value, _ *args) (Value, error) {
	return &List{Items: v.(*Dict).vals}, nil
}

func dictItems(m *machine, v Value, _ *args) (Value, error) {
	d := v.(*Dict)
	if err := m.items(4 * d.Len()); err != nil {
		return nil, err
	}
	out := make([]Value, d.Len())
	for i, k := range d.keys {
		out[i] = &Tuple{Items: []Value{k, d.vals[i]}}
	}
	return &List{Items: out}, nil
}

func listIndex(m *machine, v Value, a *args) (Value, error) {
	p, err := a.take("index", "value")
	if err != nil || p[0] == nil {
		return nil, cmpErr(err, faultf("index takes a value"))
	}
	items, err := m.list(v)
	if err != nil {
		return nil, err
	}
	for i, it := range items {
		if same, err := m.equal(it, p[0], 0); err != nil || same {
			return Int(i), err
		}
	}
	return nil, faultf("the value is not in the %s", v.kind())
}

func listCount(m *machine, v Value, a *args) (Value, error) {
	p, err := a.take("count", "value")
	if err != nil || p[0] == nil {
		return nil, cmpErr(err, faultf("count takes a value"))
	}
	items, err := m.list(v)
	if err != nil {
		return nil, err
	}
	n := 0
	for _, it := range items {
		same, err := m.equal(it, p[0], 0)
		if err != nil {
			return nil, err
		}
		if same {
			n++
		}
	}
	return Int(n), nil
}

// mapString makes a method of a function from string to string.
func mapString(f func(string) string) method {
	return func(m *machine, v Value, a *args) (Value, error) {
		s := string(v.(String))
		if err := cmpErr(a.none(), m.grow(2*len(s)), m.scan(len(s))); err != nil {
			return nil, err
		}
		return m.str(f(s))
	}
}

func capitalize(s string) string {
	_, n := utf8.DecodeRuneInString(s)
	return strings.ToUpper(s[:n]) + strings.ToLower(s[n:])
}

// title starts each word with a capital, a word being letters on end.
func title(s string) string {
	inWord := false
	return strings.Map(func(r rune) rune {
		was := inWord
		inWord = unicode.IsLetter(r)
		if was {
			return unicode.ToLower(r)
		}
		return unicode.ToTitle(r)
	}, s)
}

func swapCase(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsUpper(r) {
			return unicode.ToLower(r)
		}
		return unicode.ToUpper(r)
	}, s)
}

func stripString(left, right bool) method {
	return func(m *machine, v Value, a *args) (Value, error) {
		p, err := a.take("strip", "chars")
		if err != nil {
			return nil, err
		}
		s := string(v.(String))
		in := isSpace
		if p[0] != nil && p[0] != Value(None{}) {
			chars, ok := p[0].(String)
			if !ok {
				return nil, faultf("strip takes a string of characters, and not %s", article(p[0]))
			}
			// Each character of s may be sought in all of chars.
			if err := m.spend((1 + len(s)/32) * (1 + len(chars)/32)); err != nil {
				return nil, err
			}
			in = func(r rune) bool { return strings.ContainsRune(string(chars), r) }
		}
		if left {
			s = strings.TrimLeftFunc(s, in)
		}
		if right {
			s = strings.TrimRightFunc(s, in)
		}
		return String(s), m.scan(len(v.(String)))
	}
}

func splitString(fromRight bool) method {
	return func(m *machine, v Value, a *args) (Value, error) {
		p, err := a.take("split", "sep", "maxsplit")
		if err != nil {
			return nil, err
		}
		s, limit := string(v.(String)), int64(-1)
		if p[1] != nil {
			var ok bool
			if limit, ok = integer(p[1]); !ok {
				return nil, faultf("the maxsplit of split is a whole number")
			}
		}
		if limit < 0 || limit > int64(len(s)) {
			limit = int64(len(s)) + 1
		}
		if err := m.scan(len(s)); err != nil {
			return nil, err
		}
		var parts []string
		if p[0] == nil || p[0] == Value(None{}) {
			if err := m.items(2 * min(words(s), int(limit)+1)); err != nil {
				return nil, err
			}
			parts = splitSpace(s, int(limit), fromRight)
		} else if sep, ok := p[0].(String); !ok || sep == "" {
			return nil, faultf("split takes a separator that is not empty, and not %s", article(p[0]))
		} else if err := m.items(2 * strings.Count(s, string(sep))); err != nil {
			return nil, err
		} else {
			parts = splitAt(s, string(sep), int(limit), fromRight)
		}
		return m.strings(parts)
	}
}

// strings is a list of them; they share the bytes of what they were cut from.
func (m *machine) strings(parts []string) (Value, error) {
	if err := m.items(2 * len(parts)); err != nil {
		return nil, err
	}
	out := make([]Value, len(parts))
	for i, s := range parts {
		out[i] = String(s)
	}
	return &List{Items: out}, nil
}

func splitAt(s, sep string, limit int, fromRight bool) []string {
	switch {
	case !fromRight && limit >= strings.Count(s, sep): // SplitN makes room for limit parts at once
		return strings.Split(s, sep)
	case !fromRight:
		return strings.SplitN(s, sep, limit+1)
	}
	var out []string
	for ; limit > 0; limit-- {
		i := strings.LastIndex(s, sep)
		if i < 0 {
			break
		}
		out = append(out, s[i+len(sep):])
		s = s[:i]
	}
	out = append(out, s)
	slices.Reverse(out)
	return out
}

// words is how many parts splitSpace gives without a limit.
func words(s string) int {
	n, in := 0, false
	for _, r := range s {
		was := in
		if in = !isSpace(r); in && !was {
			n++
		}
	}
	return n
}

// splitSpace is split() without a separator: at runs of white space, none at the ends.
func splitSpace(s string, limit int, fromRight bool) []string {
	var out []string
	if fromRight {
		for s = strings.TrimRightFunc(s, isSpace); s != ""; limit-- {
			i := strings.LastIndexFunc(s, isSpace)
			if i < 0 || limit <= 0 {
				out = append(out, s)
				break
			}
			_, w := utf8.DecodeRuneInString(s[i:])
			out = append(out, s[i+w:])
			s = strings.TrimRightFunc(s[:i], isSpace)
		}
		slices.Reverse(out)
		return out
	}
	for s = strings.TrimLeftFunc(s, isSpace); s != ""; limit-- {
		i := strings.IndexFunc(s, isSpace)
		if i < 0 || limit <= 0 {
			return append(out, s)
		}
		out = append(out, s[:i])
		s = strings.TrimLeftFunc(s[i:], isSpace)
	}
	return out
}

// lineBreaks end a line in Python.
const lineBreaks = "\n\r\v\f\x1c\x1d\x1e\u0085\u2028\u2029"

// breaks counts them.
func breaks(s string) int {
	n := 0
	for _, r := range lineBreaks {
		n += strings.Count(s, string(r))
	}
	return n
}

func splitLines(m *machine, v Value, a *args) (Value, error) {
	p, err := a.take("splitlines", "keepends")
	if err != nil {
		return nil, err
	}
	keep := p[0] != nil && truth(p[0])
	s := string(v.(String))
	if err := cmpErr(m.scan(len(s)), m.items(2*breaks(s))); err != nil {
		return nil, err
	}
	var out []string
	for s != "" {
		i := strings.IndexAny(s, lineBreaks)
		if i < 0 {
			out = append(out, s)
			break
		}
		_, w := utf8.DecodeRuneInString(s[i:])
		if strings.HasPrefix(s[i:], "\r\n") {
			w = 2
		}
		if keep {
			out = append(out, s[:i+w])
		} else {
			out = append(out, s[:i])
		}
		s = s[i+w:]
	}
	return m.strings(out)
}

func joinString(m *machine, v Value, a *args) (Value, error) {
	p, err := a.take("join", "iterable")
	if err != nil || p[0] == nil {
		return nil, cmpErr(err, faultf("join takes a list"))
	}
	items, err := m.list(p[0])
	if err == nil {
		err = m.items(len(items))
	}
	if err != nil {
		return nil, err
	}
	parts, n := make([]string, len(items)), 0
	for i, it := range items {
		s, ok := it.(String)
		if !ok {
			return nil, &fault{reason: "join joins strings, and item " + Int(i).text() + " is " + article(it), remedy: "the filter join takes any value"}
		}
		parts[i] = string(s)
		n += len(s)
	}
	return m.joined(parts, string(v.(String)), n)
}

// joined joins parts that have n bytes together.
func (m *machine) joined(parts []string, sep string, n int) (Value, error) {
	if len(parts) > 1 {
		n += (len(parts) - 1) * len(sep)
	}
	if err := m.grow(n); err != nil {
		return nil, err
	}
	return String(strings.Join(parts, sep)), nil
}
