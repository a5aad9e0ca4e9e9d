package calib

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestChannelStats(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	x := correlated(r, 50, 7)
	whole, a, b := statsOf(t, x), statsOf(t, Matrix{20, 7, x.Data[:140]}), statsOf(t, Matrix{30, 7, x.Data[140:]})
	require.NoError(t, a.Merge(b))
	require.Equal(t, int64(50), a.Samples())
	for j := range 7 {
		peak, sum, squares, lo, hi := 0.0, 0.0, 0.0, 0.0, 0.0
		for i := range 50 {
			v := float64(x.Row(i)[j])
			peak, sum, squares = math.Max(peak, math.Abs(v)), sum+math.Abs(v), squares+v*v
			lo, hi = math.Min(lo, v), math.Max(hi, v)
		}
		for _, c := range []*ChannelStats{whole, a} {
			require.Equal(t, float32(peak), c.AbsMax()[j])
			require.InDelta(t, sum/50, c.MeanAbs()[j], 1e-6*sum)
			require.InDelta(t, math.Sqrt(squares), c.Norms()[j], 1e-6*math.Sqrt(squares))
			require.Equal(t, Range{float32(lo), float32(hi)}, c.Ranges()[j])
		}
	}
	require.ErrorContains(t, a.Add(NewMatrix(1, 3)), "3 columns")
	require.ErrorContains(t, a.Merge(NewChannelStats(2)), "7 channels")
	require.ErrorContains(t, a.Add(Matrix{1, 7, []float32{0, 0, float32(math.Inf(-1)), 0, 0, 0, 0}}), "(0, 2)")
	require.Equal(t, int64(50), a.Samples())
}

func TestChannelsObserveColumns(t *testing.T) {
	r := rand.New(rand.NewPCG(2, 2))
	x := correlated(r, 40, 3)
	make := func() *Channels {
		c, err := NewChannels(3, func() (Observer, error) { return NewPercentile(80, 0) })
		require.NoError(t, err)
		return c
	}
	whole, a, b := make(), make(), make()
	require.NoError(t, whole.Observe(x))
	require.NoError(t, a.Observe(Matrix{15, 3, x.Data[:45]}))
	require.NoError(t, b.Observe(Matrix{25, 3, x.Data[45:]}))
	require.NoError(t, a.Merge(b))
	want, err := whole.Ranges()
	require.NoError(t, err)
	got, err := a.Ranges()
	require.NoError(t, err)
	require.Equal(t, want, got)
	for j := range 3 {
		one, err := NewPercentile(80, 0)
		require.NoError(t, err)
		for i := range 40 {
			require.NoError(t, one.Observe(x.Row(i)[j:j+1]))
		}
		col, err := one.Range()
		require.NoError(t, err)
		require.Equal(t, want[j], col)
	}
	_, err = make().Ranges()
	require.ErrorIs(t, err, ErrNoData)
	require.ErrorContains(t, err, "channel 0")
}

func TestReservoirIsUniformAndIgnoresBatches(t *testing.T) {
	all := NewMatrix(1000, 1)
	for i := range all.Data {
		all.Data[i] = float32(i)
	}
	hits := make([]int, 10) // of each tenth of the rows
	for seed := range uint64(300) {
		whole, parts := NewReservoir(1, 50, seed), NewReservoir(1, 50, seed)
		require.NoError(t, whole.Add(all))
		for at := 0; at < 1000; at += 77 {
			require.NoError(t, parts.Add(Matrix{min(77, 1000-at), 1, all.Data[at:min(at+77, 1000)]}))
		}
		require.Equal(t, whole.Matrix(), parts.Matrix())
		require.Equal(t, 50, whole.Matrix().Rows)
		for _, v := range whole.Matrix().Data {
			hits[int(v)/100]++
		}
	}
	for _, n := range hits {
		require.InDelta(t, 1500, n, 200) // five standard deviations
	}
	a, b := NewReservoir(1, 50, 1), NewReservoir(1, 50, 2)
	require.NoError(t, a.Add(Matrix{900, 1, all.Data[:900]}))
	require.NoError(t, b.Add(Matrix{100, 1, all.Data[900:]}))
	require.NoError(t, a.Merge(b))
	late := 0
	for _, v := range a.Matrix().Data {
		if v >= 900 {
			late++
		}
	}
	require.Equal(t, 50, a.Matrix().Rows)
	require.InDelta(t, 5, late, 5)
	require.ErrorContains(t, a.Add(NewMatrix(1, 2)), "2 columns")
	require.ErrorContains(t, a.Merge(NewReservoir(2, 5, 0)), "of 1 columns")
}
