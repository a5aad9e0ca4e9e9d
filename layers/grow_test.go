package layers_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// TestGrow: a table that may grow gets rows near the mean of those it has, the same for a seed; other weights must have their shape.
func TestGrow(t *testing.T) {
	table := tensor.New(tensor.T(tensor.F32, 3, 2))
	copy(tensor.Data[float32](table), []float32{1, 10, 2, 20, 6, 60})
	weights := file{"embed.weight": table, "other.weight": table}
	values := func(seed uint64, name string, rows int) ([]float32, error) {
		src := layers.NewSource(layers.Options{Weights: weights, Seed: seed, Grow: func(n string) bool { return strings.HasPrefix(n, "embed") }})
		e := layers.NewEmbedding(src.Sub("%s", name), rows, 2, layers.Zeros())
		store := newStore(t)
		if err := src.Load(store); err != nil {
			return nil, err
		}
		got, err := store.Get(e.Weight)
		require.NoError(t, err)
		return got.Float32s(), nil
	}
	got, err := values(1, "embed", 5)
	require.NoError(t, err)
	require.Equal(t, table.Float32s(), got[:6])
	require.InDeltaSlice(t, []float32{3, 30, 3, 30}, got[6:], 0.01)
	require.NotEqual(t, got[6:8], got[8:], "no two new rows are alike")
	again, err := values(1, "embed", 5)
	require.NoError(t, err)
	require.Equal(t, got, again)
	again, err = values(2, "embed", 5)
	require.NoError(t, err)
	require.Equal(t, got, again)
	_, err = values(1, "other", 5)
	require.ErrorContains(t, err, "needs shape")
	_, err = values(1, "embed", 2)
	require.ErrorContains(t, err, "needs shape", "no row is dropped")
}
