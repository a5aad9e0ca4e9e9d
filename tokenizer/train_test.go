package tokenizer

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/internal/golden"
)

const trainText = `The quick brown fox jumps over the lazy dog. The quicker the fox, the lazier the dog; it's 1234 times so.
  Indented    lines, tabs	and "quotes" — naïve café, 你好世界 🤗 and so on and so on and so on.
`

func trainSmall(t testing.TB, opts TrainOptions, texts ...string) *HF {
	t.Helper()
	tok, err := TrainBPE(slices.Values(texts), opts)
	require.NoError(t, err)
	return tok
}

func TestTrainSaveLoad(t *testing.T) {
	for name, opts := range map[string]TrainOptions{
		"plain":   {VocabSize: 320},
		"roles":   {VocabSize: 330, BOS: "<s>", EOS: "</s>", Pad: "<pad>", AddBOS: true},
		"pattern": {VocabSize: 300, Pattern: llama3Pattern, SpecialTokens: []string{"<|x|>"}},
		"regex":   {VocabSize: 300, Pattern: `\s*\S+`},
	} {
		t.Run(name, func(t *testing.T) {
			tok := trainSmall(t, opts, trainText)
			require.Equal(t, opts.VocabSize, tok.VocabSize())
			dir := t.TempDir()
			var file, config bytes.Buffer
			require.NoError(t, tok.Save(&file))
			require.NoError(t, tok.WriteConfig(&config))
			require.NoError(t, os.WriteFile(filepath.Join(dir, "tokenizer.json"), file.Bytes(), 0o600))
			require.NoError(t, os.WriteFile(filepath.Join(dir, "tokenizer_config.json"), config.Bytes(), 0o600))
			back, err := Load(dir)
			require.NoError(t, err)
			require.Equal(t, tok.specials, back.(*HF).specials)
			for _, text := range []string{"", trainText, "unseen Ωmega\n\n\n x", "<s>a</s>", "\xff\x00"} {
				want, err := tok.EncodeWith(text, EncodeOptions{NoSpecial: true})
				require.NoError(t, err)
				got, err := back.EncodeWith(text, EncodeOptions{NoSpecial: true})
				require.NoError(t, err)
				require.Equal(t, want, got)
				require.Equal(t, strings.ToValidUTF8(text, "\uFFFD"), back.Decode(got))
			}
		})
	}
}

func TestTrainIgnoresOrderOfTexts(t *testing.T) {
	lines := strings.SplitAfter(strings.Repeat(trainText, 3), "\n")
	a := trainSmall(t, TrainOptions{VocabSize: 340}, lines...)
	slices.Reverse(lines)
	b := trainSmall(t, TrainOptions{VocabSize: 340}, lines...)
	require.Equal(t, string(a.raw), string(b.raw))
}

// TestTrainEqualsDefinition recounts every pair for each merge.
func TestTrainEqualsDefinition(t *testing.T) {
	text := strings.Repeat("aaaa aaab abab banana bananas ananas nanana ", 3) + trainText
	tok := trainSmall(t, TrainOptions{VocabSize: 256 + 60, MinFrequency: 2}, text)
	p, err := compilePattern(gpt2Pattern)
	require.NoError(t, err)
	counts, err := countWords(slices.Values([]string{text}), p, nil)
	require.NoError(t, err)
	words := map[string][]int32{}
	for word := range counts {
		for i := range len(word) {
			words[word] = append(words[word], lookup(tok.ids, string(byteRune(word[i]))))
		}
	}
	for id := int32(256); int(id) < tok.VocabSize(); id++ {
		pairs := map[uint64]int{}
		for word, ids := range words {
			for i := range len(ids) - 1 {
				pairs[pairKey(ids[i], ids[i+1])] += counts[word]
			}
		}
		best := uint64(noMerge)
		for key, n := range pairs {
			if best == noMerge || n > pairs[best] || n == pairs[best] && key < best {
				best = key
			}
		}
		a, b := int32(best>>32), int32(uint32(best))
		require.Equal(t, tok.tokens[a]+tok.tokens[b], tok.tokens[id])
		for word, ids := range words {
			words[word] = naiveMerge(ids, randomRules{best: uint64(uint32(id))})
		}
	}
}

func TestTrainOptionsRefused(t *testing.T) {
	for name, opts := range map[string]TrainOptions{
		"too small": {VocabSize: 255},
		"twice":     {SpecialTokens: []string{"<a>", "<a>"}},
		"a byte":    {SpecialTokens: []string{"a"}},
		"no bos":    {AddBOS: true},
		"pattern":   {Pattern: "("},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := TrainBPE(slices.Values([]string{trainText}), opts)
			require.Error(t, err)
		})
	}
}

func TestTrainFewWords(t *testing.T) {
	tok := trainSmall(t, TrainOptions{VocabSize: 1000}, "ab ab")
	require.Equal(t, 258, tok.VocabSize())
	require.Equal(t, 256, trainSmall(t, TrainOptions{VocabSize: 1000}).VocabSize())
}

// TestGoldenTokenizerTrain trains on a real text and checks the round trip.
func TestGoldenTokenizerTrain(t *testing.T) {
	text := corpus(t)
	start := time.Now()
	tok := trainSmall(t, TrainOptions{VocabSize: 4096}, text)
	t.Logf("%d bytes, %d tokens, %v", len(text), tok.VocabSize(), time.Since(start).Round(time.Millisecond))
	ids, err := tok.Encode(text)
	require.NoError(t, err)
	require.True(t, tok.Decode(ids) == text)
	t.Logf("%.2f bytes a token", float64(len(text))/float64(len(ids)))
}

// corpus returns the largest of the reference texts, up to 2 MB.
func corpus(t testing.TB) string {
	files, err := filepath.Glob(filepath.Join(golden.Dir(t), "text", "*.gz"))
	require.NoError(t, err)
	if len(files) == 0 {
		t.Skip("no reference texts")
	}
	var text []byte
	for _, file := range files {
		if raw := readGzip(t, file); len(raw) > len(text) {
			text = raw
		}
	}
	return strings.ToValidUTF8(string(text[:min(len(text), 2<<20)]), "")
}
