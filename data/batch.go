package data

import "slices"

// PadSample is the Sample of a padding token.
const PadSample int32 = -1

// Batch is one micro-batch. All slices but Cu are (B, T) row-major. The padding behind a row's documents is a document of its
// own, with the loader's PadID, label Ignore and sample PadSample; an empty row is all padding.
type Batch struct {
	B, T     int
	Pairs    int // of a set of pairs: rows 0 to Pairs-1 are chosen, row B/2+i is the rejected one of row i, the others are padding
	Tokens   []int32
	Labels   []int32 // aligned with Tokens, Ignore = untrained; Ignore at the first token of every document
	Pos      []int32 // index of the token in its document
	DocStart []int32 // index in the row of the first token of the token's document
	Sample   []int32 // Set.ID of the token's example
	Cu       []int32 // borders of the documents in the B*T tokens: 0, ..., B*T, filled up with B*T to MaxDocs(B,T)+1 entries
	Targets  int     // labels that are trained: the number of targets after the shift
	Real     int     // tokens that are not padding
}

// MaxDocs is the most documents that B rows of T tokens can hold: a document has at least two tokens, and padding is one.
func MaxDocs(b, t int) int { return b * ((t + 1) / 2) }

// Shift writes the target of each position to dst, growing it as needed, and returns it: see the function Shift.
func (b *Batch) Shift(dst []int32) []int32 { return Shift(dst, b.Labels, b.DocStart, b.T) }

// Shift turns aligned labels into targets: position i of a row predicts labels[i+1], nothing (Ignore) where the row or the
// document ends. labels and docStart are rows of t tokens; docStart nil means one document a row. dst may be nil or labels
// itself; the result has len(labels) entries.
func Shift(dst, labels, docStart []int32, t int) []int32 {
	dst = slices.Grow(dst[:0], len(labels))[:len(labels)]
	for i := range labels {
		dst[i] = Ignore
		if (i+1)%t != 0 && i+1 < len(labels) && (docStart == nil || int(docStart[i+1]) != (i+1)%t) {
			dst[i] = labels[i+1]
		}
	}
	return dst
}

// reset makes b an all-padding batch of the shape, reusing its storage.
func (b *Batch) reset(rows, t int, pad int32) {
	b.B, b.T, b.Pairs, b.Targets, b.Real = rows, t, 0, 0, 0
	for _, s := range []*[]int32{&b.Tokens, &b.Labels, &b.Pos, &b.DocStart, &b.Sample} {
		*s = slices.Grow((*s)[:0], rows*t)[:rows*t]
	}
	b.Cu = slices.Grow(b.Cu[:0], MaxDocs(rows, t)+1)
	b.Cu = append(b.Cu, 0)
	for i := range b.Tokens {
		b.Tokens[i], b.Labels[i], b.Sample[i] = pad, Ignore, PadSample
	}
}

// fill writes the examples of a row and its padding.
func (b *Batch) fill(st *store, row int, ids []int32) error {
	at := 0 // in the row
	for _, id := range ids {
		d := &st.docs[id]
		base, n := row*b.T+at, int(d.n)
		if err := st.read(id, b.Tokens[base:base+n], b.Labels[base:base+n]); err != nil {
			return err
		}
		for t := range n {
			b.Sample[base+t] = id
		}
		b.span(row, at, n)
		at += n
		b.Targets += int(d.trained)
		b.Real += n
	}
	if at < b.T {
		b.span(row, at, b.T-at)
	}
	return nil
}

// span writes the positions of a document of n tokens that begins at index at of the row.
func (b *Batch) span(row, at, n int) {
	base := row*b.T + at
	for t := range n {
		b.Pos[base+t], b.DocStart[base+t] = int32(t), int32(at)
	}
	b.Cu = append(b.Cu, int32(base+n))
}

// seal fills Cu up to its fixed length.
func (b *Batch) seal() {
	for len(b.Cu) < MaxDocs(b.B, b.T)+1 {
		b.Cu = append(b.Cu, int32(b.B*b.T))
	}
}
