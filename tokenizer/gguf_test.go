package tokenizer

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
)

func ptr[T any](v T) *T { return &v }

// smallGGUF is a byte-level tokenizer of the 256 bytes and a few merges.
func smallGGUF() GGUF {
	g := GGUF{Model: "gpt2", Pre: "smollm", BOS: ptr[int32](0), EOS: ptr[int32](1)}
	g.Tokens = append(g.Tokens, "<s>", "</s>", "<tool>")
	g.Types = append(g.Types, pieceControl, pieceControl, pieceUser)
	for b := range 256 {
		g.Tokens, g.Types = append(g.Tokens, string(byteRune(byte(b)))), append(g.Types, pieceNormal)
	}
	g.Tokens, g.Types = append(g.Tokens, "ab", "12"), append(g.Types, pieceNormal, pieceNormal)
	g.Merges = []string{"a b", "1 2"}
	return g
}

// smallSPM is a SentencePiece tokenizer with byte fallback.
func smallSPM() GGUF {
	g := GGUF{Model: "llama", BOS: ptr[int32](1), EOS: ptr[int32](2), Unk: ptr[int32](0)}
	add := func(kind int32, score float32, tokens ...string) {
		for _, token := range tokens {
			g.Tokens, g.Types, g.Scores = append(g.Tokens, token), append(g.Types, kind), append(g.Scores, score)
		}
	}
	add(pieceUnknown, 0, "<unk>")
	add(pieceControl, 0, "<s>", "</s>")
	for b := range 256 {
		add(pieceByte, 0, hexToken(byte(b)))
	}
	add(pieceNormal, -1, "▁a")
	add(pieceNormal, -2, "ab")
	add(pieceNormal, -9, "▁", "a", "b")
	add(pieceUser, 0, "<tool>")
	return g
}

func encode(t *testing.T, tok Tokenizer, text string) []int32 {
	t.Helper()
	ids, err := tok.Encode(text)
	require.NoError(t, err)
	return ids
}

func TestFromGGUF(t *testing.T) {
	tok, err := FromGGUF(smallGGUF())
	require.NoError(t, err)
	require.Equal(t, []int32{259, 2, 1, 3 + 'a'}, encode(t, tok, "ab<tool></s>a"))
	require.Equal(t, []int32{3 + '1', 3 + '2'}, encode(t, tok, "12"), "digits stand alone")
	require.Equal(t, "ab<tool>é", tok.DecodeWith(encode(t, tok, "ab<tool>é</s>"), DecodeOptions{SkipSpecial: true}))
	ids, err := tok.EncodeWith("<tool></s>", EncodeOptions{SpecialAsText: true})
	require.NoError(t, err)
	require.Equal(t, int32(2), ids[0])
	require.NotContains(t, ids, int32(1))
}

func TestFromGGUFSentencePiece(t *testing.T) {
	g := smallSPM()
	tok, err := FromGGUF(g)
	require.NoError(t, err)
	require.Equal(t, []int32{1, 259, 263}, encode(t, tok, "ab"))
	require.Equal(t, []int32{1, 259, 264, 259, 3 + '\n'}, encode(t, tok, "a<tool>a\n"))
	require.Equal(t, "ab é", tok.DecodeWith(encode(t, tok, "ab é"), DecodeOptions{SkipSpecial: true}))
	g.AddSpacePrefix, g.AddBOS, g.AddEOS = ptr(false), ptr(false), ptr(true)
	tok, err = FromGGUF(g)
	require.NoError(t, err)
	require.Equal(t, []int32{260, 2}, encode(t, tok, "ab"))
}

func TestFromGGUFRefused(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*GGUF)
		want   string
	}{
		"no tokens":      {func(g *GGUF) { g.Tokens = nil }, "no tokenizer.ggml.tokens"},
		"model":          {func(g *GGUF) { g.Model = "rwkv" }, "tokenizer.ggml.model rwkv is not supported; supported: gpt2, llama"},
		"pre":            {func(g *GGUF) { g.Pre = "novel" }, "tokenizer.ggml.pre novel is not supported; supported: codeshell"},
		"pre absent":     {func(g *GGUF) { g.Pre = "" }, "(absent)"},
		"types":          {func(g *GGUF) { g.Types = g.Types[1:] }, "token_type has 260 entries for 261 tokens"},
		"scores":         {func(g *GGUF) { g.Scores = []float32{1} }, "scores has 1 entries"},
		"bos":            {func(g *GGUF) { g.BOS = ptr[int32](261) }, "bos_token_id is 261, beyond the vocabulary of 261 tokens"},
		"negative":       {func(g *GGUF) { g.Pad = ptr[int32](-1) }, "padding_token_id is -1"},
		"merges":         {func(g *GGUF) { g.Merges = nil }, "no tokenizer.ggml.merges"},
		"merge of one":   {func(g *GGUF) { g.Merges = []string{"ab"} }, "merge 0 is"},
		"merge unknown":  {func(g *GGUF) { g.Merges = []string{"a zz"} }, "not in the vocabulary"},
		"twice":          {func(g *GGUF) { g.Tokens[5] = "ab" }, `tokens 5 and 259 are both "ab"`},
		"add_bos":        {func(g *GGUF) { g.BOS, g.AddBOS = nil, ptr(true) }, "add_bos_token is true"},
		"add_eos":        {func(g *GGUF) { g.EOS, g.AddEOS = nil, ptr(true) }, "add_eos_token is true"},
		"llama unscored": {func(g *GGUF) { g.Model = "llama" }, "no tokenizer.ggml.scores"},
	} {
		t.Run(name, func(t *testing.T) {
			g := smallGGUF()
			c.change(&g)
			_, err := FromGGUF(g)
			require.ErrorContains(t, err, c.want)
		})
	}
}

