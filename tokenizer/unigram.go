package tokenizer

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"unicode/utf8"
)

// unknownPenalty is how far below the least likely token an unknown character lies.
const unknownPenalty = 10

// unigram is the Unigram language model (Kudo 2018): of all ways to cut a piece into tokens it takes the one with the largest sum of
// log probabilities, and of equal ones that whose last token is longest.
type unigram struct {
	vocab    []unigramEntry // by id, as the file has it
	byText   map[string]int32
	trie     trie
	scores   []float64
	unk      int32    // -1: unknown characters need byte fallback
	user     *matcher // user-defined pieces, which tokenizer.json lists as added tokens
	unkScore float64
	single   bool // sums are rounded to float32, as SentencePiece has them; the tokenizers library keeps float64
	fuse     bool // a run of unknown characters is one token
	bytes    [256]int32
	fallback bool
}

type unigramEntry struct {
	text  string
	score float64
}

// MarshalJSON writes the entry as tokenizer.json has it.
func (e unigramEntry) MarshalJSON() ([]byte, error) { return json.Marshal([]any{e.text, e.score}) }

// UnmarshalJSON reads ["token", score].
func (e *unigramEntry) UnmarshalJSON(raw []byte) error {
	var pair []json.RawMessage
	if err := json.Unmarshal(raw, &pair); err != nil || len(pair) != 2 {
		return fmt.Errorf("tokenizer: an entry of a Unigram vocab is [token, score], not %s", clip(raw))
	}
	if err := json.Unmarshal(pair[0], &e.text); err != nil {
		return err
	}
	return json.Unmarshal(pair[1], &e.score)
}

// parseUnigram reads a Unigram model. All scores take part, those of special tokens too, as in the tokenizers library.
func parseUnigram(raw json.RawMessage) (*unigram, map[string]int32, error) {
	c := struct {
		Type         string
		Unk          *int64 `json:"unk_id"`
		Vocab        []unigramEntry
		ByteFallback bool     `json:"byte_fallback"`
		Alpha        *float64 `json:"alpha"`
		Nbest        *int64   `json:"nbest_size"`
	}{}
	if err := strict(raw, &c); err != nil {
		return nil, nil, err
	}
	if c.Alpha != nil || c.Nbest != nil {
		return nil, nil, unsupported("Unigram", "sampling (alpha, nbest_size)", "null")
	}
	m := &unigram{vocab: c.Vocab, unk: -1, fuse: true, fallback: c.ByteFallback}
	if c.Unk != nil {
		if *c.Unk < 0 || *c.Unk >= int64(len(c.Vocab)) {
			return nil, nil, fmt.Errorf("tokenizer: Unigram unk_id is %d, beyond the vocabulary of %d tokens", *c.Unk, len(c.Vocab))
		}
		m.unk = int32(*c.Unk)
	}
	vocab := make(map[string]int32, len(c.Vocab))
	least := math.Inf(1)
	for id, e := range c.Vocab {
		if old, ok := vocab[e.text]; ok {
			return nil, nil, fmt.Errorf("tokenizer: Unigram vocab: tokens %d and %d are both %q", old, id, e.text)
		}
		vocab[e.text] = int32(id)
		m.scores = append(m.scores, e.score)
		least = min(least, e.score)
	}
	m.unkScore = least - unknownPenalty
	m.byText = vocab
	for b := range 256 {
		m.bytes[b] = lookup(vocab, hexToken(byte(b)))
	}
	var err error
	m.trie, err = newTrie(vocab)
	return m, vocab, err
}

// unigramModel builds the model of a SentencePiece file: control, byte and unused pieces take no part, and user-defined ones win.
func (m *spModel) unigramModel(user *matcher) (*unigram, error) {
	u := &unigram{unk: m.unk, user: user, fuse: true, single: true, fallback: m.byteFallback, byText: map[string]int32{}}
	var err error
	if u.bytes, err = m.bytes(); err != nil {
		return nil, err
	}
	least, most := float32(math.MaxFloat32), float32(-math.MaxFloat32)
	for _, p := range m.pieces {
		if p.kind == pieceNormal {
			least, most = min(least, p.score), max(most, p.score)
		}
	}
	for id, p := range m.pieces {
		score := float64(p.score)
		switch p.kind {
		case pieceNormal:
			u.byText[p.text] = int32(id)
		case pieceUser:
			u.byText[p.text] = int32(id)
			score = float64(float32(len(p.text))*most) - 0.1
		}
		u.scores = append(u.scores, score)
		u.vocab = append(u.vocab, unigramEntry{p.text, score})
	}
	u.unkScore = float64(least - unknownPenalty)
	u.trie, err = newTrie(u.byText)
	return u, err
}

// unigramStep is the best way to reach a place of the piece.
type unigramStep struct {
	score float64
	from  int32 // -1: not reached
	id    int32
}

func (m *unigram) encode(st *state, piece string, dst []int32) []int32 {
	if out, ok := st.recall(piece, dst); ok {
		return out
	}
	start := len(dst)
	st.steps = m.search(piece, st.steps[:0])
	st.ids = st.ids[:0] // pairs of place and id, last first
	for at := int32(len(piece)); at > 0; at = st.steps[at].from {
		st.ids = append(st.ids, at, st.steps[at].id)
	}
	from := int32(0)
	for i := len(st.ids) - 2; i >= 0; i -= 2 {
		to, id := st.ids[i], st.ids[i+1]
		for m.fuse && id < 0 && i >= 2 && st.ids[i-1] < 0 {
			i -= 2
			to = st.ids[i]
		}
		if id < 0 {
			dst = m.unknown(st, piece[from:to], dst)
		} else {
			dst = append(dst, id)
		}
		from = to
	}
	if st.err == nil {
		st.remember(piece, dst[start:])
	}
	return dst
}

