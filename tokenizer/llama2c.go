package tokenizer

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"
)

// Llama2C is the tokenizer of llama2.c's tokenizer.bin: SentencePiece's BPE with scores. Ids 0, 1 and 2 are the unknown token, BOS
// and EOS, and ids 3 to 258 are the bytes. The file gives BOS and EOS only a placeholder text, so they decode to nothing.
type Llama2C struct {
	specials
	tokens []string
	ids    map[string]int32
	ranks  []uint32 // place of each token when sorted by score, highest first; equal scores share it
	pool   sync.Pool
}

var _ Tokenizer = (*Llama2C)(nil)

const (
	llama2cBOS   = 1
	llama2cEOS   = 2
	llama2cBytes = 3
)

// ParseLlama2C reads the contents of a tokenizer.bin: u32 length of the longest token, then for each token f32 score, u32 length
// and its bytes, all little-endian. The file does not hold the number of tokens; vocab is the number expected, or 0 to take what
// is there.
func ParseLlama2C(raw []byte, vocab int) (*Llama2C, error) {
	if len(raw) > maxFile {
		return nil, fmt.Errorf("tokenizer: tokenizer.bin has %d bytes; the limit is %d", len(raw), maxFile)
	}
	if len(raw) < 4 {
		return nil, fmt.Errorf("tokenizer: tokenizer.bin has %d bytes, too few for its header", len(raw))
	}
	longest := binary.LittleEndian.Uint32(raw)
	t := &Llama2C{specials: specials{llama2cBOS, llama2cEOS, -1}, ids: map[string]int32{}}
	var scores []float32
	for at := 4; at < len(raw); {
		if len(raw)-at < 8 {
			return nil, fmt.Errorf("tokenizer: tokenizer.bin ends within token %d", len(t.tokens))
		}
		score := math.Float32frombits(binary.LittleEndian.Uint32(raw[at:]))
		size := binary.LittleEndian.Uint32(raw[at+4:])
		at += 8
		if size > longest || uint64(size) > uint64(len(raw)-at) {
			return nil, fmt.Errorf("tokenizer: tokenizer.bin: token %d has %d bytes; the header allows %d and %d are left", len(t.tokens), size, longest, len(raw)-at)
		}
		token := string(raw[at : at+int(size)])
		at += int(size)
		if old, ok := t.ids[token]; ok {
			return nil, fmt.Errorf("tokenizer: tokenizer.bin: tokens %d and %d are both %q", old, len(t.tokens), token)
		}
		if math.IsNaN(float64(score)) {
			return nil, fmt.Errorf("tokenizer: tokenizer.bin: the score of token %d is not a number", len(t.tokens))
		}
		t.ids[token] = int32(len(t.tokens))
		t.tokens = append(t.tokens, token)
		scores = append(scores, score)
	}
	if vocab != 0 && len(t.tokens) != vocab {
		return nil, fmt.Errorf("tokenizer: tokenizer.bin has %d tokens and the model %d: they do not belong together", len(t.tokens), vocab)
	}
	if len(t.tokens) < llama2cBytes+256 {
		return nil, fmt.Errorf("tokenizer: tokenizer.bin has %d tokens; <unk>, BOS, EOS and 256 bytes are the least", len(t.tokens))
	}
	t.rank(scores)
	return t, nil
}

// rank orders the scores. llama2.c joins nothing whose score is -1e10 or less.
func (t *Llama2C) rank(scores []float32) {
	sorted := slices.Clone(scores)
	slices.SortFunc(sorted, func(a, b float32) int {
		switch {
		case a > b:
			return -1
		case a < b:
			return 1
		}
		return 0
	})
	sorted = slices.Compact(sorted)
	place := make(map[float32]uint32, len(sorted))
	for i, s := range sorted {
		place[s] = uint32(i)
	}
	t.ranks = make([]uint32, len(scores))
	for i, s := range scores {
		t.ranks[i] = place[s]
		if s <= -1e10 {
			t.ranks[i] = math.MaxUint32
		}
	}
}

