package cpu

import (
	"fmt"
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// nnWide is the dtype of per-token losses.
func nnWide(d tensor.DType) tensor.DType {
	if d == tensor.F64 {
		return d
	}
	return tensor.F32
}

func TestTokenLossKernels(t *testing.T) {
	nnEach(t, func(t *testing.T, d tensor.DType, tol float64, rows, v int) {
		if v == 0 {
			return
		}
		r := nnRand(11)
		z, labels := nnRandom(r, d, rows, v), nnLabels(r, v, rows)
		exact := max(min(tol, 3e-6), 1e-12)
		nnKernel(t, ops.TokenLossOp{}, exact, z, labels)
		lse := nnLaunch(t, 1, ops.TokenLossOp{}, -1, []*tensor.Tensor{z, labels})[1]
		g, h := nnRandom(r, nnWide(d), rows), nnRandom(r, nnWide(d), rows)
		nnKernel(t, ops.TokenLossGradOp{}, tol, z, labels, lse, g, h)
		nnKernel(t, ops.TokenLossGradOp{}, tol, z, labels, lse, g, nil)
		nnKernel(t, ops.TokenLossGradOp{}, tol, z, labels, lse, nil, h)
	})
}

func TestLossGradients(t *testing.T) {
	r := nnRand(12)
	z, labels := nnRandom(r, tensor.F64, 4, 5, 7), nnLabels(r, 7, 4, 5)
	weights := tensor.New(tensor.T(tensor.F32, 4, 5))
	for i := range 20 {
		weights.Set(i, float64(i%3))
	}
	in := []*tensor.Tensor{z, labels, weights}
	for name, f := range map[string]func(v []graph.Value) []graph.Value{
		"tokens": func(v []graph.Value) []graph.Value { return []graph.Value{ops.TokenLoss(v[0], v[1])} },
		"lse": func(v []graph.Value) []graph.Value {
			loss, lse := ops.TokenLossLSE(v[0], v[1])
			return []graph.Value{loss, ops.Square(lse)}
		},
		"mean":     func(v []graph.Value) []graph.Value { return []graph.Value{ops.CrossEntropy(v[0], v[1])} },
		"sum":      func(v []graph.Value) []graph.Value { return []graph.Value{ops.CrossEntropySum(v[0], v[1])} },
		"weighted": func(v []graph.Value) []graph.Value { return []graph.Value{ops.CrossEntropyWeighted(v[0], v[1], v[2])} },
	} {
		t.Run(name, func(t *testing.T) { nnGrad(t, []int{0}, in, f) })
	}
}

// Two classes: the loss is log(1 + e^(z1-z0)), the reductions are those of PyTorch's cross_entropy.
func TestCrossEntropyByHand(t *testing.T) {
	z, err := tensor.Of([]float32{2, 0, 500, -500, 1, 1, 0, 0}, 4, 2)
	require.NoError(t, err)
	labels, err := tensor.Of([]int32{0, 1, -100, 1})
	require.NoError(t, err)
	weights, err := tensor.Of([]float32{1, 0.5, 8, 0})
	require.NoError(t, err)
	build := func(v []graph.Value) []graph.Value {
		loss, lse := ops.TokenLossLSE(v[0], v[1])
		none := ops.Where(ops.Counted(v[1]), ops.Scalar(v[1], -1), v[1])
		return []graph.Value{loss, lse, ops.CrossEntropy(v[0], v[1]), ops.CrossEntropySum(v[0], v[1]),
			ops.CrossEntropyWeighted(v[0], v[1], v[2]), ops.CrossEntropy(v[0], none), ops.CrossEntropyWeighted(v[0], none, v[2])}
	}
	y := nnEval(t, 1, []*tensor.Tensor{z, labels, weights}, build)
	a := math.Log(1 + math.Exp(-2))
	for i, want := range []float64{a, 1000, 0, math.Ln2} {
		require.InDelta(t, want, y[0].At(i), 1e-6*(1+want))
	}
	require.InDelta(t, 2+a, y[1].At(0), 1e-6)
	require.InDelta(t, (a+1000+math.Ln2)/3, y[2].At(0), 1e-4)
	require.InDelta(t, a+1000+math.Ln2, y[3].At(0), 1e-3)
	require.InDelta(t, (a+500)/1.5, y[4].At(0), 1e-4)
	require.Zero(t, y[5].At(0))
	require.Zero(t, y[6].At(0))
	require.Empty(t, y[2].Shape().Dims())
}

func TestLabelsBeyondTheClasses(t *testing.T) {
	z, w := nnRandom(nnRand(13), tensor.F32, 2, 3), nnRandom(nnRand(14), tensor.F32, 3, 3)
	labels, err := tensor.Of([]int32{1, 3})
	require.NoError(t, err)
	in := []*tensor.Tensor{z, labels, w}
	_, err = nnTry(t, 1, in, func(v []graph.Value) []graph.Value { return []graph.Value{ops.CrossEntropy(v[0], v[1])} })
	require.ErrorContains(t, err, "the label of token 1 is 3, but there are only 3 classes")
	_, err = nnTry(t, 1, in, func(v []graph.Value) []graph.Value { return []graph.Value{ops.LinearCrossEntropy(v[0], v[2], v[1])} })
	require.ErrorContains(t, err, "the label of token 1 is 3, but there are only 3 classes")
}

// The extents cross the tiles' borders in both directions.
func TestLinearLossKernels(t *testing.T) {
	for _, typ := range nnTypes {
		shapes := [][3]int{{0, 3, 5}, {1, 1, 1}, {3, 0, 2}, {13, 7, 11}, {31, 5, lossTileCols + 5}}
		if typ.d != tensor.F64 {
			shapes = append(shapes, [3]int{2*lossTileRows + 3, 3, 17})
		}
		for _, s := range shapes {
			t.Run(fmt.Sprintf("%v/%v", typ.d, s), func(t *testing.T) { nnLinearLoss(t, typ.d, typ.tol, s[0], s[1], s[2]) })
		}
	}
}

func nnLinearLoss(t *testing.T, d tensor.DType, tol float64, n, c, v int) {
	r := nnRand(15)
	x, w := nnRandom(r, d, n, c), nnRandom(r, d, v, c)
	full := tensor.New(tensor.T(tensor.I32, n))
	for _, labels := range []*tensor.Tensor{nnLabels(r, v, n), full} {
		nnKernel(t, ops.LinearCrossEntropyOp{}, tol, x, w, labels)
		nnKernel(t, ops.LinearHitsOp{}, tol, x, w, labels)
		lse := nnLaunch(t, 1, ops.LinearCrossEntropyOp{}, -1, []*tensor.Tensor{x, w, labels})[1]
		g, h := nnRandom(r, nnWide(d), n), nnRandom(r, nnWide(d), n)
		for _, need := range [][2]bool{{true, true}, {true, false}, {false, true}} {
			nnKernel(t, ops.LinearCrossEntropyGradOp{NeedX: need[0], NeedW: need[1]}, tol*4, x, w, labels, lse, g, h)
		}
		nnKernel(t, ops.LinearCrossEntropyGradOp{NeedX: true}, tol*4, x, w, labels, lse, g, nil)
	}
}

func TestLinearLossIgnoresAll(t *testing.T) {
	r := nnRand(16)
	x, w := nnRandom(r, tensor.F32, 3, 4), nnRandom(r, tensor.F32, 5, 4)
	labels, err := tensor.Of([]int32{-100, -1, -100})
	require.NoError(t, err)
	loss := nnLaunch(t, 1, ops.LinearCrossEntropyOp{}, -1, []*tensor.Tensor{x, w, labels})
	g := nnRandom(r, tensor.F32, 3)
	out := nnLaunch(t, 1, ops.LinearCrossEntropyGradOp{NeedX: true, NeedW: true}, -1, []*tensor.Tensor{x, w, labels, loss[1], g, nil})
	for _, y := range append(loss, out...) {
		require.Equal(t, make([]byte, len(y.Bytes())), y.Bytes())
	}
}

func TestLinearLossGradients(t *testing.T) {
	r := nnRand(17)
	in := []*tensor.Tensor{nnRandom(r, tensor.F64, 2, 4, 5), nnRandom(r, tensor.F64, 7, 5), nnLabels(r, 7, 2, 4)}
	f := func(v []graph.Value) []graph.Value {
		loss, lse := ops.LinearCrossEntropyLSE(v[0], v[1], v[2])
		return []graph.Value{loss, lse}
	}
	for _, wrt := range [][]int{{0}, {1}, {0, 1}} {
		nnGrad(t, wrt, in, f)
	}
	g := graph.New("shapes")
	x, w := g.Input("x", tensor.T(tensor.F32, 2, 3, 5)), g.Input("w", tensor.T(tensor.F32, 7, 5))
	require.Equal(t, tensor.T(tensor.F32, 2, 3), ops.LinearCrossEntropy(x, w, g.Input("l", tensor.T(tensor.I32, 2, 3))).Type())
	require.False(t, ops.LinearCrossEntropy(x, w, g.Input("m", tensor.T(tensor.I32, 3, 2))).Valid())
	require.ErrorContains(t, g.Err(), "must be one a row of x")
}

// The logits of 4096 tokens over 50000 classes would be 780 MiB.
func TestLinearLossNeverHoldsTheLogits(t *testing.T) {
	const n, c, v = 4096, 64, 50000
	dev := New(Options{Threads: 2})
	defer func() { require.NoError(t, dev.Close()) }()
	row := tensor.T(tensor.F32, n)
	for _, d := range []tensor.DType{tensor.F32, tensor.BF16} {
		in := []tensor.Type{tensor.T(d, n, c), tensor.T(d, v, c), tensor.T(tensor.I32, n), row, row, {}}
		for _, op := range []graph.Op{ops.LinearCrossEntropyOp{}, ops.LinearCrossEntropyGradOp{NeedX: true, NeedW: true}} {
			types := in
			if _, forward := op.(ops.LinearCrossEntropyOp); forward {
				types = in[:3]
			}
			out, err := op.Infer(types)
			require.NoError(t, err)
			k, err := dev.Kernel(device.Spec{Op: op, In: types, Out: out})
			require.NoError(t, err)
			require.Less(t, k.Scratch(), int64(16<<20), "%s in %v", op.Name(), d)
		}
	}
}
