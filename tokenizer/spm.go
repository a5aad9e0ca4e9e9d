package tokenizer

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"unicode/utf8"
)

// Kinds of pieces, numbered as in SentencePiece's ModelProto and in GGUF.
const (
	pieceNormal  = 1
	pieceUnknown = 2
	pieceControl = 3
	pieceUser    = 4
	pieceUnused  = 5
	pieceByte    = 6
)

// spPiece is an entry of a SentencePiece vocabulary.
type spPiece struct {
	text  string
	score float32
	kind  int32
}

// spModel is a SentencePiece model, from a .model file or from GGUF.
type spModel struct {
	pieces       []spPiece
	unigram      bool
	byteFallback bool
	unk          int32 // -1: none
	dummyPrefix  bool  // a text gets a space in front
	prefixFirst  bool  // only where the whole text begins, and none before a space
	trimSpaces   bool  // outer spaces go, runs of them become one
	escape       bool  // a space is written as U+2581
	charsmap     []byte
	userInText   bool // user-defined pieces are found in the text as it is, not in what normalization leaves
}

// spSpace stands for a space in a SentencePiece vocabulary.
const spSpace = "▁"

// maxPieceWork caps the sum of squared lengths of pieces, which is what finding their merges costs.
const maxPieceWork = 1 << 30

// tokenizer builds the pipeline: control tokens are found in the text, the rest is normalized and cut into pieces.
func (m *spModel) tokenizer() (*HF, error) {
	vocab, err := m.vocab()
	if err != nil {
		return nil, err
	}
	t := &HF{specials: noSpecials(), decoder: m.decode()}
	added := m.added()
	if err := t.setVocab(vocab, added); err != nil {
		return nil, err
	}
	norm := spNormalizer{space: " ", dummyPrefix: m.dummyPrefix && !m.prefixFirst, trimSpaces: m.trimSpaces}
	if m.escape {
		norm.space = spSpace
	}
	if len(m.charsmap) > 0 {
		if norm.chars, err = parseCharsMap(m.charsmap); err != nil {
			return nil, err
		}
	}
	if !m.userInText {
		norm.user = m.userMatcher()
	}
	t.normalizer = norm.normalize
	if m.prefixFirst {
		t.pre = &preMetaspace{norm.space, "first", false}
	}
	if m.unigram {
		t.model, err = m.unigramModel(norm.user)
	} else {
		t.model, err = m.bpeModel(norm.user)
	}
	if err != nil {
		return nil, err
	}
	if t.file, err = m.file(); err != nil {
		return nil, err
	}
	t.file.AddedTokens = added
	return t, t.setAdded(added)
}

func (m *spModel) vocab() (map[string]int32, error) {
	vocab := make(map[string]int32, len(m.pieces))
	for id, p := range m.pieces {
		if p.text == "" {
			return nil, fmt.Errorf("tokenizer: piece %d is empty; the file is damaged", id)
		}
		if old, ok := vocab[p.text]; ok {
			return nil, fmt.Errorf("tokenizer: pieces %d and %d are both %q", old, id, clip([]byte(p.text)))
		}
		if math.IsNaN(float64(p.score)) || math.IsInf(float64(p.score), 0) {
			return nil, fmt.Errorf("tokenizer: the score of piece %d (%q) is %v; the file is damaged", id, clip([]byte(p.text)), p.score)
		}
		if p.kind < pieceNormal || p.kind > pieceByte {
			return nil, fmt.Errorf("tokenizer: piece %d (%q) has type %d; types are 1 to 6", id, clip([]byte(p.text)), p.kind)
		}
		vocab[p.text] = int32(id)
	}
	return vocab, nil
}

// added lists the pieces that are found in the text as it is. User-defined pieces of a .model are the model's matter.
func (m *spModel) added() []addedToken {
	var out []addedToken
	for id, p := range m.pieces {
		if p.kind == pieceControl || p.kind == pieceUnknown || p.kind == pieceUser && m.userInText {
			out = append(out, addedToken{ID: int32(id), Content: p.text, Special: p.kind != pieceUser})
		}
	}
	return out
}

