package verify

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// ignored is the label that counts for nothing.
const ignored = -100

// batch is rows of tokens as a model takes them, all i32 (B, T).
type batch struct {
	rows, tokens int
	ids, pos     *tensor.Tensor
	doc          *tensor.Tensor // first token of each token's document
	targets      *tensor.Tensor // the token that follows; ignored where none counts. nil without labels
	real         []bool         // not padding
}

// bad is an error of the file's contents.
func (r *reference) bad(name, format string, args ...any) error {
	return &InputError{fmt.Errorf("%s: tensor %q: %s", r.path, name, fmt.Sprintf(format, args...))}
}

// ints reads a matrix of whole numbers; shape, if valid, is what it must have.
func (r *reference) ints(name string, rows, tokens int) (*tensor.Tensor, error) {
	typ, ok := r.file.Type(name)
	switch {
	case !ok:
		return nil, r.bad(name, "it is missing, and other numbers of the file belong to it")
	case typ.Rank() != 2 || typ.Size() == 0 || typ.DType != tensor.I64 && typ.DType != tensor.I32:
		return nil, r.bad(name, "it is %v, an int64 or int32 matrix (rows, tokens) is needed", typ)
	case rows > 0 && (typ.Dim(0) != rows || typ.Dim(1) != tokens):
		return nil, r.bad(name, "its shape is %v, input_ids have %d rows of %d tokens", typ.Shape, rows, tokens)
	}
	t, err := r.file.Read(name)
	if err != nil {
		return nil, &InputError{err}
	}
	return t, nil
}

// batch reads the inputs under a prefix and checks them against the vocabulary.
func (r *reference) batch(prefix string, vocab int) (*batch, error) {
	ids, err := r.ints(prefix+"input_ids", 0, 0)
	if err != nil {
		return nil, err
	}
	b := &batch{rows: ids.Shape().Dim(0), tokens: ids.Shape().Dim(1), real: make([]bool, ids.Type().Size())}
	for i := range b.real {
		if x := ids.At(i); !(x >= 0 && x < float64(vocab)) {
			return nil, r.bad(prefix+"input_ids", "element %d is %v; the model's tokens are 0 to %d", i, x, vocab-1)
		}
		b.real[i] = true
	}
	if b.ids, err = ids.Convert(tensor.I32); err != nil {
		return nil, &InputError{err}
	}
	if err := r.mask(b, prefix); err != nil {
		return nil, err
	}
	if err := r.positions(b, prefix); err != nil {
		return nil, err
	}
	return b, r.labels(b, prefix, vocab)
}

// mask reads attention_mask: ones, then zeros. Attention is causal, so that nothing real ever sees what is padded on the right.
func (r *reference) mask(b *batch, prefix string) error {
	name := prefix + "attention_mask"
	if prefix != "" || !r.has(name) {
		return nil
	}
	m, err := r.ints(name, b.rows, b.tokens)
	if err != nil {
		return err
	}
	for i := range b.real {
		x := m.At(i)
		if x != 0 && x != 1 {
			return r.bad(name, "element %d is %v, it must be 0 or 1", i, x)
		}
		if x == 1 && i%b.tokens > 0 && !b.real[i-1] {
			return r.bad(name, "row %d has padding before a token; rows must be padded on the right", i/b.tokens)
		}
		b.real[i] = x == 1
	}
	return nil
}

// positions reads packed_position_ids, which restart at 0 with every document; other batches are one document a row.
func (r *reference) positions(b *batch, prefix string) error {
	b.pos, b.doc = tensor.New(b.ids.Type()), tensor.New(b.ids.Type())
	var given *tensor.Tensor
	name := packedPrefix + "position_ids"
	if prefix == packedPrefix {
		var err error
		if given, err = r.ints(name, b.rows, b.tokens); err != nil {
			return err
		}
	}
	for i := range b.real {
		col := i % b.tokens
		pos, start := float64(col), 0
		if given != nil {
			pos = given.At(i)
			start = col - int(pos)
			if pos != 0 && (col == 0 || pos != given.At(i-1)+1) {
				return r.bad(name, "element %d is %v; positions count up from 0, where a document begins", i, pos)
			}
		}
		b.pos.Set(i, pos)
		b.doc.Set(i, float64(start))
	}
	return nil
}

// labels reads labels, which are aligned with the tokens, and shifts them to targets. Nothing is predicted across the border of
// two documents.
func (r *reference) labels(b *batch, prefix string, vocab int) error {
	name := prefix + "labels"
	if !r.has(name) {
		return nil
	}
	l, err := r.ints(name, b.rows, b.tokens)
	if err != nil {
		return err
	}
	b.targets = tensor.New(b.ids.Type())
	counted := 0
	for i := range b.real {
		if x := l.At(i); x != ignored && !(x >= 0 && x < float64(vocab)) {
			return r.bad(name, "element %d is %v; a label is %d or one of the model's tokens 0 to %d", i, x, ignored, vocab-1)
		}
		target := float64(ignored)
		if i%b.tokens < b.tokens-1 && b.doc.At(i+1) == b.doc.At(i) {
			target = l.At(i + 1)
		}
		if target != ignored {
			counted++
		}
		b.targets.Set(i, target)
	}
	if counted == 0 {
		return r.bad(name, "no label counts, so there is no loss")
	}
	return nil
}

// short is the first n tokens of row 0 alone.
func (b *batch) short(n int) (*batch, error) {
	cut := func(t *tensor.Tensor) (*tensor.Tensor, error) { return tensor.Of(tensor.Data[int32](t)[:n], 1, n) }
	out := &batch{rows: 1, tokens: n, real: b.real[:n]}
	var err error
	if out.ids, err = cut(b.ids); err == nil {
		if out.pos, err = cut(b.pos); err == nil {
			out.doc, err = cut(b.doc)
		}
	}
	return out, err
}
