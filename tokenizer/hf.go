package tokenizer

import (
	"strings"
	"sync"
)

// HF is a tokenizer read from Hugging Face's tokenizer.json.
type HF struct {
	specials
	raw []byte // the file, kept so that Save writes what was read; nil where other values were read
	// original is the file of another format that was read, which Save of a directory writes beside tokenizer.json.
	original   original
	companions map[string][]byte // files that lay beside it
	grown      []addedToken      // tokens added since it was read
	base       int               // size of the vocabulary as read
	file       hfFile            // the parts of the file but for the model's
	tokens     []string
	present    []bool
	ids        map[string]int32
	control    []bool

	added      *matcher // found in the text as it is
	addedNorm  *matcher // found in the normalized text
	normalizer normalizer
	pre        preTokenizer
	model      model
	wrapping   wrapping
	decoder    decoder
	byteLevel  bool // the decoder is ByteLevel: every token has its bytes
	pool       sync.Pool
}

var _ Tokenizer = (*HF)(nil)

// Encode returns the ids of text with the special tokens that the file adds around a single sequence.
func (t *HF) Encode(text string) ([]int32, error) { return t.EncodeWith(text, EncodeOptions{}) }

// EncodeWith returns the ids of text. The error is a regular expression that ran out of time or of stack. Truncation and
// padding settings of the file are not applied: lengths are the caller's matter. In a byte-level tokenizer, bytes that are not
// UTF-8 are encoded as they are; elsewhere they count as U+FFFD.
func (t *HF) EncodeWith(text string, opts EncodeOptions) ([]int32, error) {
	st, ok := t.pool.Get().(*state)
	if !ok {
		st = newState()
	}
	defer t.pool.Put(st)
	st.err, st.room = nil, maxGrown(text)
	dst := make([]int32, 0, len(text)/4+8)
	if !opts.NoSpecial {
		dst = append(dst, t.wrapping.prefix...)
	}
	var err error
	for _, seg := range t.added.split(text, opts.SpecialAsText, nil) {
		if seg.token != nil {
			dst = append(dst, seg.token.ID)
			continue
		}
		if dst, err = t.encodePlain(st, seg, opts, dst); err != nil {
			return nil, err
		}
	}
	if !opts.NoSpecial {
		dst = append(dst, t.wrapping.suffix...)
	}
	return dst, nil
}

// encodePlain encodes a part of the text that holds no added token, but may after normalization.
func (t *HF) encodePlain(st *state, seg segment, opts EncodeOptions, dst []int32) ([]int32, error) {
	text := seg.text
	var err error
	if t.normalizer != nil {
		if text, err = t.normalizer(text); err != nil {
			return nil, err
		}
		if st.room -= len(text); st.room < 0 {
			return nil, errGrown
		}
	}
	emit := func(p piece) error {
		if p.text != "" {
			dst = t.model.encode(st, p.text, dst)
		}
		return st.err
	}
	for _, part := range t.addedNorm.split(text, opts.SpecialAsText, nil) {
		switch {
		case part.token != nil:
			dst = append(dst, part.token.ID)
		case t.pre == nil:
			err = emit(piece{text: part.text})
		default:
			err = t.pre.split(piece{part.text, seg.start == 0 && part.start == 0}, emit)
		}
		if err != nil {
			return nil, err
		}
	}
	return dst, nil
}

// Decode returns the text of ids with special tokens kept; unknown ids are skipped.
func (t *HF) Decode(ids []int32) string { return t.DecodeWith(ids, DecodeOptions{}) }

// DecodeWith returns the text of ids; unknown ids are skipped and bytes that are not UTF-8 become U+FFFD.
func (t *HF) DecodeWith(ids []int32, opts DecodeOptions) string {
	if t.byteLevel {
		var b []byte
		for _, id := range ids {
			if !opts.SkipSpecial || !t.Special(id) {
				b, _ = t.appendBytes(b, id, -1)
			}
		}
		return string(appendLossy(nil, b))
	}
	tokens := make([]string, 0, len(ids))
	for _, id := range ids {
		if token, ok := t.Token(id); ok && !(opts.SkipSpecial && t.control[id]) {
			tokens = append(tokens, token)
		}
	}
	if t.decoder == nil {
		return strings.Join(tokens, " ")
	}
	return strings.Join(t.decoder(tokens), "")
}

// appendBytes appends the bytes of a token, whatever precedes it; false when tokens have no bytes of their own.
func (t *HF) appendBytes(dst []byte, id, _ int32) ([]byte, bool) {
	if token, ok := t.Token(id); ok && t.byteLevel {
		dst = append(dst, tokenBytes(token)...)
	}
	return dst, t.byteLevel
}

// VocabSize returns the largest id plus one.
func (t *HF) VocabSize() int { return len(t.tokens) }

// Token returns the token of an id as the file spells it.
func (t *HF) Token(id int32) (string, bool) {
	if id < 0 || int(id) >= len(t.tokens) || !t.present[id] {
		return "", false
	}
	return t.tokens[id], true
}

// ID returns the id of a token as the file spells it.
func (t *HF) ID(token string) (int32, bool) {
	id, ok := t.ids[token]
	return id, ok
}

// Special reports whether the file marks the token as special.
func (t *HF) Special(id int32) bool { return id >= 0 && int(id) < len(t.control) && t.control[id] }
