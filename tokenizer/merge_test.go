package tokenizer

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// randomRules gives each joined token a new id, as a vocabulary does.
type randomRules map[uint64]uint64

func (r randomRules) rule(a, b int32) uint64 {
	if rule, ok := r[pairKey(a, b)]; ok {
		return rule
	}
	return noMerge
}

func drawRules(t *rapid.T) randomRules {
	rules := randomRules{}
	next := int32(4)
	for rank := range rapid.IntRange(0, 40).Draw(t, "merges") {
		a := rapid.Int32Range(0, next-1).Draw(t, "a")
		b := rapid.Int32Range(0, next-1).Draw(t, "b")
		if _, ok := rules[pairKey(a, b)]; !ok {
			rules[pairKey(a, b)] = uint64(rank)<<32 | uint64(next)
			next++
		}
	}
	return rules
}

func TestMergeEqualsDefinition(t *testing.T) {
	var m merger
	rapid.Check(t, func(t *rapid.T) {
		rules := drawRules(t)
		ids := rapid.SliceOfN(rapid.Int32Range(0, 3), 0, 3*scanLimit).Draw(t, "ids")
		want := naiveMerge(ids, rules)
		require.Equal(t, want, m.merge(append([]int32{}, ids...), rules))
	})
}

// TestMergeHeapEqualsScan holds the two ways of merging equal on short words too, where the heap is not used otherwise.
func TestMergeHeapEqualsScan(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rules := drawRules(t)
		ids := rapid.SliceOfN(rapid.Int32Range(0, 3), 2, 60).Draw(t, "ids")
		var m merger
		for i := range len(ids) - 1 {
			m.rules = append(m.rules, rules.rule(ids[i], ids[i+1]))
		}
		require.Equal(t, naiveMerge(ids, rules), m.queue(append([]int32{}, ids...), rules))
	})
}

func TestMergeLongWordIsFast(t *testing.T) {
	rules := randomRules{pairKey(0, 0): 4, pairKey(4, 4): 1<<32 | 5, pairKey(0, 1): 2<<32 | 6}
	r := rand.New(rand.NewPCG(1, 2))
	ids := make([]int32, 1<<20)
	for i := range ids {
		ids[i] = int32(r.IntN(2))
	}
	var m merger
	require.Less(t, len(m.merge(ids, rules)), 1<<20)
}
