package cpu

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// TestAdafactorAgainstDecomposition compares over several tasks a tensor, with one and two threads, and with ok = 0.
func TestAdafactorAgainstDecomposition(t *testing.T) {
	one, two := New(Options{Threads: 1}), New(Options{Threads: 2})
	defer func() { require.NoError(t, one.Close()); require.NoError(t, two.Close()) }()
	for _, rounding := range []ops.Rounding{ops.Nearest, ops.Stochastic, ops.Kahan} {
		for _, d := range []tensor.DType{tensor.F32, tensor.BF16} {
			compareAdafactor(t, one, two, d, rounding)
		}
	}
}

func compareAdafactor(t *testing.T, one, two *Device, d tensor.DType, rounding ops.Rounding) {
	l := ops.NewLayout(300*257, 7, 3*900, 0, 70000, 12)
	l.DType, l.Rows, l.LR = d, []int{300, 0, 3, 5, 0, 12}, []float64{0, 0, 0.5, 0, 0, 0}
	op := ops.Adafactor{Decay: 0.8, Eps1: 1e-30, Eps2: 1e-3, Clip: 0.8, Beta1: 0.9, Relative: true, WeightDecay: 0.1, Layout: l,
		WeightRounding: ops.WeightRounding{Rounding: rounding, Seed: 3}}
	for _, ok := range []float32{1, 0} {
		r := nnRand(uint64(d))
		in := []*tensor.Tensor{slabOf(r, l, false), slabOf(r, l, false)}
		for _, s := range op.States() {
			x := tensor.New(s.Type)
			if s.Each == ops.EachElement {
				like := *l
				like.DType = s.Type.DType
				x = slabOf(r, &like, false)
			} else {
				for i := range s.Type.Size() {
					x.Set(i, 0.5+r.Float64())
				}
			}
			in = append(in, x)
		}
		in = append(in, tensor.Scalar[float32](0.02), tensor.Scalar[float32](5), tensor.Scalar[float32](0.7), tensor.Scalar(ok))
		g := graph.New("update")
		vals, feed := nnFeed(g, in)
		got := g.Apply(op, vals...)
		a, err := plan.Eval(one, feed, append(slices.Clone(got), op.Decompose(vals)...)...)
		require.NoError(t, err)
		b, err := plan.Eval(two, feed, got...)
		require.NoError(t, err)
		for i := range got {
			require.Equal(t, a[i].Bytes(), b[i].Bytes(), "threads change nothing in output %d", i)
			if i == len(got)-1 && op.Compensated(l) { // what was lost counts with what was kept
				want := a[len(got)]
				require.LessOrEqual(t, relativeError(sumOf(a[0], a[i]), sumOf(want, a[len(got)+i])), 1e-5)
			} else {
				nearlyEqual(t, a[i], a[len(got)+i])
			}
			if ok == 0 {
				require.Equal(t, in[op.Alias()[i].In].Bytes(), a[i].Bytes())
			}
		}
	}
}

// nearlyEqual allows rounding; of 16 bits another neighbour now and then, where float32 values lie beside the border between two.
func nearlyEqual(t *testing.T, got, want *tensor.Tensor) {
	if got.DType() == tensor.F32 {
		require.LessOrEqual(t, relativeError(got, want), 3e-6)
		return
	}
	off := 0
	for i := range want.Type().Size() {
		if got.At(i) != want.At(i) {
			off++
		}
	}
	require.LessOrEqual(t, off*1000, want.Type().Size())
	require.LessOrEqual(t, relativeError(got, want), 1.0/128)
}

func sumOf(x, y *tensor.Tensor) *tensor.Tensor {
	out := tensor.New(tensor.T(tensor.F32, x.Type().Size()))
	for i := range x.Type().Size() {
		out.Set(i, x.At(i)+y.At(i))
	}
	return out
}
