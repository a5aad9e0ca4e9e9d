package layers_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// TestConv1D: it computes as the Linear of its transposed weight, in full precision and in the codes that the transpose gets.
func TestConv1D(t *testing.T) {
	weights := file{}
	w := tensor.New(tensor.T(tensor.F32, 64, 24))
	for i := range w.Type().Size() {
		w.Set(i, float64((i*37)%101-50)/64)
	}
	flipped, err := w.Transpose()
	require.NoError(t, err)
	b := tensor.New(tensor.T(tensor.F32, 24))
	b.Set(3, 2)
	weights["conv.weight"], weights["linear.weight"], weights["conv.bias"], weights["linear.bias"] = w, flipped, b, b
	for _, scheme := range []*quant.Config{nil, {Scheme: quant.NF4, Double: true}, {Scheme: quant.Int8, Threshold: 6}} {
		o := layers.Options{Weights: weights}
		if scheme != nil {
			o.Quantize = func(string) (quant.Config, bool) { return *scheme, true }
		}
		src := layers.NewSource(o)
		conv, linear := src.Conv1D("conv", 64, 24), src.Linear("linear", 64, 24, true)
		store := newStore(t)
		require.NoError(t, src.Err())
		require.NoError(t, src.Load(store))
		in, out := conv.Features()
		require.Equal(t, []int{64, 24}, []int{in, out})
		g := graph.New("conv1d")
		x := g.Input("x", tensor.T(tensor.F32, 3, 64))
		y, want := conv.Forward(x), linear.Forward(x)
		p, err := plan.Compile([]graph.Value{y, want}, plan.Options{Device: store.Device(), Store: store})
		require.NoError(t, err)
		rows := tensor.New(x.Type())
		for i := range rows.Type().Size() {
			rows.Set(i, float64(i%13)-6)
		}
		res, err := p.Run(t.Context(), plan.Feed{x: rows})
		require.NoError(t, err)
		require.InDeltaSlice(t, res.Tensor(want).Float32s(), res.Tensor(y).Float32s(), 1e-4)
		require.NotZero(t, res.Tensor(y).At(3))
		if c, ok := conv.(*layers.Conv1D); ok {
			got, err := c.ReadWeight(store)
			require.NoError(t, err)
			require.Equal(t, flipped.Float32s(), got.Float32s())
			got.Set(5, 9) // (0, 5) of (out, in)
			require.NoError(t, c.WriteWeight(got, store))
			stored, err := store.Get(c.Weight)
			require.NoError(t, err)
			require.Equal(t, 9.0, stored.At(5*24))
			require.Error(t, c.WriteWeight(w, store))
			require.Same(t, c.Bias, c.BiasVar())
		}
		require.NoError(t, p.Close())
	}
}
