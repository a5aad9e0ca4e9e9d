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
