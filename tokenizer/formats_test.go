package tokenizer

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// tiktokenFile writes the bytes and some tokens as a tiktoken file.
func tiktokenFile(tokens ...string) []byte {
	var b bytes.Buffer
	for i := range 256 {
		tokens = append(tokens, string([]byte{byte(i)}))
	}
	for i, token := range tokens {
		fmt.Fprintf(&b, "%s %d\n", base64.StdEncoding.EncodeToString([]byte(token)), i)
	}
	return b.Bytes()
}

func gzipped(t testing.TB, raw []byte) []byte {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, err := z.Write(raw)
	require.NoError(t, err)
	require.NoError(t, z.Close())
	return b.Bytes()
}

// TestGoldenTokenizerTiktoken writes each byte-level reference tokenizer whose vocabulary tiktoken knows as a tiktoken file, and
// checks its cases through that.
func TestGoldenTokenizerTiktoken(t *testing.T) {
	for file, tokenizers := range goldenFiles(t) {
		for name, cases := range tokenizers {
			t.Run(file+"/"+name, func(t *testing.T) {
				hf := loadGolden(t, name)
				m, ok := hf.model.(*bpe)
				if !ok || !m.raw {
					t.Skip("no byte-level BPE")
				}
				var b bytes.Buffer
				for token, id := range m.vocab {
					if bytes, ok := unspellBytes(token); ok && !hf.control[id] {
						fmt.Fprintf(&b, "%s %d\n", base64.StdEncoding.EncodeToString([]byte(bytes)), id)
					}
				}
				special := map[string]int32{}
				for _, a := range hf.file.AddedTokens {
					special[a.Content] = a.ID
				}
				enc, err := TiktokenOptions{}.encoding(bytes.Count(b.Bytes(), []byte("\n")))
				if err != nil {
					t.Skip(err)
				}
				for token, id := range enc.special() {
					if known, ok := special[token]; ok {
						require.Equal(t, known, id, token)
					}
				}
				tok, err := ParseTiktoken(b.Bytes(), TiktokenOptions{Special: special})
				require.NoError(t, err)
				for label, c := range cases {
					t.Run(label, func(t *testing.T) {
						ids, err := tok.EncodeWith(c.Text, EncodeOptions{NoSpecial: true})
						require.NoError(t, err)
						want := append([]int32{}, c.IDs...)
						if len(hf.wrapping.prefix) > 0 {
							want = want[len(hf.wrapping.prefix):]
						}
						if hf.normalizer != nil { // tiktoken has none
							ids, err = tok.EncodeWith(normalized(t, hf, c.Text), EncodeOptions{NoSpecial: true})
							require.NoError(t, err)
						}
						require.Equal(t, want, ids, "%q", c.Text)
					})
				}
			})
		}
	}
}

func normalized(t testing.TB, tok *HF, text string) string {
	if text == "" {
		return ""
	}
	s, err := tok.normalizer(text)
	require.NoError(t, err)
	return s
}

func TestTiktoken(t *testing.T) {
	tok, err := ParseTiktoken(tiktokenFile("ab", "bc", "abc"), TiktokenOptions{Pattern: `\S+|\s+`, Special: map[string]int32{"<end>": 300}, EOS: "<end>"})
	require.NoError(t, err)
	require.Equal(t, 301, tok.VocabSize())
	require.Equal(t, []int32{2, 3 + ' ', 0, 3 + 'x', 1, 300}, encode(t, tok, "abc abxbc<end>"))
	require.Equal(t, "abc é<end>", tok.Decode(encode(t, tok, "abc é<end>")))
	eos, ok := tok.EOS()
	require.True(t, ok)
	require.Equal(t, int32(300), eos)
	var b bytes.Buffer
	require.NoError(t, tok.Save(&b))
	saved, err := ParseHF(b.Bytes())
	require.NoError(t, err)
	for _, text := range []string{"abcabc bcab", "é<end>x"} {
		require.Equal(t, encode(t, tok, text), encode(t, saved, text))
	}
}

func TestTiktokenRefused(t *testing.T) {
	for name, c := range map[string]struct{ raw, want string }{
		"unknown":  {string(tiktokenFile("ab")), "with 257 ranks and neither name nor pattern"},
		"line":     {"YQ== 0\nno base64! 1\n", "line 2"},
		"rank":     {"YQ== -1\n", "line 1"},
		"no rank":  {"YQ==\n", "line 1"},
		"twice":    {"YQ== 0\nYQ== 1\n", `the token "a" has the ranks 0 and 1`},
		"same id":  {"YQ== 0\nYg== 0\n", "with 2 ranks"},
		"empty":    {"\n\n", "no tokens"},
		"no bytes": {"YQ== 0\n", "with 1 ranks"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ParseTiktoken([]byte(c.raw), TiktokenOptions{})
			require.ErrorContains(t, err, c.want)
		})
	}
	_, err := ParseTiktoken([]byte("YQ== 0\n"), TiktokenOptions{Name: "gpt2"})
	require.ErrorContains(t, err, "no token for the byte")
	_, err = ParseTiktoken(tiktokenFile(strings.Repeat("a", 40000)), TiktokenOptions{Name: "gpt2"})
	require.ErrorContains(t, err, "too long")
	_, err = ParseTiktoken(tiktokenFile(), TiktokenOptions{Name: "novel"})
	require.ErrorIs(t, err, ErrUnsupported)
}

// field writes a field of bytes of a protocol buffer.
func field(number int, body []byte) []byte {
	out := []byte{byte(number<<3 | 2)}
	for n := len(body); ; n >>= 7 {
		if n < 0x80 {
			out = append(out, byte(n))
			break
		}
		out = append(out, byte(n)|0x80)
	}
	return append(out, body...)
}

