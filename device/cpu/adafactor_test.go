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
	for _, d := range []tensor.DType{tensor.F32, tensor.BF16} {
		l := ops.NewLayout(300*257, 7, 3*900, 0, 70000, 12)
		l.DType, l.Rows, l.LR = d, []int{300, 0, 3, 5, 0, 12}, []float64{0, 0, 0.5, 0, 0, 0}
		op := ops.Adafactor{Decay: 0.8, Eps1: 1e-30, Eps2: 1e-3, Clip: 0.8, Beta1: 0.9, Relative: true, WeightDecay: 0.1, Layout: l}
		for _, ok := range []float32{1, 0} {
			r := nnRand(uint64(d))
			in := []*tensor.Tensor{slabOf(r, l, false), slabOf(r, l, false)}
			for _, s := range op.States() {
				x := tensor.New(s.Type)
				if s.Each == ops.EachElement {
					wide := *l
					wide.DType = tensor.F32
					x = slabOf(r, &wide, false)
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
			limit := map[tensor.DType]float64{tensor.F32: 3e-6, tensor.BF16: 1e-5}[d]
			for i := range got {
				require.Equal(t, a[i].Bytes(), b[i].Bytes(), "threads change nothing in output %d", i)
				require.LessOrEqual(t, relativeError(a[i], a[len(got)+i]), limit)
				if ok == 0 {
					require.Equal(t, in[op.Alias()[i].In].Bytes(), a[i].Bytes())
				}
			}
		}
	}
}
