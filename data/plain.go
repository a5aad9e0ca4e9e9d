package data

import (
	"bytes"
	"io"
	"unicode"
	"unicode/utf8"
)

// textPiece is how much plain text is tokenised at a time. A document is cut only after a line end that no white space follows,
// where byte-level and word tokenizers cut anyway.
const textPiece = 1 << 20

// textReader yields the documents of a plain text file in pieces.
type textReader struct {
	file string
	line int
	in   io.Reader
	sep  []byte
	max  int
	unit int // piece size; textPiece but in tests

	buf  []byte
	eof  bool
	cont bool // the next piece continues a document
}

func (t *textReader) next() (Row, error) {
	for want := t.unit; ; {
		// Before reading on: taking one small document must not move the rest of the buffer.
		if len(t.sep) > 0 {
			if i := bytes.Index(t.buf, t.sep); i >= 0 {
				return t.take(i, len(t.sep), false)
			}
		}
		if len(t.buf) < want && !t.eof {
			if err := t.fill(want); err != nil {
				return Row{}, readErr(t.file, t.line, err)
			}
			continue
		}
		if t.eof {
			if len(t.buf) == 0 && !t.cont {
				return Row{}, io.EOF
			}
			return t.take(len(t.buf), 0, false)
		}
		// A separator not yet complete may begin in the last len(sep)-1 bytes.
		if i := lastCut(t.buf[:len(t.buf)-max(len(t.sep)-1, 0)]); i > 0 {
			return t.take(i, 0, true)
		}
		if want = 2 * want; want > 2*t.max {
			return Row{}, rowErr(t.file, t.line, "a line is longer than %d bytes; break the text into lines", t.max)
		}
	}
}

// fill reads until want bytes are at hand or the file ends.
func (t *textReader) fill(want int) error {
	for len(t.buf) < want && !t.eof {
		if cap(t.buf) < want { // also drops what was taken
			t.buf = append(make([]byte, 0, want), t.buf...)
		}
		n, err := t.in.Read(t.buf[len(t.buf):want])
		t.buf = t.buf[:len(t.buf)+n]
		if err == io.EOF {
			t.eof = true
		} else if err != nil {
			return err
		}
	}
	return nil
}

func (t *textReader) take(n, skip int, more bool) (Row, error) {
	text := t.buf[:n]
	row := Row{File: t.file, Line: t.line, Text: string(text), First: !t.cont, More: more, size: n}
	if at := badUTF8(text); at >= 0 {
		line := t.line + bytes.Count(text[:at], []byte("\n"))
		return row, rowErr(t.file, line, "is not UTF-8 (byte 0x%02x); convert the file to UTF-8", text[at])
	}
	t.line += bytes.Count(t.buf[:n+skip], []byte("\n"))
	t.buf = t.buf[n+skip:]
	t.cont = more
	return row, nil
}

// lastCut returns the last place after a line end where text that is not white space follows, 0 if there is none.
func lastCut(b []byte) int {
	for i := len(b) - 1; i > 0; i-- {
		if b[i-1] != '\n' || !utf8.FullRune(b[i:]) {
			continue
		}
		if c, _ := utf8.DecodeRune(b[i:]); !unicode.IsSpace(c) {
			return i
		}
	}
	return 0
}
