package tokenizer

import (
	"fmt"
	"slices"
)

// GGUF holds the tokenizer of a GGUF file, the metadata under tokenizer.ggml, as plain values. A nil pointer is an absent key.
type GGUF struct {
	// Model is tokenizer.ggml.model: "gpt2" (byte-level BPE) or "llama" (SentencePiece's BPE with byte fallback).
	Model string
	// Pre is tokenizer.ggml.pre, the name of the way text is cut into words; GGUFPreNames lists those known. Read for "gpt2" only.
	Pre string
	// Tokens is tokenizer.ggml.tokens, by id.
	Tokens []string
	// Scores is tokenizer.ggml.scores, one a token; needed for "llama".
	Scores []float32
	// Types is tokenizer.ggml.token_type: 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte; empty: all normal.
	Types []int32
	// Merges is tokenizer.ggml.merges, "left right" by rank; needed for "gpt2".
	Merges []string
	// BOS, EOS, Unk and Pad are tokenizer.ggml.bos_token_id, eos_token_id, unknown_token_id and padding_token_id.
	BOS, EOS, Unk, Pad *int32
	// AddBOS and AddEOS are add_bos_token and add_eos_token. Absent, BOS is added for "llama" and for the pre names of Llama 3 and
	// Tekken; EOS is not.
	AddBOS, AddEOS *bool
	// AddSpacePrefix is add_space_prefix; absent, "llama" has it.
	AddSpacePrefix *bool
	// RemoveExtraWhitespaces is remove_extra_whitespaces; absent, spaces stay as they are.
	RemoveExtraWhitespaces *bool
	// CharsMap is precompiled_charsmap, SentencePiece's table of character replacements; empty for none.
	CharsMap []byte
}

// FromGGUF builds the tokenizer that a GGUF file describes. Control and user-defined tokens are found in the text before anything
// else, as llama.cpp does. Every value is checked: lists of equal length, ids within the vocabulary, merges of known tokens. A model or
// a pre-tokenizer that is not known is refused with an error that wraps ErrUnsupported and lists those that are.
func FromGGUF(g GGUF) (*HF, error) {
	if len(g.Tokens) == 0 {
		return nil, fmt.Errorf("tokenizer: the GGUF file has no tokenizer.ggml.tokens")
	}
	if len(g.Tokens) > maxVocab {
		return nil, fmt.Errorf("tokenizer: tokenizer.ggml.tokens has %d entries; the limit is %d", len(g.Tokens), maxVocab)
	}
	for _, list := range []struct {
		name string
		n    int
	}{{"scores", len(g.Scores)}, {"token_type", len(g.Types)}} {
		if list.n != 0 && list.n != len(g.Tokens) {
			return nil, fmt.Errorf("tokenizer: tokenizer.ggml.%s has %d entries for %d tokens; the file is damaged", list.name, list.n, len(g.Tokens))
		}
	}
	named, err := g.named()
	if err != nil {
		return nil, err
	}
	var t *HF
	switch g.Model {
	case "gpt2":
		t, err = g.byteLevel()
	case "llama":
		t, err = g.sentencePiece(named.unk)
	default:
		return nil, unsupported("tokenizer.ggml.model", g.Model, "gpt2", "llama")
	}
	if err != nil {
		return nil, err
	}
	t.specials = named.specials
	return t, g.wrap(t)
}

// maxVocab caps the tokens of a vocabulary; the largest in use have about 260,000.
const maxVocab = 1 << 24

// ggufNamed holds the ids that keys of the file name, -1 for absent ones.
type ggufNamed struct {
	specials
	unk int32
}

func (g *GGUF) named() (ggufNamed, error) {
	n := ggufNamed{noSpecials(), -1}
	for _, role := range []struct {
		key string
		id  *int32
		to  *int32
	}{{"bos_token_id", g.BOS, &n.bos}, {"eos_token_id", g.EOS, &n.eos}, {"unknown_token_id", g.Unk, &n.unk}, {"padding_token_id", g.Pad, &n.pad}} {
		if role.id == nil {
			continue
		}
		if *role.id < 0 || int(*role.id) >= len(g.Tokens) {
			return n, fmt.Errorf("tokenizer: tokenizer.ggml.%s is %d, beyond the vocabulary of %d tokens", role.key, *role.id, len(g.Tokens))
		}
		*role.to = *role.id
	}
	return n, nil
}