// userMatcher finds the user-defined pieces, which stay whole.
func (m *spModel) userMatcher() *matcher {
	var entries []matchEntry
	for id, p := range m.pieces {
		if p.kind == pieceUser {
			entries = append(entries, matchEntry{p.text, &addedToken{ID: int32(id), Content: p.text}})
		}
	}
	if len(entries) == 0 {
		return nil
	}
	return newMatcher(entries)
}

func (m *spModel) bytes() (ids [256]int32, err error) {
	for b := range ids {
		ids[b] = -1
	}
	found := 0
	for id, p := range m.pieces {
		if p.kind != pieceByte {
			continue
		}
		b, ok := hexByte(p.text)
		if !ok {
			return ids, fmt.Errorf("tokenizer: piece %d is of type byte but is %q, not <0xNN>", id, clip([]byte(p.text)))
		}
		ids[b] = int32(id)
		found++
	}
	if m.byteFallback && found != 0 && found != 256 {
		return ids, fmt.Errorf("tokenizer: the vocabulary has %d of the 256 byte pieces; the file is damaged", found)
	}
	return ids, nil
}

// bpeModel gives every pair of pieces that joins to a piece the rank of that piece's score: the highest score first, the leftmost
// among equals, as SentencePiece has it.
func (m *spModel) bpeModel(user *matcher) (*bpe, error) {
	b := &bpe{unk: m.unk, byteFallback: m.byteFallback, fuseUnk: true, user: user, scored: true}
	var err error
	if b.fallback, err = m.bytes(); err != nil {
		return nil, err
	}
	b.vocab = make(map[string]int32, len(m.pieces))
	work := 0
	for id, p := range m.pieces {
		if p.kind == pieceNormal {
			b.vocab[p.text] = int32(id)
			work += len(p.text) * len(p.text)
		}
		if work > maxPieceWork {
			return nil, fmt.Errorf("tokenizer: the vocabulary's pieces are too long to search for merges (piece %d has %d bytes); the file is damaged", id, len(p.text))
		}
	}
	b.rules = make(map[uint64]uint64, 2*len(b.vocab))
	ranks := m.ranks()
	for text, id := range b.vocab {
		for i := range text {
			left, ok := b.vocab[text[:i]]
			if !ok {
				continue
			}
			if right, ok := b.vocab[text[i:]]; ok {
				b.rules[pairKey(left, right)] = uint64(ranks[id])<<32 | uint64(uint32(id))
			}
		}
	}
	for id, p := range m.pieces {
		if p.kind == pieceUnused && b.joins(p.text) {
			return nil, fmt.Errorf("tokenizer: piece %d (%q) of type unused is made by merging others, which is %w; remove its type or the piece", id, clip([]byte(p.text)), ErrUnsupported)
		}
	}
	b.words = m.escape && b.cutsBeforeSpaces()
	return b, nil
}

// joins reports whether two pieces of the vocabulary make text.
func (m *bpe) joins(text string) bool {
	for i := range text {
		_, left := m.vocab[text[:i]]
		_, right := m.vocab[text[i:]]
		if left && right {
			return true
		}
	}
	return false
}

// ranks orders the pieces by score, the highest first; equal scores share a place.
func (m *spModel) ranks() []uint32 {
	sorted := make([]float32, len(m.pieces))
	for i, p := range m.pieces {
		sorted[i] = -p.score
	}
	slices.Sort(sorted)
	sorted = slices.Compact(sorted)
	ranks := make([]uint32, len(m.pieces))
	for i, p := range m.pieces {
		at, _ := slices.BinarySearch(sorted, -p.score)
		ranks[i] = uint32(at)
	}
	return ranks
}

// decode drops the prefix space that normalization added.
func (m *spModel) decode() decoder {
	return func(tokens []string) []string {
		for i, t := range tokens {
			tokens[i] = strings.ReplaceAll(t, spSpace, " ")
		}
		text := strings.Join(decodeByteFallback(tokens), "")
		if m.dummyPrefix {
			text = strings.TrimPrefix(text, " ")
		}
		return []string{text}
	}
}

