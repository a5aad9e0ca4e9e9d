package tokenizer

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// hfFile is tokenizer.json. Truncation and padding are batching settings, which callers choose.
type hfFile struct {
	Version       string
	Truncation    json.RawMessage
	Padding       json.RawMessage
	AddedTokens   []addedToken `json:"added_tokens"`
	Normalizer    json.RawMessage
	PreTokenizer  json.RawMessage `json:"pre_tokenizer"`
	PostProcessor json.RawMessage `json:"post_processor"`
	Decoder       json.RawMessage
	Model         json.RawMessage
}

// ParseHF reads the contents of a tokenizer.json. Every component that is not implemented is refused with an error that wraps
// ErrUnsupported and names it. raw is kept, not copied: do not change it afterwards.
func ParseHF(raw []byte) (*HF, error) { return parseHF(raw, nil) }

// parseHF adds the tokens that other files of the directory list and tokenizer.json lacks.
func parseHF(raw []byte, extra []addedToken) (*HF, error) {
	if len(raw) > maxFile {
		return nil, fmt.Errorf("tokenizer: tokenizer.json has %d bytes; the limit is %d", len(raw), maxFile)
	}
	var f hfFile
	if err := strict(raw, &f); err != nil {
		return nil, err
	}
	t := &HF{specials: noSpecials(), raw: raw}
	m, vocab, err := parseModel(f.Model)
	if err != nil {
		return nil, err
	}
	if err := t.setVocab(vocab, f.AddedTokens, extra); err != nil {
		return nil, err
	}
	if t.normalizer, err = parseNormalizer(f.Normalizer, 0); err != nil {
		return nil, err
	}
	if t.pre, err = parsePreTokenizer(f.PreTokenizer, 0); err != nil {
		return nil, err
	}
	valid := func(id int32) bool { _, ok := t.Token(id); return ok }
	if t.wrapping, err = parsePostProcessor(f.PostProcessor, 0, valid); err != nil {
		return nil, err
	}
	if t.decoder, err = parseDecoder(f.Decoder, 0); err != nil {
		return nil, err
	}
	name, _ := componentType(f.Decoder, "decoder", 0)
	t.byteLevel = name == "ByteLevel"
	t.model = m
	if m, ok := m.(*bpe); ok {
		m.choosePath(t.pre)
	}
	f.Model, f.AddedTokens = nil, append(f.AddedTokens, extra...)
	t.file = f
	return t, t.setAdded(f.AddedTokens)
}

// choosePath lets the model take raw bytes behind a ByteLevel pre-tokenizer, and cut texts at spaces where nothing joins across them.
func (m *bpe) choosePath(pre preTokenizer) {
	if b := lastByteLevel(pre); b != nil && !m.byteFallback && m.prefix == "" && m.suffix == "" {
		b.raw = true
		m.setRaw()
	}
	m.words = m.cutsBeforeSpaces()
}

// lastByteLevel returns the ByteLevel pre-tokenizer that hands pieces to the model.
func lastByteLevel(p preTokenizer) *preByteLevel {
	switch p := p.(type) {
	case *preByteLevel:
		return p
	case preSequence:
		if len(p) > 0 {
			return lastByteLevel(p[len(p)-1])
		}
	}
	return nil
}

// setVocab fills the tables between ids and tokens, and refuses two tokens of one id.
func (t *HF) setVocab(vocab map[string]int32, lists ...[]addedToken) error {
	largest, count := int32(-1), len(vocab)
	for token, id := range vocab {
		if id < 0 {
			return fmt.Errorf("tokenizer: token %q has the negative id %d", token, id)
		}
		largest = max(largest, id)
	}
	for _, list := range lists {
		count += len(list)
		for _, a := range list {
			if a.ID < 0 {
				return fmt.Errorf("tokenizer: added token %q has the negative id %d", a.Content, a.ID)
			}
			largest = max(largest, a.ID)
		}
	}
	if limit := 2*count + 1<<16; int(largest) >= limit {
		return fmt.Errorf("tokenizer: id %d in a vocabulary of %d tokens: ids this sparse mean a damaged file", largest, count)
	}
	t.tokens, t.present, t.control = make([]string, largest+1), make([]bool, largest+1), make([]bool, largest+1)
	t.base = len(t.tokens)
	t.ids = make(map[string]int32, count)
	for token, id := range vocab {
		if err := t.setToken(token, id); err != nil {
			return err
		}
	}
	for _, list := range lists {
		for _, a := range list {
			if err := t.setToken(a.Content, a.ID); err != nil {
				return err
			}
			t.control[a.ID] = t.control[a.ID] || a.Special
		}
	}
	return nil
}

