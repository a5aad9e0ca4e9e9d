package tokenizer

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// ggufPreferred is the name that each way of cutting is written under.
var ggufPreferred = []string{"gpt-2", "smollm", "llama-bpe", "dbrx", "qwen2", "stablelm2", "qwen35", "gpt-4o", "tekken", "deepseek-v3"}

// GGUF returns the values that describe t in a GGUF file; FromGGUF of them gives the same ids. Ids that no token has are written as
// unused tokens. A tokenizer that the format cannot express is refused with an error that wraps ErrUnsupported.
func (t *HF) GGUF() (GGUF, error) {
	var g GGUF
	m, ok := t.model.(*bpe)
	if !ok {
		return g, unsupported("GGUF export of", fmt.Sprintf("the model %T", t.model), "byte-level BPE", "SentencePiece BPE")
	}
	var err error
	switch {
	case m.raw:
		g.Model = "gpt2"
		if g.Pre, err = t.ggufPreName(m); err != nil {
			return g, err
		}
		for _, r := range m.ordered() {
			g.Merges = append(g.Merges, t.tokens[r.left]+" "+t.tokens[r.right])
		}
	default:
		g.Model = "llama"
		if err = t.ggufSpaces(m, &g); err == nil {
			g.Scores, err = t.ggufScores(m)
		}
		if err != nil {
			return g, err
		}
	}
	t.ggufTokens(m, &g)
	if err = t.ggufNamed(m, &g); err != nil || g.Model != "llama" {
		return g, err
	}
	return g, m.ggufMerges(g)
}

// bpeRule is a merge by the ids of its tokens.
type bpeRule struct {
	rank        uint32
	left, right int32
	to          int32
}

// ordered returns the merges by rank.
func (m *bpe) ordered() []bpeRule {
	out := make([]bpeRule, 0, len(m.rules))
	for pair, rule := range m.rules {
		out = append(out, bpeRule{uint32(rule >> 32), int32(pair >> 32), int32(uint32(pair)), int32(uint32(rule))})
	}
	slices.SortFunc(out, func(a, b bpeRule) int {
		switch {
		case a.rank != b.rank:
			return int(int64(a.rank) - int64(b.rank))
		case a.left != b.left:
			return int(a.left - b.left)
		}
		return int(a.right - b.right)
	})
	return out
}

func (t *HF) ggufPreName(m *bpe) (string, error) {
	patterns, ok := cuts(t.pre)
	normal := string(t.file.Normalizer)
	nfc := strings.Contains(normal, `"NFC"`) && !strings.Contains(normal, "Sequence")
	plain := normal == "" || normal == "null"
	for _, name := range ggufPreferred {
		p := ggufPresets[name]
		if ok && (plain && !p.nfc || nfc && p.nfc) && p.ignoreMerges == m.ignoreMerges && slices.Equal(p.patterns, patterns) {
			return name, nil
		}
	}
	return "", unsupported("GGUF export of", "a pre-tokenizer without a name in GGUF", ggufPreferred...)
}

// cuts lists the patterns that a pre-tokenizer cuts by, one after another; false where it does something else.
func cuts(p preTokenizer) ([]string, bool) {
	switch p := p.(type) {
	case preSequence:
		var out []string
		for _, q := range p {
			part, ok := cuts(q)
			if !ok {
				return nil, false
			}
			out = append(out, part...)
		}
		return out, true
	case *preByteLevel:
		if p.useRegex {
			return []string{gpt2Pattern}, !p.addPrefixSpace
		}
		return nil, !p.addPrefixSpace
	case *split:
		return []string{p.pattern.expr}, p.pattern.expr != "" && p.behavior == isolate && !p.invert
	case digits:
		return []string{oneDigit}, p.behavior == isolate
	}
	return nil, false
}

// ggufSpaces finds out by example what a SentencePiece pipeline does with spaces.
func (t *HF) ggufSpaces(m *bpe, g *GGUF) error {
	see := func(s string) string {
		var out strings.Builder
		if t.normalizer != nil {
			s, _ = t.normalizer(s)
		}
		if t.pre == nil {
			return s
		}
		_ = t.pre.split(piece{s, true}, func(p piece) error { out.WriteString(p.text); return nil })
		return out.String()
	}
	prefix := false
	switch see("a  b ") {
	case "▁a▁▁b▁":
		prefix = true
	case "a▁▁b▁":
	default:
		return unsupported("GGUF export of", "a normalizer that changes more than spaces", "spaces as ▁, with or without a space in front")
	}
	if odd := "é\u0301ﬁ\u00a0\tA\r\n"; see(odd) != strings.TrimSuffix(see("a"), "a")+odd || !m.byteFallback {
		return unsupported("GGUF export of", "a BPE model without byte fallback or with a Unicode normalizer", "byte fallback and no Unicode normalizer")
	}
	g.AddSpacePrefix = &prefix
	return nil
}

