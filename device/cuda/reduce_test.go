package cuda

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/internal/optest"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// requireClose compares by the limits of the case table.
func requireClose(t *testing.T, want, got *tensor.Tensor, what string) {
	t.Helper()
	require.NoError(t, optest.Compare(got, want, optest.Limits[got.DType()]), what)
}

// TestReduceShapes: every kernel of reductions, whole and in chunks.
func TestReduceShapes(t *testing.T) {
	rng := rand.New(rand.NewPCG(2, 3))
	shapes := []struct {
		dims []int
		axes uint16
		name string // of the kernel
	}{
		{[]int{300, 5}, 2, "rows_thread"}, {[]int{5, 100}, 2, "rows_warp"}, {[]int{5, 104}, 2, "rows_warp"}, {[]int{3, 3000}, 2, "rows_block"},
		{[]int{3, 3008}, 2, "rows_block"}, {[]int{40001}, 1, "rows_block"}, {[]int{2, 32768}, 2, "rows_block"}, {[]int{40, 1}, 2, "columns"},
		{[]int{37, 5}, 1, "columns"}, {[]int{9, 264}, 1, "columns"}, {[]int{3, 500, 24}, 2, "columns"}, {[]int{2000, 40}, 1, "columns"},
		{[]int{4, 30, 5, 7}, 5, "apart"}, {[]int{3, 150, 2, 150}, 10, "apart"}, {[]int{1, 1}, 3, "rows_thread"}, {[]int{0, 4}, 1, "rows_thread"},
	}
	for _, s := range shapes {
		r := newReduction(tensor.T(tensor.F32, s.dims...), s.axes)
		r.cut(4)
		require.Contains(t, r.kernels()[0], s.name, "%v %b", s.dims, s.axes)
		for _, d := range []tensor.DType{tensor.F32, tensor.BF16, tensor.I8, tensor.U64} {
			x := anyNumbers(rng, d, s.dims...)
			if d == tensor.F32 || d == tensor.BF16 {
				for i := range x.Type().Size() {
					x.Set(i, rng.NormFloat64())
				}
			}
			what := fmt.Sprint(d, s.dims, s.axes)
			gpu, ref := both(t, ops.Reduce{Kind: ops.RedSum, Axes: s.axes}, x)
			requireClose(t, ref[0], gpu[0], what)
		}
	}
}

// TestReduceKinds: what has one right result is bit-equal, with NaN and ties.
func TestReduceKinds(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 3))
	for _, kind := range []ops.Reduction{ops.RedMax, ops.RedMin, ops.RedArgMax, ops.RedArgMin, ops.RedProd, ops.RedSum} {
		for _, d := range allTypes {
			if d == tensor.Bool || d.IsFloat() && kind == ops.RedSum {
				continue
			}
			for _, s := range []struct {
				dims []int
				axes uint16
			}{{[]int{4, 3000}, 2}, {[]int{300, 24}, 1}} {
				x := anyNumbers(rng, d, s.dims...)
				for i := range x.Type().Size() { // ties, and rows without NaN
					if rng.IntN(2) == 0 || x.At(i) != x.At(i) && i%s.dims[1] > 8 {
						x.Set(i, float64(rng.IntN(3)))
					}
				}
				if kind == ops.RedProd && d.IsFloat() {
					for i := range x.Type().Size() {
						x.Set(i, []float64{0.5, 1, -1, 2}[rng.IntN(4)]) // exact in any order
					}
				}
				gpu, ref := both(t, ops.Reduce{Kind: kind, Axes: s.axes}, x)
				requireSame(t, ref[0], gpu[0], fmt.Sprint(ops.Reduce{Kind: kind}.Name(), d, s.dims))
			}
		}
	}
}

// TestSoftmaxShapes: rows in a few lanes, a warp, a block, and in memory; in place.
func TestSoftmaxShapes(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 5))
	for _, n := range []int{1, 7, 32, 250, 1000, 5000, 20001} {
		for _, d := range []tensor.DType{tensor.F32, tensor.BF16} {
			x, gy := tensor.New(tensor.T(d, 3, n)), tensor.New(tensor.T(d, 3, n))
			for i := range 3 * n {
				x.Set(i, 3*rng.NormFloat64())
				gy.Set(i, rng.NormFloat64())
			}
			x.Set(0, math.Inf(-1))
			x.Set(n, math.NaN())
			for _, log := range []bool{false, true} {
				what := fmt.Sprint(n, d, log)
				gpu, ref := both(t, ops.SoftmaxOp{Log: log}, x)
				requireClose(t, ref[0], gpu[0], what)
				gpu, ref = both(t, ops.SoftmaxGradOp{Log: log}, ref[0], gy)
				requireClose(t, ref[0], gpu[0], what)
			}
		}
	}
}

// TestCumulateShapes: one thread a lane and one block a lane.
func TestCumulateShapes(t *testing.T) {
	rng := rand.New(rand.NewPCG(6, 5))
	for _, dims := range [][]int{{2, 5000}, {3, 1100, 2}, {130, 8, 130}, {4, 0}} {
		for _, op := range []graph.Op{ops.Cumulate{Axis: 1}, ops.Cumulate{Axis: 1, Mul: true, Reverse: true}} {
			for _, d := range []tensor.DType{tensor.F32, tensor.U64, tensor.I8} {
				x := anyNumbers(rng, d, dims...)
				if d == tensor.F32 {
					for i := range x.Type().Size() {
						x.Set(i, 1+0.001*rng.NormFloat64())
					}
				}
				gpu, ref := both(t, op, x)
				requireClose(t, ref[0], gpu[0], fmt.Sprint(op, d, dims))
			}
		}
	}
}
