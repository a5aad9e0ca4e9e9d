package cpu

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/autograd"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func TestPackAndSumSquares(t *testing.T) {
	one, two := New(Options{Threads: 1}), New(Options{Threads: 2})
	defer func() { require.NoError(t, one.Close()); require.NoError(t, two.Close()) }()
	r := nnRand(2)
	sizes := []int{0, 1, 255, 256, 257, 100003}
	var in []*tensor.Tensor
	for _, n := range sizes {
		in = append(in, nnRandom(r, tensor.F32, 1, n))
	}
	l := ops.NewLayout(sizes...)
	g := graph.New("pack")
	vals, feed := nnFeed(g, in)
	slab := ops.PackSlab(l, vals...)
	sum := ops.SumOfSquares(slab)
	grads, err := autograd.GradValues(sum, vals...)
	require.NoError(t, err)
	outs := append([]graph.Value{slab, ops.Pack{Layout: l}.Decompose(vals)[0], sum}, grads...)
	a, err := plan.Eval(one, feed, outs...)
	require.NoError(t, err)
	b, err := plan.Eval(two, feed, outs...)
	require.NoError(t, err)
	require.Equal(t, a[1].Bytes(), a[0].Bytes())
	want := 0.0
	for i, x := range in {
		for j := range x.Type().Size() {
			want += x.At(j) * x.At(j)
			require.Equal(t, 2*x.At(j), a[3+i].At(j))
		}
	}
	require.InEpsilon(t, want, a[2].At(0), 1e-7)
	for i := range a {
		require.Equal(t, a[i].Bytes(), b[i].Bytes(), "threads change nothing")
	}
}

func TestLayoutCheck(t *testing.T) {
	for want, l := range map[string]*ops.Layout{
		"no layout":    nil,
		"differ":       {Offsets: []int{0}, Total: 256},
		"multiple":     {Total: 255},
		"tensor 1":     {Offsets: []int{0, 0}, Sizes: []int{1, 1}, Total: 256},
		"tensor 0":     {Offsets: []int{0}, Sizes: []int{257}, Total: 256},
		"or leaves":    {Offsets: []int{0}, Sizes: []int{math.MaxInt}, Total: 256},
		"another, is":  {Offsets: []int{8}, Sizes: []int{1}, Total: 256},
		"lists differ": {Offsets: []int{0}, Sizes: []int{1}, Decay: []float64{1, 2}, Total: 256},
	} {
		require.ErrorContains(t, l.Check(), want)
		_, err := ops.Pack{Layout: l}.Infer(nil)
		require.Error(t, err)
	}
	require.NotContains(t, graph.OpText(ops.Update{Layout: ops.NewLayout(3)}), "0x")
}
