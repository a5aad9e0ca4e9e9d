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

// nnShapes are (rows, features): empty, single, primes, and one large enough for several tasks.
var nnShapes = [][2]int{{0, 5}, {3, 0}, {1, 1}, {1, 7}, {13, 1}, {11, 31}, {257, 389}}

func nnEach(t *testing.T, f func(t *testing.T, d tensor.DType, tol float64, rows, n int)) {
	for _, typ := range nnTypes {
		for _, s := range nnShapes {
			t.Run(fmt.Sprintf("%v/%dx%d", typ.d, s[0], s[1]), func(t *testing.T) { f(t, typ.d, typ.tol, s[0], s[1]) })
		}
	}
}

func TestSoftmaxKernels(t *testing.T) {
	nnEach(t, func(t *testing.T, d tensor.DType, tol float64, rows, n int) {
		r := nnRand(1)
		x, g := nnRandom(r, d, rows, n), nnRandom(r, d, rows, n)
		for _, log := range []bool{false, true} {
			op := ops.SoftmaxOp{Log: log}
			nnKernel(t, op, tol, x)
			y := nnLaunch(t, 1, op, -1, []*tensor.Tensor{x})[0]
			nnKernel(t, ops.SoftmaxGradOp{Log: log}, tol*4, y, g)
		}
	})
}

func TestSoftmaxGradients(t *testing.T) {
	in := []*tensor.Tensor{nnRandom(nnRand(2), tensor.F64, 3, 5, 4)}
	for _, axis := range []int{-1, 0, 1} {
		nnGrad(t, []int{0}, in, func(v []graph.Value) []graph.Value { return []graph.Value{ops.Softmax(v[0], axis)} })
		nnGrad(t, []int{0}, in, func(v []graph.Value) []graph.Value { return []graph.Value{ops.LogSoftmax(v[0], axis)} })
	}
}

func TestSoftmaxByHand(t *testing.T) {
	x, err := tensor.Of([]float32{1000, 1000 + float32(math.Ln2), float32(math.Inf(-1)), -3}, 2, 2)
	require.NoError(t, err)
	y := nnEval(t, 1, []*tensor.Tensor{x}, func(v []graph.Value) []graph.Value {
		return []graph.Value{ops.Softmax(v[0], -1), ops.LogSoftmax(v[0], 1), ops.Softmax(v[0], 0)}
	})
	want, err := tensor.Of([]float32{1. / 3, 2. / 3, 0, 1}, 2, 2)
	require.NoError(t, err)
	nnClose(t, want, y[0], 3e-5, "softmax of large logits and -Inf")
	require.InDelta(t, math.Log(1./3), y[1].At(0), 1e-4)
	require.InDelta(t, 1, y[2].At(0), 1e-6, "axis 0")
}

func TestNormKernels(t *testing.T) {
	nnEach(t, func(t *testing.T, d tensor.DType, tol float64, rows, n int) {
		r := nnRand(3)
		x, g := nnRandom(r, d, rows, n), nnRandom(r, d, rows, n)
		w, b := nnRandom(r, d, n), nnRandom(r, d, n)
		nnKernel(t, ops.RMSNormOp{Eps: 1e-5}, tol, x, w)
		for _, need := range [][2]bool{{true, true}, {true, false}, {false, true}} {
			nnKernel(t, ops.RMSNormGradOp{Eps: 1e-5, NeedX: need[0], NeedW: need[1]}, tol, x, w, g)
		}
		for _, p := range [][2]*tensor.Tensor{{w, b}, {w, nil}, {nil, b}, {nil, nil}} {
			nnKernel(t, ops.LayerNormOp{Eps: 1e-5}, tol, x, p[0], p[1])
			nnKernel(t, ops.LayerNormGradOp{Eps: 1e-5, NeedX: true, NeedW: p[0] != nil, NeedB: p[1] != nil}, tol, x, p[0], g)
		}
		nnKernel(t, ops.LayerNormGradOp{Eps: 1e-5, NeedB: true}, tol, x, w, g)
	})
}

func TestNormGradients(t *testing.T) {
	r := nnRand(4)
	in := []*tensor.Tensor{nnRandom(r, tensor.F64, 2, 3, 7), nnRandom(r, tensor.F64, 7), nnRandom(r, tensor.F64, 7)}
	rms := func(v []graph.Value) []graph.Value { return []graph.Value{ops.RMSNorm(v[0], v[1], 1e-3)} }
	layer := func(v []graph.Value) []graph.Value { return []graph.Value{ops.LayerNorm(v[0], v[1], v[2], 1e-3)} }
	for _, wrt := range [][]int{{0}, {1}, {0, 1}} {
		nnGrad(t, wrt, in, rms)
	}
	for _, wrt := range [][]int{{0}, {1}, {2}, {0, 2}, {0, 1, 2}} {
		nnGrad(t, wrt, in, layer)
	}
	nnGrad(t, []int{0}, in, func(v []graph.Value) []graph.Value {
		return []graph.Value{ops.LayerNorm(v[0], graph.Value{}, graph.Value{}, 1e-3)}
	})
}