func (g *GGUF) kind(id int) int32 {
	if len(g.Types) == 0 {
		return pieceNormal
	}
	return g.Types[id]
}

// wrap puts BOS and EOS around texts as the file asks.
func (g *GGUF) wrap(t *HF) error {
	bos := g.Model == "llama" || slices.Contains(ggufAddBOS, g.Pre)
	explicit := g.AddBOS != nil
	if explicit {
		bos = *g.AddBOS
	}
	if bos && t.bos < 0 {
		if explicit {
			return fmt.Errorf("tokenizer: tokenizer.ggml.add_bos_token is true but there is no bos_token_id")
		}
		bos = false
	}
	if bos {
		t.wrapping.prefix = []int32{t.bos}
	}
	if g.AddEOS != nil && *g.AddEOS {
		if t.eos < 0 {
			return fmt.Errorf("tokenizer: tokenizer.ggml.add_eos_token is true but there is no eos_token_id")
		}
		t.wrapping.suffix = []int32{t.eos}
	}
	return nil
}

// added lists the tokens that are found in the text as they are.
func (g *GGUF) added() []addedToken {
	var out []addedToken
	for id, token := range g.Tokens {
		switch kind := g.kind(id); kind {
		case pieceControl, pieceUser, pieceUnknown:
			out = append(out, addedToken{ID: int32(id), Content: token, Special: kind != pieceUser})
		}
	}
	return out
}

func (g *GGUF) vocab() (map[string]int32, error) {
	vocab := make(map[string]int32, len(g.Tokens))
	for id, token := range g.Tokens {
		if old, ok := vocab[token]; ok {
			return nil, fmt.Errorf("tokenizer: tokenizer.ggml.tokens: tokens %d and %d are both %q", old, id, token)
		}
		vocab[token] = int32(id)
	}
	return vocab, nil
}

// byteLevel builds a tokenizer of the GPT-2 kind.
func (g *GGUF) byteLevel() (*HF, error) {
	preset, err := ggufPre(g.Pre)
	if err != nil {
		return nil, err
	}
	if len(g.Merges) == 0 {
		return nil, fmt.Errorf("tokenizer: the GGUF file's tokenizer is gpt2 but it has no tokenizer.ggml.merges")
	}
	vocab, err := g.vocab()
	if err != nil {
		return nil, err
	}
	merges := make(mergeList, 0, len(g.Merges))
	for i, merge := range g.Merges {
		pair, ok := cutMerge(merge)
		if !ok {
			return nil, fmt.Errorf("tokenizer: tokenizer.ggml.merges: merge %d is %q, not two tokens with a space between", i, clip([]byte(merge)))
		}
		merges = append(merges, pair)
	}
	return assembleByteLevel(vocab, merges, preset, g.added())
}

// sentencePiece builds a tokenizer of the Llama 2 and Gemma kind.
func (g *GGUF) sentencePiece(unk int32) (*HF, error) {
	if len(g.Scores) == 0 {
		return nil, fmt.Errorf("tokenizer: the GGUF file's tokenizer is llama but it has no tokenizer.ggml.scores")
	}
	m := spModel{
		unk: unk, userInText: true, byteFallback: true, escape: true,
		dummyPrefix: g.AddSpacePrefix == nil || *g.AddSpacePrefix,
		trimSpaces:  g.RemoveExtraWhitespaces != nil && *g.RemoveExtraWhitespaces,
		charsmap:    g.CharsMap,
	}
	for id, token := range g.Tokens {
		kind := g.kind(id)
		if kind == pieceNormal && unk == int32(id) {
			kind = pieceUnknown
		}
		m.pieces = append(m.pieces, spPiece{token, g.Scores[id], kind})
	}
	return m.tokenizer()
}
