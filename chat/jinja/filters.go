package jinja

import (
	"math"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

type filterFunc func(m *machine, v Value, a *args) (Value, error)

// filters are what may follow a bar: all of jinja2 but those that are random or write HTML pages. It is filled when the program
// starts, because some of them look other filters up.
var filters map[string]filterFunc

func init() {
	filters = map[string]filterFunc{
		"tojson": filterToJSON, "default": filterDefault, "d": filterDefault, "string": filterString,
		"trim": filterTrim, "upper": ofText(strings.ToUpper), "lower": ofText(strings.ToLower), "capitalize": ofText(capitalize),
		"title": ofText(filterTitle), "replace": filterReplace, "join": filterJoin, "indent": filterIndent, "format": filterFormat,
		"center": filterCenter, "truncate": filterTruncate, "wordcount": filterWordCount, "wordwrap": filterWordWrap,
		"escape": filterEscape, "e": filterEscape, "forceescape": filterEscape, "safe": filterString, "striptags": filterStripTags,
		"urlencode": filterURLEncode, "pprint": filterRepr,
		"length": filterLength, "count": filterLength, "int": filterInt, "float": filterFloat, "abs": filterAbs, "round": filterRound,
		"list": filterList, "first": filterEnd(false), "last": filterEnd(true), "reverse": filterReverse, "items": filterItems,
		"sort": filterSort, "dictsort": filterDictSort, "unique": filterUnique, "groupby": filterGroupBy, "batch": filterBatch,
		"slice": filterSlice, "min": filterExtreme(-1), "max": filterExtreme(1), "sum": filterSum, "map": filterMap,
		"select": selectFilter(true, false), "reject": selectFilter(false, false),
		"selectattr": selectFilter(true, true), "rejectattr": selectFilter(false, true), "attr": filterAttr,
	}
}

// ofText makes a filter of a function from string to string; other values are written out first.
func ofText(f func(string) string) filterFunc {
	return func(m *machine, v Value, a *args) (Value, error) {
		s, err := m.text(v)
		if err = cmpErr(err, a.none(), m.grow(len(s)), m.scan(2*len(s))); err != nil {
			return nil, err
		}
		return m.str(f(s))
	}
}

// filterTitle starts a new word at white space, dashes and opening brackets, and at nothing else.
func filterTitle(s string) string {
	start := true
	return strings.Map(func(r rune) rune {
		was := start
		start = isSpace(r) || strings.ContainsRune("-({[<", r)
		if was {
			return unicode.ToUpper(r)
		}
		return unicode.ToLower(r)
	}, s)
}

func filterDefault(_ *machine, v Value, a *args) (Value, error) {
	p, err := a.take("default", "default_value", "boolean")
	if err != nil {
		return nil, err
	}
	_, missing := v.(*undefined)
	if !missing && (p[1] == nil || !truth(p[1]) || truth(v)) {
		return v, nil
	}
	if p[0] == nil {
		return String(""), nil
	}
	return p[0], nil
}

func filterString(m *machine, v Value, a *args) (Value, error) {
	s, err := m.text(v)
	return String(s), cmpErr(err, a.none())
}

func filterRepr(m *machine, v Value, a *args) (Value, error) {
	w := &writer{m: m}
	err := cmpErr(a.none(), w.repr(v, 0))
	return String(w.buf), err
}

func filterTrim(m *machine, v Value, a *args) (Value, error) {
	s, err := m.text(v)
	if err != nil {
		return nil, err
	}
	return stripString(true, true)(m, String(s), a)
}

func filterReplace(m *machine, v Value, a *args) (Value, error) {
	p, err := a.take("replace", "old", "new", "count")
	if err != nil {
		return nil, err
	}
	var parts [3]string
	for i, x := range []Value{v, p[0], p[1]} {
		if x == nil {
			return nil, faultf("replace takes what is replaced and by what")
		}
		if parts[i], err = m.text(x); err != nil {
			return nil, err
		}
	}
	count := int64(-1)
	if n, ok := integer(p[2]); ok {
		count = n
	}
	return m.replace(parts[0], parts[1], parts[2], count)
}

func filterJoin(m *machine, v Value, a *args) (Value, error) {
	p, err := a.take("join", "d", "attribute")
	if err != nil {
		return nil, err
	}
	items, err := m.list(v)
	if err == nil {
		err = m.items(len(items))
	}
	if err != nil {
		return nil, err
	}
	parts, n, sep := make([]string, len(items)), 0, ""
	if p[0] != nil {
		if sep, err = m.text(p[0]); err != nil {
			return nil, err
		}
	}
	for i, it := range items {
		if p[1] != nil {
			if it, err = m.path(it, p[1]); err != nil {
				return nil, err
			}
		}
		if parts[i], err = m.text(it); err != nil {
			return nil, err
		}
		n += len(parts[i])
	}
	return m.joined(parts, sep, n)
}

func filterIndent(m *machine, v Value, a *args) (Value, error) {
	p, err := a.take("indent", "width", "first", "blank")
	if err != nil {
		return nil, err
	}
	s, err := m.text(v)
	if err != nil {
		return nil, err
	}
	pad := Value(String("    "))
	if w, ok := p[0].(String); ok {
		pad = w
	} else if n, ok := integer(p[0]); ok {
		if pad, err = m.repeat(String(" "), n); err != nil {
			return nil, err
		}
	}
	by := string(pad.(String))
	lines := strings.Count(s, "\n") + 1
	if len(by) > 0 && lines > m.limits.Alloc/len(by) {
		return nil, budget("bytes of memory", m.limits.Alloc)
	}
	if err := cmpErr(m.grow(len(s)+lines*len(by)), m.spend(lines)); err != nil {
		return nil, err
	}
	first, blank := p[1] != nil && truth(p[1]), p[2] != nil && truth(p[2])
	var b strings.Builder
	for i, line := range strings.Split(s, "\n") {
		if i > 0 {
			b.WriteByte('\n')
		}
		if i == 0 && first || i > 0 && (blank || line != "") {
			b.WriteString(by)
		}
		b.WriteString(line)
	}
	return String(b.String()), nil
}

func filterFormat(m *machine, v Value, a *args) (Value, error) {
	s, err := m.text(v)
	if err != nil {
		return nil, err
	}
	if len(a.names) == 0 {
		return m.percent(s, &Tuple{Items: a.pos})
	}
	d := NewDict()
	for i, n := range a.names {
		d.Set(n, a.named[i])
	}
	return m.percent(s, d)
}

func filterCenter(m *machine, v Value, a *args) (Value, error) {
	p, err := a.take("center", "width")
	if err != nil {
		return nil, err
	}
	width, ok := integer(p[0])
	if !ok {
		width = 80
	}
	s, err := m.text(v)
	if err != nil {
		return nil, err
	}
	return m.pad(s, width, " ", true, true)
}

func filterTruncate(m *machine, v Value, a *args) (Value, error) {
	p, err := a.take("truncate", "length", "killwords", "end", "leeway")
	if err != nil {
		return nil, err
	}
	s, err := m.text(v)
	if err = cmpErr(err, m.scan(len(s))); err != nil {
		return nil, err
	}
	length, end, leeway := int64(255), "...", int64(5)
	if n, ok := integer(p[0]); ok {
		length = n
	}
	if p[2] != nil {
		if end, err = stringArg("the end of truncate", p[2]); err != nil {
			return nil, err
		}
	}
	if n, ok := integer(p[3]); ok {
		leeway = n
	}
	endLen := int64(utf8.RuneCountInString(end))
	if length < endLen || leeway < 0 {
		return nil, faultf("truncate needs a length of at least its end, and a leeway of at least zero")
	}
	if int64(utf8.RuneCountInString(s)) <= min(length, 1<<40)+min(leeway, 1<<40) {
		return String(s), nil
	}
	cut, _, err := m.window(s, Int(0), Int(length-endLen))
	if err != nil {
		return nil, err
	}
	if p[1] == nil || !truth(p[1]) {
		if i := strings.LastIndexByte(cut, ' '); i >= 0 {
			cut = cut[:i]
		}
	}
	return m.str(cut + end)
}

func filterWordCount(m *machine, v Value, a *args) (Value, error) {
	s, err := m.text(v)
	if err = cmpErr(err, a.none(), m.scan(len(s))); err != nil {
		return nil, err
	}
	n, in := 0, false
	for _, r := range s {
		word := r == '_' || unicode.IsLetter(r) || unicode.IsNumber(r)
		if word && !in {
			n++
		}
		in = word
	}
	return Int(n), nil
}

// filterWordWrap breaks lines at width characters, between words, and inside those that are longer.
func filterWordWrap(m *machine, v Value, a *args) (Value, error) {
	p, err := a.take("wordwrap", "width", "break_long_words", "wrapstring", "break_on_hyphens")
	if err != nil {
		return nil, err
	}
	s, err := m.text(v)
	if err != nil {
		return nil, err
	}
	width, sep := int64(79), "\n"
	if n, ok := integer(p[0]); ok {
		width = n
	}
	if p[2] != nil && p[2] != Value(None{}) {
		if sep, err = stringArg("the wrapstring of wordwrap", p[2]); err != nil {
			return nil, err
		}
	}
	if width <= 0 || len(sep) > 1000 {
		return nil, faultf("wordwrap needs a width above zero, and a wrapstring of at most 1000 bytes")
	}
	long := p[1] == nil || truth(p[1])
	if err := cmpErr(m.spend(len(s)), m.grow(len(s)*(1+len(sep)))); err != nil {
		return nil, err
	}
	lines := strings.Split(s, "\n")
	for i, line := range lines {
		lines[i] = strings.Join(wrap(line, int(min(width, math.MaxInt32)), long), sep)
	}
	return String(strings.Join(lines, sep)), nil
}

// wrap is Python's textwrap.wrap that keeps tabs and spaces inside lines.
func wrap(line string, width int, breakLong bool) []string {
	var out []string
	var cur []rune
	flush := func() {
		if t := strings.TrimRightFunc(string(cur), isSpace); t != "" {
			out = append(out, t)
		}
		cur = cur[:0]
	}
	for _, chunk := range chunks(line) {
		rs := []rune(chunk)
		if len(cur)+len(rs) > width && len(cur) > 0 {
			if breakLong && len(rs) > width {
				n := width - len(cur)
				cur = append(cur, rs[:n]...)
				rs = rs[n:]
			}
			flush()
		}
		if len(cur) == 0 && len(out) > 0 && strings.TrimFunc(string(rs), isSpace) == "" {
			continue
		}
		for breakLong && len(rs) > width {
			cur = append(cur, rs[:width]...)
			rs = rs[width:]
			flush()
		}
		cur = append(cur, rs...)
	}
	flush()
	return out
}

// chunks cuts a line into words and the white space between them; the first hyphen ends a word, unless it begins it.
func chunks(s string) []string {
	var out []string
	for s != "" {
		n := chunk(s)
		out = append(out, s[:n])
		s = s[n:]
	}
	return out
}

// chunk is the length of the first one. It looks no further than that.
func chunk(s string) int {
	first, _ := utf8.DecodeRuneInString(s)
	space, hyphen := isSpace(first), first == '-'
	for i, r := range s {
		switch {
		case isSpace(r) != space:
			return i
		case r == '-' && !hyphen:
			return i + 1
		}
	}
	return len(s)
}

var htmlEscapes = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", `"`, "&#34;", "'", "&#39;")

func filterEscape(m *machine, v Value, a *args) (Value, error) {
	s, err := m.text(v)
	if err = cmpErr(err, a.none(), m.grow(5*len(s)), m.scan(len(s))); err != nil {
		return nil, err
	}
	return String(htmlEscapes.Replace(s)), nil
}

// filterStripTags drops comments and tags and makes each run of white space one space.
func filterStripTags(m *machine, v Value, a *args) (Value, error) {
	s, err := m.text(v)
	if err = cmpErr(err, a.none(), m.grow(2*len(s)), m.spend(len(s)/8)); err != nil {
		return nil, err
	}
	for _, mark := range [][2]string{{"<!--", "-->"}, {"<", ">"}} {
		var b strings.Builder
		for {
			head, rest, ok := strings.Cut(s, mark[0])
			_, tail, closed := strings.Cut(rest, mark[1])
			if !ok || !closed {
				break
			}
			b.WriteString(head)
			s = tail
		}
		b.WriteString(s)
		s = b.String()
	}
	return String(strings.Join(strings.FieldsFunc(s, isSpace), " ")), nil
}

func filterURLEncode(m *machine, v Value, a *args) (Value, error) {
	s, ok := v.(String)
	if !ok {
		return nil, faultf("urlencode takes a string here, and not %s", article(v))
	}
	if err := cmpErr(a.none(), m.grow(3*len(s)), m.scan(len(s))); err != nil {
		return nil, err
	}
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		if c < utf8.RuneSelf && (unicode.IsLetter(rune(c)) || unicode.IsDigit(rune(c)) || strings.IndexByte("_.-~/", c) >= 0) {
			b.WriteByte(c)
			continue
		}
		b.WriteByte('%')
		if c < 16 {
			b.WriteByte('0')
		}
		b.WriteString(strings.ToUpper(strconv.FormatUint(uint64(c), 16)))
	}
	return String(b.String()), nil
}
