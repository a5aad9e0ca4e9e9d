package calib

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/quant"
)

func TestHistogramsOfOtherBinsDoNotMerge(t *testing.T) {
	fine, coarse := NewHistogram(64), NewHistogram(4)
	require.NoError(t, fine.Add([]float32{1, 2, 3}))
	require.NoError(t, coarse.Add([]float32{1, 2, 3}))
	require.ErrorContains(t, fine.Merge(coarse), "64 bins cannot take in one of at most 4")
	require.EqualValues(t, 3, fine.Len())
}

func TestEntropyBinsAreFew(t *testing.T) {
	_, err := NewEntropy(8, 1<<24)
	require.ErrorContains(t, err, "at most 32768")
}

// TestPercentile100IsEverything, from values kept as they are and from a histogram.
func TestPercentile100IsEverything(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 3))
	for _, n := range []int{100, 2 * exactValues} {
		p, err := NewPercentile(100, 0)
		require.NoError(t, err)
		all := NewMinMax()
		x := make([]float32, n)
		for i := range x {
			x[i] = float32(r.NormFloat64())
		}
		require.NoError(t, p.Observe(x))
		require.NoError(t, all.Observe(x))
		want, err := all.Range()
		require.NoError(t, err)
		got, err := p.Range()
		require.NoError(t, err)
		require.Equal(t, want, got, n)
	}
}

// TestSearchesRefuseOverflow: outputs beyond float32 compare with nothing.
func TestSearchesRefuseOverflow(t *testing.T) {
	x, w := NewMatrix(3, 8), NewMatrix(4, 8)
	for i := range x.Data {
		x.Data[i] = 3e37
	}
	for i := range w.Data {
		w.Data[i] = 3e4
	}
	c := statsOf(t, x)
	rt := ByFormat(quant.AffineFormat{Bits: 4}, nil)
	_, err := AWQSearch(x, c.MeanAbs(), []Matrix{w}, rt, nil)
	require.ErrorContains(t, err, "overflow")
	_, err = SmoothSearch(x, c.AbsMax(), []Matrix{w}, nil, PerToken(Affine{8, true}), rt, nil)
	require.ErrorContains(t, err, "overflow")
	_, err = SmoothSearch(x, c.AbsMax(), []Matrix{w}, []float64{}, nil, rt, nil)
	require.ErrorContains(t, err, "no migration strengths")
	_, err = OutputError(x, w, NewMatrix(4, 8), nil)
	require.ErrorContains(t, err, "overflow")
	_, err = OutputError(x, w, NewMatrix(4, 7), nil)
	require.ErrorContains(t, err, "an approximation of 4 x 7 for a weight of 4 x 8")
	_, err = OutputError(NewMatrix(3, 7), w, w, nil)
	require.ErrorContains(t, err, "a weight has 8 columns, the samples 7")
	require.ErrorContains(t, w.ScaleColumns(make([]float32, 7)), "7 factors for 8 columns")
	require.ErrorContains(t, DivideOutputs(NewMatrix(2, 1), []float32{1, 0}), "factor 1 is 0")
}

// TestGPTQSaysWhenSamplesAreFew: fewer samples than inputs leave directions in which nothing is known of the weight's effect.
func TestGPTQSaysWhenSamplesAreFew(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	w := randomWeight(r, 4, 24)
	got, err := GPTQ(w, hessianOf(t, correlated(r, 10, 24)), quant.AffineFormat{Bits: 4}, GPTQOptions{BlockCols: 1 << 40})
	require.NoError(t, err)
	require.True(t, got.Singular)
	require.Zero(t, got.Raised)
	require.Equal(t, "the Hessian is singular (10 samples for 24 inputs): damped with 0.01 of its mean diagonal", got.Note())
}
