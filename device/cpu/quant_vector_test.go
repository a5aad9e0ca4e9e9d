package cpu

import (
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// TestDotTasks: every thread has as many tasks, none is too small, and large products have more than two for each thread, up to a limit.
func TestDotTasks(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size, threads := rapid.IntRange(0, 1<<28).Draw(t, "codes"), rapid.IntRange(1, 300).Draw(t, "threads")
		n := dotTasks(size, threads)
		require.Positive(t, n)
		require.LessOrEqual(t, n, max(dotEach*threads, dotMost))
		if n > threads {
			require.Zero(t, n%threads)
		}
		if n > 1 {
			require.GreaterOrEqual(t, size/n, dotGrain)
		}
		if n < threads {
			require.Equal(t, max(size/dotGrain, 1), n, "no thread is idle that a task could be cut for")
		}
	})
	require.Equal(t, 2, dotTasks(576*192, 2), "keys of SmolLM2-135M")
	require.Equal(t, 4, dotTasks(576*1536, 2))
	require.Equal(t, 64, dotTasks(1<<27, 2))
	require.Equal(t, 63, dotTasks(1<<27, 3))
}
