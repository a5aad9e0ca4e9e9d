package trainer

import (
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/bitsandbyes/bitsandbyes/data"
)

// TestLadder: train.fit goes from the fastest settings down, once over each, and ends where nothing smaller is left.
func TestLadder(t *testing.T) {
	require.Equal(t, []rung{{8, "off"}, {4, "off"}, {4, "auto"}, {2, "off"}, {2, "auto"}, {1, "off"}, {1, "auto"}}, ladder(8, 16, 256, "auto"))
	require.Equal(t, []rung{{3, "on"}, {1, "on"}}, ladder(3, 12, 2048, "on"))
	require.Equal(t, []rung{{1, "off"}, {1, "auto"}}, ladder(1, 1, 16, "auto"))
	require.Equal(t, []rung{{4, "off"}, {2, "off"}, {1, "off"}}, ladder(4, 4, 64, "off"))
	rapid.Check(t, func(t *rapid.T) {
		batch := rapid.IntRange(1, 64).Draw(t, "batch")
		micro := rapid.IntRange(1, batch).Draw(t, "micro")
		list := ladder(micro, batch, rapid.IntRange(2, 4096).Draw(t, "length"), "auto")
		require.Equal(t, rung{1, "auto"}, list[len(list)-1])
		seen := map[rung]bool{}
		for i, r := range list {
			require.False(t, seen[r])
			seen[r] = true
			if i > 0 {
				require.LessOrEqual(t, r.micro, list[i-1].micro)
				require.True(t, r.micro == micro || batch%r.micro == 0, "no micro-batch is part padding")
			}
		}
	})
}

// TestDocumentLengths counts packed documents and leaves padding out.
func TestDocumentLengths(t *testing.T) {
	b := &data.Batch{B: 2, T: 5, Tokens: make([]int32, 10), DocStart: []int32{0, 0, 2, 2, 2, 0, 0, 0, 3, 3},
		Sample: []int32{4, 4, 7, 7, 7, 9, 9, 9, data.PadSample, data.PadSample}}
	require.Equal(t, []float32{2, 2, 3, 3, 3, 3, 3, 3, 0, 0}, documentLengths(nil, b))
}
