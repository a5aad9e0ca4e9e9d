package layers_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// TestZeroSource: a source that nobody made says so, and nothing that is asked of it panics.
func TestZeroSource(t *testing.T) {
	var s layers.Source
	require.NotPanics(t, func() {
		s.Sub("a").Linear("x", 4, 4, true)
		s.Quantized("q", quant.Config{}, layers.Zeros(), 64, 4)
		layers.NewBatchNorm(s, 4)
		require.False(t, s.Has("x"))
		require.Zero(t, s.Policy())
		require.Empty(t, s.Unused(nil))
		_, err := s.Get(graph.NewVar("v", tensor.T(tensor.F32)))
		require.Error(t, err)
		_, err = s.Original("x")
		require.Error(t, err)
	})
	for _, err := range []error{s.Err(), s.Load(nil), s.Check(nil)} {
		require.ErrorContains(t, err, "make it with layers.NewSource")
	}
	require.ErrorContains(t, layers.NewSource(layers.Options{}).Load(nil), "give Load a plan.Store")
}

// TestNoQuantizedWeight: layers whose quantized weight was never set record it.
func TestNoQuantizedWeight(t *testing.T) {
	for name, l := range map[string]layers.Projection{"4 bits": &layers.Linear4bit{}, "int8": &layers.Linear8bitLt{}} {
		g := graph.New(name)
		require.NotPanics(t, func() { require.False(t, l.Forward(g.Input("x", tensor.T(tensor.F32, 2, 4))).Valid()) })
		require.ErrorContains(t, g.Err(), "the quantized weight is nil")
	}
	g := graph.New("experts")
	require.False(t, (&layers.GroupedQuantized{}).Forward(g.Input("x", tensor.T(tensor.F32, 2, 4)), g.Input("offsets", tensor.T(tensor.I32, 3))).Valid())
	require.ErrorContains(t, g.Err(), "the quantized weight is nil")
	g = graph.New("read")
	require.False(t, (*layers.Quantized)(nil).Read(g, tensor.F32).Valid())
	require.False(t, g.Read(graph.NewVar("untyped", tensor.Type{})).Valid())
	require.ErrorContains(t, g.Err(), "read untyped(): ")
}