// spPieceField writes a piece of a kind, with a score of zero.
func spPieceField(text string, kind byte) []byte {
	return field(1, append(field(1, []byte(text)), 3<<3, kind))
}

func TestSentencePieceRefused(t *testing.T) {
	unk := spPieceField("<unk>", pieceUnknown)
	bpeSpec := field(2, []byte{3 << 3, 2})
	for name, c := range map[string]struct {
		raw  []byte
		want string
	}{
		"cut":         {unk[:len(unk)-1], "cut short"},
		"absurd size": {[]byte{1<<3 | 2, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F}, "says it has"},
		"wire type":   {[]byte{1<<3 | 7}, "wire type 7"},
		"no pieces":   {bpeSpec, "no pieces"},
		"word":        {append(field(2, []byte{3 << 3, 3}), unk...), "SentencePiece model type word is not supported; supported: unigram, bpe"},
		"suffix":      {append(field(2, []byte{24<<3&0x7F | 0x80, 1, 1}), unk...), "treat_whitespace_as_suffix"},
		"no unknown":  {spPieceField("a", pieceNormal), "no piece of type unknown"},
		"two unknown": {append(bytes.Clone(unk), spPieceField("u", pieceUnknown)...), "both of type unknown"},
		"twice":       {append(bytes.Clone(unk), append(spPieceField("a", 1), spPieceField("a", 1)...)...), `are both "a"`},
		"empty":       {append(bytes.Clone(unk), spPieceField("", 1)...), "piece 1 is empty"},
		"kind":        {append(bytes.Clone(unk), spPieceField("a", 9)...), "type 9"},
		"byte":        {append(bytes.Clone(unk), spPieceField("a", pieceByte)...), "type byte"},
		"charsmap":    {append(bytes.Clone(unk), field(3, field(2, []byte{9, 0, 0, 0, 1}))...), "precompiled_charsmap"},
		"long piece":  {bytes.Join([][]byte{unk, bpeSpec, spPieceField(strings.Repeat("a", 40000), 1)}, nil), "too long"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ParseSentencePiece(c.raw)
			require.ErrorContains(t, err, c.want)
		})
	}
}

func TestLoadFindsTheFormat(t *testing.T) {
	sp := readReference(t).SentencePiece[0].model(t)
	for name, raw := range map[string][]byte{
		"tokenizer.json": smallFile(), "tokenizer.json.gz": gzipped(t, smallFile()), "tokenizer.model": sp, "tokenizer.model.gz": gzipped(t, sp),
		"x.bin.gz": gzipped(t, llama2cFile("a")),
	} {
		dir := t.TempDir()
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), raw, 0o600))
		tok, err := Load(filepath.Join(dir, name))
		require.NoError(t, err, name)
		want := encode(t, tok, "aba")
		if strings.HasPrefix(name, "x") {
			continue
		}
		whole, err := Load(dir)
		require.NoError(t, err, name)
		require.Equal(t, want, encode(t, whole, "aba"))
		mem, err := LoadFiles(map[string][]byte{name: raw})
		require.NoError(t, err)
		require.Equal(t, want, encode(t, mem, "aba"))
	}
	_, err := LoadFiles(map[string][]byte{"x.tiktoken": tiktokenFile("ab")})
	require.ErrorContains(t, err, "257 ranks")
}

func TestLoadRefusesBombs(t *testing.T) {
	bomb := filepath.Join(t.TempDir(), "tokenizer.json.gz")
	require.NoError(t, os.WriteFile(bomb, gzipped(t, make([]byte, maxFile+1)), 0o600))
	_, err := Load(bomb)
	require.ErrorContains(t, err, "the limit for a tokenizer")
	require.ErrorContains(t, err, bomb)
}

func TestSentencePieceDirectory(t *testing.T) {
	sp := readReference(t).SentencePiece[0].model(t)
	config := `{"tokenizer_class":"LlamaTokenizer","bos_token":"<s>","eos_token":"</s>","add_bos_token":false,"add_eos_token":true,
		"added_tokens_decoder":{"800":{"content":"<|extra|>","special":true}}}`
	tok, err := LoadFiles(map[string][]byte{"tokenizer.model": sp, "tokenizer_config.json": []byte(config)})
	require.NoError(t, err)
	ids := encode(t, tok, "the<|extra|>")
	require.Equal(t, int32(2), ids[len(ids)-1])
	require.Equal(t, int32(800), ids[len(ids)-2])
	first, err := LoadFiles(map[string][]byte{"tokenizer.model": sp, "tokenizer_config.json": []byte(strings.Replace(config, "{", `{"legacy":false,`, 1))})
	require.NoError(t, err)
	require.Equal(t, "the<|extra|>the</s>", first.Decode(encode(t, first, "the<|extra|>the")))
	require.Equal(t, "the<|extra|> the</s>", tok.Decode(encode(t, tok, "the<|extra|>the")))
	files, err := tok.(*HF).Files()
	require.NoError(t, err)
	require.Equal(t, sp, files["tokenizer.model"])
	require.True(t, HasVocabulary(map[string][]byte{"tokenizer.model": sp}))
	require.False(t, HasVocabulary(map[string][]byte{"tokenizer_config.json": sp}))
	require.Subset(t, FileNames(), []string{"tokenizer.json", "tokenizer.model", "tokenizer_config.json", "chat_template.jinja"})
	require.Equal(t, config, string(files["tokenizer_config.json"]))
	require.True(t, json.Valid(files["tokenizer.json"]))
	again, err := LoadFiles(files)
	require.NoError(t, err)
	require.Equal(t, ids, encode(t, again, "the<|extra|>"))
}
