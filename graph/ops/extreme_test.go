package ops_test

import (
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/autograd"
	"github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

var inf, nan = math.Inf(1), math.NaN()

// constant is a tensor of the given elements in a graph.
func constant(t *testing.T, g *graph.Graph, d tensor.DType, vals []float64, dims ...int) graph.Value {
	t.Helper()
	x := tensor.New(tensor.T(d, dims...))
	require.Equal(t, x.Type().Size(), len(vals))
	for i, v := range vals {
		x.Set(i, v)
	}
	return g.Const(x)
}

func eval(t *testing.T, vals ...graph.Value) [][]float64 {
	t.Helper()
	got, err := plan.Eval(cpu.New(cpu.Options{Threads: 1}), nil, vals...)
	require.NoError(t, err)
	out := make([][]float64, len(got))
	for i, x := range got {
		for j := range x.Type().Size() {
			out[i] = append(out[i], x.At(j))
		}
	}
	return out
}

// equal compares elements, NaN equal to NaN.
func equal(t *testing.T, want, got []float64, tol float64) {
	t.Helper()
	require.Len(t, got, len(want))
	for i, w := range want {
		same := w == got[i] || math.IsNaN(w) && math.IsNaN(got[i]) || math.Abs(w-got[i]) <= tol*math.Abs(w)
		require.True(t, same, "element %d of %v, want %v", i, got, want)
	}
}

// TestAdaptiveAverageOfInfinities: what is not finite stays in the ranges that hold it.
func TestAdaptiveAverageOfInfinities(t *testing.T) {
	g := graph.New("adaptive")
	x := constant(t, g, tensor.F32, []float64{1, inf, 3, 4, 5, nan, 7}, 1, 1, 7)
	got := eval(t, ops.AdaptiveAvgPool(x, 4), ops.AdaptiveAvgPool(x, 7), ops.AdaptiveAvgPool(x, 1))
	equal(t, []float64{inf, inf, nan, nan}, got[0], 0)
	equal(t, []float64{1, inf, 3, 4, 5, nan, 7}, got[1], 0)
	equal(t, []float64{nan}, got[2], 0)
	x = constant(t, g, tensor.F32, []float64{1, 2, inf, -inf, 5, 6}, 1, 1, 6)
	got = eval(t, ops.AdaptiveAvgPool(x, 3), ops.AdaptiveAvgPool(x, 12))
	equal(t, []float64{1.5, nan, 5.5}, got[0], 0)
	equal(t, []float64{1, 1, 2, 2, inf, inf, -inf, -inf, 5, 5, 6, 6}, got[1], 0)
}

// TestMaxPoolOfInfinities: padding is never taken, also where a window sees nothing above it; so it is with the decomposition.
func TestMaxPoolOfInfinities(t *testing.T) {
	g := graph.New("max")
	x := constant(t, g, tensor.F32, []float64{-inf, -inf, -inf, 2, nan, -inf}, 1, 1, 2, 3)
	op := ops.PoolOptions{WindowOptions: ops.WindowOptions{Stride: []int{1}, Pad: []int{1}}}
	w, err := op.Window(3, 2)
	require.NoError(t, err)
	y, at := ops.MaxPoolIndices(x, []int{3, 2}, op)
	slow := ops.MaxPoolOp{Window: w}.Decompose([]graph.Value{x})
	got := eval(t, y, at, slow[0], slow[1])
	equal(t, got[0], got[2], 0)
	require.Equal(t, got[1], got[3])
	alone := constant(t, g, tensor.F32, []float64{-inf, -inf, -inf, -inf}, 1, 1, 2, 2)
	w, err = op.Window(2, 2)
	require.NoError(t, err)
	_, at = ops.MaxPoolIndices(alone, []int{2, 2}, op)
	got = eval(t, at, ops.MaxPoolOp{Window: w}.Decompose([]graph.Value{alone})[1])
	require.Equal(t, []float64{0, 0, 1, 0, 0, 1, 2, 2, 3}, got[0])
	require.Equal(t, got[0], got[1])
}

// TestSumSquareOfHalves: squares of a half type are not rounded to it.
func TestSumSquareOfHalves(t *testing.T) {
	g := graph.New("squares")
	x := constant(t, g, tensor.F16, []float64{1.0 / 8192, 1.0 / 8192, 1.0 / 8192, 1.0 / 8192}, 4)
	got := eval(t, ops.SumSquare(x), ops.SumSquare(constant(t, g, tensor.I32, []float64{3, -4}, 2)))
	require.Equal(t, []float64{1.0 / (1 << 24)}, got[0], "each square alone is below the smallest half")
	require.Equal(t, []float64{25}, got[1])
}

// TestLogSumExpOfNothing: rows of only -Inf give -Inf, and no slope.
func TestLogSumExpOfNothing(t *testing.T) {
	g := graph.New("lse")
	x := constant(t, g, tensor.F32, []float64{-inf, -inf, 0, -inf}, 2, 2)
	y := ops.LogSumExp(x, 1)
	grads, err := autograd.GradValues(ops.Sum(y), x)
	require.NoError(t, err)
	got := eval(t, y, grads[0])
	equal(t, []float64{-inf, 0}, got[0], 0)
	equal(t, []float64{0, 0, 1, 0}, got[1], 0)
}

// TestSmallLosses: a loss near 0 keeps its digits, and the slope at 0 is right.
func TestSmallLosses(t *testing.T) {
	g := graph.New("binary")
	x, y := constant(t, g, tensor.F32, []float64{20, 0, -60, 60}, 4), constant(t, g, tensor.F32, []float64{1, 1, 1, 1}, 4)
	loss := ops.BinaryLoss(x, y, graph.Value{}, ops.LossNone)
	grads, err := autograd.GradValues(ops.Sum(loss), x)
	require.NoError(t, err)
	got := eval(t, loss, grads[0])
	equal(t, []float64{math.Log1p(math.Exp(-20)), math.Ln2, 60, math.Exp(-60)}, got[0], 1e-5)
	require.Equal(t, -0.5, got[1][1])
}

// TestUnseenNaN: a NaN in an additive mask shows; it does not hide a key.
func TestUnseenNaN(t *testing.T) {
	g := graph.New("mask")
	one := constant(t, g, tensor.F32, []float64{1, 1}, 1, 1, 2, 1)
	a := ops.AttendMasked(one, one, one, ops.MaskedOptions{Bias: constant(t, g, tensor.F32, []float64{nan, 0, -inf, 0}, 2, 2)})
	equal(t, []float64{nan, 1}, eval(t, a.Out)[0], 0)
}

// TestUnboundedSettings: settings that have no value give one error and no number.
func TestUnboundedSettings(t *testing.T) {
	for name, f := range map[string]func(x, i graph.Value) graph.Value{
		"lp_pool":      func(x, _ graph.Value) graph.Value { return ops.LpPool(x, inf, []int{1}, ops.PoolOptions{}) },
		"lp_normalize": func(x, _ graph.Value) graph.Value { return ops.LpNormalize(x, inf, -1, 1e-6) },
		"huber_loss":   func(x, _ graph.Value) graph.Value { return ops.HuberLoss(x, x, inf, ops.LossMean) },
		"mse_loss":     func(x, _ graph.Value) graph.Value { return ops.MSELoss(x, x, 9) },
		"scatter":      func(x, i graph.Value) graph.Value { return ops.ScatterElements(x, 0, i, x, 9) },
		"pad": func(x, _ graph.Value) graph.Value {
			return ops.PadBy(x, []int{1 << 60, 0, 0}, []int{0, 0, 0}, ops.PadEdge, 0)
		},
		"conv": func(x, _ graph.Value) graph.Value {
			return ops.Conv(x, x.Graph().Input("w", tensor.T(tensor.F32, 2, 2, 3)), ops.ConvOptions{Groups: -2})
		},
		"prelu": func(x, _ graph.Value) graph.Value {
			return ops.PReLU(x, x.Graph().Input("w", tensor.T(tensor.F32, 4, 2, 3)))
		},
		"binary_loss": func(x, _ graph.Value) graph.Value {
			return ops.BinaryLoss(x, x, x.Graph().Input("w", tensor.T(tensor.F32, 4, 2, 3)), ops.LossMean)
		},
		"conv_weight": func(x, _ graph.Value) graph.Value {
			return g1(x, ops.ConvWeightOp{Window: ops.Window{Rank: 9}, Groups: 1}, x, x)
		},
		"conv_transpose": func(x, _ graph.Value) graph.Value {
			return g1(x, ops.ConvTransposeOp{Window: ops.Window{Rank: -1}, Groups: 1}, x, x)
		},
	} {
		g := graph.New(name)
		x, i := g.Input("x", tensor.T(tensor.F32, 1, 2, 3)), g.Input("i", tensor.T(tensor.I32, 1, 2, 3))
		require.NotPanics(t, func() { require.False(t, f(x, i).Valid(), name) }, name)
		require.ErrorContains(t, g.Err(), name)
		require.Equal(t, 0, strings.Count(g.Err().Error(), "\n"), "%v", g.Err())
	}
}

func g1(x graph.Value, op graph.Op, in ...graph.Value) graph.Value {
	return x.Graph().Apply(op, in...)[0]
}

// TestNoChannels: a batch of rows without channels has statistics and gradients, all empty.
func TestNoChannels(t *testing.T) {
	g := graph.New("empty")
	x := g.Const(tensor.New(tensor.T(tensor.F32, 4, 0)))
	require.NotPanics(t, func() {
		y, mean, _ := ops.BatchNorm(x, graph.Value{}, graph.Value{}, 1e-5)
		grads, err := autograd.GradValues(ops.Add(ops.Sum(y), ops.Sum(mean)), x)
		require.NoError(t, err)
		require.Empty(t, eval(t, grads[0])[0])
	})
}

// TestLongSlices: the gradient of a slice counts in 64 bits where 32 would not reach.
func TestLongSlices(t *testing.T) {
	for n, want := range map[int]tensor.DType{1 << 20: tensor.I32, 1 << 33: tensor.I64} {
		g := graph.New("long")
		x := g.Input("x", tensor.T(tensor.F32, n))
		grads, err := autograd.GradValues(ops.Sum(ops.SliceStep(x, 0, 1, n, 4)), x)
		require.NoError(t, err)
		require.Equal(t, x.Type(), grads[0].Type())
		require.Equal(t, want, grads[0].Node().In[1].DType())
	}
}