func (t *HF) setToken(token string, id int32) error {
	if t.present[id] && t.tokens[id] != token {
		return fmt.Errorf("tokenizer: id %d is used by %q and %q", id, min(t.tokens[id], token), max(t.tokens[id], token))
	}
	if old, ok := t.ids[token]; ok && old != id {
		return fmt.Errorf("tokenizer: token %q has two ids, %d and %d", token, min(old, id), max(old, id))
	}
	t.tokens[id], t.present[id], t.ids[token] = token, true, id
	return nil
}

// setAdded builds the searches for added tokens. Those marked normalized are sought in normalized text, in normalized form.
func (t *HF) setAdded(list []addedToken) error {
	var plain, normal []matchEntry
	for i := range list {
		a := &list[i]
		if !a.Normalized {
			plain = append(plain, matchEntry{a.Content, a})
			continue
		}
		text := a.Content
		if t.normalizer != nil && text != "" {
			var err error
			if text, err = t.normalizer(text); err != nil {
				return err
			}
		}
		normal = append(normal, matchEntry{text, a})
	}
	t.added, t.addedNorm = newMatcher(plain), newMatcher(normal)
	return nil
}

// parseModel reads the model. Old files name no type; a model with merges is BPE.
func parseModel(raw json.RawMessage) (model, map[string]int32, error) {
	name, err := componentType(raw, "model", 0)
	if err != nil {
		return nil, nil, err
	}
	var head struct{ Merges json.RawMessage }
	if name == "" && json.Unmarshal(raw, &head) == nil && head.Merges != nil {
		name = "BPE"
	}
	switch name {
	case "BPE":
		m, err := parseBPE(raw)
		if err != nil {
			return nil, nil, err
		}
		return m, m.vocab, nil
	case "Unigram":
		return parseUnigram(raw)
	case "WordPiece":
		m, err := parseWordPiece(raw)
		if err != nil {
			return nil, nil, err
		}
		return m, m.vocab, nil
	case "WordLevel":
		m, err := parseWordLevel(raw)
		if err != nil {
			return nil, nil, err
		}
		return m, m.vocab, nil
	}
	return nil, nil, unsupported("model", name, "BPE", "Unigram", "WordPiece", "WordLevel")
}

func parseBPE(raw json.RawMessage) (*bpe, error) {
	var c struct {
		Type         string
		Dropout      *float64
		Unk          *string `json:"unk_token"`
		Prefix       *string `json:"continuing_subword_prefix"`
		Suffix       *string `json:"end_of_word_suffix"`
		FuseUnk      bool    `json:"fuse_unk"`
		ByteFallback bool    `json:"byte_fallback"`
		IgnoreMerges bool    `json:"ignore_merges"`
		Vocab        vocabulary
		Merges       mergeList
	}
	if err := strict(raw, &c); err != nil {
		return nil, err
	}
	if c.Dropout != nil && *c.Dropout != 0 {
		return nil, unsupported("BPE dropout", fmt.Sprint(*c.Dropout), "null", "0")
	}
	m := &bpe{
		vocab: c.Vocab, rules: make(map[uint64]uint64, len(c.Merges)), unk: -1,
		fuseUnk: c.FuseUnk, byteFallback: c.ByteFallback, ignoreMerges: c.IgnoreMerges,
	}
	if c.Prefix != nil {
		m.prefix = *c.Prefix
	}
	if c.Suffix != nil {
		m.suffix = *c.Suffix
	}
	if c.Unk != nil {
		if m.unk = lookup(m.vocab, *c.Unk); m.unk < 0 {
			return nil, fmt.Errorf("tokenizer: the unk_token %q is not in the vocabulary", *c.Unk)
		}
	}
	for rank, pair := range c.Merges {
		if err := m.addMerge(rank, pair.left, pair.right); err != nil {
			return nil, err
		}
	}
	m.setFallback()
	return m, nil
}

// componentType returns the type of a component, "null" for none, "" when it has no type.
func componentType(raw json.RawMessage, kind string, depth int) (string, error) {
	if depth > maxNesting {
		return "", fmt.Errorf("tokenizer: %s: Sequences are nested more than %d deep", kind, maxNesting)
	}
	if len(raw) == 0 || string(raw) == "null" {
		return "null", nil
	}
	var c struct{ Type string }
	if err := json.Unmarshal(raw, &c); err != nil {
		return "", fmt.Errorf("tokenizer: %s: %w", kind, err)
	}
	return c.Type, nil
}

// strict reads a component and refuses fields that this package does not know, since they may change its meaning.
func strict(raw []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	err := d.Decode(v)
	if err == nil {
		if _, err := d.Token(); err != io.EOF {
			return errors.New("tokenizer: there is more text after the JSON value; the file is damaged")
		}
		return nil
	}
	if name, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
		return fmt.Errorf("tokenizer: the field %s in %s is %w", name, clip(raw), ErrUnsupported)
	}
	return fmt.Errorf("tokenizer: %w", err)
}
