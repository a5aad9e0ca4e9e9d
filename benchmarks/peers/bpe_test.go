package peers

import (
	"compress/gzip"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/bitsandbyes/bitsandbyes/internal/golden"
	"github.com/stretchr/testify/require"
)

// TestGoldenTokenizerSugarme shows where the peer agrees with the tokenizers library, and so where it may be compared with.
func TestGoldenTokenizerSugarme(t *testing.T) {
	dir := filepath.Join(dataDir(t), "tokenizers")
	const name = "gpt2"
	s := openSugarme(t, filepath.Join(dir, name+".tokenizer.json.gz"))
	raw, err := os.ReadFile(filepath.Join(dir, "cases_hf.json"))
	require.NoError(t, err)
	var file struct {
		Cases map[string]map[string]struct {
			Text string `json:"text"`
			IDs  []int  `json:"ids"`
		} `json:"cases"`
	}
	require.NoError(t, json.Unmarshal(raw, &file))
	var right, fits int
	for id, c := range file.Cases[name] {
		got, err := s.Encode(c.Text)
		same := err == nil && slices.Equal(got, c.IDs)
		if same {
			right++
		}
		if !SugarmeFitsGPT2(c.Text) {
			continue
		}
		fits++
		if !same {
			t.Errorf("%s: %q: got %v (%v), want %v", id, c.Text, got, err, c.IDs)
		}
	}
	t.Logf("%s: %d of %d texts right, %d of them where it is expected to be", name, right, len(file.Cases[name]), fits)
}

func TestSugarmeFitsGPT2(t *testing.T) {
	for text, want := range map[string]bool{
		"Hello, world!": true, " a b\n": true, "": false, "a\n\nb": false, "a  b": false, "<|endoftext|>": false, "a \u00a0b": false, "!!!": false, "aabb": true,
	} {
		require.Equal(t, want, SugarmeFitsGPT2(text), "%q", text)
	}
}

func TestSugarmeRefusesWithoutPanic(t *testing.T) {
	for _, text := range []string{``, `{`, `{}`, `{"model":{"type":"BPE"}}`} {
		_, err := NewSugarme(strings.NewReader(text))
		require.Error(t, err, text)
	}
}

func openSugarme(tb testing.TB, path string) *Sugarme {
	tb.Helper()
	f, err := os.Open(path)
	require.NoError(tb, err)
	defer func() { require.NoError(tb, f.Close()) }()
	z, err := gzip.NewReader(f)
	require.NoError(tb, err)
	s, err := NewSugarme(z)
	require.NoError(tb, err)
	return s
}

// dataDir is golden.Dir for a module that lies two folders below the root, beside which the data is.
func dataDir(tb testing.TB) string {
	tb.Helper()
	if os.Getenv("BYES_TESTDATA") == "" {
		dir, err := filepath.Abs(filepath.Join("..", "..", "..", "shared", "data"))
		require.NoError(tb, err)
		if _, err := os.Stat(dir); err == nil {
			tb.Setenv("BYES_TESTDATA", dir)
		}
	}
	return golden.Dir(tb)
}

// BenchmarkSugarmeGPT2 encodes lines of Shakespeare, one call a line.
func BenchmarkSugarmeGPT2(b *testing.B) {
	dir := dataDir(b)
	s := openSugarme(b, filepath.Join(dir, "tokenizers", "gpt2.tokenizer.json.gz"))
	lines, size := shakespeare(b, dir, 200)
	b.SetBytes(int64(size))
	b.ReportAllocs()
	for b.Loop() {
		for _, line := range lines {
			if _, err := s.Encode(line); err != nil {
				b.Fatal(err)
			}
		}
	}
}

// shakespeare returns the first n lines that the peer tokenizes rightly, and their bytes.
func shakespeare(tb testing.TB, dir string, n int) (lines []string, size int) {
	tb.Helper()
	f, err := os.Open(filepath.Join(dir, "text", "tinyshakespeare.txt.gz"))
	require.NoError(tb, err)
	defer func() { require.NoError(tb, f.Close()) }()
	z, err := gzip.NewReader(f)
	require.NoError(tb, err)
	head, err := io.ReadAll(io.LimitReader(z, 64<<10))
	require.NoError(tb, err)
	for line := range strings.SplitSeq(string(head), "\n") {
		if len(lines) < n && SugarmeFitsGPT2(line) {
			lines, size = append(lines, line), size+len(line)
		}
	}
	require.NotEmpty(tb, lines)
	return lines, size
}
