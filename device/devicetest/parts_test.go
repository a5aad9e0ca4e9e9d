package devicetest

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The parts of a list are all of it, once, and nearly alike in length.
func TestParts(t *testing.T) {
	list := []int{0, 1, 2, 3, 4, 5, 6}
	for _, parts := range [][]string{{""}, {"1/1"}, {"1/3", "2/3", "3/3"}, {"1/9", "2/9", "3/9", "4/9", "5/9", "6/9", "7/9", "8/9", "9/9"}} {
		var together []int
		for _, which := range parts {
			part, err := partOf(which, list)
			require.NoError(t, err)
			require.InDelta(t, float64(len(list))/float64(len(parts)), len(part), 1)
			together = append(together, part...)
		}
		slices.Sort(together)
		require.Equal(t, list, together)
	}
	for _, which := range []string{"0/3", "4/3", "1", "1/0", "-1/3", "1/3x", "a/b", " 1/3", "01/3"} {
		_, err := partOf(which, list)
		require.ErrorContains(t, err, "want k/n")
	}
}

// Where time is short, what can be wrong in more ways comes first.
func TestSamplesInLittleTime(t *testing.T) {
	t.Setenv(PartEnv, "3/20")
	inOrder, until := samples(t)
	require.Zero(t, until)
	t.Setenv(SecondsEnv, "10")
	byWorth, until := samples(t)
	require.WithinDuration(t, time.Now().Add(10*time.Second), until, 10*time.Second)
	require.Len(t, byWorth, len(inOrder))
	require.Zero(t, byWorth[0].worth())
	require.Equal(t, 1, byWorth[len(byWorth)-1].worth())
	require.True(t, slices.IsSortedFunc(byWorth, func(a, b sample) int { return a.worth() - b.worth() }))
}
