package plan_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// TestCloseKeepsTheStore closes a plan whose store the caller brought: the values stay.
func TestCloseKeepsTheStore(t *testing.T) {
	dev := cpu.New(cpu.Options{Threads: 1})
	store := plan.NewStore(dev)
	v := graph.NewVar("w", tensor.T(tensor.F32, 3))
	want, err := tensor.Of([]float32{1, 2, 3})
	require.NoError(t, err)
	require.NoError(t, store.Set(v, want))
	g := graph.New("g")
	p, err := plan.Compile([]graph.Value{g.Read(v)}, plan.Options{Device: dev, Store: store})
	require.NoError(t, err)
	require.NoError(t, p.Close())
	got, err := store.Get(v)
	require.NoError(t, err)
	require.Equal(t, want.Bytes(), got.Bytes())
}
