package data

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// A batch of rows is tokenised together; its bounds keep the raw rows in memory few.
const (
	chunkRows  = 256
	chunkBytes = 8 << 20
	compared   = 32 // rows of a file whose rendering is compared with that for inference
)

// Load reads, tokenises and masks the files. Errors about a file are *RowError; others are about the options.
func Load(ctx context.Context, enc Encoder, files []File, opt Options) (*Set, error) {
	opt, err := opt.withDefaults()
	if err != nil {
		return nil, err
	}
	if enc == nil {
		return nil, fmt.Errorf("data: no tokenizer given")
	}
	if _, err := opt.byName(); err != nil {
		return nil, err
	}
	if files, err = expand(files); err != nil {
		return nil, err
	}
	b := &builder{opt: opt, st: &store{seqLen: opt.SeqLen, pairs: opt.Pairs, tok: newTokens(opt.Limits.Memory, opt.SpillDir)}, seen: map[uint64]struct{}{},
		conv: &Converter{Encoder: enc, Mask: opt.Mask, BOS: opt.BOS, EOS: opt.EOS, Renderer: opt.Renderer, AsChat: opt.AsChat, Roles: opt.Roles, AnyRole: opt.AnyRole}}
	for _, f := range files {
		if err := b.file(ctx, f); err != nil {
			return nil, errors.Join(err, b.st.tok.close())
		}
	}
	if len(b.st.docs) == 0 {
		return nil, rowErr(files[0].Path, 0, "no row is left to train on (%d empty, %d lost all trained tokens to seq_len %d)",
			b.st.empty+b.st.untrained, b.st.dropped, opt.SeqLen)
	}
	return b.set(), nil
}

// builder collects the examples of all files in order.
type builder struct {
	opt    Options
	conv   *Converter
	st     *store
	seen   map[uint64]struct{} // hashes of examples, to count duplicates
	tokens int64
	open   []int32 // tokens of the text document being read that are in no window yet
	fresh  int     // how many of open are not overlap
	begun  bool    // open continues a document that has filled a window
}

func (b *builder) file(ctx context.Context, f File) (err error) {
	src, err := openSource(f.Path, b.opt.Limits)
	if err != nil {
		return err
	}
	defer src.close()
	rows, plain, done, err := b.rowsIn(f.Path, src)
	if err != nil {
		return err
	}
	defer done()
	info := FileInfo{Path: f.Path, Bytes: src.size, Weight: f.Weight}
	format, err := b.opt.byName()
	if err != nil {
		return err
	}
	info.Why = "data.format"
	if plain {
		format, info.Why = &formats[len(formats)-1], "plain text"
	}
	if err := b.rows(ctx, rows, format, &info); err != nil {
		return err
	}
	if info.SHA256, err = src.finish(); err != nil {
		return readErr(f.Path, 0, err)
	}
	if info.Rows == 0 {
		return rowErr(f.Path, 0, "holds no rows")
	}
	b.st.files = append(b.st.files, info)
	return nil
}

// rowsIn chooses the reader of a file's rows; done releases what it holds.
func (b *builder) rowsIn(path string, src *source) (rows rowReader, plain bool, done func(), err error) {
	if filepath.Ext(unpackedName(path)) != ".parquet" {
		rows, plain, err = rowsOf(path, src, b.opt)
		return rows, plain, func() {}, err
	}
	if packed[strings.ToLower(filepath.Ext(path))] != "" {
		return nil, false, nil, rowErr(path, 0, "a Parquet file is read from its end and is compressed inside; unpack it")
	}
	r, err := newParquetReader(path, src.file, src.size, b.opt.Limits)
	if err != nil {
		return nil, false, nil, err
	}
	return r, false, r.close, nil
}