// file writes the parts of a tokenizer.json that do the same, as transformers converts a SentencePiece model.
func (m *spModel) file() (hfFile, error) {
	var f hfFile
	literal := func(from, to string) object {
		return object{"type": "Replace", "pattern": object{"String": from}, "content": to}
	}
	regex := func(from, to string) object {
		return object{"type": "Replace", "pattern": object{"Regex": from}, "content": to}
	}
	steps := []any{}
	if len(m.charsmap) > 0 {
		steps = append(steps, object{"type": "Precompiled", "precompiled_charsmap": m.charsmap})
	}
	if m.trimSpaces {
		steps = append(steps, regex(`\A +| +\z`, ""), regex(" {2,}", " "))
	}
	if m.prefixFirst {
		var err error
		if f.PreTokenizer, err = plainJSON(object{"type": "Metaspace", "replacement": spSpace, "prepend_scheme": "first", "split": false}); err != nil {
			return f, err
		}
	} else if m.dummyPrefix {
		steps = append(steps, object{"type": "Prepend", "prepend": " "})
	}
	decoders := []any{}
	if m.escape {
		steps = append(steps, literal(" ", spSpace))
		decoders = append(decoders, literal(spSpace, " "))
	}
	decoders = append(decoders, object{"type": "ByteFallback"}, object{"type": "Fuse"})
	if m.dummyPrefix {
		decoders = append(decoders, object{"type": "Strip", "content": " ", "start": 1, "stop": 0})
	}
	var err error
	if f.Normalizer, err = plainJSON(object{"type": "Sequence", "normalizers": steps}); err != nil {
		return f, err
	}
	f.Decoder, err = plainJSON(object{"type": "Sequence", "decoders": decoders})
	return f, err
}

// spNormalizer follows Normalizer::Normalize of SentencePiece.
type spNormalizer struct {
	chars       *charsMap // nil: characters stay
	user        *matcher  // nil: no user-defined pieces
	space       string    // what a space becomes
	dummyPrefix bool
	trimSpaces  bool
}

func (n *spNormalizer) normalize(s string) (string, error) {
	if n.chars == nil && n.user == nil && !n.trimSpaces && utf8.ValidString(s) {
		s = strings.ReplaceAll(s, " ", n.space)
		if n.dummyPrefix && s != "" {
			s = n.space + s
		}
		return s, nil
	}
	for n.trimSpaces && s != "" {
		part, size := n.prefix(s)
		if part != " " {
			break
		}
		s = s[size:]
	}
	if s == "" {
		return "", nil
	}
	limit := maxGrown(s)
	var b strings.Builder
	if n.dummyPrefix {
		b.WriteString(n.space)
	}
	afterSpace := n.trimSpaces
	for s != "" {
		part, size := n.prefix(s)
		s = s[size:]
		if afterSpace {
			part = strings.TrimLeft(part, " ")
		}
		if part != "" {
			b.WriteString(strings.ReplaceAll(part, " ", n.space))
			afterSpace = n.trimSpaces && strings.HasSuffix(part, " ")
		}
		if b.Len() > limit {
			return "", errGrown
		}
	}
	out := b.String()
	for n.trimSpaces && strings.HasSuffix(out, n.space) {
		out = strings.TrimSuffix(out, n.space)
	}
	return out, nil
}

// prefix returns what the start of s becomes, and its size: a user-defined piece stays, the longest entry of the table is
// replaced, and any other character stays.
func (n *spNormalizer) prefix(s string) (string, int) {
	if n.user != nil {
		if size, token := n.user.at(s); token != nil {
			return s[:size], size
		}
	}
	if n.chars != nil {
		if to, size := n.chars.longest(s); size > 0 {
			return to, size
		}
	}
	r, size := utf8.DecodeRuneInString(s)
	if r == utf8.RuneError && size == 1 {
		return "\uFFFD", 1
	}
	return s[:size], size
}
