package jinja

import (
	"strconv"
	"strings"
	"unicode/utf8"
)

// spec is what stands between % and its letter, or after the colon of a field.
type spec struct {
	fill             string
	align            byte // '<', '>', '^' or '='; 0: by kind
	plus, space, alt bool
	comma            bool
	width, precision int64
	verb             byte
}

// percent is format % values.
func (m *machine) percent(format string, v Value) (Value, error) {
	vals := []Value{v}
	if t, ok := v.(*Tuple); ok {
		vals = t.Items
	}
	named, _ := v.(*Dict)
	w, next := &writer{m: m}, 0
	for format != "" {
		i := strings.IndexByte(format, '%')
		if i < 0 {
			i = len(format)
		}
		if err := w.put(format[:i]); err != nil {
			return nil, err
		}
		if format = format[i:]; format == "" {
			break
		}
		n, name, sp, err := percentSpec(format)
		if err = cmpErr(err, m.spend(1)); err != nil {
			return nil, err
		}
		format = format[n:]
		if sp.verb == '%' {
			if err := w.put("%"); err != nil {
				return nil, err
			}
			continue
		}
		var x Value
		switch {
		case name != nil && named != nil:
			var ok bool
			if x, ok = named.Get(*name); !ok {
				return nil, faultf("the format asks for '%s', which is not given", *name)
			}
		case name == nil && next < len(vals):
			x = vals[next]
			next++
		default:
			return nil, faultf("the format asks for more values than are given")
		}
		if err := w.formatted(x, sp, true); err != nil {
			return nil, err
		}
	}
	if next < len(vals) && named == nil {
		return nil, faultf("the format leaves %d values unused", len(vals)-next)
	}
	return String(w.buf), nil
}

// percentSpec reads %(name)-05.3f at the start of s.
func percentSpec(s string) (n int, name *string, sp spec, err error) {
	sp = spec{fill: " ", align: '>', precision: -1}
	i := 1
	if strings.HasPrefix(s[i:], "(") {
		end := strings.IndexByte(s, ')')
		if end < 0 {
			return 0, nil, sp, faultf("the name in the format has no ')'")
		}
		x := s[i+1 : end]
		name, i = &x, end+1
	}
flags:
	for ; i < len(s); i++ {
		switch s[i] {
		case '-':
			sp.align = '<'
		case '0':
			if sp.fill = "0"; sp.align == '>' {
				sp.align = '='
			}
		case '+':
			sp.plus = true
		case ' ':
			sp.space = true
		case '#':
			sp.alt = true
		default:
			break flags
		}
	}
	if sp.align == '<' {
		sp.fill = " "
	}
	sp.width, i = digits(s, i)
	if i < len(s) && s[i] == '.' {
		sp.precision, i = digits(s, i+1)
	}
	if i >= len(s) || !strings.ContainsRune("diouxXeEfFgGcrsa%", rune(s[i])) {
		return 0, nil, sp, faultf("the format %.20q has no letter that says what it writes", s)
	}
	sp.verb = s[i]
	return i + 1, name, sp, nil
}

// digits reads a number of at most 9 digits from s[i:].
func digits(s string, i int) (int64, int) {
	n := int64(0)
	for ; i < len(s) && s[i] >= '0' && s[i] <= '9'; i++ {
		n = min(n*10+int64(s[i]-'0'), 1<<40)
	}
	return n, i
}

