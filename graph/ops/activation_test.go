package ops_test

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/autograd"
	"github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// TestActivationsAtExtremes: values and slopes at 0, at the bounds and far out, by hand. A branch that is not taken must not
// leak infinities into the slope.
func TestActivationsAtExtremes(t *testing.T) {
	cases := []struct {
		name         string
		f            func(x graph.Value) graph.Value
		x, y, slopes []float64
	}{
		{"elu", func(x graph.Value) graph.Value { return ops.ELU(x, 2) }, []float64{1e4, 0, -1e4}, []float64{1e4, 0, -2}, []float64{1, 2, 0}},
		{"celu", func(x graph.Value) graph.Value { return ops.CELU(x, 2) }, []float64{1e4, 0, -1e4}, []float64{1e4, 0, -2}, []float64{1, 1, 0}},
		{"leaky", func(x graph.Value) graph.Value { return ops.LeakyReLU(x, 0.5) }, []float64{3, 0, -4}, []float64{3, 0, -2}, []float64{1, 0.5, 0.5}},
		{"softplus", ops.Softplus, []float64{1e4, 0, -1e4}, []float64{1e4, math.Ln2, 0}, []float64{1, 0.5, 0}},
		{"log_sigmoid", ops.LogSigmoid, []float64{1e4, 0, -1e4}, []float64{0, -math.Ln2, -1e4}, []float64{0, 0.5, 1}},
		{"relu6", ops.ReLU6, []float64{-1, 0, 3, 6, 7}, []float64{0, 0, 3, 6, 6}, []float64{0, 0, 1, 0, 0}},
		{"hard_swish", ops.HardSwish, []float64{-4, 0, 4}, []float64{0, 0, 4}, []float64{0, 0.5, 1}},
		{"mish", ops.Mish, []float64{1e4, 0, -1e4}, []float64{1e4, 0, 0}, []float64{1, math.Tanh(math.Ln2), 0}},
		{"softshrink", func(x graph.Value) graph.Value { return ops.Softshrink(x, 1) }, []float64{3, 1, 0.5, -1, -3}, []float64{2, 0, 0, 0, -2},
			[]float64{1, 0, 0, 0, 1}},
		{"hardshrink", func(x graph.Value) graph.Value { return ops.Hardshrink(x, 1) }, []float64{3, 1, -1, -3}, []float64{3, 0, 0, -3}, []float64{1, 0, 0, 1}},
		{"threshold", func(x graph.Value) graph.Value { return ops.Threshold(x, 1, 9) }, []float64{3, 1, -1}, []float64{3, 9, 9}, []float64{1, 0, 0}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			g := graph.New(c.name)
			x := g.Input("x", tensor.T(tensor.F64, len(c.x)))
			y := c.f(x)
			grads, err := autograd.GradValues(ops.Sum(y), x)
			require.NoError(t, err)
			out, err := plan.Eval(cpu.New(cpu.Options{Threads: 1}), plan.Feed{x: tensorOf(tensor.F64, c.x)}, y, grads[0])
			require.NoError(t, err)
			for i := range c.x {
				require.InDelta(t, c.y[i], out[0].At(i), 1e-12*math.Max(1, math.Abs(c.y[i])), "f(%v)", c.x[i])
				require.InDelta(t, c.slopes[i], out[1].At(i), 1e-12, "f'(%v)", c.x[i])
			}
		})
	}
}
