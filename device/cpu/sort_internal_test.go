package cpu

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

func randomItems(n int, mask uint64) []sortItem {
	rng := rand.New(rand.NewPCG(uint64(n), mask))
	out := make([]sortItem, n)
	for i := range out {
		out[i] = sortItem{key: rng.Uint64() & mask, pos: int32(i)}
	}
	return out
}

// TestRadixSort: digits and comparisons give the same order, with few and many equal keys.
func TestRadixSort(t *testing.T) {
	for _, mask := range []uint64{0, 1, 0xff00, 0xffffffff, 0xf0f0f0f0f0f0f0f0, ^uint64(0)} {
		for _, n := range []int{1, 2, 255, 4097} {
			want := randomItems(n, mask)
			got := radixSort(slices.Clone(want), make([]sortItem, n))
			comparisonSort(want)
			require.Equal(t, want, got, "%d items, mask %x", n, mask)
		}
	}
}

// BenchmarkSortLane orders 4096 items with 32-bit keys by digits and by comparisons.
func BenchmarkSortLane(b *testing.B) {
	src := randomItems(4096, 1<<32-1)
	items, spare := make([]sortItem, len(src)), make([]sortItem, len(src))
	b.Run("digits", func(b *testing.B) {
		for b.Loop() {
			copy(items, src)
			radixSort(items, spare)
		}
	})
	b.Run("comparisons", func(b *testing.B) {
		for b.Loop() {
			copy(items, src)
			comparisonSort(items)
		}
	})
}
