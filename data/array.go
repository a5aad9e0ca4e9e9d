package data

import (
	"bufio"
	"io"
)

// arrayReader yields the elements of one JSON list, each as raw bytes with the line it begins on, without holding the list.
type arrayReader struct {
	file  string
	line  int // of the byte that comes next
	in    *bufio.Reader
	max   int
	count int
	open  bool // the opening bracket was read
	done  bool
}

func (a *arrayReader) next() (Row, error) {
	if a.done {
		return Row{}, io.EOF
	}
	c, err := a.skipSpace()
	if err != nil {
		return Row{}, a.cut(err)
	}
	if !a.open {
		a.open = true // the caller chose this reader by the '[' just read
		if c, err = a.skipSpace(); err != nil {
			return Row{}, a.cut(err)
		}
	}
	if c == ']' {
		a.done = true
		return Row{}, a.trailing()
	}
	if a.count > 0 {
		if c != ',' {
			return Row{}, rowErr(a.file, a.line, "is not JSON: %q where ',' or ']' must follow row %d", c, a.count)
		}
		if c, err = a.skipSpace(); err != nil {
			return Row{}, a.cut(err)
		}
	}
	a.count++
	return a.element(c)
}

// element reads the value that begins with c. Only braces, brackets and strings are told apart: Row.parse judges the rest.
func (a *arrayReader) element(c byte) (Row, error) {
	row := Row{File: a.file, Line: a.line}
	if c != '{' {
		return row, row.Errorf("row %d of the list must be an object, begins with %q", a.count, c)
	}
	depth, quoted, escaped := 0, false, false
	for {
		row.raw = append(row.raw, c)
		switch {
		case escaped:
			escaped = false
		case quoted:
			escaped, quoted = c == '\\', c != '"'
		case c == '"':
			quoted = true
		case c == '{' || c == '[':
			depth++
		case c == '}' || c == ']':
			depth--
		case c == '\n':
			a.line++
		}
		if depth == 0 {
			row.size = len(row.raw)
			return row, nil
		}
		if len(row.raw) >= a.max {
			return row, row.Errorf("row %d is longer than %d bytes; split it", a.count, a.max)
		}
		var err error
		if c, err = a.in.ReadByte(); err != nil {
			return row, a.cut(err)
		}
	}
}

func (a *arrayReader) skipSpace() (byte, error) {
	for {
		c, err := a.in.ReadByte()
		if err != nil {
			return 0, err
		}
		switch c {
		case '\n':
			a.line++
		case ' ', '\t', '\r':
		default:
			return c, nil
		}
	}
}

func (a *arrayReader) cut(err error) error {
	if err == io.EOF {
		return rowErr(a.file, a.line, "the file ends inside the list, after %d rows; it is cut short", a.count)
	}
	return readErr(a.file, a.line, err)
}

func (a *arrayReader) trailing() error {
	c, err := a.skipSpace()
	if err == nil {
		return rowErr(a.file, a.line, "is not JSON: %q after the end of the list", c)
	}
	if err != io.EOF {
		return readErr(a.file, a.line, err)
	}
	return io.EOF
}
