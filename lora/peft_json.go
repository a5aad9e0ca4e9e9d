package lora

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"
)

// fields are the top-level values of a JSON object, as they were written.
type fields map[string]json.RawMessage

// parseFields reads one JSON object with nothing after it.
func parseFields(data []byte) (fields, error) {
	var f fields
	if err := json.Unmarshal(data, &f); err != nil {
		return nil, err
	}
	if f == nil {
		return nil, fmt.Errorf("expected an object, found null")
	}
	return f, nil
}

// empty reports a value that switches nothing on: absent, null, false, zero, or an empty string, list or object.
func (f fields) empty(key string) bool {
	raw, ok := f[key]
	if !ok {
		return true
	}
	switch v := string(bytes.Join(bytes.Fields(raw), nil)); v {
	case "null", "false", "0", "0.0", `""`, "[]", "{}":
		return true
	}
	return false
}

// read decodes the value of a key, if there is one that is not null, into v.
func (f fields) read(key string, v any) error {
	raw, ok := f[key]
	if !ok || string(raw) == "null" {
		return nil
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return fmt.Errorf("%s: cannot read %s", key, brief(raw))
	}
	return nil
}

// brief prints a JSON value in an error.
func brief(raw []byte) string {
	const limit = 60
	s := string(bytes.Join(bytes.Fields(raw), []byte(" ")))
	if len(s) > limit {
		return strings.ToValidUTF8(s[:limit], "") + "..."
	}
	return s
}

// appendPython writes a JSON value as Python's json.dumps(indent=2, sort_keys=True) does: keys sorted, only ASCII. Numbers stay
// as they were written.
func appendPython(out []byte, raw json.RawMessage) ([]byte, error) {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, err
	}
	return appendValue(out, v, "\n"), nil
}

func appendValue(out []byte, v any, newline string) []byte {
	inner := newline + "  "
	switch v := v.(type) {
	case nil:
		return append(out, "null"...)
	case bool:
		return strconv.AppendBool(out, v)
	case json.Number:
		return append(out, v...)
	case string:
		return appendString(out, v)
	case []any:
		if len(v) == 0 {
			return append(out, "[]"...)
		}
		for i, x := range v {
			out = append(append(out, separator(i, '[')...), inner...)
			out = appendValue(out, x, inner)
		}
		return append(append(out, newline...), ']')
	case map[string]any:
		if len(v) == 0 {
			return append(out, "{}"...)
		}
		for i, k := range slices.Sorted(maps.Keys(v)) {
			out = append(append(out, separator(i, '{')...), inner...)
			out = append(appendString(out, k), ": "...)
			out = appendValue(out, v[k], inner)
		}
		return append(append(out, newline...), '}')
	}
	return out
}

func separator(i int, open byte) string {
	if i == 0 {
		return string(open)
	}
	return ","
}

// appendString escapes all but printable ASCII.
func appendString(out []byte, s string) []byte {
	out = append(out, '"')
	for _, r := range s {
		switch {
		case r >= ' ' && r <= '~' && r != '"' && r != '\\':
			out = append(out, byte(r))
		case r < 128 && strings.IndexByte("\"\\\b\f\n\r\t", byte(r)) >= 0:
			out = append(out, '\\', `"\bfnrt`[strings.IndexByte("\"\\\b\f\n\r\t", byte(r))])
		case r > 0xffff:
			hi, lo := utf16.EncodeRune(r)
			out = fmt.Appendf(out, `\u%04x\u%04x`, hi, lo)
		default:
			out = fmt.Appendf(out, `\u%04x`, r)
		}
	}
	return append(out, '"')
}

// pyFloat prints a number as Python prints a float: the shortest digits that read back the same in the given bits, with a point
// or an exponent.
func pyFloat(x float64, bits int) string {
	if a := math.Abs(x); a != 0 && (a < 1e-4 || a >= 1e16) {
		return strconv.FormatFloat(x, 'e', -1, bits)
	}
	s := strconv.FormatFloat(x, 'f', -1, bits)
	if !strings.Contains(s, ".") {
		s += ".0"
	}
	return s
}

// nameList reads a pattern, or a list of names, which comes back sorted.
func (f fields) nameList(key string) (pattern string, names []string, err error) {
	if f.empty(key) {
		return "", nil, nil
	}
	if json.Unmarshal(f[key], &pattern) == nil {
		return pattern, nil, nil
	}
	if err := json.Unmarshal(f[key], &names); err != nil {
		return "", nil, fmt.Errorf("%s: expected a pattern or a list of names, found %s", key, brief(f[key]))
	}
	slices.Sort(names)
	return "", names, nil
}

// numbers reads a whole number, or a list of them, from 0.
func (f fields) numbers(key string) ([]int, error) {
	raw, ok := f[key]
	if !ok || string(raw) == "null" {
		return nil, nil
	}
	var one int
	var list []int
	if json.Unmarshal(raw, &one) == nil {
		list = []int{one}
	} else if json.Unmarshal(raw, &list) != nil {
		return nil, fmt.Errorf("%s: expected whole numbers, found %s", key, brief(raw))
	}
	if slices.ContainsFunc(list, func(n int) bool { return n < 0 }) {
		return nil, fmt.Errorf("%s: %s holds a negative number", key, brief(raw))
	}
	return list, nil
}

// pairs reads a JSON object of numbers in the order of the file: the first pattern that matches counts. each is called with every pair.
func (f fields) pairs(key string, each func(key string, v float64) error) (patterns, error) {
	if f.empty(key) {
		return nil, nil
	}
	d := json.NewDecoder(bytes.NewReader(f[key]))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, fmt.Errorf("%s: expected an object of numbers, found %s", key, brief(f[key]))
	}
	var out patterns
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", key, err)
		}
		value, err := d.Token()
		x, ok := value.(float64)
		if err != nil || !ok || !(x > 0) || math.IsInf(x, 0) {
			return nil, fmt.Errorf("%s: the value of %q must be a positive number", key, name)
		}
		text, _ := name.(string) // the keys of an object are strings
		if err := each(text, x); err != nil {
			return nil, err
		}
		p, err := newPattern(text, x)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", key, err)
		}
		out = append(out, p)
	}
	if _, err := d.Token(); err != nil && err != io.EOF {
		return nil, fmt.Errorf("%s: %w", key, err)
	}
	return out, nil
}
