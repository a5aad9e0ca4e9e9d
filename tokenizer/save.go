package tokenizer

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
)

// original is a file of another format that a tokenizer was read from.
type original struct {
	name string
	raw  []byte
}

// companionFiles lie beside a vocabulary and belong to it.
var companionFiles = []string{
	"tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja", "chat_template.json", "vocab.json", "merges.txt",
	"tokenizer.model",
}

// Save writes a tokenizer.json: the bytes that were read, with the tokens added since; of a tokenizer of another format, a tokenizer.json that
// does the same.
func (t *HF) Save(w io.Writer) error {
	raw, err := t.json()
	if err != nil {
		return err
	}
	if _, err := w.Write(raw); err != nil {
		return fmt.Errorf("tokenizer: saving tokenizer.json: %w", err)
	}
	return nil
}

// Files returns the files that a user of the tokenizer expects beside a model or an adapter, by name: tokenizer.json,
// tokenizer_config.json, and whatever else was read with them, chat template included. Files that the added tokens do not concern
// have the bytes that were read. Do not change the bytes.
func (t *HF) Files() (map[string][]byte, error) {
	files := maps.Clone(t.companions)
	if files == nil {
		files = map[string][]byte{}
	}
	if t.original.raw != nil {
		files[t.original.name] = t.original.raw
	}
	var err error
	if files["tokenizer.json"], err = t.json(); err != nil {
		return nil, err
	}
	if files["tokenizer_config.json"] == nil {
		var b bytes.Buffer
		if err := t.WriteConfig(&b); err != nil {
			return nil, err
		}
		files["tokenizer_config.json"] = b.Bytes()
	}
	if len(t.grown) == 0 {
		return files, nil
	}
	var decoder, plain []byte
	for i, a := range t.grown {
		entry, err := plainJSON(addedFlags{a.Content, a.SingleWord, a.LStrip, a.RStrip, a.Normalized, a.Special})
		if err != nil {
			return nil, err
		}
		name, err := plainJSON(a.Content)
		if err != nil {
			return nil, err
		}
		if i > 0 {
			decoder, plain = append(decoder, ','), append(plain, ',')
		}
		decoder = fmt.Appendf(decoder, "%q: %s", strconv.Itoa(int(a.ID)), entry)
		plain = fmt.Appendf(plain, "%s: %d", name, a.ID)
	}
	config := files["tokenizer_config.json"]
	if files["tokenizer_config.json"], err = spliceJSON(config, "added_tokens_decoder", string(decoder), '{', '}', true); err != nil {
		return nil, err
	}
	if list, ok := files["added_tokens.json"]; ok {
		whole := slices.Concat([]byte(`{"x":`), bytes.TrimSpace(list), []byte(`}`))
		if whole, err = spliceJSON(whole, "x", string(plain), '{', '}', true); err != nil {
			return nil, err
		}
		files["added_tokens.json"] = whole[len(`{"x":`) : len(whole)-1]
	}
	return files, nil
}

// SaveDir writes Files into a directory, which is made if need be.
func (t *HF) SaveDir(dir string) error {
	files, err := t.Files()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("tokenizer: %w", err)
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if err := os.WriteFile(filepath.Join(dir, name), files[name], 0o644); err != nil {
			return fmt.Errorf("tokenizer: %w", err)
		}
	}
	return nil
}

// addedFlags is an entry of added_tokens_decoder.
type addedFlags struct {
	Content    string `json:"content"`
	SingleWord bool   `json:"single_word"`
	LStrip     bool   `json:"lstrip"`
	RStrip     bool   `json:"rstrip"`
	Normalized bool   `json:"normalized"`
	Special    bool   `json:"special"`
}

// json returns the tokenizer.json.
func (t *HF) json() ([]byte, error) {
	if t.raw == nil {
		return t.writeJSON()
	}
	if len(t.grown) == 0 {
		return t.raw, nil
	}
	var entries []byte
	for i, a := range t.grown {
		entry, err := plainJSON(a)
		if err != nil {
			return nil, err
		}
		if i > 0 {
			entries = append(entries, ',')
		}
		entries = append(entries, entry...)
	}
	return spliceJSON(t.raw, "added_tokens", string(entries), '[', ']', false)
}

// writeJSON writes the pipeline of a tokenizer that was read from another format.
func (t *HF) writeJSON() ([]byte, error) {
	added := slices.Clone(t.file.AddedTokens)
	var m object
	switch model := t.model.(type) {
	case *bpe:
		m = t.bpeFile(model)
		if model.user != nil {
			added = append(added, model.user.list()...)
		}
	case *unigram:
		m = object{"type": "Unigram", "unk_id": model.unk, "vocab": model.vocab, "byte_fallback": model.fallback}
		if model.user != nil {
			added = append(added, model.user.list()...)
		}
	default:
		return nil, unsupported("writing tokenizer.json of", fmt.Sprintf("%T", model), "BPE", "Unigram")
	}
	slices.SortFunc(added, func(a, b addedToken) int { return int(a.ID) - int(b.ID) })
	null := func(raw json.RawMessage) any {
		if raw == nil {
			return nil
		}
		return raw
	}
	return plainJSON(object{
		"version": "1.0", "truncation": nil, "padding": nil, "added_tokens": added, "normalizer": null(t.file.Normalizer),
		"pre_tokenizer": null(t.file.PreTokenizer), "post_processor": t.template(), "decoder": null(t.file.Decoder), "model": m,
	})
}

func (t *HF) bpeFile(m *bpe) object {
	vocab := make(map[string]int32, t.base)
	for id, token := range t.tokens[:t.base] {
		if t.present[id] {
			vocab[token] = int32(id)
		}
	}
	merges := make([][2]string, 0, len(m.rules))
	for _, r := range m.ordered() {
		merges = append(merges, [2]string{t.tokens[r.left], t.tokens[r.right]})
	}
	var unk any
	if m.unk >= 0 {
		unk = t.tokens[m.unk]
	}
	return object{
		"type": "BPE", "dropout": nil, "unk_token": unk, "continuing_subword_prefix": nil, "end_of_word_suffix": nil,
		"fuse_unk": m.fuseUnk, "byte_fallback": m.byteFallback, "ignore_merges": m.ignoreMerges, "vocab": vocab, "merges": merges,
	}
}

// template is the post-processor that puts the tokens around a text, nil for none.
func (t *HF) template() any {
	if len(t.wrapping.prefix)+len(t.wrapping.suffix) == 0 {
		return nil
	}
	tokens := object{}
	part := func(list []int32, kind int) []any {
		out := []any{}
		for _, id := range list {
			token := t.tokens[id]
			tokens[token] = object{"id": token, "ids": []int32{id}, "tokens": []string{token}}
			out = append(out, object{"SpecialToken": object{"id": token, "type_id": kind}})
		}
		return out
	}
	around := func(name string, kind int) []any {
		out := append(part(t.wrapping.prefix, kind), object{"Sequence": object{"id": name, "type_id": kind}})
		return append(out, part(t.wrapping.suffix, kind)...)
	}
	return object{"type": "TemplateProcessing", "single": around("A", 0), "pair": append(around("A", 0), around("B", 1)...), "special_tokens": tokens}
}

// plainJSON writes a value without escaping the characters of HTML.
func plainJSON(v any) (json.RawMessage, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, fmt.Errorf("tokenizer: writing tokenizer.json: %w", err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}
