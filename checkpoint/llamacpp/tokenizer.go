package llamacpp

import (
	"fmt"
	"slices"

	"github.com/bitsandbyes/bitsandbyes/tokenizer"
)

// prefix of the keys of a vocabulary.
const vocabulary = "tokenizer.ggml."

// templateKey holds the chat template.
const templateKey = "tokenizer.chat_template"

// Tokenizer builds the tokenizer that the file holds; nil where it holds none.
func (m *Model) Tokenizer() (*tokenizer.HF, error) {
	k := &meta{f: m.f}
	g := tokenizer.GGUF{Model: k.text(vocabulary + "model"), Pre: k.text(vocabulary + "pre"),
		Tokens: array[string](k, "tokens"), Scores: array[float32](k, "scores"), Types: array[int32](k, "token_type"), Merges: array[string](k, "merges"),
		BOS: k.id("bos"), EOS: k.id("eos"), Unk: k.id("unknown"), Pad: k.id("padding"),
		AddBOS: k.flag("add_bos_token"), AddEOS: k.flag("add_eos_token"), AddSpacePrefix: k.flag("add_space_prefix"),
		RemoveExtraWhitespaces: k.flag("remove_extra_whitespaces")}
	switch table := value[any](k, "precompiled_charsmap").(type) {
	case []uint8:
		g.CharsMap = table
	case []int8:
		for _, b := range table {
			g.CharsMap = append(g.CharsMap, byte(b))
		}
	}
	if k.err != nil {
		return nil, k.err
	}
	if g.Model == "" || g.Model == "none" || g.Model == "no_vocab" {
		return nil, nil
	}
	t, err := tokenizer.FromGGUF(g)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", m.f.Path(), err)
	}
	return t, nil
}

// ChatTemplate is the template that the file holds, "" for none.
func (m *Model) ChatTemplate() string {
	v, _ := m.f.Value(templateKey)
	s, _ := v.(string)
	return s
}

// value reads a key of the vocabulary; the zero value where there is none.
func value[T any](m *meta, key string) (out T) {
	raw, ok := m.f.Value(vocabulary + key)
	if !ok {
		return out
	}
	out, ok = raw.(T)
	if !ok {
		m.fail("metadata key %q is a %T, a %T is needed", vocabulary+key, raw, out)
	}
	return out
}

// array reads a list of the vocabulary. An empty list may have any type: some writers give it none.
func array[T any](m *meta, key string) []T {
	raw, _ := m.f.Value(vocabulary + key)
	if texts, ok := raw.([]string); len(numbers(raw)) == 0 && (!ok || len(texts) == 0) {
		return nil
	}
	return value[[]T](m, key)
}

// id reads a token's id; nil where there is none. Some files say -1, or the largest uint32, for none.
func (m *meta) id(name string) *int32 {
	key := vocabulary + name + "_token_id"
	if v, ok := m.f.Value(key); !ok || v == uint32(1<<32-1) {
		return nil
	}
	n := int32(m.integer(key, -1))
	if n < 0 {
		return nil
	}
	return &n
}

func (m *meta) flag(name string) *bool {
	if !m.has(vocabulary + name) {
		return nil
	}
	b := value[bool](m, name)
	return &b
}

// vocabularyOf are the metadata of a tokenizer and a chat template, either of which may be absent.
func vocabularyOf(t *tokenizer.GGUF, template string) []kv {
	var out []kv
	add := func(key string, v any) { out = append(out, kv{Key: key, Value: v}) }
	if t == nil {
		add(vocabulary+"model", "none") // without the key llama.cpp loads no model
	} else {
		add(vocabulary+"model", t.Model)
		if t.Pre != "" {
			add(vocabulary+"pre", t.Pre)
		} else {
			add(vocabulary+"pre", "default")
		}
		add(vocabulary+"tokens", t.Tokens)
		if len(t.Scores) > 0 {
			add(vocabulary+"scores", t.Scores)
		}
		if len(t.Types) > 0 {
			add(vocabulary+"token_type", t.Types)
		}
		if len(t.Merges) > 0 || t.Model == "gpt2" { // which llama.cpp does not load without the key
			add(vocabulary+"merges", slices.Concat([]string{}, t.Merges))
		}
		for _, s := range []struct {
			name string
			id   *int32
		}{{"bos", t.BOS}, {"eos", t.EOS}, {"unknown", t.Unk}, {"padding", t.Pad}} {
			if s.id != nil {
				add(vocabulary+s.name+"_token_id", uint32(*s.id))
			}
		}
		for _, s := range []struct {
			name string
			on   *bool
		}{{"add_bos_token", t.AddBOS}, {"add_eos_token", t.AddEOS}, {"add_space_prefix", t.AddSpacePrefix}, {"remove_extra_whitespaces", t.RemoveExtraWhitespaces}} {
			if s.on != nil {
				add(vocabulary+s.name, *s.on)
			}
		}
		if len(t.CharsMap) > 0 {
			add(vocabulary+"precompiled_charsmap", t.CharsMap)
		}
	}
	if template != "" {
		add(templateKey, template)
	}
	return out
}