func TestGGUFRoundTrip(t *testing.T) {
	for _, g := range []GGUF{smallGGUF(), smallSPM()} {
		a, err := FromGGUF(g)
		require.NoError(t, err)
		out, err := a.GGUF()
		require.NoError(t, err)
		require.Equal(t, g.Tokens, out.Tokens)
		require.Equal(t, g.Types, out.Types)
		require.Equal(t, g.Merges, out.Merges)
		b, err := FromGGUF(out)
		require.NoError(t, err)
		for _, text := range []string{"", "ab 12<tool>b</s>", "aab  abé\n"} {
			require.Equal(t, encode(t, a, text), encode(t, b, text), text)
		}
	}
}

// TestGoldenTokenizerGGUF writes every reference tokenizer that GGUF can express as GGUF's values, and checks its cases through them.
func TestGoldenTokenizerGGUF(t *testing.T) {
	for file, tokenizers := range goldenFiles(t) {
		for name, cases := range tokenizers {
			t.Run(file+"/"+name, func(t *testing.T) {
				g, err := loadGolden(t, name).GGUF()
				if errors.Is(err, ErrUnsupported) {
					t.Skip(err)
				}
				require.NoError(t, err)
				tok, err := FromGGUF(g)
				require.NoError(t, err)
				for label, c := range cases {
					t.Run(label, func(t *testing.T) { checkGolden(t, tok, c, file == "cases.json") })
				}
			})
		}
	}
}

// TestGGUFRefusesLostMerges: SentencePiece joins whatever makes a token, so rules that leave a pair out are not written as scores.
func TestGGUFRefusesLostMerges(t *testing.T) {
	tok, err := FromGGUF(smallSPM())
	require.NoError(t, err)
	a, _ := tok.ID("a")
	b, _ := tok.ID("b")
	delete(tok.model.(*bpe).rules, pairKey(a, b))
	_, err = tok.GGUF()
	require.ErrorIs(t, err, ErrUnsupported)
	require.ErrorContains(t, err, `other tokens of "ab"`)
}

// TestGGUFAddedSpaces: an added token of spaces, which the BPE model makes too, is found in texts as they are.
func TestGGUFAddedSpaces(t *testing.T) {
	g := smallSPM()
	g.AddSpacePrefix = ptr(false)
	g.Tokens, g.Types, g.Scores = append(g.Tokens, "▁▁"), append(g.Types, pieceNormal), append(g.Scores, -0.5)
	plain, err := FromGGUF(g)
	require.NoError(t, err)
	tok, err := plain.WithTokens(NewToken{Content: "▁▁"})
	require.NoError(t, err)
	out, err := tok.GGUF()
	require.NoError(t, err)
	back, err := FromGGUF(out)
	require.NoError(t, err)
	id, _ := tok.ID("▁▁")
	require.Contains(t, encode(t, tok, "ab  ab"), id)
	require.Equal(t, encode(t, tok, "ab  ab"), encode(t, back, "ab  ab"))
}

// TestGGUFUserPieces: user-defined pieces of a SentencePiece model stay what they are.
func TestGGUFUserPieces(t *testing.T) {
	g := smallSPM()
	m := spModel{unk: 0, byteFallback: true, escape: true}
	for id, token := range g.Tokens {
		m.pieces = append(m.pieces, spPiece{token, g.Scores[id], g.Types[id]})
	}
	tok, err := m.tokenizer()
	require.NoError(t, err)
	out, err := tok.GGUF()
	require.NoError(t, err)
	require.Equal(t, g.Types, out.Types)
	back, err := FromGGUF(out)
	require.NoError(t, err)
	require.Equal(t, encode(t, tok, "ab<tool>ab"), encode(t, back, "ab<tool>ab"))
}
