package tokenizer

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// A model turns one pre-tokenized piece into ids, appended to dst.
type model interface {
	encode(st *state, piece string, dst []int32) []int32
}

// state is the scratch memory of one Encode call: arrays for merging and a bounded cache of words already encoded.
type state struct {
	merger merger
	ids    []int32
	steps  []unigramStep
	text   []byte
	cache  map[string]span
	arena  []int32
	err    error // of a model that has no token for a piece
	room   int   // bytes that normalizers may still make of the text
}

type span struct{ from, to int32 }

const (
	maxCachedWord = 64
	maxCachedIDs  = 1 << 18
)

func newState() *state { return &state{cache: map[string]span{}} }

// recall appends the ids of a cached word.
func (st *state) recall(word string, dst []int32) ([]int32, bool) {
	s, ok := st.cache[word]
	if !ok {
		return dst, false
	}
	return append(dst, st.arena[s.from:s.to]...), true
}

// remember caches the ids of a word. A full cache starts anew, so memory stays bounded whatever the text.
func (st *state) remember(word string, ids []int32) {
	if len(word) > maxCachedWord || len(ids) > maxCachedWord {
		return
	}
	if len(st.arena)+len(ids) > maxCachedIDs || len(st.cache) >= maxCachedIDs/4 {
		clear(st.cache)
		st.arena = st.arena[:0]
	}
	from := int32(len(st.arena))
	st.arena = append(st.arena, ids...)
	st.cache[strings.Clone(word)] = span{from, int32(len(st.arena))}
}

// bpe is the byte-pair-encoding model of tokenizer.json. In raw mode pieces are plain bytes and stand for the stand-in
// characters that the ByteLevel pre-tokenizer would write; otherwise symbols are characters.
type bpe struct {
	vocab        map[string]int32
	rawVocab     map[string]int32 // keyed by the bytes that a token spells; raw mode with ignoreMerges only
	byteID       [256]int32       // raw mode: id of each byte's stand-in character, or -1
	fallback     [256]int32       // ids of <0xNN>, or -1; used when byteFallback
	rules        map[uint64]uint64
	raw          bool
	byteFallback bool
	fuseUnk      bool
	ignoreMerges bool
	unk          int32 // -1: unknown symbols vanish
	prefix       string
	suffix       string
	user         *matcher // pieces that stay whole, found before characters; nil for none
	scored       bool     // the rules' ranks are those of scores: one rank may have several pairs
	words        bool     // no token spans the place before a U+2581, so pieces may be cut there
}

func (m *bpe) rule(a, b int32) uint64 {
	if rule, ok := m.rules[pairKey(a, b)]; ok {
		return rule
	}
	return noMerge
}

func pairKey(a, b int32) uint64 { return uint64(uint32(a))<<32 | uint64(uint32(b)) }

func (m *bpe) encode(st *state, piece string, dst []int32) []int32 {
	if !m.words {
		return m.encodeWord(st, piece, dst)
	}
	for piece != "" {
		n := wordEnd(piece)
		dst = m.encodeWord(st, piece[:n], dst)
		piece = piece[n:]
	}
	return dst
}

// wordEnd returns the end of the first word: a run of U+2581, if any, and what follows up to the next one.
func wordEnd(s string) int {
	at := 0
	for strings.HasPrefix(s[at:], spSpace) {
		at += len(spSpace)
	}
	if n := strings.Index(s[at:], spSpace); n >= 0 {
		return at + n
	}
	return len(s)
}

// cutsBeforeSpaces reports whether every token keeps U+2581 to its front, so that nothing ever joins across the end of a word. The
// space must be a token itself: it ends a run of unknown characters.
func (m *bpe) cutsBeforeSpaces() bool {
	if _, ok := m.vocab[spSpace]; !ok || m.prefix != "" || m.suffix != "" || m.ignoreMerges || m.raw {
		return false
	}
	if m.user != nil {
		for _, token := range m.user.list() {
			if strings.Contains(strings.TrimLeft(token.Content, spSpace), spSpace) {
				return false
			}
		}
	}
	for token := range m.vocab {
		if strings.Contains(strings.TrimLeft(token, spSpace), spSpace) {
			return false
		}
	}
	return true
}

func (m *bpe) encodeWord(st *state, piece string, dst []int32) []int32 {
	if out, ok := st.recall(piece, dst); ok {
		return out
	}
	start := len(dst)
	if id, ok := m.whole(piece); ok {
		dst = append(dst, id)
	} else {
		st.ids = m.symbols(piece, st.ids[:0])
		dst = append(dst, st.merger.merge(st.ids, m)...)
	}
	st.remember(piece, dst[start:])
	return dst
}

