package data

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"
)

// Row is one row of an input file before tokenising: the fields of a JSON object, or a piece of plain text.
type Row struct {
	File   string
	Line   int // where the row begins
	Fields map[string]json.RawMessage

	Text  string // plain text only (Fields is nil)
	First bool   // Text begins a document
	More  bool   // the document goes on in the next row

	raw    []byte
	size   int
	sample bool // one of the rows whose rendering is compared with that for inference
}

// rowReader yields the rows of one file; io.EOF ends it. A JSON row comes with raw set and Fields not yet parsed.
type rowReader interface {
	next() (Row, error)
}

// Errorf makes an error at the row.
func (r *Row) Errorf(format string, args ...any) error {
	return rowErr(r.File, r.Line, format, args...)
}

// Has reports whether the row has the key with a value other than null.
func (r *Row) Has(key string) bool {
	v, ok := r.Fields[key]
	return ok && !bytes.Equal(v, []byte("null"))
}

// Str returns the string at key; an absent key is an error unless optional, where it gives "".
func (r *Row) Str(key string, optional bool) (string, error) {
	if !r.Has(key) {
		if optional {
			return "", nil
		}
		return "", r.missing(key)
	}
	return r.text(fmt.Sprintf("%q", key), r.Fields[key])
}

// text decodes a JSON string; what names it in an error.
func (r *Row) text(what string, v json.RawMessage) (string, error) {
	if v[0] != '"' {
		return "", r.Errorf("%s must be a string, is %s", what, kindOf(v))
	}
	if at := loneSurrogate(v); at >= 0 {
		return "", r.Errorf("%s holds half of a surrogate pair (%s), which is not text; remove it", what, v[at:min(at+6, len(v))])
	}
	var s string
	if err := json.Unmarshal(v, &s); err != nil {
		return "", r.Errorf("%s: %v", what, err)
	}
	return s, nil
}

// Ints returns the list of integers at key, which must be present; a string may hold it as JSON.
func (r *Row) Ints(key string) ([]int32, error) {
	if !r.Has(key) {
		return nil, r.missing(key)
	}
	v, err := r.unquoted(key, r.Fields[key], '[')
	if err != nil {
		return nil, err
	}
	if v[0] != '[' {
		return nil, r.Errorf("%q must be a list of integers, is %s", key, kindOf(v))
	}
	if bytes.Contains(v, []byte("null")) {
		return nil, r.Errorf("%q must be a list of integers, holds null", key) // the decoder would read it as 0
	}
	var out []int32
	if err := json.Unmarshal(v, &out); err != nil {
		var te *json.UnmarshalTypeError
		if errors.As(err, &te) {
			return nil, r.Errorf("%q must be a list of 32-bit integers, holds %s", key, te.Value)
		}
		return nil, r.Errorf("%q: %v", key, err)
	}
	return out, nil
}

// Keys returns the row's keys in order.
func (r *Row) Keys() []string {
	keys := make([]string, 0, len(r.Fields))
	for k := range r.Fields {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func (r *Row) missing(key string) error {
	return r.Errorf("has no key %q (it has %s); add it or set data.format", key, keyList(r.Keys()))
}

func keyList(keys []string) string {
	const most = 12
	if len(keys) == 0 {
		return "none"
	}
	s := make([]string, 0, most)
	for _, k := range keys[:min(len(keys), most)] {
		s = append(s, fmt.Sprintf("%.40q", k))
	}
	if len(keys) > most {
		s = append(s, fmt.Sprintf("and %d more", len(keys)-most))
	}
	return strings.Join(s, ", ")
}

func kindOf(v json.RawMessage) string {
	switch v[0] {
	case '"':
		return "a string"
	case '{':
		return "an object"
	case '[':
		return "a list"
	case 't', 'f':
		return "a boolean"
	case 'n':
		return "null"
	}
	return "a number"
}

// loneSurrogate returns the offset of a \uD800..\uDFFF escape without its other half, -1 if there is none. The decoder would
// turn it into U+FFFD without a word.
func loneSurrogate(s []byte) int {
	for i := 0; i+5 < len(s); i++ {
		if s[i] != '\\' {
			continue
		}
		if s[i+1] != 'u' {
			i++
			continue
		}
		switch hi := hex4(s[i+2 : i+6]); {
		case hi >= 0xD800 && hi < 0xDC00:
			if i+11 < len(s) && s[i+6] == '\\' && s[i+7] == 'u' {
				if lo := hex4(s[i+8 : i+12]); lo >= 0xDC00 && lo < 0xE000 {
					i += 11
					continue
				}
			}
			return i
		case hi >= 0xDC00 && hi < 0xE000:
			return i
		}
		i += 5
	}
	return -1
}

func hex4(s []byte) int {
	v := 0
	for _, c := range s {
		switch {
		case c >= '0' && c <= '9':
			v = v<<4 | int(c-'0')
		case c|0x20 >= 'a' && c|0x20 <= 'f':
			v = v<<4 | int(c|0x20-'a'+10)
		default:
			return -1
		}
	}
	return v
}

// parse fills Fields from the raw bytes.
func (r *Row) parse() error {
	if r.raw == nil {
		return nil
	}
	if at := badUTF8(r.raw); at >= 0 {
		line := r.Line + bytes.Count(r.raw[:at], []byte("\n"))
		return rowErr(r.File, line, "is not UTF-8 (byte 0x%02x at offset %d of the row); convert the file to UTF-8", r.raw[at], at)
	}
	if r.raw[0] != '{' {
		if !json.Valid(r.raw) {
			return r.Errorf("is not JSON; each row must be one JSON object")
		}
		return r.Errorf("must be a JSON object, is %s", kindOf(r.raw))
	}
	if err := json.Unmarshal(r.raw, &r.Fields); err != nil {
		return r.Errorf("is not JSON: %v; a file holds one object a line, or one list of objects", err)
	}
	r.raw = nil
	return nil
}

func badUTF8(b []byte) int {
	if utf8.Valid(b) {
		return -1
	}
	for i := 0; i < len(b); {
		c, n := utf8.DecodeRune(b[i:])
		if c == utf8.RuneError && n == 1 {
			return i
		}
		i += n
	}
	return -1
}

// lineReader yields the lines of a JSONL file that are not blank.
type lineReader struct {
	file string
	line int
	in   *bufio.Reader
	max  int
}

func (l *lineReader) next() (Row, error) {
	for {
		l.line++
		var buf []byte
		for {
			part, err := l.in.ReadSlice('\n')
			if len(buf)+len(part) > l.max {
				return Row{}, rowErr(l.file, l.line, "line is longer than %d bytes; split the row", l.max)
			}
			buf = append(buf, part...)
			if err == nil || (err == io.EOF && len(buf) > 0) {
				break
			}
			if err == io.EOF {
				return Row{}, io.EOF
			}
			if err != bufio.ErrBufferFull {
				return Row{}, readErr(l.file, l.line, err)
			}
		}
		if buf = bytes.TrimSpace(buf); len(buf) > 0 {
			return Row{File: l.file, Line: l.line, raw: buf, size: len(buf)}, nil
		}
	}
}

func readErr(file string, line int, err error) error {
	return &RowError{File: file, Line: line, Reason: "cannot be read further: " + err.Error(), Err: err}
}
