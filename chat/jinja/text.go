package jinja

import (
	"math"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// text is Python's str().
func (m *machine) text(v Value) (string, error) {
	switch v := v.(type) {
	case String:
		return string(v), nil
	case *undefined:
		if v.unsafe {
			return "", v.err()
		}
		return "", nil
	case Int:
		return strconv.FormatInt(int64(v), 10), nil
	}
	w := &writer{m: m}
	if err := w.repr(v, 0); err != nil {
		return "", err
	}
	return string(w.buf), nil
}

// writer builds a text within the machine's budgets.
type writer struct {
	m   *machine
	buf []byte
}

func (w *writer) put(s string) error {
	w.buf = append(w.buf, s...)
	return w.m.grow(len(s))
}

func (w *writer) deep(depth int) error {
	if depth > maxJSONDepth {
		return &fault{reason: "values lie more than " + strconv.Itoa(maxJSONDepth) + " deep in each other", budget: true}
	}
	return w.m.spend(1)
}

// repr is Python's repr().
func (w *writer) repr(v Value, depth int) error {
	if err := w.deep(depth); err != nil {
		return err
	}
	switch v := v.(type) {
	case None:
		return w.put("None")
	case Bool:
		if v {
			return w.put("True")
		}
		return w.put("False")
	case Int:
		return w.put(strconv.FormatInt(int64(v), 10))
	case Float:
		return w.put(floatText(float64(v)))
	case String:
		return w.quoted(string(v))
	case *List:
		return w.series("[", "]", v.Items, depth)
	case *Tuple:
		if len(v.Items) == 1 {
			return w.series("(", ",)", v.Items, depth)
		}
		return w.series("(", ")", v.Items, depth)
	case *Dict:
		return w.entries(v, depth)
	case *undefined:
		return w.put("Undefined")
	case rangeValue:
		return w.put(v.String())
	case *namespace:
		if err := w.put("<Namespace "); err != nil {
			return err
		}
		if err := w.entries(v.vars, depth+1); err != nil {
			return err
		}
		return w.put(">")
	case *callable:
		return w.put("<function " + v.name + ">")
	}
	return w.put("<" + v.kind() + ">")
}

func (r rangeValue) String() string {
	s := "range(" + strconv.FormatInt(r.start, 10) + ", " + strconv.FormatInt(r.start+r.n*r.step, 10)
	if r.step != 1 {
		s += ", " + strconv.FormatInt(r.step, 10)
	}
	return s + ")"
}

func (w *writer) series(open, end string, items []Value, depth int) error {
	if err := w.put(open); err != nil {
		return err
	}
	for i, it := range items {
		if i > 0 {
			if err := w.put(", "); err != nil {
				return err
			}
		}
		if err := w.repr(it, depth+1); err != nil {
			return err
		}
	}
	return w.put(end)
}

func (w *writer) entries(d *Dict, depth int) error {
	if err := w.put("{"); err != nil {
		return err
	}
	for i, k := range d.keys {
		if i > 0 {
			if err := w.put(", "); err != nil {
				return err
			}
		}
		if err := w.repr(k, depth+1); err != nil {
			return err
		}
		if err := w.put(": "); err != nil {
			return err
		}
		if err := w.repr(d.vals[i], depth+1); err != nil {
			return err
		}
	}
	return w.put("}")
}

// quoted writes a string as Python's repr does.
func (w *writer) quoted(s string) error {
	if err := w.m.grow(2 * len(s)); err != nil {
		return err
	}
	q := byte('\'')
	if strings.Contains(s, "'") && !strings.Contains(s, `"`) {
		q = '"'
	}
	b := append(w.buf, q)
	for _, r := range s {
		switch {
		case r == rune(q) || r == '\\':
			b = append(b, '\\', byte(r))
		case r == '\n':
			b = append(b, '\\', 'n')
		case r == '\r':
			b = append(b, '\\', 'r')
		case r == '\t':
			b = append(b, '\\', 't')
		case r == ' ' || r < utf8.RuneSelf && r > ' ' && r < 0x7f || r >= utf8.RuneSelf && unicode.IsPrint(r):
			b = utf8.AppendRune(b, r)
		case r < 0x100:
			b = append(b, '\\', 'x', hexDigits[r>>4], hexDigits[r&15])
		case r < 0x10000:
			b = append(b, '\\', 'u')
			b = appendHex(b, r, 4)
		default:
			b = append(b, '\\', 'U')
			b = appendHex(b, r, 8)
		}
	}
	w.buf = append(b, q)
	return nil
}

const hexDigits = "0123456789abcdef"

func appendHex(b []byte, r rune, n int) []byte {
	for s := 4 * (n - 1); s >= 0; s -= 4 {
		b = append(b, hexDigits[r>>s&15])
	}
	return b
}

// floatText is Python's repr of a float: the shortest digits that read back, an exponent below 1e-4 and from 1e16.
func floatText(f float64) string {
	switch {
	case math.IsNaN(f):
		return "nan"
	case math.IsInf(f, 1):
		return "inf"
	case math.IsInf(f, -1):
		return "-inf"
	}
	if a := math.Abs(f); a != 0 && (a < 1e-4 || a >= 1e16) {
		return strconv.FormatFloat(f, 'e', -1, 64)
	}
	s := strconv.FormatFloat(f, 'f', -1, 64)
	if !strings.Contains(s, ".") {
		s += ".0"
	}
	return s
}
