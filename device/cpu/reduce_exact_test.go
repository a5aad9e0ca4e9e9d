package cpu_test

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// TestIntegerReductionsAreExact: 64-bit integers beyond what float64 holds, in both signs.
func TestIntegerReductionsAreExact(t *testing.T) {
	const big = 1<<53 + 1
	signed, err := tensor.Of([]int64{big, 3, -big - 4, math.MaxInt64, math.MaxInt64 - 1, math.MinInt64}, 2, 3)
	require.NoError(t, err)
	unsigned, err := tensor.Of([]uint64{math.MaxUint64, 1 << 63, math.MaxUint64 - 1, 7}, 4)
	require.NoError(t, err)
	g := graph.New("g")
	x, u := g.Input("x", signed.Type()), g.Input("u", unsigned.Type())
	out, err := plan.Eval(cpu.New(cpu.Options{Threads: 1}), plan.Feed{x: signed, u: unsigned},
		ops.Sum(x, 1), ops.MaxOf(x, 0), ops.MinOf(x, 0), ops.ArgMax(x, 1), ops.ArgMin(x, 1), ops.Prod(x, 0), ops.CumSum(x, 1, ops.Cumulative{}),
		ops.MaxOf(u), ops.MinOf(u), ops.ArgMax(u, 0), ops.ArgMin(u, 0), ops.Sum(u))
	require.NoError(t, err)
	w := uint64(big)
	require.Equal(t, []int64{-1, math.MaxInt64 - 2}, tensor.Data[int64](out[0]), "the second wraps on its way")
	require.Equal(t, []int64{math.MaxInt64, math.MaxInt64 - 1, -big - 4}, tensor.Data[int64](out[1]))
	require.Equal(t, []int64{big, 3, math.MinInt64}, tensor.Data[int64](out[2]))
	require.Equal(t, []int32{0, 0}, tensor.Data[int32](out[3]))
	require.Equal(t, []int32{2, 2}, tensor.Data[int32](out[4]))
	require.Equal(t, int64(w*math.MaxInt64), tensor.Data[int64](out[5])[0])
	require.Equal(t, []int64{big, big + 3, -1}, tensor.Data[int64](out[6])[:3])
	require.Equal(t, uint64(math.MaxUint64), tensor.Data[uint64](out[7])[0])
	require.Equal(t, uint64(7), tensor.Data[uint64](out[8])[0])
	require.Equal(t, int32(0), tensor.Data[int32](out[9])[0])
	require.Equal(t, int32(3), tensor.Data[int32](out[10])[0])
	total := uint64(math.MaxUint64)
	for _, v := range []uint64{1 << 63, math.MaxUint64 - 1, 7} {
		total += v
	}
	require.Equal(t, total, tensor.Data[uint64](out[11])[0])
}

// TestNaNWinsReductions: as in NumPy and PyTorch.
func TestNaNWinsReductions(t *testing.T) {
	x, err := tensor.Of([]float32{1, float32(math.NaN()), 3, float32(math.NaN())})
	require.NoError(t, err)
	g := graph.New("g")
	v := g.Input("x", x.Type())
	out, err := plan.Eval(cpu.New(cpu.Options{Threads: 1}), plan.Feed{v: x}, ops.ArgMax(v, 0), ops.ArgMin(v, 0), ops.MaxOf(v), ops.MinOf(v))
	require.NoError(t, err)
	require.Equal(t, 1.0, out[0].At(0))
	require.Equal(t, 1.0, out[1].At(0))
	require.True(t, math.IsNaN(out[2].At(0)) && math.IsNaN(out[3].At(0)))
}
