package tokenizer

import (
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bitsandbyes/bitsandbyes/internal/regex"
	"github.com/stretchr/testify/require"
	"golang.org/x/text/unicode/norm"
)

// smallFile is a tokenizer.json with one part replaced.
func smallFile(replace ...string) []byte {
	file := `{"version":"1.0","truncation":null,"padding":null,
	"added_tokens":[{"id":5,"content":"<x>","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true}],
	"normalizer":null,"pre_tokenizer":null,"post_processor":null,"decoder":null,
	"model":{"type":"BPE","unk_token":"u","vocab":{"a":0,"b":1,"ab":2,"u":3,"abab":4},"merges":["a b",["ab","ab"]]}}`
	return []byte(strings.NewReplacer(replace...).Replace(file))
}

func TestParseRefusesByName(t *testing.T) {
	for name, c := range map[string]struct{ from, to, want string }{
		"model":          {`"BPE"`, `"Neural"`, "model Neural is not supported; supported: BPE, Unigram"},
		"normalizer":     {`"normalizer":null`, `"normalizer":{"type":"Odd"}`, "normalizer Odd is not supported"},
		"pre-tokenizer":  {`"pre_tokenizer":null`, `"pre_tokenizer":{"type":"Odd"}`, "pre_tokenizer Odd is not"},
		"post-processor": {`"post_processor":null`, `"post_processor":{"type":"Odd"}`, "post_processor Odd is not"},
		"decoder":        {`"decoder":null`, `"decoder":{"type":"Odd"}`, "decoder Odd is not supported"},
		"dropout":        {`"unk_token"`, `"dropout":0.1,"unk_token"`, "BPE dropout 0.1 is not supported"},
		"field":          {`"unk_token"`, `"novel":1,"unk_token"`, `"novel"`},
		"top field":      {`"version"`, `"novel":1,"version"`, `"novel"`},
		"nested set":     {`"pre_tokenizer":null`, `"pre_tokenizer":{"type":"Split","pattern":{"Regex":"[a[b]]"},"behavior":"Isolated","invert":false}`, "a set within a set"},
		"interval":       {`"pre_tokenizer":null`, `"pre_tokenizer":{"type":"Split","pattern":{"Regex":"\\p{N}{1,3}+"},"behavior":"Isolated","invert":false}`, "{n,m}+"},
		"open interval":  {`"pre_tokenizer":null`, `"pre_tokenizer":{"type":"Split","pattern":{"Regex":"\\p{N}{,3}"},"behavior":"Isolated","invert":false}`, "{,m}"},
		"optional":       {`"pre_tokenizer":null`, `"pre_tokenizer":{"type":"Split","pattern":{"Regex":"\\p{N}{3}?"},"behavior":"Isolated","invert":false}`, "{n}?"},
		"two ByteLevel":  {`"pre_tokenizer":null`, `"pre_tokenizer":{"type":"Sequence","pretokenizers":[{"type":"ByteLevel"},{"type":"ByteLevel"}]}`, "ByteLevel given twice"},
		"growing":        {`"decoder":null`, `"decoder":{"type":"Replace","pattern":{"String":"a"},"content":"` + strings.Repeat("a", 65) + `"}`, "64 times as long"},
		"behavior":       {`"pre_tokenizer":null`, `"pre_tokenizer":{"type":"Split","pattern":{"String":"x"},"behavior":"Odd"}`, "split behavior Odd"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ParseHF(smallFile(c.from, c.to))
			require.ErrorIs(t, err, ErrUnsupported)
			require.ErrorContains(t, err, c.want)
		})
	}
}

func TestParseRefusesDamage(t *testing.T) {
	nested := strings.Repeat(`{"type":"Sequence","normalizers":[`, 50) + strings.Repeat(`]}`, 50)
	for name, c := range map[string]struct{ from, to, want string }{
		"same id":        {`"b":1`, `"b":0`, "id 0 is used by"},
		"same token":     {`"b":1`, `"a":1`, "twice"},
		"two ids":        {`"<x>"`, `"ab"`, "has two ids"},
		"negative":       {`"b":1`, `"b":-1`, "negative"},
		"sparse":         {`"b":1`, `"b":2000000000`, "sparse"},
		"unknown merge":  {`"a b"`, `"a c"`, "not in the vocabulary"},
		"unknown result": {`"a b"`, `"b a"`, "which is not in the vocabulary"},
		"empty merge":    {`"a b"`, `["","a"]`, "empty token"},
		"merge of three": {`"a b"`, `["a","b","ab"]`, "merge 0 joins two"},
		"merge of one":   {`"a b"`, `"ab"`, "merge 0 joins two"},
		"unk":            {`"unk_token":"u"`, `"unk_token":"zz"`, "unk_token"},
		"nesting":        {`"normalizer":null`, `"normalizer":` + nested, "nested"},
		"trailing":       {`"ab"]]}}`, `"ab"]]}} x`, "more text"},
		"template": {`"post_processor":null`, `"post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"q","type_id":0}},
			{"Sequence":{"id":"A","type_id":0}}],"pair":[],"special_tokens":{"q":{"id":"q","ids":[99],"tokens":["q"]}}}`, "id 99"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ParseHF(smallFile(c.from, c.to))
			require.ErrorContains(t, err, c.want)
		})
	}
}

