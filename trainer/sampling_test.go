package trainer

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// naiveCandidates follows the definitions step by step with a full sort.
func naiveCandidates(s Sampling, logits []float32) []candidate {
	top := float64(slices.Max(logits))
	c := make([]candidate, len(logits))
	for i, x := range logits {
		c[i] = candidate{int32(i), math.Exp((float64(x) - top) / s.Temperature)}
	}
	slices.SortFunc(c, likelier)
	if s.TopK > 0 {
		c = c[:min(s.TopK, len(c))]
	}
	if s.TopP > 0 && s.TopP < 1 {
		var total, sum float64
		for _, x := range c {
			total += x.p
		}
		for i, x := range c {
			if sum += x.p; sum >= s.TopP*total {
				c = c[:i+1]
				break
			}
		}
	}
	return slices.DeleteFunc(c, func(x candidate) bool { return x.p < s.MinP })
}

// TestCandidatesAgainstNaive: the partial sort leaves the same tokens in the same order.
func TestCandidatesAgainstNaive(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 2000).Draw(t, "n")
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		logits := make([]float32, n)
		for i := range logits {
			logits[i] = float32(rng.IntN(40)) / 4 // many ties
		}
		s := Sampling{Temperature: rapid.Float64Range(0.1, 5).Draw(t, "temperature"), TopK: rapid.SampledFrom([]int{0, 1, 2, 63, 64, 65, 999, 5000}).Draw(t, "k"),
			TopP: rapid.SampledFrom([]float64{0, 1e-9, 0.3, 0.9, 0.999999, 1}).Draw(t, "p"), MinP: rapid.SampledFrom([]float64{0, 0.01, 0.5, 1}).Draw(t, "min")}
		want, got := naiveCandidates(s, logits), s.sampler(0, nil).candidates(logits)
		if len(want) != len(got) { // a sum in another order may cross the limit a token sooner or later
			require.InDelta(t, len(want), len(got), 1)
		}
		m := min(len(want), len(got))
		require.Equal(t, want[:m], got[:m])
	})
}

func TestPenalties(t *testing.T) {
	logits := []float32{2, 1.9, -1, -1.1, 0}
	given := slices.Clone(logits)
	next := func(s Sampling, prompt ...int32) (ids []int32) {
		c := s.sampler(0, prompt)
		for range 3 {
			ids = append(ids, c.next(logits))
		}
		return ids
	}
	require.Equal(t, []int32{0, 0, 0}, next(Sampling{}))
	require.Equal(t, []int32{1, 0, 0}, next(Sampling{RepetitionPenalty: 1.5}, 0), "1.9 / 1.5 is less than 2 / 1.5 once both occurred")
	require.Equal(t, []int32{0, 1, 0}, next(Sampling{PresencePenalty: 0.5}, 0, 1), "only the answer counts")
	require.Equal(t, []int32{0, 1, 4}, next(Sampling{FrequencyPenalty: 3}))
	require.Equal(t, []int32{0, 0, 0}, next(Sampling{RepetitionPenalty: 1}, 0))
	require.Equal(t, given, logits, "the model's scores stay")

	c := Sampling{RepetitionPenalty: 2}.sampler(0, []int32{0, 2})
	require.Equal(t, []float32{1, 1.9, -2, -1.1, 0}, c.penalise(logits), "positive scores are divided, negative ones multiplied")
}

func TestSamplingCheck(t *testing.T) {
	for says, s := range map[string]Sampling{
		"min-p": {MinP: 2}, "repetition-penalty": {RepetitionPenalty: -1}, "presence-penalty": {PresencePenalty: math.NaN()},
		"frequency-penalty": {FrequencyPenalty: math.Inf(1)}, "temperature": {Temperature: math.NaN()},
	} {
		require.ErrorContains(t, s.Check(), says)
	}
	require.NoError(t, Sampling{}.Check())
}

func BenchmarkNext(b *testing.B) {
	logits := make([]float32, 128256)
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range logits {
		logits[i] = float32(rng.NormFloat64() * 3)
	}
	for name, s := range map[string]Sampling{"greedy": {}, "top-k 40": {Temperature: 1, TopK: 40}, "top-p 0.9": {Temperature: 1, TopP: 0.9}, "min-p 0.05": {Temperature: 1, MinP: 0.05}} {
		b.Run(name, func(b *testing.B) {
			c := s.sampler(0, nil)
			for b.Loop() {
				c.next(logits)
			}
		})
	}
}
