package tokenizer

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/internal/golden"
)

// BenchmarkEncode encodes a real text with every reference tokenizer that loads.
func BenchmarkEncode(b *testing.B) {
	text := corpus(b)
	files, err := filepath.Glob(filepath.Join(golden.Dir(b), "tokenizers", "*.tokenizer.json.gz"))
	require.NoError(b, err)
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".tokenizer.json.gz")
		b.Run(name, func(b *testing.B) {
			tok := loadGolden(b, name)
			b.SetBytes(int64(len(text)))
			b.ResetTimer()
			n := 0
			for b.Loop() {
				ids, err := tok.Encode(text)
				require.NoError(b, err)
				n += len(ids)
			}
			b.ReportMetric(float64(n)/b.Elapsed().Seconds()/1e6, "Mtok/s")
		})
	}
}

// BenchmarkEncodeRegex encodes with a pattern that has no hand-written scanner.
func BenchmarkEncodeRegex(b *testing.B) {
	text := corpus(b)
	tok := trainSmall(b, TrainOptions{VocabSize: 4096, Pattern: `[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+(?!\S)|\s+`}, text)
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		_, err := tok.Encode(text)
		require.NoError(b, err)
	}
}

// BenchmarkLoad parses the largest of the reference files.
func BenchmarkLoad(b *testing.B) {
	files, err := filepath.Glob(filepath.Join(golden.Dir(b), "tokenizers", "*.tokenizer.json.gz"))
	require.NoError(b, err)
	if len(files) == 0 {
		b.Skip("no reference tokenizers")
	}
	size := func(path string) int64 {
		info, err := os.Stat(path)
		require.NoError(b, err)
		return info.Size()
	}
	raw := readGzip(b, slices.MaxFunc(files, func(x, y string) int { return int(size(x) - size(y)) }))
	b.SetBytes(int64(len(raw)))
	for b.Loop() {
		_, err := ParseHF(raw)
		require.NoError(b, err)
	}
}

func BenchmarkTrain(b *testing.B) {
	text := corpus(b)
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		trainSmall(b, TrainOptions{VocabSize: 8192}, text)
	}
}