func TestSmallBPE(t *testing.T) {
	tok, err := ParseHF(smallFile())
	require.NoError(t, err)
	require.Equal(t, 6, tok.VocabSize())
	for text, want := range map[string][]int32{
		"": {}, "abab": {4}, "ababab": {4, 2}, "aab": {0, 2}, "a?b??": {0, 3, 1, 3, 3}, "a<x>b": {0, 5, 1},
	} {
		ids, err := tok.Encode(text)
		require.NoError(t, err)
		require.Equal(t, want, ids, text)
	}
	ids, err := tok.EncodeWith("a<x>b", EncodeOptions{SpecialAsText: true})
	require.NoError(t, err)
	require.Equal(t, []int32{0, 3, 3, 3, 1}, ids)
	require.Equal(t, "a <x> b", tok.Decode([]int32{0, 5, -1, 99, 1}))
	require.Equal(t, "a b", tok.DecodeWith([]int32{0, 5, 1}, DecodeOptions{SkipSpecial: true}))
}

func TestEncodeIsSafeForConcurrentUse(t *testing.T) {
	tok := trainSmall(t, TrainOptions{VocabSize: 320}, trainText)
	want, err := tok.Encode(trainText)
	require.NoError(t, err)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 20 {
				if got, err := tok.Encode(trainText); err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
					t.Error("different ids", err)
				}
			}
		})
	}
	wg.Wait()
}

func TestSplitBehaviors(t *testing.T) {
	for name, want := range map[string]string{
		"Removed": "a|b", "Isolated": "-|-|a|-|b|-", "MergedWithPrevious": "-|-|a-|b-", "MergedWithNext": "-|-a|-b|-", "Contiguous": "--|a|-|b|-",
	} {
		b, err := parseBehavior(name)
		require.NoError(t, err)
		var got []string
		s := split{pattern: &pattern{literal: "-"}, behavior: b}
		require.NoError(t, s.split(piece{text: "--a-b-"}, func(p piece) error {
			got = append(got, p.text)
			return nil
		}))
		require.Equal(t, want, strings.Join(got, "|"), name)
	}
}

func TestUnicodeFormWithoutMarkLimit(t *testing.T) {
	for _, form := range []norm.Form{norm.NFC, norm.NFD, norm.NFKC, norm.NFKD} {
		for _, text := range []string{"e\u0301a\u0323\u0302", "가각\u1100\u1161\u11a8", "ﬁ½Å", "q\u0307\u0323x\u0300"} {
			require.Equal(t, form.String(text), plainForm(text, form), "%+q", text)
		}
		long := "a" + strings.Repeat("\u0334\u0301", 40)
		got, err := unicodeForm(form)(long)
		require.NoError(t, err)
		require.NotContains(t, got, "\u034f")
	}
}

func TestLossy(t *testing.T) {
	for in, want := range map[string]string{
		"ok": "ok", "\xff": "�", "\xf0\x9f\xa4": "�", "\xf0\x9f\xa4x": "�x", "\xe0\x80": "��", "\xed\xa0\x80": "���", "\xc3\xc3\xa9": "�é",
	} {
		require.Equal(t, want, string(appendLossy(nil, []byte(in))), "%q", in)
	}
}

func TestByteSpellingIsOneToOne(t *testing.T) {
	seen := map[rune]bool{}
	for b := range 256 {
		r := byteRune(byte(b))
		back, ok := runeByte(r)
		require.True(t, ok)
		require.Equal(t, byte(b), back)
		seen[r] = true
	}
	require.Len(t, seen, 256)
	require.Equal(t, "Ġ", string(byteRune(' ')))
	require.Equal(t, "Ċ", string(byteRune('\n')))
	require.Equal(t, "Ń", string(byteRune(0xAD)))
}

// llama2cFile builds a tokenizer.bin of the bytes and some tokens.
func llama2cFile(tokens ...string) []byte {
	all := []string{"<unk>", "\n<s>\n", "\n</s>\n"}
	for b := range 256 {
		all = append(all, fmt.Sprintf("<0x%02X>", b))
	}
	raw := binary.LittleEndian.AppendUint32(nil, 16)
	for i, token := range append(all, tokens...) {
		raw = binary.LittleEndian.AppendUint32(raw, math.Float32bits(float32(-i)))
		raw = binary.LittleEndian.AppendUint32(raw, uint32(len(token)))
		raw = append(raw, token...)
	}
	return raw
}

