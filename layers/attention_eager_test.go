package layers_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Eager rounding changes last bits in 16-bit types, under windows and documents too, and nothing in float32.
func TestAttentionEager(t *testing.T) {
	const b, n, dim, heads, kv, d = 2, 7, 12, 3, 1, 4
	for _, dtype := range []tensor.DType{tensor.F32, tensor.BF16, tensor.F16} {
		for _, window := range []int32{0, 3} {
			src := layers.NewSource(layers.Options{Seed: 3})
			a := layers.NewAttention(src, dim, heads, kv, d, true)
			a.Window = window
			store := newStore(t)
			require.NoError(t, src.Load(store))
			g := graph.New("attention")
			x := ops.Cast(g.Const(layers.Normal(1).Value(1, graph.NewVar("x", tensor.T(tensor.F32, b, n, dim)))), dtype)
			start, err := tensor.Of([]int32{0, 0, 0, 3, 3, 3, 3, 0, 1, 1, 1, 1, 5, 5}, b, n)
			require.NoError(t, err)
			freq, err := tensor.Of(ops.InvFreq(10000, d))
			require.NoError(t, err)
			c := layers.AttentionContext{DocStart: g.Const(start)}
			c.Cos, c.Sin = ops.RopeTables(ops.Iota(g, tensor.T(tensor.I32, b, n), 1), g.Const(freq))
			plain := ops.Cast(a.Forward(x, c), tensor.F32)
			c.Eager = true
			eager := ops.Cast(a.Forward(x, c), tensor.F32)
			p, err := plan.Compile([]graph.Value{plain, eager}, plan.Options{Device: store.Device(), Session: plan.NewSession(store)})
			require.NoError(t, err)
			out, err := p.Run(t.Context(), nil)
			require.NoError(t, err)
			want, got := out.Tensor(plain).Float32s(), out.Tensor(eager).Float32s()
			if dtype == tensor.F32 {
				require.Equal(t, want, got)
			} else {
				require.NotEqual(t, want, got)
				require.InDeltaSlice(t, want, got, map[tensor.DType]float64{tensor.BF16: 2e-2, tensor.F16: 2e-3}[dtype])
			}
			require.NoError(t, p.Close())
		}
	}
}

func TestAttentionEagerRefusesCache(t *testing.T) {
	src := layers.NewSource(layers.Options{})
	a := layers.NewAttention(src, 8, 2, 2, 4, false)
	g := graph.New("cache")
	x := g.Input("x", tensor.T(tensor.F16, 1, 1, 8))
	table := g.Input("table", tensor.T(tensor.F32, 1, 1, 2))
	a.Forward(x, layers.AttentionContext{Cos: table, Sin: table, Eager: true, Cache: layers.NewKVCache("c", tensor.F16, 1, 2, 9, 4)})
	require.ErrorContains(t, g.Err(), "leave Eager out")
}