// formatted writes one value as its spec says; percent marks the older of the two styles.
func (w *writer) formatted(v Value, sp spec, percent bool) error {
	if u, ok := v.(*undefined); ok && u.unsafe {
		return u.err()
	}
	if sp.precision > 1000 && sp.verb != 's' {
		return faultf("a precision of %d is more than 1000", sp.precision)
	}
	if sp.verb != 's' {
		if err := w.m.spend(int(max(sp.precision, 0))); err != nil { // digits beyond the seventeenth take long division
			return err
		}
	}
	body, sign, numeric, err := w.body(v, sp, percent)
	if err != nil {
		return err
	}
	if sp.align == 0 {
		if sp.align = '<'; numeric {
			sp.align = '>'
		}
	}
	if sp.align == '=' && !numeric {
		sp.align, sp.fill = '>', " "
	}
	if sp.align != '=' {
		body, sign = sign+body, ""
	}
	width := sp.width - int64(len(sign))
	pad := width - int64(utf8.RuneCountInString(body))
	padded := Value(String(body))
	if pad > 0 {
		if sp.align == '^' {
			if pad > int64(w.m.limits.Alloc) {
				return budget("bytes of memory", w.m.limits.Alloc)
			}
			if err := w.m.grow(int(pad) * len(sp.fill)); err != nil {
				return err
			}
			padded = String(strings.Repeat(sp.fill, int(pad/2)) + body + strings.Repeat(sp.fill, int(pad-pad/2)))
		} else if padded, err = w.m.pad(body, width, sp.fill, sp.align != '<', sp.align == '<'); err != nil {
			return err
		}
	}
	return cmpErr(w.put(sign), w.put(string(padded.(String))))
}

