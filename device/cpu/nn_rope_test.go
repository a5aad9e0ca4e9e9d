package cpu

import (
	"fmt"
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func TestRoPEKernels(t *testing.T) {
	shapes := [][5]int{{0, 3, 2, 4, 4}, {1, 1, 1, 2, 2}, {2, 3, 5, 7, 4}, {1, 3, 2, 8, 0}, {2, 37, 3, 94, 94}, {1, 5, 2, 1, 0}}
	for _, typ := range nnTypes {
		for _, s := range shapes {
			t.Run(fmt.Sprintf("%v/%v", typ.d, s), func(t *testing.T) {
				r := nnRand(5)
				x := nnRandom(r, typ.d, s[0], s[1], s[2], s[3])
				cos, sin := nnRandom(r, tensor.F32, s[0], s[1], s[4]/2), nnRandom(r, tensor.F32, s[0], s[1], s[4]/2)
				for i := range 4 {
					nnKernel(t, ops.RoPEOp{Interleaved: i&1 == 1, Inverse: i&2 == 2}, typ.tol, x, cos, sin)
				}
			})
		}
	}
}

func TestRoPEGradients(t *testing.T) {
	r := nnRand(6)
	in := []*tensor.Tensor{nnRandom(r, tensor.F64, 2, 3, 2, 7), nnRandom(r, tensor.F32, 2, 3, 3), nnRandom(r, tensor.F32, 2, 3, 3)}
	for _, inter := range []bool{false, true} {
		nnGrad(t, []int{0}, in, func(v []graph.Value) []graph.Value { return []graph.Value{ops.RoPE(v[0], v[1], v[2], inter)} })
	}
}

// The two layouts by hand, from tables of positions, and the inverse undoing them.
func TestRoPEByHand(t *testing.T) {
	pos, err := tensor.Of([]int32{0, 3}, 1, 2)
	require.NoError(t, err)
	freq, err := tensor.Of(ops.InvFreq(100, 4))
	require.NoError(t, err)
	x, err := tensor.Of([]float32{1, 2, 3, 4, 5, 1, 2, 3, 4, 5}, 1, 2, 1, 5)
	require.NoError(t, err)
	y := nnEval(t, 1, []*tensor.Tensor{pos, freq, x}, func(v []graph.Value) []graph.Value {
		cos, sin := ops.RopeTables(v[0], v[1])
		halves, inter := ops.RoPE(v[2], cos, sin, false), ops.RoPE(v[2], cos, sin, true)
		back := v[0].Graph().Apply(ops.RoPEOp{Inverse: true}, halves, cos, sin)[0]
		return []graph.Value{halves, inter, back}
	})
	turn := func(a, b, angle float64) (float64, float64) {
		return a*math.Cos(angle) - b*math.Sin(angle), b*math.Cos(angle) + a*math.Sin(angle)
	}
	h0, h2 := turn(1, 3, 3)
	h1, h3 := turn(2, 4, 0.3)
	i0, i1 := turn(1, 2, 3)
	i2, i3 := turn(3, 4, 0.3)
	for k, want := range [][]float64{{1, 2, 3, 4, 5, h0, h1, h2, h3, 5}, {1, 2, 3, 4, 5, i0, i1, i2, i3, 5}, {1, 2, 3, 4, 5, 1, 2, 3, 4, 5}} {
		for i, w := range want {
			require.InDelta(t, w, y[k].At(i), 1e-5, "variant %d element %d", k, i)
		}
	}
}

func TestRoPERefuses(t *testing.T) {
	g := graph.New("rope")
	x := g.Input("x", tensor.T(tensor.F32, 2, 3, 4, 6))
	wide := g.Input("wide", tensor.T(tensor.F32, 2, 3, 4))
	half := g.Input("half", tensor.T(tensor.BF16, 2, 3, 3))
	other := g.Input("other", tensor.T(tensor.F32, 2, 2, 3))
	require.False(t, ops.RoPE(x, wide, wide, false).Valid())
	require.False(t, ops.RoPE(x, half, half, false).Valid())
	require.False(t, ops.RoPE(x, other, other, false).Valid())
	require.ErrorContains(t, g.Err(), "R <= D")
}

func TestInvFreq(t *testing.T) {
	f := ops.InvFreq(10000, 8)
	require.Equal(t, []float32{1, 0.1, 0.01, 0.001}, f)
	require.Empty(t, ops.InvFreq(10000, 0))
	long := ops.InvFreqLlama3(500000, 128, 8, 1, 4, 8192)
	plain := ops.InvFreq(500000, 128)
	for i, p := range plain {
		wave := 2 * math.Pi / float64(p)
		want := float64(p)
		switch {
		case wave > 8192:
			want /= 8
		case wave >= 2048:
			s := (8192/wave - 1) / 3
			want = (1-s)*want/8 + s*want
		}
		require.InEpsilon(t, want, float64(long[i]), 1e-5, "frequency %d", i)
	}
}
