package tokenizer

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func FuzzParseHF(f *testing.F) {
	f.Add(smallFile(), "abab <x>")
	f.Add(smallFile(`"pre_tokenizer":null`, `"pre_tokenizer":{"type":"Split","pattern":{"Regex":"\\s+(?!\\S)|\\S+"},"behavior":"MergedWithNext","invert":true}`), "a b")
	f.Add(smallFile(`"normalizer":null`, `"normalizer":{"type":"Sequence","normalizers":[{"type":"NFKC"},{"type":"Prepend","prepend":"_"}]}`), "é")
	f.Add(smallFile(`"decoder":null`, `"decoder":{"type":"Sequence","decoders":[{"type":"ByteFallback"},{"type":"Fuse"}]}`), "")
	f.Fuzz(func(t *testing.T, raw []byte, text string) {
		tok, err := ParseHF(raw)
		if err != nil {
			return
		}
		ids, err := tok.Encode(text)
		if err != nil {
			return
		}
		for _, id := range ids {
			_, ok := tok.Token(id)
			require.True(t, ok, "id %d is unknown", id)
		}
		_ = tok.Decode(ids)
		_ = streamAll(tok, ids, DecodeOptions{})
	})
}

func FuzzParseLlama2C(f *testing.F) {
	f.Add(llama2cFile(" a", "ab", " ", "a", "b"), "ab a\xff")
	f.Fuzz(func(t *testing.T, raw []byte, text string) {
		tok, err := ParseLlama2C(raw, 0)
		if err != nil {
			return
		}
		ids, err := tok.Encode(text)
		require.NoError(t, err)
		if len(text) < 200 {
			require.Len(t, naiveLengths(tok, ids), len(ids))
		}
		require.Equal(t, tok.Decode(ids), streamAll(tok, ids, DecodeOptions{}))
	})
}

// naiveLengths returns the ids that the tokenizer knows.
func naiveLengths(tok Tokenizer, ids []int32) []int32 {
	var out []int32
	for _, id := range ids {
		if _, ok := tok.Token(id); ok {
			out = append(out, id)
		}
	}
	return out
}

func FuzzByteLevelRoundTrip(f *testing.F) {
	f.Add(trainText)
	f.Add("a\r\n \n\t <|x|> \xff\xc3 'LL'ſ")
	toks := []*HF{
		trainSmall(f, TrainOptions{VocabSize: 330, SpecialTokens: []string{"<|x|>"}}, trainText),
		trainSmall(f, TrainOptions{VocabSize: 330, Pattern: llama3Pattern}, trainText),
	}
	f.Fuzz(func(t *testing.T, text string) {
		for _, tok := range toks {
			ids, err := tok.Encode(text)
			require.NoError(t, err)
			var b strings.Builder
			for _, id := range ids {
				token, ok := tok.Token(id)
				require.True(t, ok)
				b.WriteString(tokenBytes(token))
			}
			require.Equal(t, text, b.String())
			require.Equal(t, string(appendLossy(nil, []byte(text))), tok.Decode(ids))
			require.Equal(t, tok.Decode(ids), streamAll(tok, ids, DecodeOptions{}))
		}
	})
}

// exercise encodes and decodes with a tokenizer from a hostile file.
func exercise(t *testing.T, tok *HF, text string) {
	ids, err := tok.Encode(text)
	if err != nil {
		return
	}
	for _, id := range ids {
		_, ok := tok.Token(id)
		require.True(t, ok, "id %d is unknown", id)
	}
	require.Equal(t, tok.Decode(ids), streamAll(tok, ids, DecodeOptions{}))
}

func FuzzParseSentencePiece(f *testing.F) {
	for _, m := range readReference(f).SentencePiece {
		if raw := m.model(f); len(raw) < 16<<10 {
			f.Add(raw, "the king\u00e9 <tool>  ")
		}
	}
	f.Add(append(spPieceField("<unk>", pieceUnknown), spPieceField("a", pieceNormal)...), "aab")
	f.Fuzz(func(t *testing.T, raw []byte, text string) {
		if tok, err := ParseSentencePiece(raw); err == nil {
			exercise(t, tok, text)
		}
	})
}

func FuzzParseTiktoken(f *testing.F) {
	f.Add(tiktokenFile("ab", "abc"), "abcab\u00e9")
	f.Fuzz(func(t *testing.T, raw []byte, text string) {
		if tok, err := ParseTiktoken(raw, TiktokenOptions{Pattern: cl100kPattern}); err == nil {
			exercise(t, tok, text)
		}
	})
}

func FuzzFromGGUF(f *testing.F) {
	f.Add(true, "a\nb\nab", "a b", []byte{1, 3, 1}, "ab<tool>")
	f.Add(false, "<unk>\n<s>\n\u2581\na\n\u2581a\n<0x41>", "", []byte{2, 3, 1, 1, 1, 6}, " aA")
	f.Fuzz(func(t *testing.T, byteLevel bool, tokens, merges string, types []byte, text string) {
		g := GGUF{Model: "llama", Pre: "smollm", Tokens: strings.Split(tokens, "\n"), Merges: strings.Split(merges, "\n")}
		if byteLevel {
			g.Model = "gpt2"
		}
		for i, kind := range types {
			g.Types = append(g.Types, int32(kind))
			g.Scores = append(g.Scores, -float32(i))
		}
		tok, err := FromGGUF(g)
		if err != nil {
			return
		}
		exercise(t, tok, text)
		if out, err := tok.GGUF(); err == nil {
			again, err := FromGGUF(out)
			require.NoError(t, err)
			require.Equal(t, encode(t, tok, text), encode(t, again, text))
		}
	})
}

// FuzzCharsMap walks tables of any content.
func FuzzCharsMap(f *testing.F) {
	f.Add([]byte{4, 0, 0, 0, 1, 2, 3, 4, 'x', 0}, "ab\r\n")
	f.Fuzz(func(t *testing.T, raw []byte, text string) {
		m, err := parseCharsMap(raw)
		if err != nil {
			return
		}
		_, _ = m.normalize(text)
		n := spNormalizer{chars: m, space: spSpace, dummyPrefix: true, trimSpaces: true}
		_, _ = n.normalize(text)
	})
}

// FuzzWordsEqualWhole holds the cutting of words before merging to merging the whole text.
func FuzzWordsEqualWhole(f *testing.F) {
	f.Add("the king  and\n queen \u2581\u2581x <tool> 12345")
	var toks []*HF
	for _, m := range readReference(f).SentencePiece {
		tok, err := ParseSentencePiece(m.model(f))
		require.NoError(f, err)
		if b, ok := tok.model.(*bpe); ok {
			require.True(f, b.words, m.Name)
			toks = append(toks, tok)
		}
	}
	f.Fuzz(func(t *testing.T, text string) {
		for _, tok := range toks {
			text, err := tok.normalizer(text + "x")
			require.NoError(t, err)
			fast := tok.model.(*bpe)
			slow := *fast
			slow.words = false
			require.Equal(t, slow.encode(newState(), text, nil), fast.encode(newState(), text, nil))
			require.Equal(t, naiveMerge(fast.symbols(text, nil), fast), slow.encode(newState(), text, nil))
		}
	})
}
