package quant

import (
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParallelCoversAll(t *testing.T) {
	for _, n := range []int{0, 1, 2, 3, 1000} {
		seen := make([]atomic.Int32, n)
		Parallel(n, func(lo, hi int) {
			for i := lo; i < hi; i++ {
				seen[i].Add(1)
			}
		})
		for i := range seen {
			require.EqualValues(t, 1, seen[i].Load(), "%d of %d", i, n)
		}
	}
}