func TestLlama2C(t *testing.T) {
	raw := llama2cFile(" a", "ab", " ab", " ", "a", "b")
	path := filepath.Join(t.TempDir(), "tok.bin")
	require.NoError(t, os.WriteFile(path, raw, 0o600))
	tok, err := Load(path)
	require.NoError(t, err)
	for text, want := range map[string][]int32{
		"": {1}, "ab": {1, 261}, "ba": {1, 262, 264, 263}, "é": {1, 262, 0xC3 + 3, 0xA9 + 3}, "\x00": {1, 262, 3},
	} {
		ids, err := tok.Encode(text)
		require.NoError(t, err)
		require.Equal(t, want, ids)
		require.Equal(t, text, tok.Decode(ids))
		require.Equal(t, text, streamAll(tok, ids, DecodeOptions{}))
	}
	s := NewStream(tok, DecodeOptions{})
	require.Equal(t, "", s.Push(1))
	require.Equal(t, "a", s.Push(259))
	require.Equal(t, " a", s.Push(259))
	require.Equal(t, "", s.Push(0xC3+3))
	require.Equal(t, "é", s.Push(0xA9+3))
	require.Equal(t, "", s.Push(0xC3+3))
	require.Equal(t, "�", s.Flush())
}

func TestLlama2CRefused(t *testing.T) {
	good := llama2cFile("a")
	for name, c := range map[string]struct {
		raw   []byte
		vocab int
		want  string
	}{
		"empty": {nil, 0, "too few"}, "header": {good[:10], 0, "ends within"}, "cut": {good[:len(good)-1], 0, "are left"},
		"vocab": {good, 512, "has 260 tokens and the model 512"}, "twice": {llama2cFile("a", "a"), 0, "are both"},
		"long": {llama2cFile(strings.Repeat("x", 17)), 0, "header allows 16"}, "few": {good[:4], 0, "the least"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ParseLlama2C(c.raw, c.vocab)
			require.ErrorContains(t, err, c.want)
		})
	}
}

func TestLoadRefused(t *testing.T) {
	dir := t.TempDir()
	_, err := Load(dir)
	require.ErrorContains(t, err, "tokenizer.json")
	other := filepath.Join(dir, "tokenizer.model")
	require.NoError(t, os.WriteFile(other, nil, 0o600))
	_, err = Load(other)
	require.ErrorIs(t, err, ErrUnsupported)
	_, err = Load(filepath.Join(dir, "absent"))
	require.ErrorIs(t, err, os.ErrNotExist)
}

// TestEndlessRegexIsAnError: in bounded time, with the pattern and a remedy named; in the end without trying.
func TestEndlessRegexIsAnError(t *testing.T) {
	p, err := compilePattern(`(x|xx)+y`)
	require.NoError(t, err)
	p.regex, err = regex.Compile(p.expr, regex.Options{Time: 50 * time.Millisecond})
	require.NoError(t, err)
	text := strings.Repeat("x", 60) + "zy"
	for range maxGaveUp {
		err = p.each(text, func(string, bool) error { return nil })
		require.ErrorIs(t, err, regex.ErrSlow)
		require.ErrorContains(t, err, `"(x|xx)+y" gave up on a text of 62 bytes`)
		require.ErrorContains(t, err, "cut the text into shorter parts, or take the tokenizer's file anew")
	}
	p.regex, err = regex.Compile(p.expr, regex.Options{Time: time.Hour})
	require.NoError(t, err)
	require.ErrorContains(t, p.each(text, func(string, bool) error { return nil }), "not tried again")
}

// TestPartEndsSearch: what a match is used for may fail, which is no fault of the pattern's.
func TestPartEndsSearch(t *testing.T) {
	p, err := compilePattern(`a`)
	require.NoError(t, err)
	for range maxGaveUp + 1 {
		require.Equal(t, regex.ErrSlow, p.each("aa", func(string, bool) error { return regex.ErrSlow }))
	}
}

// TestPrependedTextIsBounded: a text written before each part of the text must not multiply it.
func TestPrependedTextIsBounded(t *testing.T) {
	tok, err := ParseHF(smallFile(`"normalizer":null`, `"normalizer":{"type":"Prepend","prepend":"`+strings.Repeat("a", 1<<20)+`"}`))
	require.NoError(t, err)
	_, err = tok.Encode("aaaa")
	require.ErrorIs(t, err, errGrown)
}

func TestGrowingNormalizerIsAnError(t *testing.T) {
	double := `{"type":"Replace","pattern":{"String":"a"},"content":"aa"},`
	tok, err := ParseHF(smallFile(`"normalizer":null`, `"normalizer":{"type":"Sequence","normalizers":[`+strings.Repeat(double, 60)+`{"type":"NFC"}]}`))
	require.NoError(t, err)
	_, err = tok.Encode("aaaa")
	require.ErrorIs(t, err, errGrown)
}