// search fills the best step to every place of the piece.
func (m *unigram) search(piece string, steps []unigramStep) []unigramStep {
	for range len(piece) + 1 {
		steps = append(steps, unigramStep{from: -1})
	}
	steps[0].from = 0
	reach := func(from, to int, id int32, score float64) {
		if m.single {
			score = float64(float32(score))
		}
		if steps[to].from < 0 || score > steps[to].score {
			steps[to] = unigramStep{score, int32(from), id}
		}
	}
	for at := 0; at < len(piece); {
		_, size := utf8.DecodeRuneInString(piece[at:])
		here := steps[at].score
		one := false
		for node, i := int32(0), at; i < len(piece); i++ {
			if node = m.trie.next(node, piece[i]); node < 0 {
				break
			}
			if id := m.trie.nodes[node].id; id >= 0 {
				n := i + 1 - at
				one = one || n == size
				to := id
				if id == m.unk && !m.single {
					to = -1
				}
				reach(at, i+1, to, m.scores[id]+here)
			}
		}
		if !one {
			reach(at, at+size, -1, m.unkScore+here)
		}
		at += size
	}
	return steps
}

// unknown writes a text that is no token: as bytes, or as the unknown token.
func (m *unigram) unknown(st *state, text string, dst []int32) []int32 {
	if id, ok := m.byText[text]; ok && !m.single { // unknown characters, joined, may spell a token
		return append(dst, id)
	}
	if m.fallback {
		all := true
		for i := range len(text) {
			all = all && m.bytes[text[i]] >= 0
		}
		if all {
			for i := range len(text) {
				dst = append(dst, m.bytes[text[i]])
			}
			return dst
		}
	}
	if m.unk < 0 {
		st.err = fmt.Errorf("tokenizer: %q is not in the Unigram vocabulary, which names no unk_id", clip([]byte(text)))
		return dst
	}
	return append(dst, m.unk)
}

// trie finds the tokens that begin at a place. The edges of a node are sorted by byte.
type trie struct {
	nodes []trieNode
	edges []trieEdge
	root  [256]int32
}

type trieNode struct {
	from, to int32 // edges
	id       int32 // token that ends here, or -1
}

type trieEdge struct {
	char byte
	node int32
}

// maxTrieBytes caps the text of a vocabulary that is searched by a trie.
const maxTrieBytes = 32 << 20

func newTrie(vocab map[string]int32) (trie, error) {
	keys := make([]string, 0, len(vocab))
	total := 0
	for key := range vocab {
		if key != "" {
			keys = append(keys, key)
		}
		total += len(key)
	}
	if total > maxTrieBytes {
		return trie{}, fmt.Errorf("tokenizer: the tokens of the vocabulary have %d bytes together; the limit is %d", total, maxTrieBytes)
	}
	slices.Sort(keys)
	t := trie{nodes: []trieNode{{id: -1}}}
	type job struct {
		node     int32
		from, to int // keys
		depth    int
	}
	jobs := []job{{0, 0, len(keys), 0}}
	for len(jobs) > 0 {
		j := jobs[len(jobs)-1]
		jobs = jobs[:len(jobs)-1]
		for j.from < j.to && len(keys[j.from]) == j.depth {
			t.nodes[j.node].id = vocab[keys[j.from]]
			j.from++
		}
		t.nodes[j.node].from = int32(len(t.edges))
		for i := j.from; i < j.to; {
			char := keys[i][j.depth]
			end := i + 1
			for end < j.to && keys[end][j.depth] == char {
				end++
			}
			node := int32(len(t.nodes))
			t.nodes = append(t.nodes, trieNode{id: -1})
			t.edges = append(t.edges, trieEdge{char, node})
			jobs = append(jobs, job{node, i, end, j.depth + 1})
			i = end
		}
		t.nodes[j.node].to = int32(len(t.edges))
	}
	for c := range t.root {
		t.root[c] = -1
	}
	for _, e := range t.edges[t.nodes[0].from:t.nodes[0].to] {
		t.root[e.char] = e.node
	}
	return t, nil
}

// next follows a byte from a node; -1 where nothing goes on.
func (t *trie) next(node int32, char byte) int32 {
	if node == 0 {
		return t.root[char]
	}
	n := t.nodes[node]
	edges := t.edges[n.from:n.to]
	for len(edges) > 8 {
		half := len(edges) / 2
		if edges[half].char <= char {
			edges = edges[half:]
		} else {
			edges = edges[:half]
		}
	}
	for _, e := range edges {
		if e.char == char {
			return e.node
		}
	}
	return -1
}

// clusterEnd returns the end of the first grapheme cluster as far as clusters of fewer than six bytes go: a line end of two
// characters, or a character with the marks, joiners and vowel signs behind it.
func clusterEnd(s string) int {
	r, n := utf8.DecodeRuneInString(s)
	if r == '\r' && strings.HasPrefix(s[n:], "\n") {
		return n + 1
	}
	if controlRune(r) {
		return n
	}
	for n < len(s) {
		r, size := utf8.DecodeRuneInString(s[n:])
		if !extends(r) {
			break
		}
		n += size
	}
	return n
}