// whole finds a piece that is itself a token, for models that prefer one to the outcome of merging.
func (m *bpe) whole(piece string) (int32, bool) {
	if !m.ignoreMerges {
		return 0, false
	}
	if m.raw {
		id, ok := m.rawVocab[piece]
		return id, ok
	}
	id, ok := m.vocab[piece]
	return id, ok
}

// symbols appends the initial symbols of a piece. The pending unknown token is written when the next known symbol or the end
// comes, so with fuse_unk a run of unknown characters is one token; byte tokens do not end such a run, as in the tokenizers library.
func (m *bpe) symbols(piece string, ids []int32) []int32 {
	pending := false
	for i := 0; i < len(piece); {
		id, size := m.symbol(piece, i)
		var bytes string
		if id < 0 && m.byteFallback {
			bytes = m.spelling(piece, i, size)
		}
		switch {
		case id >= 0:
			if pending {
				ids = append(ids, m.unk)
				pending = false
			}
			ids = append(ids, id)
		case m.byteFallback && m.allBytes(bytes):
			for j := range len(bytes) {
				ids = append(ids, m.fallback[bytes[j]])
			}
		case m.unk >= 0:
			if pending && !m.fuseUnk {
				ids = append(ids, m.unk)
			}
			pending = true
		}
		i += size
	}
	if pending {
		ids = append(ids, m.unk)
	}
	return ids
}

// symbol returns the id of the symbol at offset i, or -1, and its size in bytes.
func (m *bpe) symbol(piece string, i int) (int32, int) {
	if m.raw {
		return m.byteID[piece[i]], 1
	}
	if m.user != nil {
		if size, token := m.user.at(piece[i:]); token != nil {
			return token.ID, size
		}
	}
	_, size := utf8.DecodeRuneInString(piece[i:])
	if id, ok := m.vocab[m.spelling(piece, i, size)]; ok {
		return id, size
	}
	return -1, size
}

// spelling is the text of the symbol as the vocabulary would have it, with the prefix of a later part and the suffix of the last.
func (m *bpe) spelling(piece string, i, size int) string {
	s := piece[i : i+size]
	if m.prefix != "" && i > 0 {
		s = m.prefix + s
	}
	if m.suffix != "" && i+size == len(piece) {
		s += m.suffix
	}
	return s
}

func (m *bpe) allBytes(s string) bool {
	for i := range len(s) {
		if m.fallback[s[i]] < 0 {
			return false
		}
	}
	return true
}

// setRaw switches to raw mode.
func (m *bpe) setRaw() {
	m.raw = true
	for b := range 256 {
		m.byteID[b] = lookup(m.vocab, string(byteRune(byte(b))))
	}
	if !m.ignoreMerges {
		return
	}
	m.rawVocab = make(map[string]int32, len(m.vocab))
	for token, id := range m.vocab {
		if bytes, ok := unspellBytes(token); ok {
			m.rawVocab[bytes] = id
		}
	}
}

func (m *bpe) setFallback() {
	for b := range 256 {
		m.fallback[b] = lookup(m.vocab, hexToken(byte(b)))
	}
}

func lookup(vocab map[string]int32, token string) int32 {
	if id, ok := vocab[token]; ok {
		return id
	}
	return -1
}

// addMerge checks one merge and stores its rule. A repeated pair takes the later rank, as in the tokenizers library.
func (m *bpe) addMerge(rank int, left, right string) error {
	a, okA := m.vocab[left]
	b, okB := m.vocab[right]
	switch {
	case left == "" || right == "":
		return fmt.Errorf("tokenizer: merge %d joins an empty token, which would never end; the file is damaged", rank)
	case !okA || !okB:
		return fmt.Errorf("tokenizer: merge %d (%q, %q) uses a token that is not in the vocabulary", rank, left, right)
	}
	rest, ok := strings.CutPrefix(right, m.prefix)
	if !ok {
		return fmt.Errorf("tokenizer: merge %d: %q lacks the continuing_subword_prefix %q", rank, right, m.prefix)
	}
	id, ok := m.vocab[left+rest]
	if !ok {
		return fmt.Errorf("tokenizer: merge %d (%q, %q) makes %q, which is not in the vocabulary", rank, left, right, left+rest)
	}
	m.rules[pairKey(a, b)] = uint64(rank)<<32 | uint64(uint32(id))
	return nil
}
