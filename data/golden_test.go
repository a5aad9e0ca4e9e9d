package data

import (
	"context"
	"hash/fnv"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/internal/golden"
)

// wordEncoder hashes each word into 30,000 ids.
type wordEncoder struct{}

func (wordEncoder) Encode(text string) ([]int32, error) {
	var ids []int32
	for w := range strings.FieldsSeq(text) {
		h := fnv.New32a()
		_, _ = h.Write([]byte(w))
		ids = append(ids, int32(h.Sum32()%30000)+3)
	}
	return ids, nil
}

// TestGoldenDataFiles loads every file of text and of instructions that has a known format, and packs it.
func TestGoldenDataFiles(t *testing.T) {
	dir, ran := golden.Dir(t), 0
	for _, pattern := range []string{"text/*", "instruct/*"} {
		paths, err := filepath.Glob(filepath.Join(dir, pattern))
		require.NoError(t, err)
		for _, path := range paths {
			t.Run(filepath.Base(path), func(t *testing.T) {
				goldenFile(t, path)
			})
			ran++
		}
	}
	t.Logf("%d files", ran)
}

func goldenFile(t *testing.T, path string) {
	opt := Options{SeqLen: 512, BOS: []int32{1}, EOS: []int32{2}, Vocab: 30003, Workers: 2, Renderer: chatML{}}
	set, err := Load(context.Background(), wordEncoder{}, []File{{Path: path}}, opt)
	if err != nil && strings.Contains(err.Error(), "no format fits") {
		opt.Pairs = true
		set, err = Load(context.Background(), wordEncoder{}, []File{{Path: path}}, opt)
		if err != nil && strings.Contains(err.Error(), "no format fits") {
			t.Logf("no built-in format: %v", err)
			return
		}
	}
	require.NoError(t, err)
	l, err := NewLoader(set, LoaderOptions{Pack: true, Shuffle: true, Seed: 1, Batch: 8, MicroBatch: 4})
	require.NoError(t, err)
	r := l.Report()
	targets := 0
	var buf []Batch
	for s := range l.Steps() {
		buf, err = l.StepInto(s, buf)
		require.NoError(t, err)
		for i := range buf {
			targets += buf[i].Targets
		}
	}
	require.EqualValues(t, r.Trained, targets)
	f := set.Files()[0]
	t.Logf("%s (%s): %d rows, %d documents, %d tokens, %.1f%% trained, %d truncated, %d packed rows, %.2f%% full",
		f.Format, f.Why, r.Rows, r.Documents, r.Tokens, 100*r.Share, r.Truncated, r.PackedRows, 100*r.Efficiency)
}