// A frozen weight must not cost a gradient, and a float32 weight serves bfloat16 activations.
func TestNormBuildsOnlyWhatIsNeeded(t *testing.T) {
	g := graph.New("norm")
	x := g.Input("x", tensor.T(tensor.BF16, 4, 6))
	y := ops.RMSNorm(x, g.Input("w", tensor.T(tensor.F32, 6)), 1e-5)
	require.Equal(t, tensor.T(tensor.BF16, 4, 6), y.Type())
	gx := ops.RMSNormOp{Eps: 1e-5}.VJP(y.Node(), []graph.Value{y}, []bool{true, false})
	require.Equal(t, ops.RMSNormGradOp{Eps: 1e-5, NeedX: true}, gx[0].Node().Op)
	require.True(t, gx[1].Absent())
	require.Len(t, gx[0].Node().Out, 1)
	ops.RMSNorm(x, g.Input("short", tensor.T(tensor.BF16, 5)), 1e-5)
	ops.LayerNorm(x, g.Input("short", tensor.T(tensor.BF16, 5)), graph.Value{}, -1)
	require.ErrorContains(t, g.Err(), "must be bf16[6]")
	require.ErrorContains(t, g.Err(), "eps must not be negative")
}

func TestNormByHand(t *testing.T) {
	x, err := tensor.Of([]float32{3, 4, 1, 3}, 2, 2)
	require.NoError(t, err)
	w, err := tensor.Of([]float32{2, 1})
	require.NoError(t, err)
	y := nnEval(t, 1, []*tensor.Tensor{x, w}, func(v []graph.Value) []graph.Value {
		return []graph.Value{ops.RMSNorm(v[0], v[1], 0), ops.LayerNorm(v[0], v[1], v[1], 0)}
	})
	rms := math.Sqrt(12.5)
	require.InDelta(t, 6/rms, y[0].At(0), 1e-6)
	require.InDelta(t, 4/rms, y[0].At(1), 1e-6)
	require.InDeltaSlice(t, []float64{0, 2, 0, 2}, []float64{y[1].At(0), y[1].At(1), y[1].At(2), y[1].At(3)}, 1e-6)
}

// Masked logits are -Inf, in every position of a vector; a NaN makes its row NaN and no other.
func TestSoftmaxOfInfinitiesAndNaN(t *testing.T) {
	const n = 37
	x := nnRandom(nnRand(30), tensor.F32, 3, n)
	for i := range n {
		if i%3 == 0 {
			x.Set(i, math.Inf(-1))
		}
		x.Set(n+i, math.Inf(-1))
	}
	x.Set(2*n+5, math.NaN())
	for _, log := range []bool{false, true} {
		y := nnLaunch(t, 1, ops.SoftmaxOp{Log: log}, -1, []*tensor.Tensor{x})[0]
		var sum float64
		for i := range n {
			p := y.At(i)
			if log {
				p = math.Exp(p)
			}
			sum += p
			require.Equal(t, i%3 == 0, p == 0, "element %d", i)
			require.True(t, math.IsNaN(y.At(n+i)), "a row of -Inf")
			require.True(t, math.IsNaN(y.At(2*n+i)), "a row with a NaN")
		}
		require.InDelta(t, 1, sum, 1e-5)
	}
	labels := tensor.New(tensor.T(tensor.I32, 3))
	labels.Set(0, 1)
	loss := nnLaunch(t, 1, ops.TokenLossOp{}, -1, []*tensor.Tensor{x, labels})[0]
	require.False(t, math.IsNaN(loss.At(0)))
	require.True(t, math.IsNaN(loss.At(1)) && math.IsNaN(loss.At(2)))
}

// TestLargeRowsGoPastTheCaches: a result of that size has the bits that its rows have alone, on any number of threads and in place.
func TestLargeRowsGoPastTheCaches(t *testing.T) {
	const rows, n, few = 4100, 1030, 7
	r := nnRand(8)
	x, w := nnRandom(r, tensor.F32, rows, n), nnRandom(r, tensor.F32, n)
	top, err := tensor.FromBytes(tensor.T(tensor.F32, few, n), x.Bytes()[:few*n*4])
	require.NoError(t, err)
	end, err := tensor.FromBytes(tensor.T(tensor.F32, few, n), x.Bytes()[(rows-few)*n*4:])
	require.NoError(t, err)
	for _, c := range []struct {
		op   graph.Op
		more []*tensor.Tensor
	}{{ops.RMSNormOp{Eps: 1e-5}, []*tensor.Tensor{w}}, {ops.SoftmaxOp{}, nil}} {
		first := nnLaunch(t, 1, c.op, -1, append([]*tensor.Tensor{top}, c.more...))[0].Bytes()
		last := nnLaunch(t, 1, c.op, -1, append([]*tensor.Tensor{end}, c.more...))[0].Bytes()
		for _, threads := range []int{1, 2} {
			for _, alias := range []int{-1, 0} {
				all := nnLaunch(t, threads, c.op, alias, append([]*tensor.Tensor{x}, c.more...))[0].Bytes()
				require.Equal(t, first, all[:len(first)])
				require.Equal(t, last, all[len(all)-len(last):])
			}
		}
	}
}
