package data

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestPermutationIsOne(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		seed, epoch := rapid.Uint64().Draw(t, "seed"), rapid.IntRange(0, 1000).Draw(t, "epoch")
		p := Permutation(seed, epoch, rapid.IntRange(0, 300).Draw(t, "n"))
		require.Equal(t, p, Permutation(seed, epoch, len(p)))
		slices.Sort(p)
		for i, v := range p {
			require.EqualValues(t, i, v)
		}
	})
}

// The numbers are a promise: another order would change what a resumed run sees.
func TestPermutationIsFixed(t *testing.T) {
	require.Equal(t, []int32{2, 9, 5, 0, 1, 3, 8, 7, 6, 4}, Permutation(1, 0, 10))
	require.NotEqual(t, Permutation(1, 0, 10), Permutation(1, 1, 10))
	require.NotEqual(t, Permutation(1, 0, 10), Permutation(2, 0, 10))
	require.Empty(t, Permutation(1, 0, -1))
}

// All 24 orders of four come about equally often: chi-squared with 23 degrees of freedom stays below its 99.99% point.
func TestPermutationIsUniform(t *testing.T) {
	const trials = 24000
	count := map[[4]int32]int{}
	for e := range trials {
		count[[4]int32(Permutation(7, e, 4))]++
	}
	require.Len(t, count, 24)
	chi := 0.0
	for _, c := range count {
		d := float64(c) - trials/24
		chi += d * d / (trials / 24)
	}
	require.Less(t, chi, 56.0)
}

func TestSplit(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(2, 60).Draw(t, "n")
		set := setOf(4, slices.Repeat([]int{2}, n))
		val := float64(rapid.IntRange(1, n-1).Draw(t, "count"))
		want := int(val)
		if rapid.Bool().Draw(t, "share") {
			val = rapid.Float64Range(0.001, 0.999).Draw(t, "val")
			want = min(max(int(val*float64(n)+0.5), 1), n-1)
		}
		seed := rapid.Uint64().Draw(t, "seed")
		train, held, err := set.Split(val, seed)
		require.NoError(t, err)
		require.Equal(t, want, held.Len())
		all := slices.Concat(train.rows, held.rows)
		slices.Sort(all)
		require.Equal(t, set.rows, all)
		again, _, err := set.Split(val, seed)
		require.NoError(t, err)
		require.Equal(t, train.rows, again.rows)
	})
}

func TestSplitEdges(t *testing.T) {
	set := setOf(4, []int{2, 2, 2})
	train, held, err := set.Split(0, 1)
	require.NoError(t, err)
	require.Nil(t, held)
	require.Same(t, set, train)
	_, held, err = setOf(4, []int{2}).Split(0.5, 1)
	require.NoError(t, err)
	require.Nil(t, held)
	for _, val := range []float64{-1, 3, 1.5, 1e300} {
		_, _, err = set.Split(val, 1)
		require.ErrorContains(t, err, "val")
	}
}
