package layers_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// TestMissingParts: what a layer needs and was not given is an error, never a plausible output.
func TestMissingParts(t *testing.T) {
	src := layers.NewSource(layers.Options{})
	mha := layers.NewMultiheadAttention(src.Sub("a"), 8, 2, layers.MultiheadOptions{})
	gru := layers.NewGRU(src.Sub("r"), 8, 4, layers.RecurrentOptions{})
	recurrent := func(r *layers.Recurrent, x graph.Value, s layers.RecurrentState) graph.Value {
		y, _ := r.Forward(x, s, graph.Value{}, layers.Random{})
		return y
	}
	var none graph.Value
	for name, c := range map[string]struct {
		want string
		run  func(x graph.Value) graph.Value
	}{
		"key": {"absent", func(x graph.Value) graph.Value {
			return mha.Forward(x, none, x, layers.AttentionMasks{}, layers.Random{})
		}},
		"value": {"absent", func(x graph.Value) graph.Value {
			return mha.Forward(x, x, none, layers.AttentionMasks{}, layers.Random{})
		}},
		"cell": {"LSTM", func(x graph.Value) graph.Value {
			return recurrent(gru, x, layers.RecurrentState{C: x.Graph().Input("c", tensor.T(tensor.F32, 1, 3, 4))})
		}},
		"empty": {"NewRecurrent", func(x graph.Value) graph.Value {
			return recurrent(&layers.Recurrent{Cell: ops.CellGRU}, x, layers.RecurrentState{})
		}},
		"empty conv":  {"nil", (&layers.Conv{}).Forward},
		"empty norm":  {"nil", func(x graph.Value) graph.Value { return (&layers.BatchNorm{}).Forward(x, false) }},
		"empty train": {"nil", func(x graph.Value) graph.Value { (&layers.BatchNorm{}).Forward(x, true); return none }},
		"empty prelu": {"nil", (&layers.PReLU{}).Forward},
		"empty mha": {"nil", func(x graph.Value) graph.Value {
			return (&layers.MultiheadAttention{Dim: 8, Heads: 2}).Forward(x, x, x, layers.AttentionMasks{}, layers.Random{})
		}},
	} {
		g := graph.New(name)
		require.NotPanics(t, func() { require.False(t, c.run(g.Input("x", tensor.T(tensor.F32, 2, 3, 8))).Valid(), name) }, name)
		require.ErrorContains(t, g.Err(), c.want, name)
	}
	bn := layers.NewBatchNorm(src.Sub("b"), 0)
	g := graph.New("no channels")
	require.NotPanics(t, func() { bn.Forward(g.Input("x", tensor.T(tensor.F32, 4, 0)), true) })
	require.NoError(t, g.Err())
}

// TestDropoutOfFeatures: rows without tokens take one number each.
func TestDropoutOfFeatures(t *testing.T) {
	g := graph.New("features")
	rows := tensor.T(tensor.I32, 4)
	r := layers.Random{Key: g.Input("key", tensor.T(tensor.U32, 2)), Sample: g.Input("row", rows), Pos: g.Input("at", rows)}
	y := layers.Dropout{Rate: 0.5}.Forward(g.Input("x", tensor.T(tensor.F32, 4, 7)), r)
	require.NoError(t, g.Err())
	require.Equal(t, tensor.T(tensor.F32, 4, 7), y.Type())
}
