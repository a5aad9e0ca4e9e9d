package data

import (
	"encoding/csv"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"unicode/utf8"
)

// csvReader yields the records of a CSV or TSV file as rows of strings; the first record names the columns.
type csvReader struct {
	file string
	in   *csv.Reader
	cap  *rowCap
	head []string
	max  int
}

func newCSVReader(file string, in io.Reader, comma rune, max int) *csvReader {
	c := &csvReader{file: file, cap: &rowCap{r: in}, max: max}
	c.in = csv.NewReader(c.cap)
	c.in.Comma, c.in.ReuseRecord = comma, true
	return c
}

// maxColumns bounds what a row becomes: an empty field is one byte of the file and an entry of a map here.
const maxColumns = 10_000

// rowCap ends a record that has no end: a quote that is never closed would read the whole file into one field.
type rowCap struct {
	r    io.Reader
	left int
}

var errLongRecord = errors.New("record too long")

func (c *rowCap) Read(p []byte) (int, error) {
	if c.left <= 0 {
		return 0, errLongRecord
	}
	n, err := c.r.Read(p)
	c.left -= n
	return n, err
}

func (c *csvReader) next() (Row, error) {
	if c.head == nil {
		rec, _, err := c.record()
		if err != nil {
			return Row{}, err
		}
		c.head = slices.Clone(rec)
		if err := c.checkHead(); err != nil {
			return Row{}, err
		}
	}
	rec, line, err := c.record()
	if err != nil {
		return Row{}, err
	}
	row := Row{File: c.file, Line: line, Fields: make(map[string]json.RawMessage, len(rec))}
	for i, v := range rec {
		if !utf8.ValidString(v) {
			return row, row.Errorf("column %q is not UTF-8; convert the file to UTF-8", c.head[i])
		}
		raw, err := json.Marshal(v)
		if err != nil {
			return row, row.Errorf("column %q: %v", c.head[i], err)
		}
		row.Fields[c.head[i]] = raw
		row.size += len(raw)
	}
	return row, nil
}

func (c *csvReader) record() ([]string, int, error) {
	c.cap.left = c.max
	rec, err := c.in.Read()
	if err == io.EOF {
		return nil, 0, io.EOF
	}
	line := 1
	if len(rec) > 0 {
		line, _ = c.in.FieldPos(0)
	}
	var pe *csv.ParseError
	switch {
	case errors.Is(err, errLongRecord):
		return nil, 0, rowErr(c.file, line, "a record is longer than %d bytes: a quote may be left open; split the row", c.max)
	case errors.Is(err, csv.ErrFieldCount):
		return nil, 0, rowErr(c.file, line, "has %d fields, the first line names %d columns; quote fields that hold a separator", len(rec), len(c.head))
	case errors.As(err, &pe):
		return nil, 0, &RowError{File: c.file, Line: pe.StartLine, Reason: "is not CSV: " + pe.Err.Error() + "; double the quotes inside quoted fields", Err: err}
	case err != nil:
		return nil, 0, readErr(c.file, line, err)
	}
	return rec, line, nil
}

func (c *csvReader) checkHead() error {
	if len(c.head) > maxColumns {
		return rowErr(c.file, 1, "the first line names %d columns, more than %d; keep those with text in them", len(c.head), maxColumns)
	}
	seen := make(map[string]bool, len(c.head))
	for i, name := range c.head {
		if name == "" || !utf8.ValidString(name) {
			return rowErr(c.file, 1, "the first line must name the columns; column %d has no name", i+1)
		}
		if seen[name] {
			return rowErr(c.file, 1, "two columns are named %.40q; rename one", name)
		}
		seen[name] = true
	}
	return nil
}