// rows converts a file chunk by chunk; format nil means that the first row chooses it.
func (b *builder) rows(ctx context.Context, rows rowReader, format *Format, info *FileInfo) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		chunk, end := readChunk(rows)
		for i := range min(len(chunk), compared-info.Rows) {
			chunk[i].sample = true
		}
		if format == nil && len(chunk) > 0 {
			first := chunk[0]
			err := first.parse()
			if err == nil {
				format, info.Why, err = b.opt.detect(&first)
			}
			if err != nil {
				return err
			}
		}
		if format != nil {
			info.Format = format.Name
		}
		info.Rows += len(chunk)
		if err := b.chunk(format, chunk); err != nil {
			return err // of a row before the place where reading failed, if it did
		}
		if end == io.EOF {
			return nil
		}
		if end != nil {
			return end
		}
	}
}

// readChunk reads the next rows, and says why it could not go on after them: io.EOF at the end of the file.
func readChunk(rows rowReader) ([]Row, error) {
	var chunk []Row
	for size := 0; len(chunk) < chunkRows && size < chunkBytes; {
		row, err := rows.next()
		if err != nil {
			return chunk, err
		}
		size += row.size
		chunk = append(chunk, row)
	}
	return chunk, nil
}

// chunk parses and tokenises rows on several goroutines and adds them in order; the error is that of the first bad row.
func (b *builder) chunk(format *Format, rows []Row) error {
	docs, errs := make([][]Doc, len(rows)), make([]error, len(rows))
	var wg sync.WaitGroup
	for w := range min(b.opt.Workers, len(rows)) {
		wg.Go(func() {
			for i := w; i < len(rows); i += b.opt.Workers {
				if errs[i] = rows[i].parse(); errs[i] == nil {
					docs[i], errs[i] = format.Convert(&rows[i], b.conv)
				}
				if errs[i] == nil {
					errs[i] = checkDocs(&rows[i], docs[i], b.opt.Vocab)
				}
			}
		})
	}
	wg.Wait()
	for i := range rows {
		if errs[i] != nil {
			if err := b.bad(errs[i]); err != nil {
				return err
			}
			continue
		}
		if len(docs[i]) == 0 {
			b.st.empty++
		}
		if err := b.addAll(&rows[i], docs[i]); err != nil {
			return err
		}
	}
	return nil
}

// bad decides about a row that cannot be used.
func (b *builder) bad(err error) error {
	var re *RowError
	if b.opt.OnBadRow == nil || !errors.As(err, &re) {
		return err
	}
	b.st.bad++
	if errors.Is(err, ErrUntrained) {
		b.st.untrained++
	}
	return b.opt.OnBadRow(re)
}

func checkDocs(r *Row, docs []Doc, vocab int) error {
	for _, d := range docs {
		for t, id := range d.IDs {
			if reason := badID(id, vocab); reason != "" {
				return r.Errorf("token %d: %s", t, reason)
			}
		}
		for t, id := range d.Labels {
			if id == Ignore {
				continue
			}
			if reason := badID(id, vocab); reason != "" {
				return r.Errorf("label %d: %s (only %d means untrained)", t, reason, Ignore)
			}
		}
		if d.Labels != nil && len(d.Labels) != len(d.IDs) {
			return r.Errorf("%d labels for %d ids", len(d.Labels), len(d.IDs))
		}
	}
	return nil
}

// addAll cuts the documents of a row to the sequence length and stores them. Those that lose all their trained tokens are left out;
// a pair stays or goes as a whole.
func (b *builder) addAll(r *Row, docs []Doc) error {
	if b.st.pairs && len(docs) != 0 && len(docs) != 2 {
		return r.Errorf("gives %d examples where a pair has two, chosen and rejected", len(docs))
	}
	cut, lost := false, false
	for i := range docs {
		if docs[i].Window {
			if err := b.window(r, docs[i]); err != nil {
				return err
			}
			continue
		}
		b.st.longest = max(b.st.longest, len(docs[i].IDs))
		cut = docs[i].cut(b.opt.SeqLen) || cut
		lost = docs[i].untrained() || lost
	}
	if cut {
		b.st.truncated++
	}
	if lost {
		b.st.dropped++
		return nil
	}
	for _, d := range docs {
		if d.Window {
			continue
		}
		if d.Chat {
			b.st.rendered++
		}
		if d.Ended {
			b.st.ended++
		}
		if d.Torn {
			b.st.torn++
		}
		if d.Differs != "" {
			b.st.differs = append(b.st.differs, fmt.Sprintf("%s:%d: %s", r.File, r.Line, d.Differs))
		}
		if err := b.example(r, d.IDs, d.Labels, d.Skip); err != nil {
			return err
		}
	}
	return nil
}

