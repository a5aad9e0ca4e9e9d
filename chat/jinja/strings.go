package jinja

import (
	"strconv"
	"strings"
	"unicode/utf8"
)

func (i Int) text() string { return strconv.FormatInt(int64(i), 10) }

// stringArg is p as a string, with a message that names what wants it.
func stringArg(what string, p Value) (string, error) {
	if s, ok := p.(String); ok {
		return string(s), nil
	}
	if p == nil {
		return "", faultf("%s takes a string, and none is given", what)
	}
	return "", faultf("%s takes a string, and not %s", what, article(p))
}

// affix is startswith or endswith; a tuple holds alternatives.
func affix(has func(s, part string) bool) method {
	return func(m *machine, v Value, a *args) (Value, error) {
		p, err := a.take("startswith", "prefix")
		if err != nil {
			return nil, err
		}
		parts := []Value{p[0]}
		if t, ok := p[0].(*Tuple); ok {
			parts = t.Items
		}
		for _, x := range parts {
			s, err := stringArg("startswith or endswith", x)
			if err == nil {
				err = m.spend(1 + len(s)/32)
			}
			if err != nil {
				return nil, err
			}
			if has(string(v.(String)), s) {
				return Bool(true), nil
			}
		}
		return Bool(false), nil
	}
}

func cutAffix(cut func(s, part string) string) method {
	return func(m *machine, v Value, a *args) (Value, error) {
		p, err := a.take("removeprefix", "prefix")
		if err != nil {
			return nil, err
		}
		s, err := stringArg("removeprefix or removesuffix", p[0])
		return String(cut(string(v.(String)), s)), cmpErr(err, m.scan(len(s)))
	}
}

func partition(find func(s, sep string) int) method {
	return func(m *machine, v Value, a *args) (Value, error) {
		p, err := a.take("partition", "sep")
		if err != nil {
			return nil, err
		}
		s := string(v.(String))
		sep, err := stringArg("partition", p[0])
		if err = cmpErr(err, m.scan(len(s))); err != nil {
			return nil, err
		}
		if sep == "" {
			return nil, faultf("partition takes a separator that is not empty")
		}
		i := find(s, sep)
		switch {
		case i >= 0:
			return &Tuple{Items: []Value{String(s[:i]), String(sep), String(s[i+len(sep):])}}, nil
		case find("aa", "a") == 1: // from the right
			return &Tuple{Items: []Value{String(""), String(""), v}}, nil
		}
		return &Tuple{Items: []Value{v, String(""), String("")}}, nil
	}
}

// window cuts s to the characters start:end of p and gives the byte where they begin.
func (m *machine) window(s string, start, end Value) (string, int, error) {
	if start == nil && end == nil {
		return s, 0, nil
	}
	n := utf8.RuneCountInString(s)
	from, count, _, err := sliceBounds([3]Value{start, end, nil}, n)
	if err != nil {
		return "", 0, err
	}
	i, begin, stop := 0, len(s), len(s)
	for b := range s {
		if i == from {
			begin = b
		}
		if i == from+count {
			stop = b
			break
		}
		i++
	}
	return s[begin:stop], begin, m.scan(len(s))
}

func findString(find func(s, sub string) int, must bool) method {
	return func(m *machine, v Value, a *args) (Value, error) {
		p, err := a.take("find", "sub", "start", "end")
		if err != nil {
			return nil, err
		}
		s := string(v.(String))
		sub, err := stringArg("find or index", p[0])
		if err = cmpErr(err, m.scan(len(s))); err != nil {
			return nil, err
		}
		part, off, err := m.window(s, p[1], p[2])
		if err != nil {
			return nil, err
		}
		i := find(part, sub)
		switch {
		case i >= 0:
			return Int(utf8.RuneCountInString(s[:off+i])), nil
		case must:
			return nil, &fault{reason: "the string is not found", remedy: "find gives -1 instead"}
		}
		return Int(-1), nil
	}
}