// body is the value without padding, its sign apart.
func (w *writer) body(v Value, sp spec, percent bool) (body, sign string, numeric bool, err error) {
	switch sp.verb {
	case 's', 'r', 'a', 0:
		f, isNumber := number(v)
		if _, isBool := v.(Bool); sp.verb != 0 || !isNumber || isBool {
			return w.textBody(v, sp)
		}
		if _, ok := v.(Int); ok {
			sp.verb = 'd'
		} else if sp.precision < 0 {
			body = floatText(f)
			body, sign = signed(body, sp)
			return body, sign, true, nil
		} else {
			sp.verb = 'g'
		}
	}
	f, ok := number(v)
	if !ok {
		return "", "", false, faultf("the format %%%c writes numbers, and not %s", sp.verb, article(v))
	}
	n, whole := integer(v)
	if !whole && percent {
		n = int64(f)
	}
	switch sp.verb {
	case 'd', 'i', 'u', 'x', 'X', 'o', 'b':
		if !whole && !percent {
			return "", "", false, faultf("the format %c writes whole numbers, and not %s", sp.verb, article(v))
		}
		body = strconv.FormatInt(n, map[byte]int{'x': 16, 'X': 16, 'o': 8, 'b': 2}[sp.verb]+10*boolInt(strings.IndexByte("diu", sp.verb) >= 0))
		if sp.verb == 'X' {
			body = strings.ToUpper(body)
		}
	case 'c':
		return string(rune(n)), "", false, nil
	default:
		body = formatFloat(f, sp)
	}
	body, sign = signed(body, sp)
	if sp.comma {
		body = thousands(body)
	}
	return body, sign, true, nil
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

func formatFloat(f float64, sp spec) string {
	prec := int(sp.precision)
	if prec < 0 {
		prec = 6
	}
	switch sp.verb {
	case '%':
		return strconv.FormatFloat(f*100, 'f', prec, 64) + "%"
	case 'F':
		return strconv.FormatFloat(f, 'f', prec, 64)
	case 'g', 'G':
		// C's %g counts significant digits, takes an exponent below 1e-4 and drops zeros at the end, as Go's does for a precision.
		return strconv.FormatFloat(f, sp.verb, max(prec, 1), 64)
	}
	return strconv.FormatFloat(f, sp.verb, prec, 64)
}

// signed takes the minus off a number and says what stands in its place.
func signed(s string, sp spec) (body, sign string) {
	if strings.HasPrefix(s, "-") {
		return s[1:], "-"
	}
	switch {
	case sp.plus:
		return s, "+"
	case sp.space:
		return s, " "
	}
	return s, ""
}

func thousands(s string) string {
	whole, rest := s, ""
	if i := strings.IndexAny(s, ".e"); i >= 0 {
		whole, rest = s[:i], s[i:]
	}
	var b strings.Builder
	for i, c := range whole {
		if i > 0 && (len(whole)-i)%3 == 0 {
			b.WriteByte(',')
		}
		b.WriteRune(c)
	}
	return b.String() + rest
}

func (w *writer) textBody(v Value, sp spec) (string, string, bool, error) {
	s, err := w.m.text(v)
	if sp.verb == 'r' || sp.verb == 'a' {
		r := &writer{m: w.m}
		err = r.repr(v, 0)
		s = string(r.buf)
	}
	if err != nil {
		return "", "", false, err
	}
	if sp.precision >= 0 {
		s, _, err = w.m.window(s, Int(0), Int(sp.precision))
	}
	return s, "", false, err
}

// formatString is str.format: fields by position, number or name, with attributes and items as the sandbox allows.
func formatString(m *machine, v Value, a *args) (Value, error) {
	w, s, next := &writer{m: m}, string(v.(String)), 0
	for s != "" {
		i := strings.IndexAny(s, "{}")
		if i < 0 {
			i = len(s)
		}
		if err := w.put(s[:i]); err != nil {
			return nil, err
		}
		if s = s[i:]; s == "" {
			break
		}
		if strings.HasPrefix(s, "{{") || strings.HasPrefix(s, "}}") {
			if err := w.put(s[:1]); err != nil {
				return nil, err
			}
			s = s[2:]
			continue
		}
		end := strings.IndexByte(s, '}')
		if end <= 0 {
			return nil, faultf("the format has a single brace; double it to write one")
		}
		x, sp, err := m.field(s[1:end], &next, a)
		if err != nil {
			return nil, err
		}
		s = s[end+1:]
		if err := w.formatted(x, sp, false); err != nil {
			return nil, err
		}
	}
	return String(w.buf), nil
}

// field finds the value that NAME!r:SPEC refers to.
func (m *machine) field(f string, next *int, a *args) (Value, spec, error) {
	f, text, _ := strings.Cut(f, ":")
	f, conv, has := strings.Cut(f, "!")
	sp, err := fieldSpec(text)
	if err = cmpErr(err, m.spend(1+len(a.names)/16)); err != nil {
		return nil, sp, err
	}
	if has {
		if conv != "r" && conv != "s" {
			return nil, sp, faultf("the conversion '!%s' is not supported; !r and !s are", conv)
		}
		sp.verb = conv[0]
	}
	end := strings.IndexAny(f, ".[")
	if end < 0 {
		end = len(f)
	}
	first, rest := f[:end], f[end:]
	if rest != "" {
		return nil, sp, &fault{reason: "the field {" + f + "} reaches into a value, which is refused", remedy: "give the part itself as an argument"}
	}
	if first == "" {
		first = strconv.Itoa(*next)
		*next++
	}
	if n, err := strconv.Atoi(first); err == nil {
		if n >= 0 && n < len(a.pos) {
			return a.pos[n], sp, nil
		}
		return nil, sp, faultf("the format asks for argument %d of %d", n, len(a.pos))
	}
	for i, n := range a.names {
		if n == first {
			return a.named[i], sp, nil
		}
	}
	return nil, sp, faultf("the format asks for '%s', which is not given", first)
}

// fieldSpec reads [[fill]align][sign][#][0][width][,][.precision][type].
func fieldSpec(s string) (spec, error) {
	sp := spec{fill: " ", precision: -1}
	_, n := utf8.DecodeRuneInString(s)
	if len(s) > n && n > 0 && strings.IndexByte("<>^=", s[n]) >= 0 {
		sp.fill, sp.align = s[:n], s[n]
		s = s[n+1:]
	} else if s != "" && strings.IndexByte("<>^=", s[0]) >= 0 {
		sp.align = s[0]
		s = s[1:]
	}
	i := 0
	if i < len(s) && strings.IndexByte("+- ", s[i]) >= 0 {
		sp.plus, sp.space = s[i] == '+', s[i] == ' '
		i++
	}
	if i < len(s) && s[i] == '0' && sp.align == 0 {
		sp.fill, sp.align = "0", '='
	}
	sp.width, i = digits(s, i)
	if i < len(s) && s[i] == ',' {
		sp.comma = true
		i++
	}
	if i < len(s) && s[i] == '.' {
		sp.precision, i = digits(s, i+1)
	}
	if i < len(s) {
		sp.verb = s[i]
		i++
	}
	if i != len(s) || sp.verb != 0 && !strings.ContainsRune("dxXobeEfFgGcs%", rune(sp.verb)) {
		return sp, faultf("the format spec %.20q is not supported", s)
	}
	return sp, nil
}
