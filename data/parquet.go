package data

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"

	"github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/format"
)

// Bounds on what a Parquet file may make the reader allocate: it decodes one page of each column at a time.
const (
	parquetFooter      = 64 << 20
	parquetPageHeader  = 64 << 10
	parquetPageValues  = 16 << 20 // levels take a byte a value, whatever they take in the file
	parquetListedFree  = 4 << 20  // values of a column inside lists, where one row may hold them all ...
	parquetListedRatio = 64       // ... and this many more for each byte of the column
	parquetBatch       = 64       // rows decoded at once
)

// parquetReader yields the rows of a Parquet file as JSON objects. Null fields are left out: a writer with a fixed schema cannot.
type parquetReader struct {
	file  string
	pq    *parquet.File
	root  *pqNode
	group int
	rows  parquet.Rows
	buf   []parquet.Row
	n, at int // rows in buf, and the next of them
	count int
	end   error
	max   int
}

func newParquetReader(file string, in io.ReaderAt, size int64, lim Limits) (r *parquetReader, err error) {
	defer parquetPanic(file, 0, &err)
	if err := checkParquet(in, size, lim); err != nil {
		return nil, &RowError{File: file, Reason: "Parquet: " + err.Error(), Err: err}
	}
	pq, err := parquet.OpenFile(in, size, parquet.SkipPageIndex(true), parquet.SkipBloomFilters(true))
	if err != nil {
		return nil, &RowError{File: file, Reason: "not a Parquet file that can be read: " + err.Error(), Err: err}
	}
	if err := checkPages(in, size, pq, lim); err != nil {
		return nil, &RowError{File: file, Reason: "Parquet: " + err.Error(), Err: err}
	}
	r = &parquetReader{file: file, pq: pq, buf: make([]parquet.Row, parquetBatch), max: lim.RowBytes}
	column := 0
	if r.root, err = newPQNode(pq.Schema(), "", 0, 0, &column); err != nil {
		return nil, &RowError{File: file, Reason: "Parquet: " + err.Error(), Err: err}
	}
	return r, nil
}

// parquetPanic turns a panic of the library into an error: it stops at inconsistent files in that manner.
func parquetPanic(file string, row int, err *error) {
	if p := recover(); p != nil {
		*err = rowErr(file, row, "Parquet: the file contradicts itself (%v); write it again", p)
	}
}

func (r *parquetReader) next() (row Row, err error) {
	defer parquetPanic(r.file, r.count+1, &err)
	for r.at == r.n {
		if r.end != nil {
			return Row{}, r.end
		}
		r.fill()
	}
	values := r.buf[r.at]
	r.at++
	r.count++
	raw, err := r.root.object(values, r.max)
	if err != nil {
		return Row{}, rowErr(r.file, r.count, "%v", err)
	}
	return Row{File: r.file, Line: r.count, raw: raw, size: len(raw)}, nil
}

// fill decodes the next rows, of the next row group where one has ended; end says why there are no more.
func (r *parquetReader) fill() {
	r.n, r.at = 0, 0
	if r.rows == nil {
		groups := r.pq.RowGroups()
		if r.group == len(groups) {
			r.end = io.EOF
			return
		}
		r.rows = groups[r.group].Rows()
		r.group++
	}
	n, err := r.rows.ReadRows(r.buf)
	r.n = n
	if err == nil && n > 0 {
		return
	}
	cerr := r.rows.Close()
	r.rows = nil
	if err == nil || err == io.EOF {
		err = cerr
	}
	if err != nil {
		r.end = rowErr(r.file, r.count+n+1, "Parquet: cannot be decoded: %v", err)
	}
}

func (r *parquetReader) close() {
	if r.rows != nil {
		_ = r.rows.Close() // only read from
	}
}

// checkParquet walks the footer, so that the decoder meets no count that the file cannot hold.
func checkParquet(in io.ReaderAt, size int64, lim Limits) error {
	var tail [8]byte
	if size < 12 {
		return errors.New("the file is too short to be one")
	}
	if _, err := in.ReadAt(tail[:], size-8); err != nil {
		return err
	}
	if string(tail[4:]) != "PAR1" {
		return errors.New("the file does not end in PAR1: it is cut short, encrypted, or no Parquet file")
	}
	n := int64(binary.LittleEndian.Uint32(tail[:]))
	if n > size-12 || n > parquetFooter {
		return fmt.Errorf("the footer claims %d bytes of a file of %d", n, size)
	}
	footer := make([]byte, n)
	if _, err := in.ReadAt(footer, size-8-n); err != nil {
		return err
	}
	t := thriftBuf{b: footer}
	if err := t.structure(0); err != nil {
		return fmt.Errorf("the footer %w", err)
	}
	return nil
}

