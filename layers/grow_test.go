package layers_test

import (
	"math"
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

// TestNarrow: weights of a name are kept in 16 bits where the file has float32, others and those of 16 bits as they are; what float16 cannot hold
// is refused by name.
func TestNarrow(t *testing.T) {
	table, half := tensor.New(tensor.T(tensor.F32, 2, 2)), tensor.New(tensor.T(tensor.BF16, 2, 2))
	copy(tensor.Data[float32](table), []float32{1, -65504, 1.0 / 3, 3e-4})
	weights := file{"embed.weight": table, "other.weight": table, "embed.half.weight": half}
	load := func(name string, d tensor.DType) (*tensor.Tensor, error) {
		src := layers.NewSource(layers.Options{Weights: weights, Narrow: func(n string) tensor.DType {
			if strings.HasPrefix(n, "embed") {
				return d
			}
			return tensor.Invalid
		}})
		e := layers.NewEmbedding(src.Sub("%s", name), 2, 2, layers.Zeros())
		store := newStore(t)
		if err := src.Load(store); err != nil {
			return nil, err
		}
		return store.Get(e.Weight)
	}
	for _, c := range []struct {
		name     string
		to, want tensor.DType
	}{{"embed", tensor.F16, tensor.F16}, {"embed", tensor.BF16, tensor.BF16}, {"embed", tensor.Invalid, tensor.F32}, {"other", tensor.F16, tensor.F32}, {"embed.half", tensor.F16, tensor.BF16}} {
		got, err := load(c.name, c.to)
		require.NoError(t, err)
		require.Equal(t, c.want, got.DType(), c.name)
	}
	got, err := load("embed", tensor.F16)
	require.NoError(t, err)
	for i, x := range table.Float32s() {
		require.InEpsilon(t, x, got.Float32s()[i], 1.0/(1<<11))
	}
	tensor.Data[float32](table)[1] = 1e5
	_, err = load("embed", tensor.F16)
	require.ErrorContains(t, err, `"embed.weight" holds 100000`)
	require.ErrorIs(t, err, layers.ErrRange)
	_, err = load("embed", tensor.BF16)
	require.NoError(t, err)
	tensor.Data[float32](table)[1] = math.MaxFloat32
	_, err = load("embed", tensor.BF16)
	require.ErrorIs(t, err, layers.ErrRange)
	require.ErrorContains(t, err, "more than its narrower type can: bf16; keep it as it is stored")
}
