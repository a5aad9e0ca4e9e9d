package jinja

import (
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// jsonStyle is what the arguments of tojson choose, as in Python's json.dumps.
type jsonStyle struct {
	ascii, sort bool
	indent      string
	lines       bool
	item, colon string
}

// filterToJSON is the tojson of transformers: no HTML escapes, and characters beyond ASCII as they are.
func filterToJSON(m *machine, v Value, a *args) (Value, error) {
	p, err := a.take("tojson", "ensure_ascii", "indent", "separators", "sort_keys")
	if err != nil {
		return nil, err
	}
	st := jsonStyle{item: ", ", colon: ": "}
	st.ascii = p[0] != nil && truth(p[0])
	st.sort = p[3] != nil && truth(p[3])
	switch in := p[1].(type) {
	case nil, None:
	case String:
		if len(in) > 64 {
			return nil, faultf("the indent of tojson is at most 64 bytes long")
		}
		st.lines, st.indent, st.item = true, string(in), ","
	default:
		n, ok := integer(in)
		if !ok || n > 64 {
			return nil, faultf("the indent of tojson is a string or a number up to 64, and not %s", article(in))
		}
		st.lines, st.indent, st.item = true, strings.Repeat(" ", int(max(0, n))), ","
	}
	if p[2] != nil && p[2] != Value(None{}) {
		pair, err := m.list(p[2])
		if err != nil {
			return nil, err
		}
		if len(pair) != 2 {
			return nil, faultf("the separators of tojson are two strings")
		}
		x, ok1 := pair[0].(String)
		y, ok2 := pair[1].(String)
		if !ok1 || !ok2 {
			return nil, faultf("the separators of tojson are two strings")
		}
		st.item, st.colon = string(x), string(y)
	}
	w := &writer{m: m}
	if err := w.json(v, st, 0); err != nil {
		return nil, err
	}
	return String(w.buf), nil
}

func (w *writer) json(v Value, st jsonStyle, depth int) error {
	if err := w.deep(depth); err != nil {
		return err
	}
	switch v := v.(type) {
	case None:
		return w.put("null")
	case Bool:
		if v {
			return w.put("true")
		}
		return w.put("false")
	case Int:
		return w.put(strconv.FormatInt(int64(v), 10))
	case Float:
		return w.put(jsonFloat(float64(v)))
	case String:
		return w.jsonString(string(v), st.ascii)
	case *List:
		return w.jsonArray(v.Items, st, depth)
	case *Tuple:
		return w.jsonArray(v.Items, st, depth)
	case *Dict:
		return w.jsonObject(v, st, depth)
	}
	return &fault{reason: article(v) + " has no form in JSON", remedy: "test it with 'is defined', or make a list or dict of it"}
}

func jsonFloat(f float64) string {
	switch {
	case math.IsNaN(f):
		return "NaN"
	case math.IsInf(f, 1):
		return "Infinity"
	case math.IsInf(f, -1):
		return "-Infinity"
	}
	return floatText(f)
}

// line starts a new line of an indented text.
func (w *writer) line(st jsonStyle, depth int) error {
	if !st.lines {
		return nil
	}
	if err := w.put("\n"); err != nil {
		return err
	}
	if err := w.m.grow(depth * len(st.indent)); err != nil {
		return err
	}
	for range depth {
		w.buf = append(w.buf, st.indent...)
	}
	return nil
}

func (w *writer) jsonArray(items []Value, st jsonStyle, depth int) error {
	if len(items) == 0 {
		return w.put("[]")
	}
	sep := "["
	for _, it := range items {
		if err := w.put(sep); err != nil {
			return err
		}
		if err := w.line(st, depth+1); err != nil {
			return err
		}
		if err := w.json(it, st, depth+1); err != nil {
			return err
		}
		sep = st.item
	}
	if err := w.line(st, depth); err != nil {
		return err
	}
	return w.put("]")
}

func (w *writer) jsonObject(d *Dict, st jsonStyle, depth int) error {
	if d.Len() == 0 {
		return w.put("{}")
	}
	order := make([]int, d.Len())
	names := make([]string, d.Len())
	for i, k := range d.keys {
		order[i] = i
		var err error
		if names[i], err = jsonKey(k); err != nil {
			return err
		}
	}
	if st.sort {
		if err := w.m.spend(20 * len(order)); err != nil {
			return err
		}
		slices.SortStableFunc(order, func(a, b int) int { return strings.Compare(names[a], names[b]) })
	}
	sep := "{"
	for _, i := range order {
		if err := w.put(sep); err != nil {
			return err
		}
		if err := w.line(st, depth+1); err != nil {
			return err
		}
		if err := w.jsonString(names[i], st.ascii); err != nil {
			return err
		}
		if err := w.put(st.colon); err != nil {
			return err
		}
		if err := w.json(d.vals[i], st, depth+1); err != nil {
			return err
		}
		sep = st.item
	}
	if err := w.line(st, depth); err != nil {
		return err
	}
	return w.put("}")
}

func jsonKey(k Value) (string, error) {
	switch k := k.(type) {
	case String:
		return string(k), nil
	case Int:
		return strconv.FormatInt(int64(k), 10), nil
	case Float:
		return jsonFloat(float64(k)), nil
	case Bool:
		return strconv.FormatBool(bool(k)), nil
	case None:
		return "null", nil
	}
	return "", faultf("%s cannot be a key in JSON", article(k))
}

// jsonString writes s in quotes. Only what JSON demands is escaped, and in ASCII what lies beyond it.
func (w *writer) jsonString(s string, ascii bool) error {
	if err := w.m.grow(2 * len(s)); err != nil {
		return err
	}
	b := append(w.buf, '"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b = append(b, '\\', byte(r))
		case r == '\n':
			b = append(b, `\n`...)
		case r == '\r':
			b = append(b, `\r`...)
		case r == '\t':
			b = append(b, `\t`...)
		case r == '\b':
			b = append(b, `\b`...)
		case r == '\f':
			b = append(b, `\f`...)
		case r < ' ' || ascii && r >= 0x7f && r < 0x10000:
			if r == 0x7f {
				b = append(b, 0x7f)
				continue
			}
			b = appendHex(append(b, `\u`...), r, 4)
		case ascii && r >= 0x10000:
			r -= 0x10000
			b = appendHex(append(b, `\u`...), 0xd800+r>>10, 4)
			b = appendHex(append(b, `\u`...), 0xdc00+r&0x3ff, 4)
		default:
			b = utf8.AppendRune(b, r)
		}
	}
	w.buf = append(b, '"')
	return nil
}
