package trainer

import (
	"errors"
	"strings"
	"sync/atomic"
	"unicode/utf8"

	"github.com/bitsandbyes/bitsandbyes/data"
	"github.com/bitsandbyes/bitsandbyes/tokenizer"
)

// NewEncoder gives package data the tokenizer without the special tokens that it adds by itself; tok may be nil for rows of token ids.
func NewEncoder(tok tokenizer.Tokenizer) data.OffsetEncoder {
	e := &encoder{tok: tok}
	if tok != nil {
		e.pieces = make([]atomic.Pointer[spelling], max(tok.VocabSize(), 0))
	}
	return e
}

type encoder struct {
	tok    tokenizer.Tokenizer
	pieces []atomic.Pointer[spelling] // by id, found when first met
}

// spelling is the text of a token: as it decodes, and as the vocabulary spells it.
type spelling struct{ decoded, spelt string }

// Encode implements data.Encoder.
func (e *encoder) Encode(text string) ([]int32, error) {
	if e.tok == nil {
		return nil, errors.New("the model has no tokenizer (tokenizer.json) beside it; give rows of token ids (data.format tokens) or add the tokenizer")
	}
	return e.tok.EncodeWith(text, tokenizer.EncodeOptions{NoSpecial: true})
}

// EncodeOffsets implements data.OffsetEncoder by laying the tokens' texts along the text. Where a normalizer changed it they do not
// fit, and there are no offsets.
func (e *encoder) EncodeOffsets(text string) (ids, offsets []int32, err error) {
	if ids, err = e.Encode(text); err != nil {
		return nil, nil, err
	}
	offsets = make([]int32, 0, 2*len(ids))
	at := 0
	for i := 0; i < len(ids); {
		tokens, n := e.fit(ids[i:], text[at:])
		if tokens == 0 {
			return ids, nil, nil
		}
		for range tokens { // the bytes of one character may be several tokens
			offsets = append(offsets, int32(at), int32(at+n))
		}
		i, at = i+tokens, at+n
	}
	if at != len(text) {
		return ids, nil, nil
	}
	return ids, offsets, nil
}

// maxShared is how many tokens one character may be: it has four bytes.
const maxShared = 4

// fit says how many of the tokens the text begins with, and over how many bytes; 0 for none. It is one token but where a character
// is spread over several.
func (e *encoder) fit(ids []int32, text string) (tokens, bytes int) {
	if int(ids[0]) >= len(e.pieces) {
		return 0, 0
	}
	p := e.piece(ids[0])
	for _, s := range []string{p.spelt, p.decoded} {
		if s != "" && strings.HasPrefix(text, s) {
			return 1, len(s)
		}
		// SentencePiece puts a space before a text that has none.
		if s, ok := strings.CutPrefix(s, " "); ok && !strings.HasPrefix(text, " ") && strings.HasPrefix(text, s) {
			return 1, len(s)
		}
	}
	for n := 2; n <= min(maxShared, len(ids)); n++ {
		s := e.tok.Decode(ids[:n])
		if s != "" && !strings.HasSuffix(s, string(utf8.RuneError)) && strings.HasPrefix(text, s) {
			return n, len(s)
		}
	}
	return 0, 0
}

func (e *encoder) piece(id int32) spelling {
	slot := &e.pieces[id]
	if p := slot.Load(); p != nil {
		return *p
	}
	p := &spelling{decoded: e.tok.Decode([]int32{id})}
	if s, ok := e.tok.Token(id); ok && strings.Contains(s, "▁") {
		p.spelt = strings.ReplaceAll(s, "▁", " ")
	}
	if strings.Contains(p.decoded, string(utf8.RuneError)) {
		p.decoded = "" // a part of a character
	}
	slot.Store(p)
	return *p
}