// cut shortens a document to n tokens.
func (d *Doc) cut(n int) bool {
	if len(d.IDs) <= n {
		return false
	}
	d.IDs = d.IDs[:n]
	if d.Labels != nil {
		d.Labels = d.Labels[:n]
	}
	return true
}

func (d *Doc) untrained() bool {
	return d.Labels == nil && max(d.Skip, 1) >= len(d.IDs) || d.Labels != nil && trained(d.Labels) == 0
}

// window adds the ids to the open document and cuts off every full window; the document's last piece empties it.
func (b *builder) window(r *Row, d Doc) error {
	n, keep := b.opt.SeqLen, b.opt.Overlap
	b.open = append(b.open, d.IDs...)
	b.fresh += len(d.IDs)
	pos := 0
	emit := func(end int) error {
		skip := 0
		if b.begun {
			skip = keep
		}
		if end-pos <= max(skip, 1) {
			b.st.empty++
			return nil
		}
		b.begun = true
		return b.example(r, b.open[pos:end], nil, skip)
	}
	for b.fresh > 0 && (len(b.open)-pos > n || !d.More) {
		end := min(pos+n, len(b.open))
		if err := emit(end); err != nil {
			return err
		}
		b.fresh = len(b.open) - end
		pos = max(end-keep, pos)
		if b.fresh == 0 {
			pos = end
		}
	}
	b.open = append(b.open[:0], b.open[pos:]...)
	if !d.More {
		b.open, b.fresh, b.begun = b.open[:0], 0, false
	}
	return nil
}

// example stores one finished example.
func (b *builder) example(r *Row, ids, labels []int32, skip int) error {
	if b.tokens += int64(len(ids)); b.tokens > b.opt.Limits.Tokens || len(b.st.docs) >= math.MaxInt32-1 {
		return r.Errorf("more than %d tokens are in the data up to here; raise the limit or use fewer files", b.opt.Limits.Tokens)
	}
	skip = max(skip, 1)
	d := doc{n: int32(len(ids)), skip: int32(skip), trained: int32(len(ids) - skip), file: int32(len(b.st.files)),
		line: int32(min(r.Line, math.MaxInt32))}
	if labels != nil {
		d.skip, d.trained = ownLabels, int32(trained(labels))
		labels = slices.Clone(labels)
		labels[0] = Ignore // nothing predicts the first token
	}
	h := fnv.New64a()
	_, _ = h.Write(tensor.AsBytes(ids)) // a hash never fails
	_, _ = h.Write([]byte{byte(d.skip), byte(d.skip >> 8), byte(d.skip >> 16)})
	_, _ = h.Write(tensor.AsBytes(labels))
	if _, dup := b.seen[h.Sum64()]; dup {
		b.st.duplicates++
		if len(b.st.twins) < maxTwins {
			b.st.twins = append(b.st.twins, fmt.Sprintf("%s:%d", r.File, r.Line))
		}
	}
	b.seen[h.Sum64()] = struct{}{}
	var err error
	if d.at, err = b.st.tok.append(ids); err == nil && labels != nil {
		_, err = b.st.tok.append(labels)
	}
	b.st.docs = append(b.st.docs, d)
	return err
}

func (b *builder) set() *Set {
	s := &Set{st: b.st, weighted: true}
	step := 1
	if b.st.pairs {
		step = 2
	}
	s.rows = make([]int32, 0, len(b.st.docs)/step)
	for i := 0; i < len(b.st.docs); i += step {
		s.rows = append(s.rows, int32(i))
	}
	return s
}
