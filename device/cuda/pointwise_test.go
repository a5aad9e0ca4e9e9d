package cuda

import (
	"math/bits"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// chainOf makes the chain silu(x0)·x1 for types.
func chainOf(t *testing.T, out tensor.Type, in ...tensor.Type) *chain {
	t.Helper()
	p := &graph.Program{Instrs: []graph.Instr{
		{Op: ops.Pointwise{F: ops.FnSiLU}, Args: []int{-1}, Type: in[0]},
		{Op: ops.Pointwise{F: ops.FnMul}, Args: []int{0, -2}, Type: out},
	}}
	c, ok := newChain(p, device.Spec{In: in, Out: []tensor.Type{out}})
	require.True(t, ok)
	return c
}

// TestChainText: the program depends on how operands are read, not on extents.
func TestChainText(t *testing.T) {
	bf := func(dims ...int) tensor.Type { return tensor.T(tensor.BF16, dims...) }
	same := chainOf(t, bf(4, 64), bf(4, 64), bf(4, 64)).text()
	require.Equal(t, same, chainOf(t, bf(9, 7, 3), bf(9, 7, 3), bf(9, 7, 3)).text())
	row := chainOf(t, bf(4, 64), bf(4, 64), bf(64))
	require.Equal(t, packed, row.inputs[1].access)
	require.NotEqual(t, same, row.text())
	require.Equal(t, row.text(), chainOf(t, bf(8, 1024), bf(8, 1024), bf(1024)).text())
	require.Equal(t, shared, chainOf(t, bf(4, 64), bf(4, 64), bf(4, 1)).inputs[1].access)
	require.Equal(t, strewn, chainOf(t, bf(4, 63), bf(4, 63), bf(63)).inputs[1].access)
	require.Equal(t, scalar, chainOf(t, bf(4, 63), bf(4, 63), bf(1)).inputs[1].access)
}

// TestDivisor: division by multiplication is exact below 2^31.
func TestDivisor(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	check := func(x, d uint32) {
		mul, shift := divisor(d)
		hi, _ := bits.Mul32(x, mul)
		require.Equal(t, x/d, (hi+x)>>shift, "%d / %d", x, d)
	}
	for range 20000 {
		d := max(rng.Uint32()>>(1+rng.IntN(31)), 1)
		x := rng.Uint32() >> 1
		for _, x := range []uint32{x, x / d * d, min(x/d*d+d-1, 1<<31-1), 0, 1<<31 - 1} {
			check(x, d)
		}
	}
	for _, d := range []uint32{1, 2, 3, 1 << 30, 1<<30 + 1, 1<<31 - 1} {
		check(1<<31-1, d)
		check(d, d)
	}
}

// TestMergeAxes: walking the merged axes meets the same elements.
func TestMergeAxes(t *testing.T) {
	dims, st := mergeAxes([]int{2, 3, 1, 4}, [][]int{{0, 4, 0, 1}})
	require.Equal(t, []int{2, 12}, dims)
	require.Equal(t, [][]int{{0, 1}}, st)
	dims, st = mergeAxes([]int{1, 1}, [][]int{{0, 0}})
	require.Equal(t, []int{1}, dims)
	require.Equal(t, [][]int{{0}}, st)
	dims, st = mergeAxes([]int{2, 3, 4}, [][]int{{3, 1, 0}, {0, 0, 1}})
	require.Equal(t, []int{2 * 3, 4}, dims)
	require.Equal(t, [][]int{{1, 0}, {0, 1}}, st)
}
