package data

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// Whatever the block size and the limit, what is read is what was appended.
func TestTokensAreReadAsWritten(t *testing.T) {
	dir := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		s := newTokens(0, dir)
		s.unit, s.most = rapid.IntRange(1, 9).Draw(t, "unit"), rapid.IntRange(1, 3).Draw(t, "blocks")
		all := []int32{}
		for _, n := range rapid.SliceOfN(rapid.IntRange(0, 20), 1, 12).Draw(t, "lengths") {
			ids := make([]int32, n)
			for i := range ids {
				ids[i] = int32(len(all) + i)
			}
			at, err := s.append(ids)
			require.NoError(t, err)
			require.EqualValues(t, len(all), at)
			all = append(all, ids...)
		}
		require.LessOrEqual(t, int(s.total-s.spilled()), (s.most+1)*s.unit, "memory is bounded")
		for range 10 {
			lo := rapid.IntRange(0, len(all)).Draw(t, "lo")
			hi := rapid.IntRange(lo, len(all)).Draw(t, "hi")
			got := make([]int32, hi-lo)
			require.NoError(t, s.read(int64(lo), got))
			require.Equal(t, all[lo:hi:hi], got)
		}
		require.NoError(t, s.close())
		require.NoError(t, s.close(), "closing again is no error")
	})
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, left)
}

// A set that is mostly in a file makes the same batches as one in memory, from several goroutines too.
func TestSpilledSetIsTheSame(t *testing.T) {
	var rows strings.Builder
	for i := range 60000 {
		fmt.Fprintf(&rows, `{"prompt":"%d","completion":"%s"}`+"\n", i, strings.Repeat("x", 60+i%90))
	}
	path, dir := write(t, "a.jsonl", rows.String()), t.TempDir()
	before := heap()
	spilled := load(t, Options{SeqLen: 256, SpillDir: dir, Limits: Limits{Memory: 1}}, path)
	held := heap() - before
	require.Less(t, held, int64(2*4*blockTokens+64*60000), "two blocks, and 64 bytes an example")
	inMemory := load(t, Options{SeqLen: 256}, path)
	require.Greater(t, 4*inMemory.Report().Tokens, held+4*blockTokens, "the set is larger than what was held")
	require.Zero(t, inMemory.Report().Spilled)
	r := spilled.Report()
	require.LessOrEqual(t, r.Tokens-r.Spilled, int64(2*blockTokens), "no more than the limit and the open block are in memory")
	require.Positive(t, r.Spilled)
	opt := LoaderOptions{Batch: 8, MicroBatch: 4, Pack: true, Shuffle: true, Seed: 5}
	a, err := NewLoader(inMemory, opt)
	require.NoError(t, err)
	b, err := NewLoader(spilled, opt)
	require.NoError(t, err)
	var wg sync.WaitGroup
	for w := range 2 {
		wg.Go(func() {
			for s := w * 7; s < a.Steps(); s += 97 {
				want, err := a.Step(s)
				if err != nil {
					t.Error(err)
				}
				got, err := b.Step(s)
				if err != nil {
					t.Error(err)
				}
				require.Equal(t, want, got)
			}
		})
	}
	wg.Wait()
	require.NoError(t, spilled.Close())
	_, err = b.Step(0)
	if err == nil {
		_, err = b.Step(b.Steps() - 1)
	}
	var se *SpillError
	require.ErrorAs(t, err, &se)
}

// heap is what is reachable.
func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func TestSpillErrors(t *testing.T) {
	s := newTokens(0, filepath.Join(t.TempDir(), "none"))
	s.unit = 4
	_, err := s.append(make([]int32, 12))
	var se *SpillError
	require.ErrorAs(t, err, &se)
	require.Contains(t, err.Error(), "free disk space")
}