// llama2cState is the scratch memory of one Encode call; it also remembers which pairs join, to build fewer strings.
type llama2cState struct {
	t      *Llama2C
	merger merger
	known  map[uint64]uint64
	buf    []byte
}

const maxKnownPairs = 1 << 16

func (s *llama2cState) rule(a, b int32) uint64 {
	key := pairKey(a, b)
	if rule, ok := s.known[key]; ok {
		return rule
	}
	if len(s.known) >= maxKnownPairs {
		clear(s.known)
	}
	s.buf = append(append(s.buf[:0], s.t.tokens[a]...), s.t.tokens[b]...)
	rule := uint64(noMerge)
	if id, ok := s.t.ids[string(s.buf)]; ok && s.t.ranks[id] != math.MaxUint32 {
		rule = uint64(s.t.ranks[id])<<32 | uint64(uint32(id))
	}
	s.known[key] = rule
	return rule
}

// Encode returns BOS and the ids of text.
func (t *Llama2C) Encode(text string) ([]int32, error) { return t.EncodeWith(text, EncodeOptions{}) }

// EncodeWith returns the ids of text, after BOS unless NoSpecial. There are no special tokens in the text to find. A text that
// is not empty gets a space in front, as in llama2.c.
func (t *Llama2C) EncodeWith(text string, opts EncodeOptions) ([]int32, error) {
	st, ok := t.pool.Get().(*llama2cState)
	if !ok {
		st = &llama2cState{t: t, known: map[uint64]uint64{}}
	}
	defer t.pool.Put(st)
	ids := make([]int32, 0, len(text)+2)
	if !opts.NoSpecial {
		ids = append(ids, llama2cBOS)
	}
	if text != "" {
		text = " " + text
	}
	for i := 0; i < len(text); {
		_, n := utf8.DecodeRuneInString(text[i:])
		if id, ok := t.ids[text[i:i+n]]; ok {
			ids = append(ids, id)
		} else {
			for j := i; j < i+n; j++ {
				ids = append(ids, int32(text[j])+llama2cBytes)
			}
		}
		i += n
	}
	return st.merger.merge(ids, st), nil
}

// Decode returns the text of ids.
func (t *Llama2C) Decode(ids []int32) string { return t.DecodeWith(ids, DecodeOptions{}) }

// DecodeWith returns the text of ids. The space in front of the token after BOS is dropped.
func (t *Llama2C) DecodeWith(ids []int32, _ DecodeOptions) string {
	var b []byte
	prev := int32(-1)
	for _, id := range ids {
		b, _ = t.appendBytes(b, id, prev)
		prev = id
	}
	return string(appendLossy(nil, b))
}

// appendBytes appends the bytes of a token, which depend on the token before it.
func (t *Llama2C) appendBytes(dst []byte, id, prev int32) ([]byte, bool) {
	token, ok := t.Token(id)
	if !ok || t.Special(id) {
		return dst, true
	}
	if prev == llama2cBOS {
		token = strings.TrimPrefix(token, " ")
	}
	if b, ok := hexByte(token); ok {
		return append(dst, b), true
	}
	return append(dst, token...), true
}

// VocabSize returns the number of tokens.
func (t *Llama2C) VocabSize() int { return len(t.tokens) }

// Token returns the text of a token; a byte is spelt <0xNN>.
func (t *Llama2C) Token(id int32) (string, bool) {
	if id < 0 || int(id) >= len(t.tokens) {
		return "", false
	}
	return t.tokens[id], true
}

// ID returns the id of a token.
func (t *Llama2C) ID(token string) (int32, bool) {
	id, ok := t.ids[token]
	return id, ok
}

// Special reports whether id is BOS or EOS.
func (t *Llama2C) Special(id int32) bool { return id == llama2cBOS || id == llama2cEOS }
