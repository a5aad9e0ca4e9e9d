package tokenizer

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestWithTokens(t *testing.T) {
	a, err := ParseHF(smallFile())
	require.NoError(t, err)
	b, err := a.WithTokens(NewToken{Content: "<tool>", Special: true}, NewToken{Content: "<x>"}, NewToken{Content: "ab"}, NewToken{Content: "new", SingleWord: true})
	require.NoError(t, err)
	require.Equal(t, 6, a.VocabSize())
	require.Equal(t, 8, b.VocabSize())
	require.Equal(t, []int32{0, 6, 2, 5, 7, 5}, encode(t, b, "a<tool>ab<x>new<x>"))
	require.NotContains(t, encode(t, b, "anew"), int32(7), "a single word only")
	require.True(t, b.Special(6))
	require.True(t, b.Special(5), "an added token stays as it is")
	require.NotContains(t, encode(t, a, "<tool>"), int32(6))
}

func TestWithTokensSaved(t *testing.T) {
	dir := t.TempDir()
	config := `{"tokenizer_class":"X", "eos_token":"<x>","added_tokens_decoder":{"5":{"content":"<x>","special":true}}, "z":1}`
	for name, raw := range map[string]string{"tokenizer.json": string(smallFile()), "tokenizer_config.json": config, "added_tokens.json": "{\"<x>\": 5\n}\n", "chat_template.jinja": "{{ x }}"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(raw), 0o600))
	}
	loaded, err := Load(dir)
	require.NoError(t, err)
	same, err := loaded.(*HF).Files()
	require.NoError(t, err)
	require.Equal(t, config, string(same["tokenizer_config.json"]))
	require.Equal(t, string(smallFile()), string(same["tokenizer.json"]))
	grown, err := loaded.(*HF).WithTokens(NewToken{Content: "<t\"&>", Special: true}, NewToken{Content: "b", LStrip: true})
	require.NoError(t, err)
	out := filepath.Join(dir, "out")
	require.NoError(t, grown.SaveDir(out))
	for _, name := range []string{"tokenizer.json", "tokenizer_config.json", "added_tokens.json"} {
		raw, err := os.ReadFile(filepath.Join(out, name))
		require.NoError(t, err)
		require.True(t, json.Valid(raw), "%s: %s", name, raw)
		require.Contains(t, string(raw), `<t\"&>`, name)
	}
	template, err := os.ReadFile(filepath.Join(out, "chat_template.jinja"))
	require.NoError(t, err)
	require.Equal(t, "{{ x }}", string(template))
	again, err := Load(out)
	require.NoError(t, err)
	require.Equal(t, 7, again.VocabSize())
	for _, text := range []string{"a<t\"&> b<x>", "ab"} {
		require.Equal(t, encode(t, grown, text), encode(t, again, text))
	}
	require.True(t, again.Special(6))
}

func TestWithTokensOnEveryFormat(t *testing.T) {
	bytes, err := FromGGUF(smallGGUF())
	require.NoError(t, err)
	spm, err := FromGGUF(smallSPM())
	require.NoError(t, err)
	for _, tok := range []*HF{bytes, spm} {
		n := int32(tok.VocabSize())
		grown, err := tok.WithTokens(NewToken{Content: "<|new|>", Special: true})
		require.NoError(t, err)
		require.Contains(t, encode(t, grown, "a<|new|>b"), n)
		require.NotContains(t, encode(t, tok, "a<|new|>b"), n)
		var b strings.Builder
		require.NoError(t, grown.Save(&b))
		saved, err := ParseHF([]byte(b.String()))
		require.NoError(t, err)
		require.Equal(t, encode(t, grown, "a<|new|>b"), encode(t, saved, "a<|new|>b"))
	}
}

func TestWithTokensRefused(t *testing.T) {
	tok, err := ParseHF(smallFile())
	require.NoError(t, err)
	_, err = tok.WithTokens(NewToken{})
	require.ErrorContains(t, err, "new token 0 is empty")
	_, err = tok.WithTokens(NewToken{Content: "q"}, NewToken{Content: "q"})
	require.ErrorContains(t, err, `"q" is given twice`)
}

func TestSpliceWithoutTheKey(t *testing.T) {
	out, err := spliceJSON([]byte(` { "a": [1, {"x": "]"}], "b": -1.5e3 }`), "list", `{"id":1}`, '[', ']', false)
	require.NoError(t, err)
	var v map[string]any
	require.NoError(t, json.Unmarshal(out, &v))
	require.Len(t, v, 3)
	out, err = spliceJSON([]byte(`{"b":-1.5e3 ,"list" : [ ] }`), "list", `7`, '[', ']', false)
	require.NoError(t, err)
	require.Equal(t, `{"b":-1.5e3 ,"list" : [7 ] }`, string(out))
	_, err = spliceJSON([]byte(`{"list": null}`), "list", `7`, '[', ']', false)
	require.Error(t, err)
}

func TestEncodeBatch(t *testing.T) {
	tok, err := ParseHF(smallFile())
	require.NoError(t, err)
	texts := make([]string, 100)
	for i := range texts {
		texts[i] = strings.Repeat("ab", i)
	}
	batch, err := EncodeBatch(tok, texts, EncodeOptions{})
	require.NoError(t, err)
	for i, ids := range batch {
		require.Equal(t, encode(t, tok, texts[i]), ids)
	}
	words, err := ParseHF([]byte(`{"added_tokens":[],"model":{"type":"WordLevel","vocab":{"a":0},"unk_token":"?"}}`))
	require.NoError(t, err)
	_, err = EncodeBatch(words, []string{"a", "b"}, EncodeOptions{})
	require.ErrorContains(t, err, `text 1: tokenizer: "b" is not in the WordLevel vocabulary`)
}