func countString(m *machine, v Value, a *args) (Value, error) {
	p, err := a.take("count", "sub", "start", "end")
	if err != nil {
		return nil, err
	}
	sub, err := stringArg("count", p[0])
	if err = cmpErr(err, m.scan(len(v.(String)))); err != nil {
		return nil, err
	}
	part, _, err := m.window(string(v.(String)), p[1], p[2])
	return Int(strings.Count(part, sub)), err
}

func replaceString(m *machine, v Value, a *args) (Value, error) {
	p, err := a.take("replace", "old", "new", "count")
	if err != nil {
		return nil, err
	}
	from, err := stringArg("replace", p[0])
	if err != nil {
		return nil, err
	}
	to, err := stringArg("replace", p[1])
	if err != nil {
		return nil, err
	}
	count := int64(-1)
	if p[2] != nil && p[2] != Value(None{}) {
		var ok bool
		if count, ok = integer(p[2]); !ok {
			return nil, faultf("the count of replace is a whole number")
		}
	}
	return m.replace(string(v.(String)), from, to, count)
}

// replace bounds the result before it is made.
func (m *machine) replace(s, from, to string, count int64) (Value, error) {
	if err := m.scan(len(s)); err != nil {
		return nil, err
	}
	n := int64(strings.Count(s, from))
	if count >= 0 {
		n = min(n, count)
	}
	if n == 0 {
		return String(s), nil
	}
	if len(to) > len(from) && n > int64(m.limits.Alloc)/int64(len(to)) {
		return nil, budget("bytes of memory", m.limits.Alloc)
	}
	if err := cmpErr(m.grow(len(s)+int(n)*max(0, len(to)-len(from))), m.spend(int(n)/4)); err != nil {
		return nil, err
	}
	return String(strings.Replace(s, from, to, int(n))), nil
}

func padString(left, right bool) method {
	return func(m *machine, v Value, a *args) (Value, error) {
		p, err := a.take("center", "width", "fillchar")
		if err != nil {
			return nil, err
		}
		width, ok := integer(p[0])
		fill := " "
		if p[1] != nil {
			if fill, err = stringArg("the fill", p[1]); err != nil {
				return nil, err
			}
		}
		if !ok || utf8.RuneCountInString(fill) != 1 {
			return nil, faultf("the width is a whole number and the fill one character")
		}
		return m.pad(string(v.(String)), width, fill, left, right)
	}
}

// pad fills s up to width characters on the sides given.
func (m *machine) pad(s string, width int64, fill string, left, right bool) (Value, error) {
	if err := m.scan(len(s)); err != nil {
		return nil, err
	}
	n := width - int64(utf8.RuneCountInString(s))
	if n <= 0 {
		return String(s), nil
	}
	if n > int64(m.limits.Alloc) {
		return nil, budget("bytes of memory", m.limits.Alloc)
	}
	if err := m.grow(len(s) + int(n)*len(fill)); err != nil {
		return nil, err
	}
	before := n
	switch {
	case left && right:
		before = n/2 + n&width&1
	case right:
		before = 0
	}
	return String(strings.Repeat(fill, int(before)) + s + strings.Repeat(fill, int(n-before))), nil
}

func zfill(m *machine, v Value, a *args) (Value, error) {
	p, err := a.take("zfill", "width")
	if err != nil {
		return nil, err
	}
	width, ok := integer(p[0])
	if !ok {
		return nil, faultf("zfill takes a width")
	}
	s, sign := string(v.(String)), ""
	if s != "" && (s[0] == '-' || s[0] == '+') {
		s, sign = s[1:], s[:1]
	}
	out, err := m.pad(s, width-int64(len(sign)), "0", true, false)
	if err != nil {
		return nil, err
	}
	return m.str(sign + string(out.(String)))
}

func every(f func(rune) bool) method {
	return func(m *machine, v Value, a *args) (Value, error) {
		s := string(v.(String))
		bad := strings.IndexFunc(s, func(r rune) bool { return !f(r) })
		return Bool(s != "" && bad < 0), cmpErr(a.none(), m.scan(len(s)))
	}
}

func isCased(wrong, right func(rune) bool) method {
	return func(m *machine, v Value, a *args) (Value, error) {
		return Bool(cased(string(v.(String)), wrong, right)), cmpErr(a.none(), m.scan(len(v.(String))))
	}
}