// ggufScores gives tokens the scores by which SentencePiece merges in the order of the rules.
func (t *HF) ggufScores(m *bpe) ([]float32, error) {
	scores := make([]float32, len(t.tokens))
	seen := map[int32]bool{}
	last := int32(-1)
	for _, r := range m.ordered() {
		if m.scored {
			seen[r.to], scores[r.to] = true, -float32(r.rank)
			continue
		}
		if r.to == last {
			continue
		}
		if seen[r.to] {
			return nil, unsupported("GGUF export of", fmt.Sprintf("merges in which those of %q are not adjacent", t.tokens[r.to]), "merges ordered by what they make")
		}
		seen[r.to], last = true, r.to
		scores[r.to] = -float32(len(seen))
	}
	for id, token := range t.tokens {
		if !seen[int32(id)] && utf8.RuneCountInString(token) > 0 && lookup(m.vocab, token) >= 0 {
			scores[id] = -float32(len(t.tokens))
		}
	}
	return scores, nil
}

// ggufMerges refuses rules that scores cannot express. SentencePiece joins every two normal pieces that make one; where the rules leave a
// pair out, the token that it makes shows whether that matters.
func (m *bpe) ggufMerges(g GGUF) error {
	left, err := m.leftOut(g.Types)
	if err != nil || len(left) == 0 {
		return err
	}
	back, err := FromGGUF(g)
	if err != nil {
		return err
	}
	for _, token := range left {
		if !slices.Equal(m.encode(newState(), token, nil), back.model.encode(newState(), token, nil)) {
			return unsupported("GGUF export of", fmt.Sprintf("merges that make other tokens of %q than scores do", token), "merges of every two tokens that make one")
		}
	}
	return nil
}

// leftOut lists the tokens that two others make without a rule, sorted.
func (m *bpe) leftOut(types []int32) ([]string, error) {
	normal := func(token string) (int32, bool) {
		id, ok := m.vocab[token]
		return id, ok && types[id] == pieceNormal
	}
	var out []string
	work := 0
	for token := range m.vocab {
		if work += len(token) * len(token); work > maxPieceWork {
			return nil, unsupported("GGUF export of", "a vocabulary with very long tokens", "tokens as long as words")
		}
		to, ok := normal(token)
		lost := false
		for i := range token {
			left, okLeft := normal(token[:i])
			right, okRight := normal(token[i:])
			lost = lost || okLeft && okRight && int32(uint32(m.rule(left, right))) != to
		}
		if ok && lost {
			out = append(out, token)
		}
	}
	slices.Sort(out)
	return out, nil
}

func (t *HF) ggufTokens(m *bpe, g *GGUF) {
	user := map[int32]bool{}
	for _, a := range t.file.AddedTokens {
		user[a.ID] = true
	}
	if m.user != nil {
		for _, a := range m.user.list() {
			user[a.ID] = true
		}
	}
	for id, token := range t.tokens {
		kind := int32(pieceNormal)
		switch {
		case !t.present[id]:
			token, kind = fmt.Sprintf("[PAD%d]", id), pieceUnused
		case int32(id) == m.unk && g.Model == "llama":
			kind = pieceUnknown
		case t.control[id]:
			kind = pieceControl
		case user[int32(id)]:
			kind = pieceUser
			if g.Model == "llama" { // llama.cpp seeks these in the text as it is
				token = strings.ReplaceAll(token, spSpace, " ")
			}
		case g.Model == "llama" && slices.Contains(m.fallback[:], int32(id)):
			kind = pieceByte
		case g.Model == "llama" && !m.finds(token, int32(id)):
			kind = pieceUnused // or text would be cut into it again
		}
		g.Tokens = append(g.Tokens, token)
		g.Types = append(g.Types, kind)
	}
}

// finds reports whether text can become a token.
func (m *bpe) finds(token string, id int32) bool {
	have, ok := m.vocab[token]
	return ok && have == id
}

func (t *HF) ggufNamed(m *bpe, g *GGUF) error {
	for _, role := range []struct {
		id int32
		to **int32
	}{{t.bos, &g.BOS}, {t.eos, &g.EOS}, {t.pad, &g.Pad}, {m.unk, &g.Unk}} {
		if role.id >= 0 {
			*role.to = &role.id
		}
	}
	bos, eos := len(t.wrapping.prefix) > 0, len(t.wrapping.suffix) > 0
	g.AddBOS, g.AddEOS = &bos, &eos
	if bos && g.BOS == nil && len(t.wrapping.prefix) == 1 {
		g.BOS = &t.wrapping.prefix[0]
	}
	if eos && g.EOS == nil && len(t.wrapping.suffix) == 1 {
		g.EOS = &t.wrapping.suffix[0]
	}
	if bos && (len(t.wrapping.prefix) > 1 || t.wrapping.prefix[0] != *g.BOS) || eos && (len(t.wrapping.suffix) > 1 || t.wrapping.suffix[0] != *g.EOS) {
		return unsupported("GGUF export of", "a post_processor that adds other tokens than BOS and EOS", "BOS in front, EOS behind")
	}
	return nil
}
