package trainer

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// TestLargest: the first of the largest scores, and whether all are finite, as a loop over single ones has it; few different values make ties.
func TestLargest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		x := rapid.SliceOfN(rapid.Map(rapid.IntRange(-3, 3), func(i int) float32 { return float32(i) / 2 }), 1, 40).Draw(t, "scores")
		best := 0
		for i := range x {
			if x[i] > x[best] {
				best = i
			}
		}
		require.EqualValues(t, best, largest(x))
		require.NoError(t, finiteScores(x, 7))
		at := rapid.IntRange(0, len(x)-1).Draw(t, "at")
		x[at] = rapid.SampledFrom([]float32{float32(math.NaN()), float32(math.Inf(1)), float32(math.Inf(-1))}).Draw(t, "bad")
		require.Error(t, finiteScores(x, 7))
	})
}