// pageHead is what a page header says of its page.
type pageHead struct{ unpacked, packed, values, length int64 }

func readPageHead(in io.ReaderAt, at, end int64) (p pageHead, err error) {
	buf := make([]byte, min(parquetPageHeader, end-at))
	if _, err := in.ReadAt(buf, at); err != nil {
		return p, err
	}
	t := thriftBuf{b: buf, visit: func(path []int16, v int64) {
		switch {
		case len(path) == 1 && path[0] == 2:
			p.unpacked = v
		case len(path) == 1 && path[0] == 3:
			p.packed = v
		case len(path) == 2 && path[1] == 1 && (path[0] == 5 || path[0] == 7 || path[0] == 8): // data, dictionary, data v2
			p.values = v
		}
	}}
	if err := t.structure(0); err != nil {
		return p, fmt.Errorf("the page header at %d %w", at, err)
	}
	p.length = int64(len(buf) - len(t.b))
	if p.unpacked < 0 || p.packed < 0 || p.values < 0 || p.packed > end-at-p.length {
		return p, fmt.Errorf("the page at %d has a size outside its column", at)
	}
	return p, nil
}

// checkPages walks the page headers of all columns.
func checkPages(in io.ReaderAt, size int64, pq *parquet.File, lim Limits) error {
	columns := pq.Schema().Columns()
	for _, g := range pq.Metadata().RowGroups {
		if len(g.Columns) != len(columns) {
			return fmt.Errorf("a row group has %d columns, the schema %d", len(g.Columns), len(columns))
		}
		for i := range g.Columns {
			m := &g.Columns[i].MetaData
			at := m.DataPageOffset
			if m.DictionaryPageOffset > 0 {
				at = min(at, m.DictionaryPageOffset)
			}
			if at < 4 || m.TotalCompressedSize < 0 || at > size || m.TotalCompressedSize > size-at {
				return fmt.Errorf("column %s lies outside the file", columns[i])
			}
			switch m.Codec {
			case format.Lz4, format.Lz4Raw, format.LZO:
				return fmt.Errorf("column %s is packed with %v, which cannot be unpacked here; write the file with snappy or zstd", columns[i], m.Codec)
			}
			leaf, ok := pq.Schema().Lookup(columns[i]...)
			if !ok {
				return fmt.Errorf("column %s is not in the schema", columns[i])
			}
			if err := checkColumn(in, at, at+m.TotalCompressedSize, leaf.Node.Repeated() || hasLists(pq.Schema(), columns[i]), lim); err != nil {
				return fmt.Errorf("column %s: %w", columns[i], err)
			}
		}
	}
	return nil
}

// hasLists reports whether a field on the path repeats.
func hasLists(n parquet.Node, path []string) bool {
	for _, name := range path {
		i := slices.IndexFunc(n.Fields(), func(f parquet.Field) bool { return f.Name() == name })
		if i < 0 {
			return false
		}
		if n = n.Fields()[i]; n.Repeated() {
			return true
		}
	}
	return false
}

func checkColumn(in io.ReaderAt, at, end int64, listed bool, lim Limits) error {
	begin, values := at, int64(0)
	for at < end {
		p, err := readPageHead(in, at, end)
		if err != nil {
			return err
		}
		if p.unpacked > max(int64(lim.RowBytes), gzipFree) || p.unpacked > max(gzipFree, p.packed*int64(lim.ExpandRatio)) {
			return fmt.Errorf("the page at %d expands from %d to %d bytes; write the file with smaller pages", at, p.packed, p.unpacked)
		}
		if p.values > parquetPageValues {
			return fmt.Errorf("the page at %d claims %d values; write the file with smaller pages", at, p.values)
		}
		values += p.values
		at += p.length + p.packed
	}
	if most := parquetListedFree + parquetListedRatio*(end-begin); listed && values > most {
		return fmt.Errorf("claims %d values in lists out of %d bytes; write the file with shorter lists", values, end-begin)
	}
	return nil
}

// finite numbers are all that JSON has.
func finite(x float64) bool { return !math.IsNaN(x) && !math.IsInf(x, 0) }
