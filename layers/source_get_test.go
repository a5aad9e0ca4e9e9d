package layers_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// TestSourceGet: one variable at a time gives what Load gives, for plain, quantized and buffered ones.
func TestSourceGet(t *testing.T) {
	src := layers.NewSource(layers.Options{Seed: 5, Quantize: func(name string) (quant.Config, bool) {
		return quant.Config{Scheme: quant.NF4, Double: true}, name == "q.weight"
	}})
	plain, quantized := src.Sub("p").Linear("w", 64, 8, true), src.Linear("q", 64, 16, false)
	buffer := src.Buffer("mean", tensor.F32, false, layers.Ones(), 7)
	store := plan.NewStore(cpu.New(cpu.Options{Threads: 1}))
	require.NoError(t, src.Load(store))
	l := plain.(*layers.Linear)
	vars := append([]*graph.Var{l.Weight, l.Bias, buffer}, quantized.(*layers.Linear4bit).Weight.Vars()...)
	for _, v := range vars {
		want, err := store.Get(v)
		require.NoError(t, err)
		got, err := src.Get(v)
		require.NoError(t, err, v.Name)
		require.Equal(t, want.Bytes(), got.Bytes(), v.Name)
	}
	_, err := src.Get(graph.NewVar("stranger", tensor.T(tensor.F32, 1)))
	require.ErrorContains(t, err, "stranger is not a variable of this source")
}
